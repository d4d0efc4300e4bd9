"""Running calls: who sees which, what each waits for, and how one is ended."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from everlog import RowError, UnavailableError
from everlog.migrations.lock import lock
from everlog.migrations.status import State
from everlog.proto import (
    migrations_pb2,
    migrations_pb2_grpc,
    people_pb2,
    people_pb2_grpc,
    store_pb2,
    store_pb2_grpc,
)
from everlog.rpc.calls import Now, RunningCall
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.http2 import frames as http2
from everlog.rpc.server.quotas import Quota, read_own
from everlog.rpc.server.server import Server
from everlog.store.errors import Error
from everlog.store.progress import Progress
from everlog.store.schema.reflect import table_of
from everlog.store.upkeep import expiry
from everlog.store.upkeep.admin import Admin
from everlog.store.upkeep.status import ArchiveStatus
from tests.conformance.database_case import AIRPORTS, FLIGHTS, Airport, flight
from tests.migrations.project import Project
from tests.rpc.raw_client import RawClient

PATIENCE_S = 60.0
ROLES = {"ann": ("writer", "auditor"), "bob": ("owner",), "eve": ("operator",), "joe": ("reader",)}


@contextlib.contextmanager
def served(db: EmbeddedDatabase, **how: Any) -> Iterator[Server]:
    """A server for the names of ROLES; each has its name as its token."""
    with Server({"x": db}, tokens={name: f"token-of-{name}" for name in ROLES}, roles=ROLES, **how) as server:
        yield server


@contextlib.contextmanager
def opened(server: Server, name: str) -> Iterator[RemoteDatabase]:
    with RemoteDatabase(f"{server.url('x')}?token=token-of-{name}") as db:
        yield db


def wait_for(find: Callable[[], Any]) -> Any:
    """Return what `find` returns once it is true."""
    until = time.monotonic() + PATIENCE_S
    while not (found := find()):
        assert time.monotonic() < until
        time.sleep(0.005)
    return found


def of(now: Now, method: str, *, state: str = "") -> RunningCall | None:
    """Return the first call of a method."""
    for one in now.calls:
        if one.method == method and state in ("", one.state):
            return one
    return None


class Endless(Admin):
    """A `db.admin` whose check finds problems until `stop` is set."""

    stop: threading.Event

    def check(self, progress: Any = None, *, deep: bool = False) -> Iterator[str]:
        number = 0
        while progress is not None and not self.stop.is_set():
            number += 1
            progress(Progress("check tables", number, 10**9))
            yield "a problem"


@contextlib.contextmanager
def endless(db: EmbeddedDatabase) -> Iterator[None]:
    admin = db.admin = Endless(db.core, db.past, db.consumers, ArchiveStatus, db.transaction)
    admin.stop = threading.Event()
    try:
        yield
    finally:
        admin.stop.set()


def of_three(now: Now) -> Now | None:
    """Return what runs, once that is three calls."""
    return now if sum(peer.calls for peer in now.peers) == 3 else None


def problems(db: RemoteDatabase) -> int:
    return sum(1 for _ in db.admin.check())


def checks(db: RemoteDatabase, count: int) -> list[RunningCall]:
    """Return the running checks, once there are `count`, with their progress."""
    found = [one for one in db.admin.calls().calls if one.method == "Admin/Check" and one.progress]
    return found if len(found) == count else []


def test_a_caller_sees_and_ends_its_own_calls_and_an_operator_all(
    db: EmbeddedDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    with served(db) as server, contextlib.ExitStack() as stack:
        ann, bob, eve, joe = (stack.enter_context(opened(server, name)) for name in ROLES)
        pool = stack.enter_context(ThreadPoolExecutor(2))
        stack.enter_context(endless(db))
        bobs, eves = pool.submit(problems, bob), pool.submit(problems, eve)
        both = wait_for(lambda: checks(bob, 2))
        assert {one.identity for one in both} == {"bob", "eve"}
        one = both[0]
        assert (one.database, one.progress.step, one.progress.total) == ("x", "check tables", 10**9)
        assert one.progress.done > 0
        assert one.peer.startswith("127.0.0.1:")
        now = wait_for(
            lambda: of_three(bob.admin.calls())
        )  # a call ends a little later than its client knows
        # Clients of one process may share a connection.
        assert now.connections == len(now.peers) >= 1
        assert {name for peer in now.peers for name in peer.identities} == {"ann", "bob", "eve", "joe"}
        assert [one.name for one in now.databases] == ["x"]
        for other in (ann, joe):
            now = other.admin.calls()
            assert [one.method for one in now.calls] == ["Admin/Calls"]
            assert (now.total, now.connections, now.peers, now.pools, now.databases) == (1, 0, [], [], [])
            texts = set()
            for id in (one.id, 7):
                with pytest.raises(RowError, match="there is no running call") as at:
                    other.admin.kill(id)
                texts.add(str(at.value).replace(str(id), "ID"))
            assert len(texts) == 1
        assert {one.identity for one in eve.admin.calls().calls} == {"bob", "eve"}  # an operator has `admin`
        theirs = next(one for one in both if one.identity == "eve")
        with caplog.at_level(logging.WARNING, "everlog"):
            assert bob.admin.kill(theirs.id, reason="too slow").identity == "eve"
        with pytest.raises(UnavailableError, match="the call was ended by bob: too slow") as ended:
            eves.result(PATIENCE_S)
        assert (ended.value.code, ended.value.ended_by) == ("CANCELLED", "bob")
        (line,) = [one.getMessage() for one in caplog.records if "was ended by" in one.getMessage()]
        assert line == "Admin/Check of eve was ended by bob"
        wait_for(lambda: len(server.hosting.long_reads) == 1)
        (own,) = wait_for(lambda: checks(bob, 1))
        bob.admin.kill(own.id)
        with pytest.raises(UnavailableError, match="the call was ended by bob"):
            bobs.result(PATIENCE_S)
        with pytest.raises(RowError, match="there is no running call"):
            bob.admin.kill(own.id)


def test_callers_of_an_open_server_see_all(db: EmbeddedDatabase) -> None:
    with Server({"x": db}) as server, RemoteDatabase(server.url("x")) as remote:
        feed = iter(remote.feed().batches())
        next(feed)
        found = wait_for(lambda: of(remote.admin.calls(), "Feed/Subscribe", state="idle"))
        assert found.bytes > 0
        remote.admin.kill(found.id)
        with pytest.raises(UnavailableError, match="the call was ended by an unnamed caller"):
            list(feed)


def test_a_killed_commit_is_in_the_log_whole_or_not_at_all(db: EmbeddedDatabase) -> None:
    def put(remote: RemoteDatabase, number: int) -> int:
        with remote.transaction() as tx:
            for part in "ab":
                tx.put(AIRPORTS, Airport(faa=f"{part}{number}", name=f"{part} {number}"))
        return number

    head = db.head
    with served(db) as server, opened(server, "ann") as ann, opened(server, "bob") as bob:
        with ThreadPoolExecutor(24) as pool:
            with db.committer.exclusive():  # all commits wait: 16 in threads, the others for one
                commits = [pool.submit(put, ann, number) for number in range(24)]
                writes = server.hosting.pools[2]
                wait_for(lambda: len(writes.busy) == 16 and writes.waiting == 8)
                calls = [one for one in bob.admin.calls().calls if one.method == "Store/Commit"]
                queued = [one for one in calls if one.state == "queued"]
                assert len(queued) == 8
                assert all(one.waits_for == "short writes" and one.behind for one in queued)
                assert sorted(one.ahead for one in queued) == list(range(8))
                for one in queued[:4] + [one for one in calls if one.state == "running"][:4]:
                    bob.admin.kill(one.id)
                wait_for(lambda: sum(one.done() for one in commits) == 8)
                texts = [str(one.exception()) for one in commits if one.done()]
                assert sum("is in the log whole, or not at all" in text for text in texts) == 4
                assert all(text.startswith("the call was ended by bob") for text in texts)
            kept = {done.result(PATIENCE_S) for done in commits if done.exception(PATIENCE_S) is None}
        assert len(kept) == 16
        wait_for(lambda: not writes.busy)
    rows = {row.faa for row in db.scan(AIRPORTS)}
    assert {f"a{number}" for number in kept} <= rows
    assert db.head - head == 20  # the four that had begun are in the log, and the four that waited are not
    assert {row[1:] for row in rows if row[0] == "a"} == {row[1:] for row in rows if row[0] == "b"}


class Slow(Admin):
    """`db.admin` whose rebuild reports its first progress until that stops it."""

    def rebuild(self, progress: Any = None) -> Any:
        def stays(at: Any) -> None:
            until = time.monotonic() + PATIENCE_S
            while time.monotonic() < until:
                progress(at)
                time.sleep(0.01)

        return super().rebuild(stays)


def test_a_killed_rebuild_stops_and_changes_nothing(db: EmbeddedDatabase) -> None:
    db.put(AIRPORTS, Airport(faa="JFK", name="Kennedy"))
    db.admin = Slow(db.core, db.past, db.consumers, ArchiveStatus, db.transaction)
    with served(db) as server, opened(server, "bob") as bob, ThreadPoolExecutor(1) as pool:
        hashes = db.admin.hashes()
        rebuilding = pool.submit(bob.admin.rebuild)
        found = wait_for(lambda: of(bob.admin.calls(), "Admin/Rebuild"))
        wait_for(lambda: (one := of(bob.admin.calls(), "Admin/Rebuild")) and one.progress)
        bob.admin.kill(found.id)
        with pytest.raises(UnavailableError, match="ended by bob; it stops before its next write, and what"):
            rebuilding.result(PATIENCE_S)
        wait_for(lambda: not server.hosting.pools[3].busy)
        assert db.admin.hashes() == hashes


def test_a_killed_expiry_stops_before_its_next_chunk(
    db: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "CHUNK_ROWS", 10)
    db.sweeper.close()
    with db.transaction() as tx:
        for number in range(100):
            tx.put(AIRPORTS, Airport(faa=f"A{number:02}", name=f"old {number}"), expires=1)
    reached, killed = threading.Event(), threading.Event()
    commit = db.core.commit

    def waits(*args: Any) -> Any:
        done = commit(*args)
        reached.set()
        assert killed.wait(PATIENCE_S)
        return done

    with served(db) as server, opened(server, "bob") as bob, ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(db.core, "commit", waits)
        expiring = pool.submit(bob.admin.expire)
        assert reached.wait(PATIENCE_S)
        found = of(bob.admin.calls(), "Admin/Expire")
        assert found is not None
        assert found.ending == ""
        assert bob.admin.kill(found.id).ending == "stops"
        with pytest.raises(UnavailableError, match="ended by bob; it stops before its next write"):
            expiring.result(PATIENCE_S)
        listed = of(bob.admin.calls(), "Admin/Expire")
        assert listed is not None
        assert (listed.id, listed.ending) == (found.id, "stops")
        killed.set()
        wait_for(lambda: of(bob.admin.calls(), "Admin/Expire") is None)
    assert db.count(AIRPORTS) == 90


def test_a_killed_erasure_goes_on_and_is_listed_until_its_end(
    db: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, killed = threading.Event(), threading.Event()

    def waits(*_: Any) -> None:
        going.set()
        assert killed.wait(PATIENCE_S)
        db.put(AIRPORTS, Airport(faa="JFK", name="done"))

    monkeypatch.setattr(db.people, "forget_person", waits)
    with served(db) as server, opened(server, "bob") as bob, grpc.insecure_channel(server.address) as channel:
        stub = people_pb2_grpc.PeopleStub(channel)
        asked = people_pb2.ForgetRequest(database="x", table="airports", person=b"1", reason="asked")
        call = stub.Forget.future(asked, metadata=(("authorization", "Bearer token-of-bob"),))
        assert going.wait(PATIENCE_S)
        found = wait_for(lambda: of(bob.admin.calls(), "People/Forget"))
        assert bob.admin.kill(found.id).ending == "finishes"
        with pytest.raises(grpc.RpcError, match="what it was writing is in the log whole, or not at all"):
            call.result(PATIENCE_S)
        (listed,) = [one for one in bob.admin.calls().calls if one.id == found.id]
        assert (listed.ending, listed.state) == ("finishes", "running")
        killed.set()
        wait_for(lambda: of(bob.admin.calls(), "People/Forget") is None)
    assert db.get(AIRPORTS, "JFK") is not None


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(sys, "path", [*sys.path])
    project = Project(tmp_path)
    project.add()
    project.add("index_names", table='Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME),))')
    return project.build()


def test_a_killed_migration_resumes(
    empty: EmbeddedDatabase, remote: RemoteDatabase, project: Project
) -> None:
    remote.migrations.apply(to=project.load()[0].version)
    airports: Any = table_of(empty.schema.table("airports"))
    with empty.transaction() as tx:
        for number in range(2000):
            tx.put(airports, airports.model(faa=f"A{number:04}", name=f"airport {number}"))
    with ThreadPoolExecutor(1) as pool:
        applying = pool.submit(lambda: remote.migrations.apply(rate=200, actor="ann"))

        def building() -> RunningCall | None:
            found = of(remote.admin.calls(), "Migrations/Apply")
            return found if found and found.progress and found.progress.done else None

        found = wait_for(building)
        assert found.progress.step.endswith("build index airports.by_name")
        (database,) = remote.admin.calls().databases
        assert "ann" in database.migrated_by
        assert database.migration is not None
        assert database.migration.total == 2000
        remote.admin.kill(found.id)
        with pytest.raises(UnavailableError, match="ended by an unnamed caller"):
            applying.result(PATIENCE_S)
    wait_for(lambda: not remote.admin.calls().databases[0].migrated_by)
    assert [info.state for info in remote.migrations.status()] == [State.APPLIED, State.BUILDING]
    remote.migrations.apply()
    assert [info.state for info in remote.migrations.status()] == [State.APPLIED, State.APPLIED]


def completing(db: RemoteDatabase) -> list[RunningCall]:
    return [one for one in db.admin.calls().calls if one.method == "Migrations/Complete"]


def test_a_call_that_waits_for_a_thread_names_those_that_have_it(db: EmbeddedDatabase) -> None:
    with served(db) as server, opened(server, "bob") as bob, grpc.insecure_channel(server.address) as channel:
        stub = migrations_pb2_grpc.MigrationsStub(channel)
        metadata = (("authorization", "Bearer token-of-bob"),)
        with lock(db.uuid, "the test"):
            asked = migrations_pb2.CompleteRequest(database="x")
            calls = [stub.Complete.future(asked, metadata=metadata) for _ in range(6)]
            wait_for(lambda: server.hosting.pools[3].waiting == 2)
            wait_for(lambda: sum(one.state == "running" for one in completing(bob)) == 4)
            now = bob.admin.calls()
            complete = [one for one in now.calls if one.method == "Migrations/Complete"]
            running = [one.id for one in complete if one.state == "running"]
            queued = [one for one in complete if one.state == "queued"]
            assert (len(running), len(queued)) == (4, 2)
            assert [one.ahead for one in queued] == [0, 1]
            assert all(sorted(one.behind) == sorted(running) for one in queued)
            assert {one.waits_for for one in queued} == {"long writes"}
            assert now.databases[0].migrated_by.startswith("the test")
            (writes,) = [one for one in now.pools if one.name == "long writes"]
            assert (writes.running, writes.waiting) == (4, 2)
            for call in calls:
                call.cancel()


def test_a_commit_that_waits_for_a_lease_names_its_holder(
    db: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everlog.rpc.server.leases.LEASE_S", PATIENCE_S)
    with served(db) as server, opened(server, "bob") as bob, grpc.insecure_channel(server.address) as channel:
        stub = store_pb2_grpc.StoreStub(channel)
        metadata = (("authorization", "Bearer token-of-ann"),)
        lease = stub.Turn(store_pb2.TurnRequest(database="x", tables=["flights"]), metadata=metadata)
        next(lease)
        with ThreadPoolExecutor(1) as pool:
            commit = pool.submit(bob.put, FLIGHTS, flight(1))
            waits = wait_for(lambda: of(bob.admin.calls(), "Store/Commit", state="waiting"))
            now = bob.admin.calls()
            holder = of(now, "Store/Turn")
            assert holder is not None
            assert (waits.waits_for, waits.behind, waits.tables) == ("lease", [holder.id], ["flights"])
            assert now.databases[0].lease == holder.id
            bob.admin.kill(holder.id)
            commit.result(PATIENCE_S)
        with pytest.raises(grpc.RpcError) as at:
            list(lease)
        assert at.value.code() is grpc.StatusCode.CANCELLED


def test_a_call_that_waits_for_its_client_or_a_limit_says_so(db: EmbeddedDatabase) -> None:
    with db.transaction() as tx:
        for number in range(300):
            tx.put(AIRPORTS, Airport(faa=f"A{number:03}", name=f"airport {number}", city="x" * 2000))
    space = db.schema.table("airports").space
    scan = store_pb2.ScanRequest(database="x", table="airports", space=space, end=b"\xff")
    asked = scan.SerializeToString()
    with (
        served(db, quota=Quota(own=read_own(["joe:bytes-out=1000"]))) as server,
        opened(server, "bob") as bob,
        RawClient(server.address) as reads_not,
        RawClient(server.address, settings={http2.SETTINGS_INITIAL_WINDOW_SIZE: 1 << 30}) as limited,
    ):
        reads_not.call(1, "/everlog.v1.Store/Scan", asked, authorization="Bearer token-of-ann")
        limited.send(http2.window_update(0, 1 << 30))
        limited.call(1, "/everlog.v1.Store/Scan", asked, authorization="Bearer token-of-joe")

        def waiting() -> dict[str, str]:
            calls = bob.admin.calls().calls
            return {one.identity: one.waits_for for one in calls if one.state == "waiting"}

        wait_for(lambda: waiting() == {"ann": "client", "joe": "limit"})
        for one in bob.admin.calls().calls:
            if one.state == "waiting":
                assert one.rows >= 64
                assert one.bytes > 0
                bob.admin.kill(one.id)
        wait_for(lambda: [one.identity for one in bob.admin.calls().calls] == ["bob"])


def test_an_embedded_database_has_no_calls_of_others(db: EmbeddedDatabase) -> None:
    with pytest.raises(Error, match="is open in this process, so there are no calls of others to list"):
        db.admin.calls()
    with pytest.raises(Error, match="there are no calls of others to end; open the database at its server"):
        db.admin.kill(7)
