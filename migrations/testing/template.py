"""Templates: databases at any version, each built once, closed, and cloned for every test.

    version before ─ clone, apply ─▶ this version ─ clone, load test data ─▶ with its data
                                          │                                      │
                                          └──────── clone, milliseconds ─────────┴──▶ a test's own

A template is a closed directory in memory where there is such a place. What RocksDB never writes
again (`*.sst`) is linked into the clone, the rest of a few kilobytes is copied. All clones of a
template have one UUID and one log up to where they were cloned.

Invariants
  (1) a template is complete and closed before it is cloned, and never opened again;
  (2) a template of a version is made by the steps that a database of a user goes through.
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

_LEFT_BEHIND = ("LOCK", "LOG", "OWNER")  # of whoever had the template open


class _Key(NamedTuple):
    version: int
    scale: int  # 0: without test data
    seed: int


class Templates:
    """The templates of one package of migrations. Not for many threads at once."""

    def __init__(self, source: Source = SOURCE) -> None:
        self.source = source
        self._directory: Temporary | None = None
        self._built: dict[_Key, Path] = {}

    @cached_property
    def migrations(self) -> list[Migration]:
        """Oldest first, loaded and checked. Raises SchemaError."""
        return load(self.source)

    @property
    def versions(self) -> list[int]:
        return [EMPTY, *(migration.version for migration in self.migrations)]

    def has_testdata(self, version: int) -> bool:
        found = (one.folder.path for one in self.migrations if one.version == version)
        return any((path / "testdata.py").exists() for path in found)

    def clone(self, into: Path, version: int | None = None, *, scale: int = 0, seed: int = 0) -> Path:
        """Makes a directory `into` with a database at a version: the newest unless told otherwise.

        It has its bootstrap rows, and with a `scale` its test data. Builds what is needed, once.
        Raises MigrationError for a version that there is no folder of, or that has no test data,
        and what applying and loading raise.
        """
        key = _Key(self._known(version), scale, seed if scale else 0)
        clone(self._template(key), into)
        return into

    def close(self) -> None:
        """Removes the templates, and forgets what was loaded. Both are made again if they are wanted
        again: the modules may be others by then, as in a session of pytest inside of another."""
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
            raise MigrationError(
                f"there is no migration {version}; the versions are: {known}", version=version
            )
        return version

    def _template(self, key: _Key) -> Path:
        found = self._built.get(key)
        if found is not None:
            return found
        if self._directory is None:
            self._directory = in_memory("everlog-templates-")
        path = self._directory.path / "-".join(map(str, key))
        shutil.rmtree(path, ignore_errors=True)  # of an attempt that failed
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
    """Those of this process for a package of migrations. Raises SchemaError if there is none."""
    path = find(source).path.resolve()
    return _TEMPLATES.setdefault(path, Templates(source))


def close_templates() -> None:
    """Removes all templates of this process."""
    while _TEMPLATES:
        _TEMPLATES.popitem()[1].close()


def clone(template: Path, into: Path) -> None:
    """Makes the directory `into` the same database as one that is closed."""
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
