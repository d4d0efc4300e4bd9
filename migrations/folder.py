"""Folder: one migration on disk, read without running its code, and what the log keeps of its files.

    flights/migrations/                     a package of migrations (`find`); its `folders`:
      v20260105093000_create_airports/
        __init__.py          constants written by hand, and MIGRATION
        model.proto          package <app>.v20260105093000; may import google/protobuf/ only
        model_pb2.py(.pyi)   generated from it by `everlog build`
        bootstrap.py         rows that every database needs; or bootstrap_<table>.csv, .jsonl
        checks.py            what must hold before and after
        testdata.py          rows at any scale from a seed
        tests/

The log keeps the content of each file, except of those that may have rows of sealed tables, which are
withheld: files with bootstrap rows of sealed tables, and all files other than code if this or an earlier
folder seals tables (`loose_files`). Of those it keeps a keyed digest.

    SourceFile { path, digest: HMAC(index key of the key store, path content)[:16] }     no content

With the keys, the digest reveals an edit; without them, it confirms no guess about the content. Without a key
store it is all zeros.

Invariants
  (1) A folder is self-contained: nothing that its migration does depends on another folder, so its
      digest covers all of it.
  (2) Versions are distinct, and folders are listed in order of version.
  (3) The content of a withheld file is in no Migration record, neither of a step nor of a proposal.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib import util
from itertools import chain, takewhile
from pathlib import Path
from typing import TypeAlias

from everlog.migrations import digest
from everlog.proto import log_pb2
from everlog.store.crypto.vault import Vault
from everlog.store.errors import SchemaError

Source: TypeAlias = str | os.PathLike[str]  # the name of a package, or a directory
SOURCE = "migrations"  # the default source

FOLDER_NAME = re.compile(r"v(\d{14})_([a-z][a-z0-9_]*)")

ALWAYS_KEPT = {
    "__init__.py",
    "model.proto",
    "checks.py",
}  # kept in the log unless they contain text of a person's row
SALT, SALT_BYTES = "# Salt: ", 16  # a line at the top of `model_pb2.py`; see digest.py

_PEOPLE = b"person"  # in the code of a folder that seals tables
_CODE_SUFFIXES = (".py", ".proto")
_NO_KEYS = bytes(16)  # the digest of a withheld file, where there is no key store
_LARGE = b"(not shown: large)\n"

_PACKAGE = re.compile(r"^[ \t]*package\s+([\w.]+)\s*;", re.MULTILINE)
_IMPORT = re.compile(r'^[ \t]*import\s+(?:public\s+|weak\s+)?"([^"]+)"', re.MULTILINE)


@dataclass(frozen=True)
class Root:
    """A package of migrations: its directory and its import name."""

    path: Path
    package: str

    @property
    def top(self) -> Path:
        """The directory that must be on `sys.path` for the package to be importable."""
        return self.path.parents[self.package.count(".")]


@dataclass(frozen=True)
class Folder:
    """The folder of one migration."""

    path: Path
    package: str  # its import name
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
        """Every digest that identifies this folder: the current one, and the unsalted ones of earlier
        versions.
        """
        former = digest.digest(self.sources, self.path), digest.legacy(self.sources, self.path)
        return frozenset({self.digest, *(one for one in former if one is not None)})

    @property
    def salt(self) -> bytes:
        """The salt of the digest, or empty if the folder has none. Raises SchemaError if the line is
        damaged.
        """
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
        """Whether the folder may contain rows of people, whose files the log does not keep. Runs no code."""
        return bool(self.loose_files) or (self._names_people and any(self._others))

    @cached_property
    def loose_files(self) -> set[str]:
        """The files other than code and bootstrap rows, if the tables of this or an earlier folder may be
        sealed. Runs no code.

        Their content is unknown, so the log never keeps it.
        """
        found = {
            path
            for path in self._others
            if not path.endswith(_CODE_SUFFIXES) and not path.startswith("bootstrap_")
        }
        return found if found and (self._names_people or self._follows_people()) else set()

    @property
    def _others(self) -> Iterator[str]:
        return (file.path for file in self.sources if file.path not in ALWAYS_KEPT)

    @cached_property
    def _names_people(self) -> bool:
        return any(_PEOPLE in file.content for file in self.sources if file.path.endswith(".py"))

    def _follows_people(self) -> bool:
        """Whether an earlier folder of the package names people. Reads their code."""
        return any(
            _PEOPLE in code.read_bytes()
            for path in self.path.parent.iterdir()
            if (named := FOLDER_NAME.fullmatch(path.name)) and int(named[1]) < self.version
            for code in path.glob("*.py")
        )

    @cached_property
    def meaning(self) -> bytes:
        return digest.meaning(self.sources, self.path)

    def is_as(
        self,
        recorded: bytes,
        sources: Sequence[log_pb2.SourceFile] = (),
        same: Callable[[bytes, log_pb2.SourceFile], bool] | None = None,
    ) -> bool:
        """Whether the folder does the same as a record with this digest and these sources. Read-only.

        `same` compares a file with its recorded digest, for files that the record holds without content.
        """
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
        """The comment lines at the top of `model_pb2.py`, without line ends; empty if the file does not
        exist."""
        path = self.path / "model_pb2.py"
        if not path.is_file():
            return []
        with path.open(encoding="utf-8", errors="replace") as file:
            return [line.rstrip("\n") for line in takewhile(lambda line: line.startswith("#"), file)]

    @cached_property
    def proto_package(self) -> str:
        """The package that `model.proto` declares. Raises SchemaError if it is not the package of this
        version.
        """
        try:
            text = self.model.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            line = line_of(self.model.read_text(encoding="utf-8", errors="replace"), error.start)
            raise self.error(f"expected UTF-8, found byte 0x{error.object[error.start]:02x}", line) from None
        for found in _IMPORT.finditer(text):
            if not found[1].startswith("google/protobuf/"):
                raise self.error(
                    f"imports {found[1]!r}; expected only google/protobuf/…, because a migration must be"
                    " self-contained: copy the messages that it needs into this file",
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
                " version of a model has its own package",
                line_of(text, package.start(1)),
            )
        return package[1]

    def error(
        self, text: str, line: int = 1, file: Path | None = None, *, private: str = "", **facts: str
    ) -> SchemaError:
        """Return a SchemaError at a line of the folder, by default of its model.proto."""
        where = f"{file or self.model}:{line}"
        return SchemaError(f"{where}: {text}", private=private, where=where, **facts)

    def line_of_field(self, name: str) -> int:
        """Return the line of `model.proto` that declares a field or message of this name, or 1."""
        text = self.model.read_text(encoding="utf-8")
        found = re.search(rf"\b{re.escape(name)}\s*[={{]", text)
        return line_of(text, found.start()) if found else 1


def line_of(text: str, at: int) -> int:
    """Return the line number, from 1, of a position in a text."""
    return text.count("\n", 0, at) + 1


def find(source: Source = SOURCE) -> Root:
    """Return the package of migrations with this name or in this directory.

    A text that is an existing directory is taken as a path, otherwise as the name of a package. Runs no code
    of a migration. Raises SchemaError if there is neither.
    """
    if not isinstance(source, str | os.PathLike):
        raise SchemaError(
            f"expected a package name or a path of migrations, found {type(source).__name__} {source!r}"
        )
    path = Path(source)
    if path.is_dir():
        _check_level(path.resolve())
        return _at(path.resolve())
    words = str(source).split(".")
    if not isinstance(source, str) or not all(word.isidentifier() for word in words):
        raise SchemaError(
            f"no directory {source} of migrations; pass the directory that contains them with -d, or"
            " create the first migration with `everlog new NAME`",
            where=str(source),
            missing=str(source),
        )
    try:
        spec = util.find_spec(str(source))
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise SchemaError(
            f"no package or directory {source}; pass the directory that contains the migrations, or create"
            " the first migration with `everlog new NAME`",
            where=str(source),
            missing=str(source),
        )
    places = [Path(place) for place in spec.submodule_search_locations]
    if len(places) > 1:
        where = " and ".join(str(place) for place in places)
        raise SchemaError(
            f"the package {source} has more than one directory: {where}; pass the path of one, or take the"
            " other off PYTHONPATH",
            where=str(places[0]),
        )
    if not places[0].is_dir():
        raise SchemaError(
            f"{places[0]} is not a directory: migrations cannot be read from an archive; unpack it",
            where=str(places[0]),
            missing=str(places[0]),
        )
    return Root(places[0], str(source))


def find_or_make(source: Source = SOURCE) -> Root:
    """Like `find`, but create a missing path, with its `__init__.py`."""
    try:
        return find(source)
    except SchemaError:
        path = Path(source)
        is_package = isinstance(source, str) and "." in source and len(path.parts) == 1
        if is_package or path.exists() or not path.name.isidentifier():
            raise
    path.mkdir(parents=True)
    (path / "__init__.py").write_text('"""The migrations of the database, in order of their names."""\n')
    return find(path)


def _check_level(path: Path) -> None:
    """Raise SchemaError for a directory inside a migration's folder, and for one above the migrations."""
    for inner, outer in zip((path, *path.parents), path.parents, strict=False):
        if FOLDER_NAME.fullmatch(inner.name) and (inner / "model.proto").is_file():
            what = "is the folder of one migration" if inner == path else f"is in the folder {inner.name}"
            raise SchemaError(
                f"{path} {what}; pass the directory that contains the migrations: -d {_shown(outer)}",
                where=str(path),
                missing=str(outer),
            )
    if any(FOLDER_NAME.fullmatch(child.name) for child in path.iterdir()):
        return
    inner_ones = sorted({found.parents[1] for found in _models_below(path)})
    if inner_ones:
        raise SchemaError(
            f"{path} contains no migrations, but {', '.join(map(str, inner_ones))} does; pass that: -d"
            f" {_shown(inner_ones[0])}",
            where=str(path),
            missing=str(inner_ones[0]),
        )
    others = [child.name for child in path.iterdir() if _looks_like_folder(child)]
    if others and not any((path / name / "model.proto").is_file() for name in others):
        raise SchemaError(
            f"{path} contains no migrations, but other directories, such as {min(others)}; pass the directory"
            " that contains them with -d, or create the first one with `everlog new NAME` in an empty one",
            where=str(path),
            missing=str(path),
        )


