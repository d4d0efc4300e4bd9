"""A transaction: reads its own writes, commits as a whole or not at all."""

from __future__ import annotations

import random
from typing import Any

import pytest

from everlog.proto import log_pb2
from everlog.store import keys
from everlog.store.database import Database
from everlog.store.errors import ClosedError, ConflictError, PreconditionError, RowError, SchemaError
from everlog.store.tx.transaction import CommitResult
from tests.store.models import AIRPORTS, ITEMS, SEATS, Airport, Item, Seat, airport, items


def test_a_transaction_is_one_record_with_its_metadata(db: Database) -> None:
    before = db.head
    with db.transaction(
        actor="ann", reason="typo", correlation_id="c1", causation_id="c0", client="test"
    ) as tx:
        tx.put(AIRPORTS, airport("JFK", "New York"))
        tx.put(ITEMS, Item(id=1))
    assert tx.result is not None
    assert db.head == tx.result.seq == before + 1
    commit = db.log.commit(db.head)
    assert (commit.actor, commit.reason, commit.correlation_id) == ("ann", "typo", "c1")
    assert (commit.causation_id, commit.client, commit.schema) == ("c0", "test", 1)
    assert (commit.time_ns, commit.checksum) == (tx.result.time_ns, tx.result.checksum)
    assert [(change.space, change.prior) for change in commit.changes] == [(1, 0), (3, 0)]


def test_a_change_names_the_version_that_it_replaces(db: Database) -> None:
    first = db.put(AIRPORTS, airport("JFK", "a"))
    second = db.put(AIRPORTS, airport("JFK", "b"))
    assert db.version(AIRPORTS, "JFK") == second.seq
    third = db.delete(AIRPORTS, "JFK")
    changes = [db.log.commit(seq).changes[0] for seq in (first.seq, second.seq, third.seq)]
    assert [(c.op, c.prior) for c in changes] == [(0, 0), (0, first.seq), (1, second.seq)]
    assert changes[2].row == b""
    assert db.version(AIRPORTS, "JFK") == 0


def test_an_exception_leaves_no_trace(db: Database) -> None:
    before = db.head
    with pytest.raises(KeyError), db.transaction() as tx:  # noqa: PT012  the whole transaction
        tx.put(AIRPORTS, airport("JFK"))
        raise KeyError
    assert db.head == before
    assert db.get(AIRPORTS, "JFK") is None


def test_a_transaction_without_writes_is_nowhere(db: Database) -> None:
    before = db.head
    with db.transaction() as tx:
        tx.get(AIRPORTS, "JFK")
    assert tx.result is not None
    assert (tx.result.seq, db.head) == (0, before)


def test_a_transaction_that_has_ended_is_not_used_again(db: Database) -> None:
    with db.transaction() as tx:
        tx.commit()
        with pytest.raises(ClosedError, match="has ended; begin another"):
            tx.put(ITEMS, Item(id=1))
    for use in (tx.commit, lambda: tx.get(ITEMS, 1), lambda: list(tx.scan(ITEMS))):
        with pytest.raises(ClosedError):
            use()


def test_a_row_that_changes_after_it_was_put_is_put_as_it_was(db: Database) -> None:
    row = airport("JFK", "before")
    with db.transaction() as tx:
        tx.put(AIRPORTS, row)
        row.city = "after"
    found = db.get(AIRPORTS, "JFK")
    assert found is not None
    assert found.city == "before"


def test_it_reads_its_own_writes(db: Database) -> None:
    db.put(AIRPORTS, airport("JFK", "New York"))
    db.put(AIRPORTS, airport("LGA", "New York"))
    db.put(AIRPORTS, airport("SFO", "San Francisco"))
    with db.transaction() as tx:
        tx.put(AIRPORTS, airport("EWR", "New York"))
        tx.put(AIRPORTS, airport("JFK", "Idlewild"))
        tx.delete(AIRPORTS, "SFO")
        changed = tx.get(AIRPORTS, "JFK")
        assert changed is not None
        assert changed.city == "Idlewild"
        assert tx.get(AIRPORTS, "SFO") is None
        assert [row and row.faa for row in tx.get_many(AIRPORTS, ["SFO", "LGA", "EWR"])] == [
            None,
            "LGA",
            "EWR",
        ]
        assert codes(tx.scan(AIRPORTS)) == ["EWR", "JFK", "LGA"]
        assert codes(tx.scan(AIRPORTS, reverse=True)) == ["LGA", "JFK", "EWR"]
        assert codes(tx.scan(AIRPORTS.by_city, "New York")) == ["EWR", "LGA"]
        assert codes(tx.scan(AIRPORTS.by_city, "New York", reverse=True)) == ["LGA", "EWR"]
        assert codes(tx.scan(AIRPORTS.by_city)) == ["JFK", "EWR", "LGA"]
        assert (tx.count(AIRPORTS), tx.count(AIRPORTS.by_city, "New York")) == (3, 2)
        assert tx.version(AIRPORTS, "JFK") == 0
        tx.put(AIRPORTS, airport("SFO", "Oakland"))
        assert codes(tx.scan(AIRPORTS.by_city, starts_with="O")) == ["SFO"]
    assert codes(db.scan(AIRPORTS.by_city)) == ["JFK", "EWR", "LGA", "SFO"]


