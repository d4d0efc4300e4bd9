"""Threads: turns of callers, bounds of queues, and the end of long reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from everlog import LimitError
from everlog.proto import admin_pb2, admin_pb2_grpc, store_pb2, store_pb2_grpc
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.rpc.server.threads import Bounds, Slices, Threads, Work
from everlog.store.errors import ClosedError
from everlog.store.progress import interruption_point
from everlog.store.upkeep.admin import Admin
from everlog.store.upkeep.status import ArchiveStatus
from tests.conformance.database_case import AIRPORTS, VERSION, Airport, migrate

PATIENCE_S = 60.0
ENOUGH = 40_000  # rows that a check reads for longer than a test's short calls take


def work(run: Callable[[], Any], key: str = "") -> Work:
    made = Work(None, run)
    made.key = key
    return made


@contextmanager
def pool(most: int = 1, **options: Any) -> Iterator[Threads]:
    threads = Threads(most, "test", **options)
    threads.start()
    try:
        yield threads
    finally:
        threads.close()


def test_callers_take_turns() -> None:
    go, order = threading.Event(), list[str]()
    with pool() as threads:
        first = threads.submit(work(lambda: go.wait(PATIENCE_S)))
        many = [threads.submit(work(lambda: order.append("busy"), "busy")) for _ in range(3)]
        one = threads.submit(work(lambda: order.append("other"), "other"))
        go.set()
        for future in (first, *many, one):
            future.result(PATIENCE_S)
    assert order == ["busy", "other", "busy", "busy"]


def test_a_caller_has_some_of_the_threads() -> None:
    go, running, most = threading.Event(), [0], [0]
    lock = threading.Lock()

    def run() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        go.wait(PATIENCE_S)
        with lock:
            running[0] -= 1

    with pool(8, each=2) as threads:
        own = [threads.submit(work(run, "busy")) for _ in range(6)]
        assert threads.submit(work(lambda: "free", "other")).result(PATIENCE_S) == "free"
        wait_until(lambda: running[0] == 2)
        go.set()
        for future in own:
            future.result(PATIENCE_S)
    assert most[0] == 2


def test_a_full_queue_refuses_and_says_when_to_try_again() -> None:
    go = threading.Event()
    limits = list[str]()
    with pool(queues=Bounds(2, 3)) as threads:
        threads.on_limit = limits.append
        try:
            first = threads.submit(work(lambda: go.wait(PATIENCE_S)))
            while not first.running():
                time.sleep(0.001)
            for _ in range(2):
                threads.submit(work(int, "busy"))
            with pytest.raises(
                LimitError, match="expected fewer than 2 of one caller to wait; try again"
            ) as at:
                threads.submit(work(int, "busy"))
            assert (at.value.limit, at.value.retry_s) == ("queue", 1.0)
            threads.submit(work(int, "other"))
            with pytest.raises(LimitError, match="expected fewer than 3 of all callers to wait"):
                threads.submit(work(int, "third"))
            assert limits == ["queue", "queue"]
        finally:
            go.set()


def test_slices_go_to_one_caller_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everlog.rpc.server.threads.WAIT_MAX_S", PATIENCE_S)
    monkeypatch.setattr("everlog.rpc.server.threads.SLICE_S", 0.0)
    go, order = threading.Event(), list[str]()

    def run(name: str) -> Callable[[], None]:
        def reads() -> None:
            for _ in range(4):
                order.append(name)
                interruption_point()

        return reads

    with pool(4, slices=Slices(1)) as threads:
        holder = work(lambda: go.wait(PATIENCE_S))
        futures = [threads.submit(holder)]
        wait_until(lambda: holder.state == "running")
        for name in ("a1", "a2", "b"):
            one = work(run(name), name[0])
            futures.append(threads.submit(one))
            wait_until(lambda one=one: one.state == "paused")  # type: ignore[misc]
        go.set()
        for future in futures:
            future.result(PATIENCE_S)
    assert order == ["a1", "b", "a2", "b", "a1", "b", "a2", "b", "a1", "a2", "a1", "a2"]


def test_paused_work_ends_with_its_call() -> None:
    go = threading.Event()
    with pool(2, slices=Slices(1)) as threads:
        try:
            holder = threads.submit(work(lambda: go.wait(PATIENCE_S)))
            while not holder.running():
                time.sleep(0.001)
            never = work(lambda: pytest.fail("it ran"), "other")
            future = threads.submit(never)
            never.end(ClosedError("the client is gone"))
            with pytest.raises(ClosedError, match="the client is gone"):
                future.result(PATIENCE_S)
        finally:
            go.set()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with EmbeddedDatabase(tmp_path_factory.mktemp("threads") / "x") as db:
        migrate(db, VERSION, AIRPORTS)
        for at in range(0, ENOUGH, 4000):
            with db.transaction() as tx:
                for number in range(at, at + 4000):
                    tx.put(AIRPORTS, Airport(faa=f"A{number:06}", name=f"airport {number}"))
        with Server({"x": db}) as server:
            yield server


def busy(server: Server) -> int:
    return len(server.hosting.long_reads)


def wait_until(holds: Callable[[], bool]) -> float:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < PATIENCE_S
        time.sleep(0.005)
    return time.monotonic() - began


class Repeated(Admin):
    """A `db.admin` whose check begins again until `stop` is set."""

    stop: threading.Event

    def check(self, progress: Any = None, *, deep: bool = False) -> Iterator[str]:
        while not self.stop.is_set():
            yield from super().check(progress, deep=deep)


@pytest.fixture
def repeated(served: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let checks last as long as the test."""
    db: Any = served.databases["x"]
    admin = Repeated(db.core, db.past, db.consumers, ArchiveStatus, db.transaction)
    admin.stop = threading.Event()
    monkeypatch.setattr(db, "admin", admin)
    yield
    admin.stop.set()


