"""Scans through a server: of one snapshot, which is not kept for clients that stopped reading."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

import everlog
from everlog.proto import store_pb2
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.rpc.server.store import FIRST_PAGE_ROWS, ServedScan
from tests.conformance.database_case import AIRPORTS, FLIGHTS, Flight, airport, flight

ROWS = 200


@pytest.fixture
def filled(db: EmbeddedDatabase) -> EmbeddedDatabase:
    with db.transaction() as tx:
        for number in range(ROWS):
            tx.put(FLIGHTS, flight(number, delay=number % 7))
    return db


def request(**more: Any) -> store_pb2.ScanRequest:
    return store_pb2.ScanRequest(database="x", table="flights", **more)


def pages(scan: ServedScan) -> Iterator[store_pb2.ScanResponse]:
    while not scan.done:
        yield scan.page()


def rows(some: Any) -> list[bytes]:
    return [row.key + row.row for page in some for row in page.rows]


KINDS: list[dict[str, Any]] = [{}, {"backwards": True}, {"index": "by_delay"}, {"limit": 150}]


@pytest.mark.parametrize("kind", KINDS)
def test_a_scan_that_was_let_go_of_goes_on_as_if_it_had_been_held(
    filled: EmbeddedDatabase, kind: dict[str, Any]
) -> None:
    whole = rows(pages(ServedScan(filled, request(**kind))))
    assert len(whole) == kind.get("limit", ROWS)
    scan = ServedScan(filled, request(**kind))
    first = scan.page()
    assert len(first.rows) == FIRST_PAGE_ROWS
    scan.release()
    filled.put(AIRPORTS, airport("JFK"))
    rest = list(pages(scan))
    assert rows([first, *rest]) == whole
    assert {page.seq for page in (first, *rest)} == {first.seq}


def test_what_was_read_already_may_change_while_it_is_let_go_of(filled: EmbeddedDatabase) -> None:
    scan = ServedScan(filled, request())
    first = scan.page()
    scan.release()
    filled.put(FLIGHTS, flight(0, delay=99))
    assert len(rows([first, *pages(scan)])) == ROWS


@pytest.mark.parametrize("kind", KINDS[:3])
def test_a_scan_that_was_let_go_of_is_a_conflict_if_the_rest_has_changed(
    filled: EmbeddedDatabase, kind: dict[str, Any]
) -> None:
    scan = ServedScan(filled, request(**kind))
    first = scan.page()
    scan.release()
    seen = {Flight.FromString(row.row).number for row in first.rows}
    number = next(number for number in range(ROWS) if number not in seen)
    row = flight(number, delay=number % 7)
    row.origin = "LGA"  # no index has it
    seq = filled.put(FLIGHTS, row).seq
    with pytest.raises(everlog.ConflictError, match=f"changed by commit {seq}"):
        list(pages(scan))


def test_a_snapshot_does_not_give_newer_rows_by_an_index_that_they_stand_still_in(
    filled: EmbeddedDatabase,
) -> None:
    with (
        Server({"x": filled}) as server,
        RemoteDatabase(server.url("x")) as remote,
        remote.snapshot() as snapshot,
    ):
        changed = flight(3, delay=3)
        changed.origin = "LGA"
        filled.put(FLIGHTS, changed)
        with pytest.raises(everlog.ConflictError, match="run it again"):
            list(snapshot.scan(FLIGHTS.by_delay, 3))
        assert len(list(snapshot.scan(FLIGHTS.by_delay, 4))) == len(range(4, ROWS, 7))


@pytest.mark.long
def test_no_moment_is_held_for_a_client_that_has_stopped_reading(
    db: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ServedScan, "stall_s", 0.05)
    gone = threading.Event()
    release = ServedScan.release

    def told(scan: ServedScan) -> None:
        release(scan)
        gone.set()

    monkeypatch.setattr(ServedScan, "release", told)
    names = [f"{number:06}" for number in range(20_000)]
    db.load(AIRPORTS, (airport(name, name=name * 200) for name in names))
    with Server({"x": db}) as server, RemoteDatabase(server.url("x")) as remote:
        scan = iter(remote.scan(AIRPORTS))
        first = [row.faa for row in islice(scan, 10)]
        assert gone.wait(30)  # with a client that buffers much less than all rows
        assert first + [row.faa for row in scan] == names
        gone.clear()
        scan = iter(remote.scan(AIRPORTS))
        next(scan)
        assert gone.wait(30)
        db.delete(AIRPORTS, names[-1])
        with pytest.raises(everlog.ConflictError, match="changed by commit"):
            list(scan)


@pytest.mark.long
def test_a_client_that_vanishes_leaves_no_moment(
    db: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = threading.Event()
    release = ServedScan.release

    def told(scan: ServedScan) -> None:
        release(scan)
        gone.set()

    monkeypatch.setattr(ServedScan, "release", told)
    db.load(AIRPORTS, (airport(f"{number:06}", name=f"{number}" * 200) for number in range(20_000)))
    with Server({"x": db}) as server:
        remote = RemoteDatabase(server.url("x"))
        next(iter(remote.scan(AIRPORTS)))
        assert not gone.is_set()
        remote.close()
        assert gone.wait(30)
