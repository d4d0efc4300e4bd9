"""The past: what every database, embedded or remote, returns for earlier commits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import everlog
from everlog.store.schema.codec import STRING
from everlog.store.schema.table import Fields, Index, Table
from tests.conformance.database_case import (
    AIRPORTS,
    FLIGHTS,
    VERSION,
    Airport,
    Case,
    _models,
    airport,
    flight,
    migrate,
)

LATER = 20260106093000
_TEXT = 9  # FieldDescriptorProto.TYPE_STRING
_later: Any = _models(
    LATER,
    {
        "Place": {"country": _TEXT, "height": 3},
        "Airport": {"faa": _TEXT, "name": _TEXT, "city": _TEXT, "place": "Place", "zone": _TEXT},
    },
)["Airport"]
_field = Fields[str](_later)
LATER_AIRPORTS: Table[Any, str] = Table(
    "airports",
    _later,
    key=_field("faa", 1, STRING),
    indexes=(Index("by_city", _field("city", 3, STRING)), Index("by_zone", _field("zone", 5, STRING))),
)


def faas(rows: Any) -> list[str]:
    return [row.faa for row in rows]


@pytest.fixture
def seqs(db: Any) -> list[int]:
    """Return the seqs of these commits: JFK and LGA are put, JFK is moved, LGA is deleted, BOS is put and
    flights are loaded.
    """
    with db.transaction(actor="ann", reason="first", correlation_id="c1", client="shop") as tx:
        tx.put(AIRPORTS, airport("JFK"))
        tx.put(AIRPORTS, airport("LGA"))
        first = tx.commit()
    made = [
        first,
        db.put(AIRPORTS, airport("JFK", "Idlewild"), actor="bob", correlation_id="c1"),
        db.delete(AIRPORTS, "LGA", actor="ann", reason="closed"),
        db.put(AIRPORTS, airport("BOS", "Boston")),
    ]
    db.load(FLIGHTS, [flight(number) for number in range(300)])
    return [one.seq for one in made]


def test_rows_are_read_as_of_a_seq(db: Any, seqs: list[int]) -> None:
    assert [faas(db.at(seq=seq).scan(AIRPORTS)) for seq in seqs] == [
        ["JFK", "LGA"], ["JFK", "LGA"], ["JFK"], ["BOS", "JFK"],
    ]  # fmt: skip
    moment = db.at(seq=seqs[1])
    assert moment.get(AIRPORTS, "JFK") == airport("JFK", "Idlewild")
    assert moment.get_many(AIRPORTS, ["LGA", "BOS"]) == [airport("LGA"), None]
    assert faas(moment.scan(AIRPORTS.by_city, "New York")) == ["LGA"]
    assert faas(moment.scan(AIRPORTS.by_city, reverse=True)) == ["LGA", "JFK"]
    assert faas(moment.scan(AIRPORTS, start="K")) == ["LGA"]
    assert (moment.count(AIRPORTS), moment.count(AIRPORTS.by_city, "Idlewild"), moment.count(FLIGHTS)) == (
        2,
        1,
        0,
    )
    assert moment.version(AIRPORTS, "JFK") == seqs[1]
    assert moment.schema.version == VERSION
    with db.at(seq=db.head) as newest:
        pages, resume = list[int](), None
        while len(pages) < 300:
            page = newest.scan(FLIGHTS, limit=70, resume=resume)
            pages += [row.number for row in page]
            resume = page.resume
        assert pages == [*range(300)]
    with pytest.raises(everlog.ClosedError):
        newest.get(AIRPORTS, "JFK")


def test_rows_are_read_as_of_a_time(case: Case, seqs: list[int]) -> None:
    db: Any = case.db
    time_ns = case.embedded.log.commit(seqs[1]).time_ns
    moment = db.at(time=time_ns)
    assert moment.time_ns == time_ns
    assert moment.seq >= seqs[1]
    assert db.at(time=datetime.now(UTC)).seq == db.head
    for time, reason in (
        (datetime.now(UTC) + timedelta(hours=1), "in the future"),
        ("2001-01-01", "the log begins"),
    ):
        with pytest.raises(everlog.CursorError, match=reason):
            db.at(time=time)
    for seq in (0, db.head + 1):
        with pytest.raises(everlog.CursorError, match="there is no record"):
            db.at(seq=seq)
    for seq in (-1, 1 << 70):
        with pytest.raises(everlog.CursorError, match="there is no record"):
            db.at(seq=seq)
    with pytest.raises(everlog.RowError, match="either a seq or a time"):
        db.at()
    for none in ("3", 1.5, True):
        with pytest.raises(everlog.RowError, match="expected a seq as a whole number"):
            db.at(seq=none)


def test_a_time_as_text_is_as_exact_as_that_of_a_record(case: Case, seqs: list[int]) -> None:
    db: Any = case.db
    time_ns = case.embedded.log.commit(seqs[1]).time_ns
    text = f"{datetime.fromtimestamp(time_ns // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{time_ns % 10**9:09}"
    same = [one.seq for one in db.past.log() if one.time_ns == time_ns]
    assert db.at(time=f"{text}Z").seq == same[-1]
    assert db.at(time=f"{text}+00:00").seq == same[-1]
    assert next(iter(db.past.log(since=text))).seq == same[0]
    assert seqs[1] not in [one.seq for one in db.past.log(before=text)]


def test_a_row_has_a_history(case: Case, seqs: list[int]) -> None:
    db: Any = case.db
    second, first = db.history(AIRPORTS, "JFK")
    assert (second.seq, second.op, second.actor, second.fields) == (seqs[1], "put", "bob", ("city",))
    assert second.row == airport("JFK", "Idlewild")
    assert type(second.row) is Airport
    assert first[:7] == (
        seqs[0], case.embedded.log.commit(seqs[0]).time_ns, "ann", "first", "c1", "", "shop",
    )  # fmt: skip
    assert first.fields == ("faa", "name", "city", "place")
    gone, put = db.history(AIRPORTS, "LGA")
    assert (gone.op, gone.row, gone.reason, put.row) == ("delete", None, "closed", airport("LGA"))
    assert list(db.history(AIRPORTS, "LGA", newest_first=False)) == [put, gone]
    assert list(db.history(AIRPORTS, "LGA", limit=1)) == [gone]
    assert list(db.history(AIRPORTS, "LGA", limit=1 << 70)) == [gone, put]
    assert list(db.history(AIRPORTS, "LGA", limit=0)) == list(db.history(AIRPORTS, "XXX")) == []
    (loaded,) = db.history(FLIGHTS, ("UA", 7))
    assert loaded.row == flight(7)
    with pytest.raises(everlog.RowError):
        db.history(AIRPORTS, 7)
    with pytest.raises(everlog.SchemaError, match="there is no table 'nothing'"):
        db.history(Table("nothing", Airport, key=AIRPORTS.key[0]), "JFK")


def test_moments_differ(db: Any, seqs: list[int]) -> None:
    found = list(db.past.diff(AIRPORTS, seqs[0], seqs[3]))
    assert [(one.kind, one.key, one.fields) for one in found] == [
        ("added", ("BOS",), ("faa", "name", "city", "place")),
        ("changed", ("JFK",), ("city",)),
        ("deleted", ("LGA",), ()),
    ]
    assert [(one.before, one.after) for one in found] == [
        (None, airport("BOS", "Boston")),
        (airport("JFK"), airport("JFK", "Idlewild")),
        (airport("LGA"), None),
    ]
    assert len(list(db.past.diff(FLIGHTS, seqs[3], db.head))) == 300
    assert list(db.past.diff(FLIGHTS, seqs[0], seqs[3])) == []
    with pytest.raises(everlog.RowError, match="the start before the end"):
        db.past.diff(AIRPORTS, seqs[1], seqs[0])


def test_the_log_is_asked(db: Any, seqs: list[int]) -> None:
    def told(**asked: Any) -> list[int]:
        return [entry.seq for entry in db.past.log(**asked)]

    assert told(actor="ann") == [seqs[0], seqs[2]]
    assert told(correlation_id="c1") == seqs[:2]
    assert told(table=AIRPORTS) == seqs
    assert told(table="airports", key="LGA") == told(table=AIRPORTS, key="LGA") == [seqs[0], seqs[2]]
    assert told(kind="migration") == [2]
    assert told(after=2, until=seqs[1]) == seqs[:2]
    assert told(table=AIRPORTS, limit=1) == seqs[:1]
    assert told(limit=0) == told(until=0) == told(until=-1) == told(after=1 << 70) == []
    assert told(until=1 << 70, limit=1 << 70) == told()
    (entry,) = db.past.log(table=AIRPORTS, key="LGA", limit=1)
    ((table, key, op, row, prior, version, erased, sealed),) = entry.changes
    assert (table, key, op, prior, version) == ("airports", ("LGA",), "put", 0, seqs[0])
    assert not erased
    assert not sealed
    assert row.SerializeToString() == airport("LGA").SerializeToString()
    assert told(since=entry.time_ns, table=AIRPORTS) == seqs
    assert told(before=entry.time_ns) == [seq for seq in (1, 2) if seq in told(before=entry.time_ns)]
    (load,) = [one for one in db.past.log(kind="load") if len(one.changes) == 300]
    assert (load.about.table, load.about.rows) == ("flights", 300)
    with pytest.raises(everlog.RowError, match="expected a kind"):
        db.past.log(kind="party")
    with pytest.raises(everlog.RowError, match="expected a table together with"):
        db.past.log(key="JFK")
    for name in ("nothing", ""):
        with pytest.raises(everlog.SchemaError, match=f"there is no table '{name}'"):
            list(db.past.log(table=name))


def test_constants_of_then_and_of_now_read_both(case: Case, seqs: list[int]) -> None:
    migrate(case.embedded, LATER, LATER_AIRPORTS)
    db: Any = case.db
    row = _later(faa="JFK", name="JFK airport", city="Queens", zone="EST")
    last = db.put(LATER_AIRPORTS, row).seq
    then, now = db.at(seq=seqs[1]), db.at(seq=last)
    assert (then.get(LATER_AIRPORTS, "JFK").city, now.get(AIRPORTS, "JFK").city) == ("Idlewild", "Queens")
    assert now.get(LATER_AIRPORTS, "JFK") == row
    assert faas(now.scan(LATER_AIRPORTS.by_zone, "EST")) == ["JFK"]
    with pytest.raises(everlog.SchemaError, match="has no index 'by_zone'"):
        then.scan(LATER_AIRPORTS.by_zone, "EST")
    newest = next(iter(db.history(AIRPORTS, "JFK")))
    assert (newest.row.city, newest.fields) == ("Queens", ("city", "place", "zone"))
    (one,) = db.past.diff(LATER_AIRPORTS, seqs[3], last)
    assert (one.before.city, one.after.zone, one.fields) == ("Idlewild", "EST", ("city", "place", "zone"))
    with pytest.raises(everlog.SchemaError, match="there was no table"):
        db.at(seq=1).get(AIRPORTS, "JFK")
