"""Maintenance: status, loads, rebuilds, checks, closing, and schema changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import everlog
from everlog.store.progress import Progress
from everlog.store.schema.codec import STRING
from everlog.store.schema.table import Fields, Index, Table
from tests.conformance.database_case import (
    AIRPORTS,
    FLIGHTS,
    VERSION,
    Airport,
    Case,
    airport,
    flight,
    migrate,
)


def test_a_database_says_what_it_is(case: Case) -> None:
    db: Any = case.db
    assert db.uuid == case.embedded.uuid
    assert len(db.uuid) == 16
    assert db.head == case.embedded.head == 2
    assert db.cursor() == case.embedded.cursor()
    assert db.schema.version == VERSION
    assert sorted(db.schema.tables) == ["airports", "flights"]
    assert not db.read_only
    assert db.url.startswith(
        {"memory": "memory:", "file": "file:", "remote": "everlog+insecure://"}[case.kind]
    )


def test_status_counts_what_there_is(case: Case) -> None:
    case.db.put(AIRPORTS, airport("JFK"))
    found, expected = case.db.admin.status(), case.embedded.admin.status()
    assert (found.uuid, found.head, found.checksum) == (expected.uuid, 3, expected.checksum)
    assert (found.oldest, found.schema_version) == (1, VERSION)
    assert [(table.name, table.rows) for table in found.tables] == [("airports", 1), ("flights", 0)]
    assert found.tables[0].indexes == ["by_city", "by_name", "by_country"]
    assert found.disk_bytes > 0
    assert found.head_time_ns == expected.head_time_ns


def test_a_load_writes_all_rows_in_chunks(db: Any) -> None:
    told: list[Progress] = []
    rows = (flight(n, delay=n % 7) for n in range(2500))
    done = db.load(FLIGHTS, rows, id="first", source="here", actor="ann", total=2500, progress=told.append)
    assert (done.id, done.rows, done.skipped) == ("first", 2500, 0)
    assert db.count(FLIGHTS) == db.count(FLIGHTS.by_delay) == 2500
    assert [step.done for step in told] == [1000, 2000, 2500]
    commits = list(db.feed(after=2, bounded=True))
    assert len(commits) == done.commits == 3
    assert {commit.actor for commit in commits} == {"ann"}
    assert [commit.load.rows for commit in commits] == [1000, 2000, 2500]
    assert commits[-1].load.source == "here"


def test_the_commits_of_a_load_have_its_metadata(db: Any) -> None:
    about = {
        "actor": "ann",
        "reason": "spring",
        "correlation_id": "job-7",
        "causation_id": "mail",
        "client": "cron",
    }
    done = db.load(FLIGHTS, (flight(n) for n in range(1500)), durability="sync", **about)
    commits = list(db.feed(after=db.head - done.commits, bounded=True))
    assert done.commits == len(commits) == 2
    assert [{name: getattr(commit, name) for name in about} for commit in commits] == [about, about]


def test_a_load_takes_no_commit_id_and_no_unknown_durability(db: Any) -> None:
    head = db.head
    with pytest.raises(everlog.RowError, match="pass `id` to repeat a load"):
        db.load(FLIGHTS, [flight(1)], commit_id=everlog.new_commit_id())
    with pytest.raises(everlog.Error, match="expected a durability of sync or os"):
        db.load(FLIGHTS, [flight(1)], durability="soon")
    assert db.head == head


def test_a_load_that_is_finished_does_nothing_again(db: Any) -> None:
    db.load(FLIGHTS, [flight(1)], id="once")
    head = db.head
    again = db.load(FLIGHTS, [flight(1)], id="once")
    assert (again.rows, again.skipped, again.commits) == (1, 1, 0)
    assert db.head == head


def test_a_load_that_was_broken_off_goes_on_where_it_stopped(db: Any) -> None:
    def rows(end: int) -> Any:
        for n in range(3000):
            if n == end:
                raise ZeroDivisionError
            yield flight(n)

    with pytest.raises(ZeroDivisionError):
        db.load(FLIGHTS, rows(2500), id="broken")
    there = db.count(FLIGHTS)
    assert 0 < there <= 2000
    done = db.load(FLIGHTS, rows(-1), id="broken")
    assert (done.rows, done.skipped) == (3000, there)
    assert db.count(FLIGHTS) == 3000


def test_a_row_that_does_not_fit_stops_a_load_and_the_chunks_before_it_stay(db: Any) -> None:
    rows = [*(flight(n) for n in range(1500)), airport("JFK")]
    with pytest.raises(everlog.RowError, match="expected a row of flights"):
        db.load(FLIGHTS, rows, id="bad")
    assert db.count(FLIGHTS) <= 1000
    with pytest.raises(everlog.RowError, match="lacks its key field"):
        db.load(AIRPORTS, [Airport()])
    with pytest.raises(everlog.UniqueError):
        db.load(AIRPORTS, [airport("JFK", name="x"), airport("LGA", name="x")])


def test_an_empty_load_is_finished_at_once(db: Any) -> None:
    assert db.load(FLIGHTS, []).rows == 0


def test_rows_that_are_equal_have_one_hash(db: Any) -> None:
    empty = db.admin.hashes()
    db.put(AIRPORTS, airport("JFK"))
    one = db.admin.hashes()
    assert one["airports"].rows == 1
    assert one["airports"].hash != empty["airports"].hash
    assert one["flights"] == empty["flights"]
    db.delete(AIRPORTS, "JFK")
    assert db.admin.hashes() == empty


def test_tables_rebuilt_from_the_log_are_equal_and_go_on(db: Any) -> None:
    db.load(FLIGHTS, (flight(n) for n in range(1500)))
    db.put(AIRPORTS, airport("JFK"))
    before = db.admin.hashes()
    assert db.admin.rebuild(progress=lambda _: None) == before
    assert db.admin.hashes() == before
    db.put(AIRPORTS, airport("LGA"))
    assert db.count(AIRPORTS.by_city, "New York") == 2


def test_a_sound_database_has_no_problems(db: Any) -> None:
    db.put(AIRPORTS, airport("JFK"))
    assert list(db.admin.check(progress=lambda _: None)) == []


def test_rows_are_read_and_written_across_a_migration(case: Case) -> None:
    db: Any = case.db
    db.put(AIRPORTS, airport("JFK"))
    field = Fields[str](Airport)
    fields: Any = Table("fields", Airport, key=field("faa", 1, STRING))
    with pytest.raises(everlog.SchemaError, match="no table 'fields'"):
        db.get(fields, "JFK")
    migrate(case.embedded, VERSION + 1, fields)
    assert db.get(AIRPORTS, "JFK") == airport("JFK")
    assert [row.faa for row in db.scan(AIRPORTS.by_city)] == ["JFK"]
    db.put(fields, airport("XXX"))
    db.put(AIRPORTS, airport("LGA"))
    assert db.get(fields, "XXX") == airport("XXX")
    assert db.schema.version == VERSION + 1


def test_a_transaction_that_a_migration_overtakes_is_a_conflict(case: Case) -> None:
    tx = case.db.transaction()
    assert tx.get(AIRPORTS, "JFK") is None
    tx.put(AIRPORTS, airport("JFK"))
    migrate(case.embedded, VERSION + 1, FLIGHTS)
    with pytest.raises(everlog.ConflictError, match="run it again"):
        tx.commit()
    case.db.run(lambda tx: tx.put(AIRPORTS, airport("JFK")))


def test_an_index_that_means_something_else_is_not_read_by_its_old_meaning(case: Case) -> None:
    db: Any = case.db
    db.put(AIRPORTS, airport("JFK"))
    field = Fields[str](Airport)
    redefined: Any = Table(
        "airports",
        Airport,
        key=field("faa", 1, STRING),
        indexes=(Index("by_city", field("name", 2, STRING)),),
    )
    migrate(case.embedded, VERSION + 1, redefined)
    if case.kind == "remote":  # which learns of it by asking the server
        with pytest.raises(everlog.ConflictError, match="schema changed"):
            list(db.scan(AIRPORTS.by_city, "JFK airport"))
    assert list(db.scan(AIRPORTS.by_city, "JFK airport")) == [airport("JFK")]


def test_what_is_closed_says_so(case: Case) -> None:
    db: Any = case.reader()
    with db:
        feed = db.feed(now=True)
    feed.close()
    calls: list[Callable[[], Any]] = [
        lambda: db.get(AIRPORTS, "JFK"),
        lambda: list(db.scan(AIRPORTS)),
        lambda: db.count(AIRPORTS),
        db.feed,
        db.cursor,
        db.admin.status,
        db.admin.hashes,
        db.snapshot,
        lambda: list(db.admin.check()),
    ]
    for call in calls:
        with pytest.raises(everlog.ClosedError, match="closed"):
            call()
    db.close()