def _looks_like_folder(path: Path) -> bool:
    """Return whether a path is taken as the folder of a migration: a directory with content."""
    if not path.is_dir() or path.name.startswith((".", "_")):
        return False
    return any(item.name != "__pycache__" for item in path.iterdir())  # such is left by version control


def _models_below(path: Path) -> list[Path]:
    """Return the models of migrations one or two levels below, where users often keep them."""
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
                f"{path} cannot be imported: {word!r} is not an identifier; rename the directory",
                where=str(path),
            )
    return Root(path, ".".join(words))


def folders(root: Root) -> list[Folder]:
    """Return the folders of a package of migrations, oldest first. Raises SchemaError for an invalid one."""
    found = [folder for path in sorted(root.path.iterdir()) if (folder := folder_at(root, path))]
    by_version = defaultdict(list)
    for folder in found:
        by_version[folder.version].append(folder.path.name)
    for version, names in by_version.items():
        if len(names) > 1:
            where = str(root.path / names[1])
            raise SchemaError(
                f"{root.path}: two migrations have the timestamp {version}: {' and '.join(names)}; give"
                " the one that is not applied yet a newer timestamp, in its name and in its model.proto",
                where=where,
            )
    return sorted(found, key=lambda folder: folder.version)


def folder_at(root: Root, path: Path) -> Folder | None:
    """Return the folder at a path in a package of migrations; None if it is not one. Raises SchemaError."""
    if not _looks_like_folder(path):
        return None
    named = FOLDER_NAME.fullmatch(path.name)
    if named is None or not _is_time(named[1]):
        raise SchemaError(
            f"{path}: expected a folder name v<YYYYMMDDHHMMSS>_<name>, with a name in a-z, 0-9 and _, such"
            f" as v20260105093000_create_airports; found {path.name!r}",
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
        datetime.strptime(digits, "%Y%m%d%H%M%S")  # noqa: DTZ007  names are in UTC by convention
    except ValueError:
        return False
    return True


def same_content(recorded: bytes, file: log_pb2.SourceFile, folder: Folder, vault: Vault | None) -> bool:
    """Return whether a file of a folder has the content of a recorded digest; False if unknown."""
    if len(recorded) == hashlib.sha256().digest_size:
        return recorded == digest.sha256(file)
    return recorded != _NO_KEYS and recorded == withheld_digest(file, folder, vault)


def is_comparable(recorded: bytes, vault: Vault | None) -> bool:
    """Return whether `same_content` can decide for a recorded digest."""
    if len(recorded) == hashlib.sha256().digest_size:
        return True
    return vault is not None and not vault.locked and recorded != _NO_KEYS


def withheld_digest(
    file: log_pb2.SourceFile, folder: Folder, vault: Vault | None, *, make: bool = False
) -> bytes:
    """Return what the log has of a file instead of its content. `make`: create a missing key store."""
    if vault is None or vault.locked or not (vault.is_open or make):
        return _NO_KEYS
    path = b"source" + file.path.encode() + b"\0"
    return vault.hash_pieces(chain([path], digest.pieces(file, folder.path)))


def recorded_files(folder: Folder, withheld: set[str], vault: Vault | None) -> Iterator[log_pb2.SourceFile]:
    """Yield the files of a folder as a Migration record has them; large files of rows have a SHA-256 of 32
    bytes.
    """
    for file in folder.sources:
        if file.path in withheld:
            yield log_pb2.SourceFile(path=file.path, digest=withheld_digest(file, folder, vault, make=True))
        else:
            yield file


def compared_contents(
    ran: Iterable[log_pb2.SourceFile], folder: Folder, vault: Vault | None = None
) -> tuple[Mapping[str, bytes], Mapping[str, bytes]]:
    """Return the contents of the files that ran and of those of a folder, by path, for comparison.

    A withheld file is the same in both if it did not change, or if that is unknown.
    """
    now = {
        file.path: log_pb2.SourceFile(path=file.path, content=_LARGE) if digest.is_large(file) else file
        for file in folder.sources
    }
    sources = {file.path: file for file in folder.sources}
    was = dict[str, bytes]()
    for file in ran:
        mine = sources.get(file.path)
        was[file.path] = file.content
        if file.digest and mine is not None:
            is_hash = len(file.digest) == hashlib.sha256().digest_size
            if is_comparable(file.digest, vault) and not same_content(file.digest, mine, folder, vault):
                was[file.path] = (
                    b"(withheld: rows of a sealed table)\n" if not is_hash else b"(not kept: large)\n"
                )
                mine = log_pb2.SourceFile(content=b"(withheld: other rows of a sealed table)\n")
            else:
                mine = log_pb2.SourceFile(content=b"")
            now[file.path] = mine
    return was, {path: file.content for path, file in now.items()}
