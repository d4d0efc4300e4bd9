"""Leases: after many conflicts, a transaction runs alone among all clients of a server."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

import everlog
from everlog.proto import store_pb2, store_pb2_grpc
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.http2.grpc import Calls
from everlog.rpc.server import leases
from everlog.rpc.server.server import Server
from tests.conformance.database_case import AIRPORTS, FLIGHTS, Airport, flight

HOT = ("UA", 1)


@pytest.fixture
def url(db: EmbeddedDatabase) -> Iterator[str]:
    db.put(FLIGHTS, flight(1))
    with Server({"x": db}, "127.0.0.1:0") as server:
        yield f"everlog+insecure://127.0.0.1:{server.port}/x"


def add(tx: Any) -> None:
    row = tx.get(FLIGHTS, HOT)
    row.delay += 1
    tx.put(FLIGHTS, row)


def added(url: str, times: int) -> None:
    with RemoteDatabase(url) as remote:
        for _ in range(times):
            remote.run(add)


def together(begin: Callable[[], Any], count: int) -> None:
    """Start all threads, and wait for them."""
    started = [begin() for _ in range(count)]
    for one in started:
        one.start()
    for one in started:
        one.join()
        assert getattr(one, "exitcode", 0) == 0


def test_all_clients_of_one_hot_row_succeed(url: str, db: EmbeddedDatabase) -> None:
    together(lambda: threading.Thread(target=added, args=(url, 4)), 16)
    row = db.get(FLIGHTS, HOT)
    assert row is not None
    assert row.delay == 64


@pytest.mark.long
def test_all_processes_of_one_hot_row_succeed(url: str, db: EmbeddedDatabase) -> None:
    process = multiprocessing.get_context("spawn").Process
    together(lambda: process(target=added, args=(url, 20)), 16)
    row = db.get(FLIGHTS, HOT)
    assert row is not None
    assert row.delay == 320


@pytest.mark.parametrize("fast", ["run", "put"])
def test_a_slow_transaction_among_fast_ones_ends_after_a_few_tries(
    url: str, fast: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 30.0)  # a slow machine needs more than a second
    done, tries, failures = threading.Event(), list[int](), list[BaseException]()

    def busy() -> None:
        try:
            with RemoteDatabase(url) as remote:
                while not done.is_set():
                    if fast == "run":
                        remote.run(add)
                    else:
                        remote.put(FLIGHTS, flight(1))
        except everlog.Error as error:
            failures.append(error)

    def slow(tx: Any) -> None:
        tries.append(tx.get(FLIGHTS, HOT).delay)
        time.sleep(0.15)  # the others commit many times meanwhile, unless they wait
        tx.put(FLIGHTS, flight(1))

    threads = [threading.Thread(target=busy) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        with RemoteDatabase(url) as remote:
            remote.run(slow)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert 1 <= len(tries) <= 10


def turn(url: str, *tables: str) -> tuple[grpc.Channel, Any]:
    """Request a lease without `run`."""
    channel = grpc.insecure_channel(url.removeprefix("everlog+insecure://").partition("/")[0])
    request = store_pb2.TurnRequest(database="x", tables=tables)
    return channel, store_pb2_grpc.StoreStub(channel).Turn(request, timeout=60)


def test_a_lease_ends_by_itself_and_delays_only_commits_to_its_tables(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RemoteDatabase(url) as remote:
        for lease_s in (1.0, 5.0, 30.0):  # a slow machine needs more for a commit beside it
            monkeypatch.setattr(leases, "LEASE_S", lease_s)
            channel, call = turn(url, "flights")
            assert len(next(call).turn) == 16
            began = time.monotonic()
            remote.put(AIRPORTS, Airport(faa="JFK"))
            beside = call.is_active()
            remote.put(FLIGHTS, flight(2))
            assert list(call) == []
            took_s = time.monotonic() - began
            channel.close()
            if beside:
                assert took_s >= lease_s / 2
                return
    pytest.fail("a commit to another table waited for the lease")


@pytest.mark.parametrize("how", ["cancel", "disconnect"])
def test_a_lease_ends_with_its_call(url: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 600.0)
    channel, call = turn(url, "flights")
    next(call)
    with RemoteDatabase(url) as remote:
        putting = threading.Thread(target=lambda: remote.put(FLIGHTS, flight(2)))
        putting.start()
        if how == "cancel":
            call.cancel()
        else:
            channel.close()
        putting.join()
        assert remote.get(FLIGHTS, ("UA", 2)) is not None
    waiting, other = turn(url, "flights")
    assert len(next(other).turn) == 16, "and the next one has its turn"
    channel.close()
    waiting.close()


@pytest.mark.long
def test_a_client_that_asks_for_turns_without_end_stops_nobody(url: str) -> None:
    """Each commit waits for at most one lease."""
    channels = [turn(url, "flights", "airports") for _ in range(40)]
    next(channels[0][1])
    with RemoteDatabase(url) as remote:
        for number in range(3):
            remote.put(FLIGHTS, flight(number))
        remote.run(add)
        assert sum(call.is_active() for _, call in channels) > 20, "most of them have not had their turn"
    for channel, _ in channels:
        channel.close()


def test_more_callers_than_may_wait_go_on_without_a_lease(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "WAITING_MAX", 1)
    monkeypatch.setattr(leases, "LEASE_S", 600.0)
    first, holding = turn(url, "flights")
    next(holding)
    others = [turn(url, "flights") for _ in range(2)]
    over = threading.Event()
    for _, call in others:
        if not call.add_callback(over.set):
            over.set()  # it had ended already
    assert over.wait(60)
    assert [list(call) for _, call in others if not call.is_active()] == [[]]
    for channel, _ in [(first, holding), *others]:
        channel.close()


def test_a_turn_over_no_table_or_an_unknown_one_is_refused(url: str) -> None:
    for tables, code in (((), "INVALID_ARGUMENT"), (("nothing",), "NOT_FOUND")):
        channel, call = turn(url, *tables)
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        assert caught.value.code().name == code
        channel.close()


def test_with_a_server_that_knows_no_turns_it_goes_alone_in_its_process(
    db: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    register = Calls.add_registered_method_handlers

    def older(self: Calls, service: str, handlers: Any) -> None:
        register(self, service, {name: one for name, one in handlers.items() if name != "Turn"})

    monkeypatch.setattr(Calls, "add_registered_method_handlers", older)
    db.put(FLIGHTS, flight(1))
    with Server({"x": db}, "127.0.0.1:0") as server:
        url = f"everlog+insecure://127.0.0.1:{server.port}/x"
        with RemoteDatabase(url) as remote:
            tries = list[int]()

            def disturbed(tx: Any) -> None:
                tries.append(tx.get(FLIGHTS, HOT).delay)
                if len(tries) < 6:
                    remote.put(FLIGHTS, flight(1, delay=len(tries)))
                tx.put(FLIGHTS, flight(2))

            remote.run(disturbed)
            assert len(tries) == 6
            together(lambda: threading.Thread(target=lambda: [remote.run(add) for _ in range(3)]), 4)
            row = remote.get(FLIGHTS, HOT)
            assert row is not None
            assert row.delay == 5 + 12