@pytest.mark.parametrize("scanned", [0, 8, 1000])
def test_it_counts_its_own_writes_however_many_they_are(
    db: Database, monkeypatch: pytest.MonkeyPatch, scanned: int
) -> None:
    monkeypatch.setattr("everlog.store.tx.source.SCANNED_PER_WRITE", scanned)
    chance = random.Random(7)
    db.load(AIRPORTS, [airport(f"A{at:03}", f"city {at % 5}") for at in range(400)])
    with db.transaction() as tx:
        for _ in range(60):
            faa = f"A{chance.randrange(500):03}"
            if chance.random() < 0.6:
                tx.put(AIRPORTS, airport(faa, f"city {chance.randrange(9)}"))
            else:
                tx.delete(AIRPORTS, faa)
        wanted: list[tuple[Any, dict[str, Any]]] = [
            (AIRPORTS, {}),
            (AIRPORTS, {"start": "A100", "end": "A300"}),
            (AIRPORTS.by_city, {}),
            (AIRPORTS.by_city, {"start": "city 2"}),
            (AIRPORTS.by_city, {"starts_with": "city 7"}),
        ]
        for what, limits in wanted:
            assert tx.count(what, **limits) == len(list(tx.scan(what, **limits)))


def codes(rows: Any) -> list[str]:
    return [row.faa for row in rows]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_pages_of_a_scan_meet_though_the_transaction_hides_and_adds_rows(
    db: Database, limit: int, reverse: bool
) -> None:
    with db.transaction() as tx:
        for item in items(1, 20):
            tx.put(ITEMS, item)
    with db.transaction() as tx:
        for hidden in (1, 2, 3, 11, 20):
            tx.delete(ITEMS, hidden)
        for added in (0, 100, 101):
            tx.put(ITEMS, Item(id=added))
        expected = sorted({*range(1, 21), 0, 100, 101} - {1, 2, 3, 11, 20}, reverse=reverse)
        found: list[int] = []
        resume: bytes | None = None
        while True:
            page = tx.scan(ITEMS, limit=limit, resume=resume, reverse=reverse)
            rows = [row.id for row in page]
            assert len(rows) == min(limit, len(expected) - len(found))
            found += rows
            resume = page.resume
            if resume is None:
                break
        assert found == expected
        tx.rollback()


def test_the_last_of_many_writes_of_a_row_counts_and_the_first_expectation(db: Database) -> None:
    with db.transaction() as tx:
        tx.insert(ITEMS, Item(id=1, text="a"))
        tx.put(ITEMS, Item(id=1, text="b"))
        tx.delete(ITEMS, 1)
        tx.put(ITEMS, Item(id=1, text="c"))
        tx.update(ITEMS, Item(id=1, text="d"))
        with pytest.raises(PreconditionError, match="row items/1 was written earlier in this transaction"):
            tx.insert(ITEMS, Item(id=1))
        tx.delete(ITEMS, 1)
        with pytest.raises(PreconditionError, match="was deleted earlier"):
            tx.update(ITEMS, Item(id=1))
        tx.put(ITEMS, Item(id=1, text="e"))
    found = db.get(ITEMS, 1)
    assert found is not None
    assert found.text == "e"
    assert len(db.log.commit(db.head).changes) == 1
    with pytest.raises(PreconditionError, match="expected no row items/1"), db.transaction() as tx:  # noqa: PT012  the whole transaction
        tx.insert(ITEMS, Item(id=1))
        tx.put(ITEMS, Item(id=1))


