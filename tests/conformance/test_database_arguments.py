"""Arguments: how every database, embedded or remote, refuses arguments of the wrong type or value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import everlog
from everlog.store.upkeep.consumers import Cap
from tests.conformance.database_case import AIRPORTS, FLIGHTS, Case, airport

LONE = "\ud800"  # half of a surrogate pair, which UTF-8 cannot encode
Calls = Iterator[tuple[str, Callable[[], object]]]

TEXTS = (LONE, 7, b"ann", ["ann"], None)
NUMBERS = ("5", 1.5, True, [1])
TABLES = (7, None, AIRPORTS.by_city)


def _limited(value: Any) -> None:
    with everlog.deadline(value):
        pass


def _metadata(db: Any) -> Calls:
    value: Any
    for name in ("actor", "reason", "correlation_id", "causation_id", "client"):
        for value in TEXTS:
            about = {name: value}
            yield f"transaction {about}", partial(db.transaction, **about)
            yield f"put {about}", partial(db.put, AIRPORTS, airport("BOS"), **about)
            yield f"run {about}", partial(db.run, print, **about)
            yield f"load {about}", partial(db.load, AIRPORTS, [airport("BOS")], **about)
    for value in TEXTS:
        yield f"correct_clock {value!r}", partial(db.admin.correct_clock, reason=value)
        yield f"forget {value!r}", partial(db.people.forget, AIRPORTS, "JFK", actor=value)
        yield f"register {value!r}", partial(db.consumers.register, "one", actor=value)
        yield f"remove {value!r}", partial(db.consumers.remove, "one", reason=value)
    for value in (7, "0" * 16, bytearray(16), None):
        yield f"commit_id {value!r}", partial(db.put, AIRPORTS, airport("BOS"), commit_id=value)
    for value in (LONE, 7, ["sync"]):
        yield f"durability {value!r}", partial(db.put, AIRPORTS, airport("B"), durability=value)


def _reading(db: Any) -> Calls:
    value: Any
    for what in (AIRPORTS, AIRPORTS.by_city, FLIGHTS):
        for value in (LONE, 7, ["N"]):
            yield f"scan {what} {value!r}", partial(db.scan, what, starts_with=value)
            yield f"count {what} {value!r}", partial(db.count, what, starts_with=value)
    for value in (*NUMBERS, -1):
        yield f"scan limit {value!r}", partial(db.scan, AIRPORTS, limit=value)
        yield f"scan resume {value!r}", partial(db.scan, AIRPORTS, resume=value)
        yield f"history limit {value!r}", partial(db.history, AIRPORTS, "JFK", limit=value)
        yield f"log limit {value!r}", partial(db.past.log, limit=value)
        yield f"at {value!r}", partial(db.at, seq=value)
        yield f"hashes {value!r}", partial(db.admin.hashes, seq=value)
        yield f"diff from {value!r}", partial(db.past.diff, AIRPORTS, value, 2)
        for name in ("after", "until"):
            bound = {"bounded": True, name: value}
            yield f"feed {bound}", partial(db.feed, **bound)
    for value in NUMBERS:
        yield f"log after {value!r}", partial(db.past.log, after=value)
        yield f"log until {value!r}", partial(db.past.log, until=value)
    for value in TEXTS[:-1]:
        yield f"log actor {value!r}", partial(db.past.log, actor=value)
        yield f"log correlation {value!r}", partial(db.past.log, correlation_id=value)
        yield f"log kind {value!r}", partial(db.past.log, kind=value)
        yield f"consumer {value!r}", partial(db.consumers.__getitem__, value)
    for value in ("1", True, -1.0, float("nan"), [1]):
        yield f"heartbeat {value!r}", partial(db.feed, heartbeat_s=value, bounded=True)
        yield f"deadline {value!r}", partial(_limited, value)
    for value in ("x", 1.5, True, [1], LONE):
        yield f"since {value!r}", partial(db.past.log, since=value)
        yield f"at time {value!r}", partial(db.at, time=value)
    for value in (7, "JFK", b"JFK", object()):
        yield f"keys {value!r}", partial(db.get_many, AIRPORTS, value)
        yield f"tables {value!r}", partial(db.feed, tables=value, bounded=True)
    for value in TABLES:
        yield f"get {value!r}", partial(db.get, value, "JFK")
        yield f"history {value!r}", partial(db.history, value, "JFK")
        yield f"diff {value!r}", partial(db.past.diff, value, 1, 2)
        yield f"feed of {value!r}", partial(db.feed, tables=[value], bounded=True)
        yield f"person of {value!r}", partial(db.people.export, value, "JFK")
    yield "history by name", partial(db.history, "airports", "JFK")
    yield "log of a name that is no text", partial(db.past.log, table=LONE)
    yield "log of an index", partial(db.past.log, table=AIRPORTS.by_city)


def _writing(db: Any) -> Calls:
    value: Any
    rows = [airport("BOS")]
    for value in (*NUMBERS, -1, 1 << 64):
        yield f"version {value!r}", partial(db.put, AIRPORTS, rows[0], expect_version=value)
        yield f"delete {value!r}", partial(db.delete, AIRPORTS, "JFK", expect_version=value)
        yield f"total {value!r}", partial(db.load, AIRPORTS, rows, total=value)
        yield f"retries {value!r}", partial(db.run, print, retries=value)
        yield f"register {value!r}", partial(db.consumers.register, "one", after=value)
        yield f"cap {value!r}", partial(db.consumers.register, "one", cap=Cap(records=value))
    for value in ("1", -1.0, float("nan"), [1]):
        yield f"deadline_s {value!r}", partial(db.run, print, deadline_s=value)
    for value in (*NUMBERS, 99):
        yield f"kind {value!r}", partial(db.load, AIRPORTS, rows, kind=value)
    for value in (LONE, 7, b"x", ["x"]):
        yield f"load id {value!r}", partial(db.load, AIRPORTS, rows, id=value)
        yield f"load source {value!r}", partial(db.load, AIRPORTS, rows, source=value)
        yield f"name {value!r}", partial(db.consumers.register, value)
        yield f"no function {value!r}", partial(db.run, value)
    for value in (7, None, "BOS", object()):
        yield f"rows {value!r}", partial(db.load, AIRPORTS, value)
    for value in TABLES:
        yield f"put {value!r}", partial(db.put, value, rows[0])
        yield f"load {value!r}", partial(db.load, value, rows)
        yield f"forget {value!r}", partial(db.people.forget, value, "JFK")


@pytest.mark.parametrize("calls", [_metadata, _reading, _writing], ids=lambda one: one.__name__)
def test_an_argument_that_is_none_is_an_error_that_says_so(case: Case, calls: Callable[[Any], Calls]) -> None:
    db: Any = case.db
    db.put(AIRPORTS, airport("JFK"))
    head, wrong = case.embedded.head, []
    for name, call in calls(db):
        try:
            given = call()
            if hasattr(given, "__iter__"):
                list(given)
            wrong.append(f"{name}: taken")
        except everlog.Error as error:
            if isinstance(error, everlog.UnavailableError | everlog.CorruptionError) or not str(error):
                wrong.append(f"{name}: {error!r}")
        except (TypeError, ValueError, AttributeError, LookupError, OverflowError) as error:
            wrong.append(f"{name}: {error!r}")
    assert wrong == []
    assert case.embedded.head == head
    assert list(db.consumers) == []


def test_an_error_tells_what_was_expected_and_found(db: Any) -> None:
    with pytest.raises(everlog.RowError, match=r"^expected `actor` as text, found int$"):
        db.put(AIRPORTS, airport("JFK"), actor=7)
    with pytest.raises(everlog.RowError, match=r"an unpaired surrogate at character 3$"):
        db.put(AIRPORTS, airport("JFK"), reason=f"ok{LONE}")
    with pytest.raises(everlog.RowError, match=r"^expected a limit as a whole number, found str '5'$"):
        db.scan(AIRPORTS, limit="5")
    with pytest.raises(everlog.RowError, match="starts_with") as found:
        db.scan(AIRPORTS, starts_with=f"Ann{LONE}")
    assert "Ann" not in str(found.value)
    assert "Ann" in found.value.private


def test_any_number_of_rows_may_be_the_limit(db: Any) -> None:
    db.put(AIRPORTS, airport("JFK"))
    for limit in (1, 1 << 31, (1 << 63) - 1, 1 << 64, 1 << 70):
        assert len(list(db.scan(AIRPORTS, limit=limit))) == 1
        assert len(list(db.history(AIRPORTS, "JFK", limit=limit))) == 1
        assert len(list(db.past.log(table=AIRPORTS, limit=limit))) >= 1


def test_a_text_that_is_too_long_is_refused_with_its_name(db: Any) -> None:
    text = "\N{LATIN SMALL LETTER E WITH ACUTE}" * (600 << 10)
    for words in ({"reason": text}, {"actor": text}, {"correlation_id": text}):
        [name] = words
        with pytest.raises(
            everlog.RowError, match=f"expected `{name}` of at most 1,048,576 bytes, found 1,228,800"
        ):
            db.put(AIRPORTS, airport("JFK"), **words)
    with pytest.raises(everlog.RowError, match="`reason`"):
        db.admin.set_production(True, reason=text)
    assert db.put(AIRPORTS, airport("JFK"), reason="x" * (1 << 20)).seq
