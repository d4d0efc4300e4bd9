"""Testing: databases at any version for tests, in this process or on a server of their own.

    with at_version(20260105093000, "flights.migrations", testdata=True) as db:
        upgrade_to(db, 20260209154500)

memory   embedded, in a temporary directory (in memory if the system allows it)
file     embedded, in a given directory
server   a client of a real server in this process, over a database as in `memory`

Each is cloned from a template that is built once (`everlog.migrations.testing.template`); a clone takes some
milliseconds. The pytest plugin offers the same as fixtures: `everlog.testing`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from everlog.migrations.folder import SOURCE, Source
from everlog.migrations.status import MigrationInfo
from everlog.migrations.testing.template import Templates, templates
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.errors import Error
from everlog.store.rocks.files import in_memory

if TYPE_CHECKING:
    from everlog.rpc.client.database import RemoteDatabase

    AnyDatabase: TypeAlias = EmbeddedDatabase | RemoteDatabase

KINDS = ("memory", "file", "server")
NAME = "test"  # of the database on its server

_sources: weakref.WeakKeyDictionary[object, Source] = weakref.WeakKeyDictionary()


@contextmanager
def at_version(
    version: int | None = None,
    source: Source = SOURCE,
    *,
    testdata: bool = False,
    scale: int = 1,
    seed: int = 0,
    on: str = "memory",
    directory: Path | None = None,
) -> Iterator[AnyDatabase]:
    """Open a database at a version (None: the newest) with its bootstrap rows, and close it at the end.

    `source`: the package or directory of the migrations. `testdata`: load test data, in the amount `scale`,
    from `seed`. `on`: memory, file or server; a file is created in `directory`. Raises MigrationError for a
    version without a folder, or without test data.
    """
    with ExitStack() as stack:
        opener = Opener(templates(source), stack, on=on, directory=lambda: _given(directory))
        yield opener(version, testdata=testdata, scale=scale, seed=seed)


def upgrade_to(
    db: AnyDatabase, version: int | None = None, *, source: Source | None = None
) -> list[MigrationInfo]:
    """Apply the migrations up to a version (None: the newest), and return them. Writes.

    `source`: the migrations; not needed for databases of `at_version` or a fixture. Raises MigrationError.
    """
    known = source or _sources.get(db)
    if known is None:
        raise Error(
            f"{db.url} was not opened by at_version or a fixture: expected its migrations as `source`,"
            " found none"
        )
    db.folders = known
    return db.migrations.apply(to=version)


class Opener:
    """Opens databases at any version; `stack` closes them.

    `directory` returns a new directory for each database of the kind `file`. `seed` and `scale` are the
    defaults for test data.
    """

    def __init__(
        self,
        made: Templates,
        stack: ExitStack,
        *,
        on: str = "memory",
        scale: int = 1,
        seed: int = 0,
        directory: Callable[[], Path],
    ) -> None:
        self._templates, self._stack, self._directory = made, stack, directory
        self.on, self.scale, self.seed = on, scale, seed

    def __call__(
        self,
        version: int | None = None,
        *,
        testdata: bool = False,
        scale: int | None = None,
        seed: int | None = None,
        on: str | None = None,
    ) -> AnyDatabase:
        """Return a new database at a version; see `at_version`. A scale or a seed implies test data."""
        kind = on or self.on
        if kind not in KINDS:
            raise Error(f"expected a kind of database, {', '.join(KINDS)}, found {kind!r}")
        much = 0
        if testdata or scale is not None or seed is not None:
            much = self.scale if scale is None else scale
        if kind == "file":
            path = self._directory()
        else:
            made = in_memory("everlog-test-")
            self._stack.callback(made.remove)
            path = made.path
        self._templates.clone(path, version, scale=much, seed=self.seed if seed is None else seed)
        db = self._stack.enter_context(EmbeddedDatabase(path, url=None if kind == "file" else "memory:"))
        opened = db if kind != "server" else self._served(db)
        _sources[opened] = self._templates.source
        return opened

    def _served(self, db: EmbeddedDatabase) -> RemoteDatabase:
        from everlog.rpc.client.database import RemoteDatabase
        from everlog.rpc.server.server import Server

        server = Server({NAME: db}, migrations={NAME: str(self._templates.source)})
        self._stack.enter_context(server)
        return self._stack.enter_context(RemoteDatabase(server.url(NAME)))


def _given(directory: Path | None) -> Path:
    if directory is None:
        raise Error("expected a `directory` for a database of the kind `file`, found none")
    return directory
