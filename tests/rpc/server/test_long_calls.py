"""Long calls beside short ones: which threads they have, and when these are free again.

Nothing here depends on the speed of the machine: heavy work continues until the light calls are done, and
what is read after a client has left is counted in chunks.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from everlog.migrations.lock import lock
from everlog.proto import (
    admin_pb2,
    admin_pb2_grpc,
    history_pb2,
    history_pb2_grpc,
    migrations_pb2,
    migrations_pb2_grpc,
    people_pb2,
    proofs_pb2,
    store_pb2,
)
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server import threads
from everlog.rpc.server.server import Server
from everlog.store import log
from everlog.store.history import view as past_view
from everlog.store.progress import interruption_point
from everlog.store.rocks import view
from tests.conformance.database_case import AIRPORTS, VERSION, Airport, migrate
from tests.store.models import ITEMS, Item, declare
from tests.store.people import MASTER, PATIENTS, patient

PATIENCE_S = 120.0
VERSIONS = 300  # of one row


def wait_until(holds: Callable[[], bool]) -> float:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < PATIENCE_S
        time.sleep(0.002)
    return time.monotonic() - began


def test_calls_that_wait_for_the_lock_of_migrations_delay_no_commits(tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "x") as db, Server({"x": db}) as server:
        migrate(db, VERSION, AIRPORTS)
        with (
            grpc.insecure_channel(server.address) as channel,
            RemoteDatabase(server.url("x")) as remote,
            lock(db.uuid, "the test"),
        ):
            stub = migrations_pb2_grpc.MigrationsStub(channel)
            calls = [
                stub.Complete.future(migrations_pb2.CompleteRequest(database="x")) for _ in range(20)
            ] + [stub.Cancel.future(migrations_pb2.CancelRequest(database="x")) for _ in range(20)]
            waiting = server.hosting.pools[3]
            wait_until(lambda: len(waiting.busy) == 4 and waiting.waiting == 36)
            for number in range(20):
                remote.put(AIRPORTS, Airport(faa=f"A{number}", name=f"airport {number}"))
            assert remote.count(AIRPORTS) == 20
            assert not any(call.done() for call in calls)
            for call in calls:
                call.cancel()


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with sealed rows, enough for checks that last longer than some light calls."""
    with EmbeddedDatabase(tmp_path_factory.mktemp("long") / "x", master_key=MASTER) as db:
        declare(db, PATIENTS)
        db.load(PATIENTS, (patient(number, f"s-{number}") for number in range(1, 6001)))
        for number in range(VERSIONS):
            db.put(PATIENTS, patient(1, "s-1", name=f"Ann {number}"))
        with Server({"x": db}) as server:
            yield server


@pytest.mark.long
def test_checks_a_load_an_erasure_and_histories_do_not_delay_light_calls(clinic: Server) -> None:
    done = threading.Event()
    db: Any = clinic.databases["x"]

    def rows() -> Iterator[Any]:
        number = 1_000_000
        while not done.is_set():
            number += 1
            yield patient(number, f"s-{number}")

    def load() -> int:
        with RemoteDatabase(clinic.url("x")) as remote:
            return int(remote.load(PATIENTS, rows()).rows)

    def forget() -> int:
        with RemoteDatabase(clinic.url("x")) as remote:
            number = 10
            while not done.is_set():
                number += 1
                remote.people.forget(PATIENTS, number)
            return number

    with (
        ThreadPoolExecutor(2) as pool,
        grpc.insecure_channel(clinic.address) as channel,
        RemoteDatabase(clinic.url("x")) as remote,
    ):
        stub = admin_pb2_grpc.AdminStub(channel)
        checks: list[Any] = [stub.Check(admin_pb2.CheckRequest(database="x")) for _ in range(20)]
        asked = history_request(db)
        histories: list[Any] = [history_pb2_grpc.HistoryStub(channel).History(asked) for _ in range(50)]
        loading, forgetting = pool.submit(load), pool.submit(forget)
        try:
            loaders = clinic.hosting.pools[4]
            wait_until(lambda: bool(loaders.busy) and len(clinic.hosting.long_reads) >= 4)
            head = db.head
            for number in range(1, 11):
                assert remote.get(PATIENTS, number) is not None
                remote.put(PATIENTS, patient(number, f"s-{number}", name="changed"))
                assert remote.count(PATIENTS, start=1, end=11) == 10
            assert db.head >= head + 10
            running = [one.method for one in [*clinic.activity.running.values()]]
            assert running.count("Admin/Check") >= 10
            assert running.count("Store/Load") == 1
            assert not loading.done()
            assert not forgetting.done()
        finally:
            done.set()
        assert loading.result(PATIENCE_S) > 0
        assert forgetting.result(PATIENCE_S) > 10
        for call in (*checks, *histories):
            call.cancel()


def history_request(db: Any) -> Any:
    info = db.schema.table("patients")
    return history_pb2.HistoryRequest(database="x", table="patients", version=0, key=info.encode_key(1))


