"""Consumers: durable names, the same for every database."""

from __future__ import annotations

from typing import Any

import pytest

from everlog import CursorError, ReadOnlyError, RowError
from everlog.proto import log_pb2
from everlog.store.upkeep.consumers import Cap
from tests.conformance.database_case import AIRPORTS, Case, airport


def test_a_consumer_registers_moves_and_is_removed(db: Any) -> None:
    for number in range(10):
        db.put(AIRPORTS, airport(f"A{number}"))
    cap = Cap(records=1000, seconds=60, bytes=0)
    me = db.consumers.register("mirror", cap=cap, actor="ann", reason="a mirror")
    assert (me.name, me.cap, me.position.seq, me.lag_records) == ("mirror", cap, 0, db.head)
    position = log_pb2.Cursor()
    for batch in db.feed(after=me.position, until=7).batches():
        position = batch.mark.position
        db.consumers.bookmark(me, position)
    found = db.consumers["mirror"]
    assert (found.position, found.epoch, found.over) == (position, me.epoch, "")
    assert (found.position.seq, found.lag_records, found.held_records) == (7, db.head - 7, db.head - 7)
    assert found.moved_ns >= found.registered_ns > 0
    assert found.lag_s > 0
    assert list(db.consumers) != []
    assert next(iter(db.feed(after=found.position, bounded=True))).seq == 8
    assert db.consumers.register("mirror", cap=Cap(), take=False).epoch == me.epoch
    db.consumers.bookmark(me, db.cursor())  # the new holder of the name continues
    assert (db.consumers["mirror"].cap, db.consumers["mirror"].lag_records) == (Cap(), 0)
    db.consumers.remove("mirror", actor="bob", reason="gone")
    assert list(db.consumers) == []
    notices = [commit for commit in db.feed(bounded=True) if commit.HasField("notice")]
    assert [(one.actor, one.reason, one.notice.kind, one.notice.subject) for one in notices] == [
        ("ann", "a mirror", "consumer.registered", "mirror"),
        ("", "", "consumer.registered", "mirror"),
        ("bob", "gone", "consumer.removed", "mirror"),
    ]


def test_what_a_consumer_says_that_is_not_so_is_refused(db: Any) -> None:
    with pytest.raises(RowError, match="expected a name of 1 to 200 bytes"):
        db.consumers.register("")
    with pytest.raises(RowError, match="there is no consumer 'mirror'; the consumers are: none"):
        db.consumers.remove("mirror")
    with pytest.raises(RowError, match="there is no consumer 'mirror'; the consumers are: none"):
        db.consumers["mirror"]
    with pytest.raises(CursorError, match="the newest record is") as ahead:
        db.consumers.register("mirror", after=1000)
    assert ahead.value.why == "ahead"
    cursor = db.cursor()
    cursor.checksum ^= 1
    with pytest.raises(CursorError, match="of another history"):
        db.consumers.register("mirror", after=cursor)
    first = db.consumers.register("mirror")
    db.consumers.register("mirror")
    with pytest.raises(CursorError, match="two processes run under one name") as taken:
        db.consumers.bookmark(first, db.cursor())
    assert taken.value.why == "taken"


def test_who_only_reads_does_not_register(case: Case) -> None:
    if case.kind == "remote":
        return  # the server's database is open for writing, so a read-only consumer can register there
    case.embedded.tables.flush()
    case.embedded.engine.flush()
    with case.reader() as reader, pytest.raises(ReadOnlyError, match="or at its server"):
        reader.consumers.register("mirror")
