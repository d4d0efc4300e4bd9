"""Testing: a database at any version to test with, in this process or on a server of its own.

    with at_version(20260105093000, "flights.migrations", testdata=True) as db:
        upgrade_to(db, 20260209154500)

memory   embedded, in a directory that goes with it, in memory where there is such a place
file     embedded, in a directory that is given
server   a client of a real server of this process, over a database as in `memory`

Each is cloned from a template that is built once (`everlog.migrations.testing.template`); a clone
takes some milliseconds. The pytest plugin gives the same as fixtures: `everlog.testing`.
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
NAME = "test"  # of the database, on its server

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
    """A database at a version, the newest unless told otherwise, with its bootstrap rows, and with
    its test data if it is asked for. It is closed at the end.

    Raises MigrationError for a version that there is no folder of, or that has no test data.
    """
    with ExitStack() as stack:
        opener = Opener(templates(source), stack, on=on, directory=lambda: _given(directory))
        yield opener(version, testdata=testdata, scale=scale, seed=seed)


def upgrade_to(
    db: AnyDatabase, version: int | None = None, *, source: Source | None = None
) -> list[MigrationInfo]:
    """Applies the migrations up to a version, the newest unless told otherwise; returns them.

    `source` is known of databases that `at_version` or a fixture gave. Raises MigrationError.
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
    """Opens databases at any version, all to be closed with `stack`.

    `directory` gives a new directory for each that is a file; `seed` and `scale` are those of test
    data that is asked for without.
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
        """A new database at a version; see `at_version`. A scale or a seed asks for test data."""
        kind = on or self.on
        if kind not in KINDS:
            raise Error(f"expected a kind of database of {', '.join(KINDS)}, found {kind!r}")
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
        raise Error("expected the `directory` that a database of the kind `file` is to be in, found none")
    return directory