def begin(channel: grpc.Channel, db: Any, name: str, timeout: float | None = None) -> Any:
    """Begin a long read of the first table; its responses, of any number, are iterated."""
    table = next(iter(db.schema.tables))
    space = db.schema.table(table).space
    requests: dict[str, Any] = {
        "Admin/Check": admin_pb2.CheckRequest(database="x"),
        "Admin/Check deep": admin_pb2.CheckRequest(database="x", deep=True),
        "Admin/Status": admin_pb2.StatusRequest(database="x", hashes=True),
        "Store/Count": store_pb2.CountRequest(database="x", table=table, space=space, end=b"\xff"),
        "History/Diff": history_pb2.DiffRequest(database="x", table=table, start_seq=2, end_seq=db.head),
        "History/Log": history_pb2.LogRequest(database="x", actor="nobody"),
        "People/Readable": people_pb2.ReadableRequest(database="x"),
        "Proofs/Head": proofs_pb2.HeadRequest(database="x"),
    }
    method: Any = channel.unary_stream(f"/everlog.v1.{name.split(maxsplit=1)[0]}")
    return method(requests[name].SerializeToString(), timeout=timeout)


NAMES = (
    "Admin/Check",
    "Admin/Check deep",
    "Admin/Status",
    "Store/Count",
    "History/Diff",
    "History/Log",
    "People/Readable",
    "Proofs/Head",
)


class Chunks:
    """Counts the chunks that each long read begins, before and after its call has ended."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.before, self.after = Counter[threads.Work](), Counter[threads.Work]()
        self.first = threading.Event()
        self.go_on = threading.Event()

    def point(self) -> None:
        """In place of `interruption_point`: the first chunk waits until the call has ended."""
        work = threads.current()
        if work not in self._server.hosting.long_reads:
            return
        assert work is not None
        if work.ended is None:
            self.before[work] += 1
            self.first.set()
            self.go_on.wait(PATIENCE_S)
        if work.ended is not None:
            self.after[work] += 1
        interruption_point()

    def check(self) -> None:
        """Check that each read that had begun raised in its next chunk."""
        assert self.before
        assert {one: (count, self.after[one]) for one, count in self.before.items()} == dict.fromkeys(
            self.before, (1, 1)
        )


@contextmanager
def counted(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chunks]:
    chunks = Chunks(server)
    for module in (view, past_view, log):
        monkeypatch.setattr(module, "interruption_point", chunks.point)
    try:
        yield chunks
    finally:
        chunks.go_on.set()


@pytest.mark.parametrize("name", NAMES)
def test_a_long_read_reads_nothing_more_once_its_client_has_left(
    clinic: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_until(lambda: not clinic.hosting.long_reads)
    with counted(clinic, monkeypatch) as chunks, grpc.insecure_channel(clinic.address) as channel:
        call = begin(channel, clinic.databases["x"], name)
        assert chunks.first.wait(PATIENCE_S)
        call.cancel()
        wait_until(lambda: all(one.ended is not None for one in clinic.hosting.long_reads))
        chunks.go_on.set()
        wait_until(lambda: not clinic.hosting.long_reads)
    chunks.check()


@pytest.mark.parametrize("name", NAMES)
def test_a_long_read_reads_nothing_more_once_its_deadline_has_passed(
    clinic: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_until(lambda: not clinic.hosting.long_reads)
    with counted(clinic, monkeypatch) as chunks, grpc.insecure_channel(clinic.address) as channel:
        timeout = 0.2
        while not chunks.first.is_set():  # its deadline may pass before it reads
            timeout *= 2
            assert timeout < PATIENCE_S
            call = begin(channel, clinic.databases["x"], name, timeout)
            with pytest.raises(grpc.RpcError) as at:
                list(call)
            assert at.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: all(one.ended is not None for one in clinic.hosting.long_reads))
        chunks.go_on.set()
        wait_until(lambda: not clinic.hosting.long_reads)
    chunks.check()


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with EmbeddedDatabase(tmp_path_factory.mktemp("million") / "x", durability="os") as db:
        declare(db, ITEMS)
        db.load(ITEMS, (Item(id=number) for number in range(1_000_000)))
        with Server({"x": db}) as server:
            yield server


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("Adm", "Sto", "History/D"))])
def test_a_million_rows_are_left_within_a_second(million: Server, name: str) -> None:
    """The time is bounded: a slice, and a chunk of 512 rows. Nothing else is done meanwhile."""
    with grpc.insecure_channel(million.address) as channel:
        call = begin(channel, million.databases["x"], name)
        wait_until(lambda: any(one.state == "running" for one in million.hosting.long_reads))
        time.sleep(0.2)  # well into its work
        assert million.hosting.long_reads, f"{name} was done before its client left"
        call.cancel()
        assert wait_until(lambda: not million.hosting.long_reads) < 1.0