@pytest.mark.parametrize(
    ("table", "row", "words"),
    [
        (AIRPORTS, Item(id=1), "expected a row of airports to be a flights.Airport, found flights.Item"),
        (AIRPORTS, {"faa": "JFK"}, "found dict"),
        (AIRPORTS, None, "found NoneType"),
        (AIRPORTS, Airport(), "lacks its key field faa"),
        (
            AIRPORTS,
            airport("J" * keys.KEY_BYTES_MAX),
            "has 4,098 bytes; the limit is 4,096",
        ),
        (
            AIRPORTS,
            airport("JFK", "x" * keys.ROW_BYTES_MAX),
            "row airports/JFK has",
        ),
    ],
)
def test_a_bad_row_is_refused_and_nothing_changes(db: Database, table: Any, row: Any, words: str) -> None:
    before = db.head
    with pytest.raises(RowError, match=words):
        db.put(table, row)
    assert db.head == before


def test_a_commit_over_the_limit_is_refused_and_nothing_changes(db: Database) -> None:
    before = db.head
    with pytest.raises(RowError, match="the limit is 8,388,608"), db.transaction() as tx:  # noqa: PT012  the whole transaction
        for number in range(3):
            tx.put(ITEMS, Item(id=number, text="x" * 4_000_000))
    assert db.head == before
    assert db.count(ITEMS) == 0


def test_a_long_index_value_is_no_larger_than_its_row(db: Database) -> None:
    db.put(AIRPORTS, airport("JFK", "\0" * 100_000))
    assert codes(db.scan(AIRPORTS.by_city, "\0" * 100_000)) == ["JFK"]


def test_a_bad_key_is_refused(db: Database) -> None:
    bad: list[tuple[Any, Any]] = [
        (AIRPORTS, 5),
        (SEATS, (1, 2)),
        (SEATS, (1, "2", b"A")),
        (ITEMS, -1),
        (ITEMS, None),
    ]
    for table, key in bad:
        with pytest.raises(RowError):
            db.get(table, key)
        with pytest.raises(RowError):
            db.delete(table, key)


def test_a_table_that_there_is_not_is_an_error(db: Database) -> None:
    from everlog.store.schema.table import Table
    from tests.store.models import ITEM_ID

    planes: Any = Table("planes", Item, key=ITEM_ID)
    with pytest.raises(SchemaError, match="there is no table 'planes'"):
        db.put(planes, Item(id=1))
    with pytest.raises(SchemaError, match="expected a Table, found str"):
        db.get("items", 1)  # type: ignore[arg-type]


def test_deleting_what_is_not_there_writes_nothing_and_says_so(db: Database) -> None:
    head, applied = db.head, db.tables.applied
    result = db.delete(ITEMS, 1, actor="ann", reason="gone")
    assert (result, result.missing) == (CommitResult(0), 1)
    with db.transaction() as tx:
        tx.delete(ITEMS, 1)
        tx.delete(ITEMS, 2)
        tx.delete(AIRPORTS, "JFK")
        result = tx.commit()
    assert (result, result.missing) == (CommitResult(0), 3)
    assert (db.head, db.tables.applied) == (head, applied)
    with db.transaction() as tx:
        tx.delete(ITEMS, 1)
        tx.put(ITEMS, Item(id=2))
        result = tx.commit()
    assert (result.seq, result.missing, len(db.log.commit(result.seq).changes)) == (head + 1, 1, 1)
    assert db.delete(ITEMS, 2).missing == 0
    assert db.head == head + 2


def test_a_delete_that_expects_a_row_fails_where_there_is_none(db: Database) -> None:
    head = db.head
    with pytest.raises(PreconditionError):
        db.delete(ITEMS, 1, expect_version=head)
    assert db.delete(ITEMS, 1, expect_version=0).missing == 1
    assert db.head == head


def test_a_delete_of_nothing_still_conflicts_where_what_it_read_was_changed(db: Database) -> None:
    tx = db.transaction()
    assert tx.get(ITEMS, 1) is None
    tx.delete(ITEMS, 2)
    db.put(ITEMS, Item(id=1))
    with pytest.raises(ConflictError):
        tx.commit()


def test_a_put_of_an_equal_row_is_a_commit_as_any_other(db: Database) -> None:
    first = db.put(ITEMS, Item(id=1, n=5))
    second = db.put(ITEMS, Item(id=1, n=5), actor="ann")
    assert second.seq == first.seq + 1
    assert db.version(ITEMS, 1) == second.seq
    assert db.log.commit(second.seq).changes[0].prior == first.seq


def test_every_kind_of_row_survives(db: Database) -> None:
    seat = Seat(flight=-(2**31), row=2**63 - 1, letter=b"\0\xff", cabin=-1, price=float("inf"), taken=True)
    db.put(SEATS, seat)
    assert db.get(SEATS, (-(2**31), 2**63 - 1, b"\0\xff")) == seat
    assert [row.cabin for row in db.scan(SEATS.by_cabin_and_price, -1)] == [-1]
    assert db.log.commit(db.head).changes[0].op == log_pb2.PUT
