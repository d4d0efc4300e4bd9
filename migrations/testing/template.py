"""Templates: databases at any version, each built once, closed, and cloned for every test.

    previous version ─ clone, apply ─▶ this version ─ clone, load test data ─▶ with its data
                                            │                                      │
                                            └──────── clone, milliseconds ─────────┴──▶ a test's own

A template is a closed directory, in memory where possible. Files that RocksDB never writes again (`*.sst`)
are hard-linked into the clone; the other few kilobytes are copied. All clones of a template have the same
UUID, and the same log up to the clone.

Invariants
  (1) A template is complete and closed before it is cloned, and never opened again.
  (2) A template of a version is made by the same steps as a user's database.
"""

from __future__ import annotations

import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from everlog.migrations.folder import SOURCE, Source, find
from everlog.migrations.loader import load
from everlog.migrations.migration import Migration
from everlog.migrations.runner import apply
from everlog.migrations.testdata import load_testdata
from everlog.store.database import Database
from everlog.store.errors import MigrationError
from everlog.store.rocks.files import Temporary, in_memory

EMPTY = 0  # the version of a database before its first migration

_LEFT_BEHIND = ("LOCK", "LOG", "OWNER")  # of the process that built the template


class _Key(NamedTuple):
    version: int
    scale: int  # 0: without test data
    seed: int


class Templates:
    """The templates of one package of migrations. Not safe for concurrent use."""

    def __init__(self, source: Source = SOURCE) -> None:
        self.source = source
        self._directory: Temporary | None = None
        self._built: dict[_Key, Path] = {}

    @cached_property
    def migrations(self) -> list[Migration]:
        """The migrations, oldest first, loaded and checked. Raises SchemaError."""
        return load(self.source)

    @property
    def versions(self) -> list[int]:
        """All versions, oldest first, starting with `EMPTY`."""
        return [EMPTY, *(migration.version for migration in self.migrations)]

    def has_testdata(self, version: int) -> bool:
        """Whether the folder of a version has a testdata.py."""
        found = (one.folder.path for one in self.migrations if one.version == version)
        return any((path / "testdata.py").exists() for path in found)

    def clone(self, into: Path, version: int | None = None, *, scale: int = 0, seed: int = 0) -> Path:
        """Create the directory `into` with a database at a version, by default the newest. Return `into`.

        It has its bootstrap rows, and with a `scale` its test data. Builds missing templates. Raises
        MigrationError for a version without a folder or without test data, and what applying and loading
        raise.
        """
        key = _Key(self._known(version), scale, seed if scale else 0)
        clone(self._template(key), into)
        return into

    def close(self) -> None:
        """Remove the templates, and forget the loaded migrations. Both are made again when needed.

        The modules may differ by then, as in a pytest session inside another.
        """
        if self._directory is not None:
            self._directory.remove()
        self._directory = None
        self._built.clear()
        self.__dict__.pop("migrations", None)

    def _known(self, version: int | None) -> int:
        versions = self.versions
        if version is None:
            return versions[-1]
        if version not in versions:
            known = ", ".join(str(one) for one in versions)
            raise MigrationError(f"no migration {version}; the versions are: {known}", version=version)
        return version

    def _template(self, key: _Key) -> Path:
        found = self._built.get(key)
        if found is not None:
            return found
        if self._directory is None:
            self._directory = in_memory("everlog-templates-")
        path = self._directory.path / "-".join(map(str, key))
        shutil.rmtree(path, ignore_errors=True)  # from a failed attempt
        if key.scale:
            clone(self._template(_Key(key.version, 0, 0)), path)
        elif key.version != EMPTY:
            before = self.versions[self.versions.index(key.version) - 1]
            clone(self._template(_Key(before, 0, 0)), path)
        with Database(path, durability="os") as db:
            if key.scale:
                load_testdata(db, self.source, scale=key.scale, seed=key.seed)
            elif key.version != EMPTY:
                apply(db, self.source, to=key.version)
        self._built[key] = path
        return path


_TEMPLATES: dict[Path, Templates] = {}


def templates(source: Source = SOURCE) -> Templates:
    """Return this process's templates of a package of migrations. Raises SchemaError for a missing
    package."""
    path = find(source).path.resolve()
    return _TEMPLATES.setdefault(path, Templates(source))


def close_templates() -> None:
    """Remove all templates of this process."""
    while _TEMPLATES:
        _TEMPLATES.popitem()[1].close()


def clone(template: Path, into: Path) -> None:
    """Make the directory `into` a copy of a closed database."""
    into.mkdir(parents=True, exist_ok=True)
    for entry in os.scandir(template):
        if entry.is_dir():
            clone(Path(entry.path), into / entry.name)
        elif not entry.name.startswith(_LEFT_BEHIND):
            _take(entry.path, into / entry.name)


def _take(file: str, to: Path) -> None:
    if file.endswith(".sst"):
        try:
            os.link(file, to)
        except OSError:  # another file system
            shutil.copyfile(file, to)
    else:
        shutil.copyfile(file, to)
