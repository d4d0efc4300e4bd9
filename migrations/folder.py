"""Folder: one migration on disk, as it is before any of its code runs.

    flights/migrations/                     a package of migrations: `find` it, list its `folders`
      v20260105093000_create_airports/
        __init__.py          constants by hand, and MIGRATION
        model.proto          package <app>.v20260105093000; imports google/protobuf/ at most
        model_pb2.py(.pyi)   generated from it by `everlog build`
        bootstrap.py         rows that every database needs; or bootstrap_<table>.csv, .jsonl
        checks.py            what must hold before and after
      testdata.py          rows at any scale from a seed
        tests/

Invariants
  (1) a folder is whole: nothing that its migration does depends on another folder, so that its
      digest holds all of it;
  (2) versions are distinct, and folders are listed in their order.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib import util
from itertools import takewhile
from pathlib import Path
from typing import TypeAlias

from everlog.migrations import digest
from everlog.proto import log_pb2
from everlog.store.errors import SchemaError

Source: TypeAlias = str | os.PathLike[str]  # the name of a package, or a directory
SOURCE = "migrations"  # where migrations are unless told otherwise

FOLDER_NAME = re.compile(r"v(\d{14})_([a-z][a-z0-9_]*)")

ALWAYS_KEPT = {
    "__init__.py",
    "model.proto",
    "checks.py",
}  # in the log, unless they have a text of a person's row
SALT, SALT_BYTES = "# Salt: ", 16  # a line at the top of `model_pb2.py`: see digest.py

_PACKAGE = re.compile(r"^[ \t]*package\s+([\w.]+)\s*;", re.MULTILINE)
_IMPORT = re.compile(r'^[ \t]*import\s+(?:public\s+|weak\s+)?"([^"]+)"', re.MULTILINE)


@dataclass(frozen=True)
class Root:
    """A package of migrations: its directory, and the name that it is imported by."""

    path: Path
    package: str

    @property
    def top(self) -> Path:
        """The directory that must be on `sys.path` for the package to be found."""
        return self.path.parents[self.package.count(".")]


@dataclass(frozen=True)
class Folder:
    """The folder of one migration."""

    path: Path
    package: str  # the name that it is imported by
    version: int  # YYYYMMDDHHMMSS
    name: str

    @property
    def title(self) -> str:
        return f"{self.version}_{self.name}"

    @property
    def model(self) -> Path:
        return self.path / "model.proto"

    @cached_property
    def sources(self) -> list[log_pb2.SourceFile]:
        return digest.sources(self.path)

    @cached_property
    def digest(self) -> bytes:
        return digest.digest(self.sources, self.path, self.salt)

    @cached_property
    def digests(self) -> frozenset[bytes]:
        """All digests that stand for the folder: its own, and those of versions before, without a salt."""
        former = digest.digest(self.sources, self.path), digest.legacy(self.sources, self.path)
        return frozenset({self.digest, *(one for one in former if one is not None)})

    @property
    def salt(self) -> bytes:
        """What the digest is salted with; empty: the folder has none. Raises SchemaError if it is damaged."""
        found = next((line for line in self.header if line.startswith(SALT)), "")
        try:
            salt = bytes.fromhex(found.removeprefix(SALT))
        except ValueError:
            salt = b""
        if found and len(salt) != SALT_BYTES:
            raise self.error(
                f"expected `{SALT}` and {2 * SALT_BYTES} hexadecimal digits at its top, found {found!r:.80};"
                " restore the file from version control",
                file=self.path / "model_pb2.py",
            )
        return salt

    @cached_property
    def may_withhold(self) -> bool:
        """Whether the folder may bring rows of people, whose files the log does not keep. Runs no code."""
        files = {file.path: file.content for file in self.sources}
        names_people = any(b"person" in content for path, content in files.items() if path.endswith(".py"))
        return names_people and bool(files.keys() - ALWAYS_KEPT)

    @cached_property
    def meaning(self) -> bytes:
        return digest.meaning(self.sources, self.path)

    def is_as(
        self,
        recorded: bytes,
        sources: Sequence[log_pb2.SourceFile] = (),
        same: Callable[[bytes, log_pb2.SourceFile], bool] | None = None,
    ) -> bool:
        """Whether the folder does what a record of this digest and these sources did. Read-only.

        `same` tells whether a file is one of which the record has a digest instead of the content."""
        if recorded == self.digest or recorded in self.digests:
            return True
        mine, known = {file.path: file for file in self.sources}, []
        for file in sources:
            if file.digest:
                now = mine.get(file.path)
                if now is None or same is None or not same(file.digest, now):
                    return False
                file = now  # noqa: PLW2901  the same content
            known.append(file)
        return bool(known) and digest.meaning(known, self.path) == self.meaning

    @cached_property
    def header(self) -> list[str]:
        """The comment lines at the top of `model_pb2.py`, without ends of lines; empty: it is not there."""
        path = self.path / "model_pb2.py"
        if not path.is_file():
            return []
        with path.open(encoding="utf-8", errors="replace") as file:
            return [line.rstrip("\n") for line in takewhile(lambda line: line.startswith("#"), file)]

    @cached_property
    def proto_package(self) -> str:
        """The package that `model.proto` declares. Raises SchemaError if it is not this version's."""
        try:
            text = self.model.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            line = line_of(self.model.read_text(encoding="utf-8", errors="replace"), error.start)
            raise self.error(f"expected UTF-8, found byte 0x{error.object[error.start]:02x}", line) from None
        for found in _IMPORT.finditer(text):
            if not found[1].startswith("google/protobuf/"):
                raise self.error(
                    f"imports {found[1]!r}; expected only google/protobuf/…, for a migration is whole in"
                    " its folder: copy the messages that it needs",
                    line_of(text, found.start(1)),
                )
        package = _PACKAGE.search(text)
        expected = f"v{self.version}"
        if package is None:
            raise self.error(f"expected `package <app>.{expected};`, found no package")
        app, _, last = package[1].rpartition(".")
        if last != expected or not app:
            raise self.error(
                f"expected `package {app or '<app>'}.{expected};`, found `package {package[1]};`: each"
                " version of a model is a package of its own",
                line_of(text, package.start(1)),
            )
        return package[1]

    def error(
        self, text: str, line: int = 1, file: Path | None = None, *, private: str = "", **facts: str
    ) -> SchemaError:
        where = f"{file or self.model}:{line}"
        return SchemaError(f"{where}: {text}", private=private, where=where, **facts)

    def line_of_field(self, name: str) -> int:
        """The line of `model.proto` that declares a field or message of this name; else the first."""
        text = self.model.read_text(encoding="utf-8")
        found = re.search(rf"\b{re.escape(name)}\s*[={{]", text)
        return line_of(text, found.start()) if found else 1


