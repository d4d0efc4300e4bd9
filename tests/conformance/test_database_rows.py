"""Rows: reads and writes of rows in every database, embedded or remote."""

from __future__ import annotations

from typing import Any

import pytest

import everlog
from everlog.store.schema.codec import STRING
from everlog.store.schema.table import Fields, Index, Table
from tests.conformance.database_case import AIRPORTS, FLIGHTS, Airport, Case, airport, flight


@pytest.fixture
def filled(db: Any) -> Any:
    """Return a database with airports of three cities and flights of two carriers."""
    with db.transaction() as tx:
        for faa, city in (("JFK", "New York"), ("LGA", "New York"), ("EWR", "Newark"), ("BOS", "Boston")):
            tx.put(AIRPORTS, airport(faa, city))
        for number in range(10):
            tx.put(FLIGHTS, flight(number, "UA" if number % 2 else "AA", number - 5))
    return db


def faas(rows: Any) -> list[str]:
    return [row.faa for row in rows]


def test_a_row_that_was_put_is_read_back(db: Any) -> None:
    db.put(AIRPORTS, airport("JFK"))
    assert db.get(AIRPORTS, "JFK") == airport("JFK")
    assert db.get(AIRPORTS, "LGA") is None


def test_a_row_that_was_deleted_is_gone_from_table_and_indexes(filled: Any) -> None:
    filled.delete(AIRPORTS, "JFK")
    assert filled.get(AIRPORTS, "JFK") is None
    assert faas(filled.scan(AIRPORTS.by_city, "New York")) == ["LGA"]
    head = filled.head
    again = filled.delete(AIRPORTS, "JFK", actor="ann")  # deleting a missing row is no error, and no commit
    assert (again.seq, again.missing, filled.head) == (0, 1, head)


def test_a_commit_says_how_many_rows_were_not_there_to_delete(filled: Any) -> None:
    with filled.transaction() as tx:
        tx.delete(AIRPORTS, "XXX")
        tx.delete(AIRPORTS, "JFK")
        tx.delete(FLIGHTS, ("UA", 99_999))
        result = tx.commit()
    assert (result.missing, filled.get(AIRPORTS, "JFK"), filled.head) == (2, None, result.seq)
    assert filled.delete(AIRPORTS, "LGA").missing == 0


def test_a_row_that_is_put_as_it_was_is_a_new_version(filled: Any) -> None:
    row = filled.get(AIRPORTS, "JFK")
    result = filled.put(AIRPORTS, row, reason="seen again")
    assert filled.head == filled.version(AIRPORTS, "JFK") == result.seq
    newest = next(iter(filled.history(AIRPORTS, "JFK")))
    assert (newest.seq, newest.reason, newest.fields) == (result.seq, "seen again", ())


def test_many_rows_come_in_the_order_asked(filled: Any) -> None:
    found = filled.get_many(AIRPORTS, ["LGA", "XXX", "BOS", "LGA"])
    assert [row and row.faa for row in found] == ["LGA", None, "BOS", "LGA"]
    assert filled.get_many(AIRPORTS, []) == []


def test_the_version_of_a_row_is_the_seq_that_wrote_it(db: Any) -> None:
    assert db.version(AIRPORTS, "JFK") == 0
    first = db.put(AIRPORTS, airport("JFK"))
    assert db.version(AIRPORTS, "JFK") == first.seq
    second = db.put(AIRPORTS, airport("JFK", name="Kennedy"))
    assert db.version(AIRPORTS, "JFK") == second.seq == first.seq + 1


def test_a_scan_gives_rows_in_key_order_and_backwards(filled: Any) -> None:
    assert faas(filled.scan(AIRPORTS)) == ["BOS", "EWR", "JFK", "LGA"]
    assert faas(filled.scan(AIRPORTS, reverse=True)) == ["LGA", "JFK", "EWR", "BOS"]


def test_a_scan_is_bounded_by_start_inclusive_and_end_exclusive(filled: Any) -> None:
    assert faas(filled.scan(AIRPORTS, start="EWR", end="LGA")) == ["EWR", "JFK"]
    assert faas(filled.scan(AIRPORTS, start="K")) == ["LGA"]
    assert faas(filled.scan(AIRPORTS, end="EWR", reverse=True)) == ["BOS"]


def test_a_scan_takes_the_first_fields_of_a_key(filled: Any) -> None:
    assert [row.number for row in filled.scan(FLIGHTS, "UA")] == [1, 3, 5, 7, 9]
    assert [row.number for row in filled.scan(FLIGHTS, ("AA", 4))] == [4]
    assert [row.number for row in filled.scan(FLIGHTS, start=("AA", 6), end=("UA", 3))] == [6, 8, 1]


def test_a_scan_takes_the_beginning_of_a_text(filled: Any) -> None:
    assert faas(filled.scan(AIRPORTS.by_city, starts_with="New")) == ["JFK", "LGA", "EWR"]
    assert faas(filled.scan(AIRPORTS, starts_with="J")) == ["JFK"]
    assert faas(filled.scan(AIRPORTS.by_country, "US", starts_with="B")) == ["BOS"]


def test_an_index_gives_rows_in_its_order(filled: Any) -> None:
    assert faas(filled.scan(AIRPORTS.by_city)) == ["BOS", "JFK", "LGA", "EWR"]
    assert [row.delay for row in filled.scan(FLIGHTS.by_delay, start=-2, end=2)] == [-2, -1, 0, 1]
    assert faas(filled.scan(AIRPORTS.by_country, ("US", "New York"), reverse=True)) == ["LGA", "JFK"]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("what", [FLIGHTS, FLIGHTS.by_delay], ids=["key", "index"])
