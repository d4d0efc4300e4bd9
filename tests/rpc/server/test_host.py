"""Hosting: long calls, their callers, and short calls meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from everlog import ClosedError
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.host import LONG_READERS, READERS
from everlog.rpc.server.server import Server
from everlog.store.tables.hashing import TableHash
from everlog.store.upkeep.admin import Admin
from everlog.store.upkeep.status import ArchiveStatus
from tests.conformance.database_case import AIRPORTS, FLIGHTS, VERSION, Airport, migrate

PATIENCE_S = 60.0


class Endless(Admin):
    """A database in which a check finds problems as long as it runs."""

    ended: threading.Event

    def check(self, progress: Any = None, *, deep: bool = False) -> Iterator[str]:
        try:
            while True:
                yield "a problem"
        finally:
            self.ended.set()


class Held(Admin):
    """A `db.admin` with hashes that wait until they are released or stopped."""

    let_go: threading.Event

    def hashes(
        self, progress: Any = None, *, seq: int | None = None, sealed: bool = False
    ) -> dict[str, TableHash]:
        self.let_go.wait(PATIENCE_S)
        return super().hashes(progress, seq=seq, sealed=sealed)


class Slow(Admin):
    """`db.admin` whose rebuild waits at its first progress report until that stops it."""

    begun: threading.Event

    def rebuild(self, progress: Any = None) -> dict[str, TableHash]:
        def stays(at: Any) -> None:
            until = time.monotonic() + PATIENCE_S
            self.begun.set()
            while time.monotonic() < until:
                progress(at)

        return super().rebuild(stays)


A = TypeVar("A", bound=Admin)


def replaced(kind: type[A], db: EmbeddedDatabase) -> A:
    return kind(db.core, db.past, db.consumers, ArchiveStatus, db.transaction)


def test_a_check_ends_with_the_client_that_asked_for_it(tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "x") as db, Server({"x": db}) as server:
        admin = db.admin = replaced(Endless, db)
        admin.ended = threading.Event()
        with RemoteDatabase(server.url("x")) as remote:
            assert next(iter(remote.admin.check())) == "a problem"
        assert admin.ended.wait(30)


def test_short_reads_wait_for_no_long_ones(tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "x") as db:
        admin = db.admin = replaced(Held, db)
        admin.let_go = threading.Event()
        migrate(db, VERSION, AIRPORTS, FLIGHTS)
        asked = READERS + LONG_READERS + 1
        with (
            Server({"x": db}) as server,
            RemoteDatabase(server.url("x")) as remote,
            ThreadPoolExecutor(asked) as many,
        ):
            try:
                remote.put(AIRPORTS, Airport(faa="JFK"))
                long = [many.submit(remote.admin.hashes) for _ in range(asked)]
                row = remote.get(AIRPORTS, "JFK")
                assert row is not None
                assert [one.faa for one in remote.scan(AIRPORTS)] == ["JFK"]
                assert not any(one.done() for one in long)
            finally:
                admin.let_go.set()
            assert [one.result()["airports"].rows for one in long] == [1] * asked


def test_a_rebuild_ends_with_its_server_and_leaves_nothing_half(tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "x") as db, ThreadPoolExecutor(1) as other:
        admin = db.admin = replaced(Slow, db)
        admin.begun = threading.Event()
        migrate(db, VERSION, AIRPORTS, FLIGHTS)
        db.put(AIRPORTS, Airport(faa="JFK"))
        before, families = db.admin.hashes(), db.engine.data_name
        with Server({"x": db}) as server, RemoteDatabase(server.url("x")) as remote:
            rebuilding = other.submit(remote.admin.rebuild)
            assert admin.begun.wait(PATIENCE_S)
            server.stop(grace_s=PATIENCE_S)
            with pytest.raises(ClosedError, match="the server is stopping, and ended this call"):
                rebuilding.result()
        assert (db.admin.hashes(), db.engine.data_name) == (before, families)
        assert list(db.admin.check()) == []
        assert Admin.rebuild(admin) == before