def line_of(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def find(source: Source = SOURCE) -> Root:
    """The package of migrations with this name, or in this directory.

    A text that is an existing directory is taken for it, else for the name of a package. Runs no
    code of a migration. Raises SchemaError if there is neither.
    """
    if not isinstance(source, str | os.PathLike):
        raise SchemaError(
            "expected the migrations as the name of a package or a path, found"
            f" {type(source).__name__} {source!r}"
        )
    path = Path(source)
    if path.is_dir():
        _check_level(path.resolve())
        return _at(path.resolve())
    words = str(source).split(".")
    if not isinstance(source, str) or not all(word.isidentifier() for word in words):
        raise SchemaError(
            f"there is no directory {source} of migrations; give the one that holds them with -d, or make the"
            " first one with `everlog new NAME`",
            where=str(source),
            missing=str(source),
        )
    try:
        spec = util.find_spec(str(source))
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise SchemaError(
            f"there is neither a package nor a directory {source}; give the path of the directory that"
            " holds the migrations, or make the first one with `everlog new NAME`",
            where=str(source),
            missing=str(source),
        )
    places = [Path(place) for place in spec.submodule_search_locations]
    if len(places) > 1:
        where = " and ".join(str(place) for place in places)
        raise SchemaError(
            f"the package {source} has more than one directory: {where}; give the path of one, or take the"
            " other off PYTHONPATH",
            where=str(places[0]),
        )
    if not places[0].is_dir():
        raise SchemaError(
            f"{places[0]} is not a directory: migrations cannot be read from inside of an archive; unpack it",
            where=str(places[0]),
            missing=str(places[0]),
        )
    return Root(places[0], str(source))


def find_or_make(source: Source = SOURCE) -> Root:
    """The same; a path that is not there is made, with its `__init__.py`."""
    try:
        return find(source)
    except SchemaError:
        path = Path(source)
        is_package = isinstance(source, str) and "." in source and len(path.parts) == 1
        if is_package or path.exists() or not path.name.isidentifier():
            raise
    path.mkdir(parents=True)
    (path / "__init__.py").write_text('"""The migrations of the database, in the order of their names."""\n')
    return find(path)


def _check_level(path: Path) -> None:
    """Raises SchemaError for a directory in a migration's folder, and for one around the migrations."""
    for inner, outer in zip((path, *path.parents), path.parents, strict=False):
        if FOLDER_NAME.fullmatch(inner.name) and (inner / "model.proto").is_file():
            what = "is the folder of one migration" if inner == path else f"is in the folder {inner.name}"
            raise SchemaError(
                f"{path} {what}; give the directory that holds the migrations: -d {_shown(outer)}",
                where=str(path),
                missing=str(outer),
            )
    if any(FOLDER_NAME.fullmatch(child.name) for child in path.iterdir()):
        return
    inner_ones = sorted({found.parents[1] for found in _models_below(path)})
    if inner_ones:
        raise SchemaError(
            f"{path} holds no migrations, but {', '.join(map(str, inner_ones))} does; give that: -d"
            f" {_shown(inner_ones[0])}",
            where=str(path),
            missing=str(inner_ones[0]),
        )


def _models_below(path: Path) -> list[Path]:
    """Models of migrations some levels below, where people keep them."""
    patterns = ("*/v*/model.proto", "*/*/v*/model.proto")
    found = (one for pattern in patterns for one in path.glob(pattern))
    return [one for one in found if FOLDER_NAME.fullmatch(one.parent.name)]


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) and path != here else str(path)


