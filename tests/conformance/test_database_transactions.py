"""Transactions: serializable, atomic, repeatable; the same embedded and over the network."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import everlog
from everlog.rpc.client.database import RemoteDatabase
from tests.conformance.database_case import AIRPORTS, FLIGHTS, airport, flight


def test_a_transaction_is_one_commit(db: Any) -> None:
    head = db.head
    with db.transaction() as tx:
        tx.put(AIRPORTS, airport("JFK"))
        tx.put(FLIGHTS, flight(1))
        assert db.get(AIRPORTS, "JFK") is None
    assert tx.result is not None
    assert tx.result.seq == db.head == head + 1
    assert db.version(AIRPORTS, "JFK") == db.version(FLIGHTS, ("UA", 1)) == head + 1


def test_an_exception_leaves_no_trace(db: Any) -> None:
    head = db.head

    def fail() -> None:
        with db.transaction() as tx:
            tx.put(AIRPORTS, airport("JFK"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert db.head == head
    assert db.get(AIRPORTS, "JFK") is None


def test_a_transaction_reads_its_own_writes(db: Any) -> None:
    db.put(AIRPORTS, airport("JFK"))
    db.put(AIRPORTS, airport("EWR", "Newark"))
    with db.transaction() as tx:
        tx.put(AIRPORTS, airport("LGA"))
        tx.delete(AIRPORTS, "JFK")
        assert tx.get(AIRPORTS, "LGA") == airport("LGA")
        assert tx.get(AIRPORTS, "JFK") is None
        assert [row.faa for row in tx.scan(AIRPORTS)] == ["EWR", "LGA"]
        assert [row.faa for row in tx.scan(AIRPORTS, limit=1)] == ["EWR"]
        assert [row.faa for row in tx.scan(AIRPORTS.by_city, reverse=True)] == ["EWR", "LGA"]
        assert tx.count(AIRPORTS.by_city, "New York") == 1
        assert tx.get_many(AIRPORTS, ["JFK", "LGA"]) == [None, airport("LGA")]


def test_the_metadata_of_a_transaction_is_in_its_commit(db: Any) -> None:
    with db.transaction(
        actor="ann", reason="typo", correlation_id="c1", causation_id="c0", client="test"
    ) as tx:
        tx.put(AIRPORTS, airport("JFK"))
    (commit,) = db.feed(after=db.head - 1, bounded=True)
    assert (commit.actor, commit.reason, commit.client) == ("ann", "typo", "test")
    assert (commit.correlation_id, commit.causation_id) == ("c1", "c0")
    assert tx.result == (commit.seq, commit.time_ns, commit.checksum, False)


def test_a_transaction_that_wrote_nothing_is_nowhere_in_the_log(db: Any) -> None:
    head = db.head
    with db.transaction() as tx:
        tx.get(AIRPORTS, "JFK")
    assert tx.result == everlog.CommitResult(0)
    assert db.head == head


def test_a_transaction_that_has_ended_is_refused(db: Any) -> None:
    with db.transaction() as tx:
        tx.put(AIRPORTS, airport("JFK"))
    with pytest.raises(everlog.ClosedError):
        tx.put(AIRPORTS, airport("LGA"))
    with pytest.raises(everlog.ClosedError):
        tx.get(AIRPORTS, "JFK")
    with pytest.raises(everlog.ClosedError):
        tx.commit()


def test_an_update_that_would_be_lost_is_a_conflict(db: Any) -> None:
    db.put(FLIGHTS, flight(1))
    tx = db.transaction()
    row = tx.get(FLIGHTS, ("UA", 1))
    db.put(FLIGHTS, flight(1, delay=7))
    row.delay = 1
    tx.put(FLIGHTS, row)
    with pytest.raises(everlog.ConflictError, match="changed by commit"):
        tx.commit()
    assert db.get(FLIGHTS, ("UA", 1)).delay == 7


def test_a_row_that_appears_where_nothing_was_is_a_conflict(db: Any) -> None:
    tx = db.transaction()
    assert tx.get(FLIGHTS, ("UA", 1)) is None
    db.put(FLIGHTS, flight(1))
    tx.put(FLIGHTS, flight(2))
    with pytest.raises(everlog.ConflictError):
        tx.commit()


@pytest.mark.parametrize("what", [FLIGHTS, FLIGHTS.by_delay], ids=["key", "index"])
@pytest.mark.parametrize("how", ["scan", "count"])
def test_a_phantom_is_a_conflict(db: Any, what: Any, how: str) -> None:
    tx = db.transaction()
    assert not (list(tx.scan(what)) if how == "scan" else tx.count(what))
    db.put(FLIGHTS, flight(1))
    tx.put(AIRPORTS, airport("JFK"))
    with pytest.raises(everlog.ConflictError):
        tx.commit()


def test_write_skew_is_a_conflict(db: Any) -> None:
    db.put(FLIGHTS, flight(1))
    db.put(FLIGHTS, flight(2))
    one, other = db.transaction(), db.transaction()
    for tx, own in ((one, 1), (other, 2)):
        assert tx.count(FLIGHTS) == 2
        tx.delete(FLIGHTS, ("UA", own))
    one.commit()
    with pytest.raises(everlog.ConflictError):
        other.commit()
    assert db.count(FLIGHTS) == 1


def test_transactions_on_different_rows_do_not_conflict(db: Any) -> None:
    db.put(FLIGHTS, flight(1))
    db.put(FLIGHTS, flight(2))
    one, other = db.transaction(), db.transaction()
    for tx, number in ((one, 1), (other, 2)):
        row = tx.get(FLIGHTS, ("UA", number))
        row.delay = number
        tx.put(FLIGHTS, row)
    one.commit()
    other.commit()
    assert [row.delay for row in db.scan(FLIGHTS)] == [1, 2]


def test_run_repeats_what_conflicts_until_it_holds(db: Any) -> None:
    db.put(FLIGHTS, flight(1))
    said = list[int]()

    def add(tx: everlog.Transaction) -> int:
        row: Any = tx.get(FLIGHTS, ("UA", 1))
        row.delay += 1
        tx.put(FLIGHTS, row)
        return int(row.delay)

    threads = [threading.Thread(target=lambda: said.extend(db.run(add) for _ in range(6))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == list(range(1, 97))
    assert db.get(FLIGHTS, ("UA", 1)).delay == 96


def test_run_gives_up_after_its_retries(db: Any) -> None:
    db.put(FLIGHTS, flight(1))
    calls = []

    def disturbed(tx: everlog.Transaction) -> None:
        calls.append(tx.get(FLIGHTS, ("UA", 1)))
        db.put(FLIGHTS, flight(1, delay=len(calls)))
        tx.put(FLIGHTS, flight(2))

    with pytest.raises(everlog.ConflictError):
        db.run(disturbed, retries=2)
    assert len(calls) == 3
    with pytest.raises(everlog.ConflictError):
        db.run(disturbed, deadline_s=0)
    assert len(calls) == 4


def test_run_goes_alone_after_some_tries_and_holds_up_nobody_it_waits_for(db: Any) -> None:
    for number in (1, 2):
        db.put(FLIGHTS, flight(number))
    calls, threads = list[Any](), list[threading.Thread]()

    def other() -> None:
        db.run(lambda tx: tx.put(FLIGHTS, flight(1, delay=len(calls))))

    def disturbed(tx: everlog.Transaction) -> None:
        calls.append(tx.get(FLIGHTS, ("UA", 1)))
        threads.append(threading.Thread(target=other))
        threads[-1].start()
        if len(calls) < 4:
            threads[-1].join()
        db.run(lambda inner: inner.put(FLIGHTS, flight(2)))
        tx.put(FLIGHTS, flight(1))

    db.run(disturbed)
    assert len(calls) == 4, "the fourth goes alone: the other waits"
    for thread in threads:
        thread.join()


def test_durability_is_chosen_for_a_commit(db: Any) -> None:
    for durability in ("sync", "os"):
        db.put(FLIGHTS, flight(1), durability=durability)
    with pytest.raises(everlog.Error, match="sync or os, found 'never'"):
        db.put(FLIGHTS, flight(1), durability="never")


def test_a_snapshot_is_one_moment(db: Any) -> None:
    db.put(FLIGHTS, flight(1))
    db.put(FLIGHTS, flight(2))
    with db.snapshot() as snapshot:
        assert snapshot.seq == db.head
        assert snapshot.get(FLIGHTS, ("UA", 1)) == flight(1)
        db.put(FLIGHTS, flight(1, delay=9))
        assert snapshot.get(FLIGHTS, ("UA", 2)) == flight(2)
        try:  # no snapshot is kept over the network, so the client gets an error that it has passed
            assert snapshot.get(FLIGHTS, ("UA", 1)) == flight(1)
            assert snapshot.count(FLIGHTS) == 2
        except everlog.ConflictError:
            assert isinstance(db, RemoteDatabase)
    with pytest.raises(everlog.ClosedError):
        snapshot.get(FLIGHTS, ("UA", 1))