@pytest.mark.usefixtures("repeated")
def test_checks_of_one_client_do_not_delay_calls_of_another(served: Server) -> None:
    """Without turns, a count waits until the checks have ended, which they do not."""
    channel = grpc.insecure_channel(served.address)
    try:
        stub = admin_pb2_grpc.AdminStub(channel)
        with RemoteDatabase(served.url("x")) as remote:
            assert remote.count(AIRPORTS) == ENOUGH
            checks = [stub.Check(admin_pb2.CheckRequest(database="x")) for _ in range(20)]
            wait_until(lambda: busy(served) >= 4)
            assert remote.get(AIRPORTS, "A000001") is not None
            assert remote.count(AIRPORTS, start="A000010", end="A000500") == 490
            remote.put(AIRPORTS, Airport(faa="A000002", name="changed"))
            assert remote.count(AIRPORTS, start="A000010") == ENOUGH - 10  # a long one
            running = [one.method for one in [*served.activity.running.values()]]
            assert running.count("Admin/Check") == 20
            long_reads = [one.key for one in served.hosting.long_reads]
            assert all(long_reads.count(key) <= 4 for key in long_reads)
        for check in checks:
            check.cancel()
    finally:
        channel.close()


@pytest.mark.usefixtures("repeated")
def test_a_long_read_ends_soon_after_its_client_has_left(served: Server) -> None:
    channel = grpc.insecure_channel(served.address)
    try:
        wait_until(lambda: not busy(served))
        check = admin_pb2_grpc.AdminStub(channel).Check(admin_pb2.CheckRequest(database="x"))
        next(check)  # its first progress
        assert busy(served)
        check.cancel()
        assert wait_until(lambda: not busy(served)) < 10
        count = store_pb2_grpc.StoreStub(channel).Count.future(
            store_pb2.CountRequest(database="x", table="airports", space=1, end=b"\xff")
        )
        wait_until(lambda: count.done() or bool(busy(served)))
        count.cancel()
        assert wait_until(lambda: not busy(served)) < 10
    finally:
        channel.close()


def test_a_long_read_ends_soon_after_its_deadline(served: Server) -> None:
    channel = grpc.insecure_channel(served.address)
    try:
        stub = admin_pb2_grpc.AdminStub(channel)
        with pytest.raises(grpc.RpcError) as at:
            list(stub.Check(admin_pb2.CheckRequest(database="x", deep=True), timeout=0.1))
        assert at.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert wait_until(lambda: not busy(served)) < 10
    finally:
        channel.close()