def test_pages_join_to_the_whole_scan(filled: Any, what: Any, reverse: bool) -> None:
    whole = list(filled.scan(what, reverse=reverse))
    pages, resume = [], None
    for _ in range(10):
        page = filled.scan(what, reverse=reverse, limit=3, resume=resume)
        pages += list(page)
        resume = page.resume
        if resume is None:
            break
    assert pages == whole
    assert len(pages) == 10


def test_a_limit_that_takes_all_rows_leaves_nothing_to_resume(filled: Any) -> None:
    page = filled.scan(AIRPORTS, limit=4)
    assert len(list(page)) == 4
    assert page.resume is None
    assert list(filled.scan(AIRPORTS, limit=0)) == []


def test_a_count_is_the_length_of_the_scan(filled: Any) -> None:
    assert filled.count(AIRPORTS) == 4
    assert filled.count(AIRPORTS.by_city, "New York") == 2
    assert filled.count(FLIGHTS, start=("UA", 5)) == 3
    assert filled.count(AIRPORTS, starts_with="X") == 0


def test_a_scan_of_many_rows_is_one_moment(db: Any) -> None:
    with db.transaction() as tx:
        for number in range(5000):
            tx.put(FLIGHTS, flight(number))
    rows = iter(db.scan(FLIGHTS))
    first = next(rows)
    db.delete(FLIGHTS, ("UA", 4999))
    assert first.number == 0
    assert sum(1 for _ in rows) == 4999


def test_a_scan_can_be_left_early(filled: Any) -> None:
    rows = iter(filled.scan(FLIGHTS))
    assert next(rows).number == 0
    del rows
    assert filled.count(FLIGHTS) == 10


def test_an_unknown_table_or_index_is_named_with_those_there_are(db: Any) -> None:
    field = Fields[str](Airport)
    nowhere: Any = Table("nowhere", Airport, key=field("faa", 1, STRING))
    with pytest.raises(everlog.SchemaError, match=r"no table 'nowhere'.*airports, flights"):
        db.get(nowhere, "JFK")
    unknown: Any = Table(
        "airports",
        Airport,
        key=field("faa", 1, STRING),
        indexes=(Index("by_luck", field("name", 2, STRING)),),
    )
    with pytest.raises(everlog.SchemaError, match=r"no index 'by_luck'.*by_city"):
        db.scan(unknown.by_luck)


def test_a_key_of_the_wrong_type_is_refused_with_both_types(db: Any) -> None:
    with pytest.raises(everlog.RowError, match=r"expected `str` for faa.*found `int`"):
        db.get(AIRPORTS, 7)
    with pytest.raises(everlog.RowError, match="2 field"):
        db.get(FLIGHTS, "UA")
    with pytest.raises(everlog.RowError):
        db.scan(FLIGHTS.by_delay, "late")


def test_a_row_of_another_tables_model_is_refused(db: Any) -> None:
    before = db.head
    with pytest.raises(everlog.RowError, match=r"expected a row of airports.*Airport, found .*Flight"):
        db.put(AIRPORTS, flight(1))
    assert db.head == before


def test_a_row_without_its_key_is_refused(db: Any) -> None:
    with pytest.raises(everlog.RowError, match="lacks its key field faa"):
        db.put(AIRPORTS, Airport(name="nowhere"))


def test_a_row_over_the_limit_is_refused_and_the_limit_is_said(db: Any) -> None:
    with pytest.raises(everlog.RowError, match="the limit is 4,194,304"):
        db.put(AIRPORTS, airport("JFK", name="x" * (5 << 20)))
    assert db.get(AIRPORTS, "JFK") is None


def test_a_resume_token_of_another_scan_is_refused(filled: Any) -> None:
    page = filled.scan(AIRPORTS, limit=1)
    list(page)
    with pytest.raises(everlog.RowError, match="another scan"):
        filled.scan(FLIGHTS, resume=page.resume)
    with pytest.raises(everlog.RowError, match="limit"):
        filled.scan(FLIGHTS, limit=-1)


def test_a_large_row_travels_whole(db: Any) -> None:
    large = airport("JFK", name="x" * (3 << 20))
    db.put(AIRPORTS, large)
    assert db.get(AIRPORTS, "JFK") == large
    assert list(db.scan(AIRPORTS)) == [large]


def test_a_database_opened_for_reading_reads_and_refuses_to_write(filled: Any, case: Case) -> None:
    with case.reader() as reader:
        assert reader.read_only
        assert reader.get(AIRPORTS, "JFK") == airport("JFK")
        for call in (
            lambda: reader.put(AIRPORTS, airport("XXX")),
            lambda: reader.delete(AIRPORTS, "JFK"),
            reader.transaction,
            lambda: reader.load(AIRPORTS, []),
            reader.admin.rebuild,
        ):
            with pytest.raises(everlog.ReadOnlyError, match="opened for reading"):
                call()


def test_many_keys_at_once_are_got_in_their_order(db: Any) -> None:
    there = range(0, 10_000, 3)
    db.load(FLIGHTS, [flight(number) for number in there])
    found = db.get_many(FLIGHTS, [("UA", number) for number in range(10_000)])
    assert [number for number, row in enumerate(found) if row is not None] == list(there)
    assert all(row is None or row.number == number for number, row in enumerate(found))
    assert db.get_many(FLIGHTS, []) == []