def _at(path: Path) -> Root:
    words, parent = [path.name], path.parent
    while (parent / "__init__.py").exists():
        words.insert(0, parent.name)
        parent = parent.parent
    for word in words:
        if not word.isidentifier():
            raise SchemaError(
                f"{path} cannot be imported: {word!r} is no identifier; rename the directory", where=str(path)
            )
    return Root(path, ".".join(words))


def folders(root: Root) -> list[Folder]:
    """The folders of a package of migrations, oldest first. Raises SchemaError for a bad one."""
    found = [folder for path in sorted(root.path.iterdir()) if (folder := folder_at(root, path))]
    by_version = defaultdict(list)
    for folder in found:
        by_version[folder.version].append(folder.path.name)
    for version, names in by_version.items():
        if len(names) > 1:
            where = str(root.path / names[1])
            raise SchemaError(
                f"{root.path}: two migrations have the timestamp {version}: {' and '.join(names)};"
                " give the one that is not applied yet a newer one, in its name and its model.proto",
                where=where,
            )
    return sorted(found, key=lambda folder: folder.version)


def folder_at(root: Root, path: Path) -> Folder | None:
    """The folder at a path in a package of migrations; None if it is not one. Raises SchemaError."""
    if not path.is_dir() or path.name.startswith((".", "_")):
        return None
    if not any(item.name != "__pycache__" for item in path.iterdir()):
        return None  # what a version control system leaves behind
    named = FOLDER_NAME.fullmatch(path.name)
    if named is None or not _is_time(named[1]):
        raise SchemaError(
            f"{path}: expected a migration's folder to be named v<YYYYMMDDHHMMSS>_<name>, its name in a-z,"
            f" 0-9 and _, as v20260105093000_create_airports; found {path.name!r}",
            where=str(path),
        )
    for name in ("__init__.py", "model.proto"):
        if not (path / name).is_file():
            raise SchemaError(
                f"{path}: expected a file {name} in a migration's folder", where=str(path), missing=name
            )
    return Folder(path, f"{root.package}.{path.name}", int(named[1]), named[2])


def _is_time(digits: str) -> bool:
    try:
        datetime.strptime(digits, "%Y%m%d%H%M%S")  # noqa: DTZ007  a name; the zone is UTC by convention
    except ValueError:
        return False
    return True
