"""Archiving keeps the records that registered consumers have not read, up to their caps."""

from __future__ import annotations

from pathlib import Path

from everlog.audit import archive, backup, restore
from everlog.feed.subscription import Subscription
from everlog.store.database import Database
from everlog.store.upkeep.consumers import Cap
from tests.audit.conftest import Opener
from tests.audit.test_backup import fill


def test_what_a_consumer_lacks_stays_until_it_has_it(db: Database, to: Path) -> None:
    fill(db, 1, 50)
    slow = db.consumers.register("slow", after=20)
    db.consumers.register("quick", after=db.cursor())
    done = archive(db, to, keep_records=1)
    assert (done.base, done.held) == (20, "consumer 'slow'")
    assert db.consumers["slow"].held_records == db.head - 20
    db.consumers.bookmark(slow, db.log.cursor(30, db.uuid))
    assert archive(db, to, keep_records=1).base == 30
    assert archive(db, to, keep_records=1).removed == 0
    db.consumers.remove("slow")
    assert archive(db, to, keep_records=3).base == db.head - 3


def test_beyond_its_cap_a_consumer_holds_nothing_and_reads_from_the_archive(db: Database, to: Path) -> None:
    fill(db, 1, 50)
    me = db.consumers.register("slow", after=20, cap=Cap(records=40))
    assert archive(db, to, keep_records=1).held == "consumer 'slow'"
    fill(db, 60, 70)
    assert db.consumers["slow"].over == "more than 40 records"
    done = archive(db, to, keep_records=5)
    assert (done.base, done.held) == (db.head - 5, "5 are kept")
    found = db.consumers["slow"]
    assert (found.position.seq, found.held_records, found.lag_records) == (20, 0, db.head - 20)
    assert found.lag_s > 0
    subscription = Subscription(db, after=found.position, bounded=True)
    read = b""
    while (raw := subscription.poll()) is not None:
        read += raw
    assert all(db.log.get(seq) in read for seq in range(21, db.head + 1))
    db.consumers.bookmark(me, db.log.cursor(db.head - 2, db.uuid))
    assert (db.consumers["slow"].over, db.consumers["slow"].held_records) == ("", 2)
    assert archive(db, to, keep_records=0).base == db.head - 2


def test_a_consumer_that_needs_what_is_gone_is_not_said_to_hold_it(db: Database, to: Path) -> None:
    fill(db, 1, 50)
    archive(db, to, keep_records=10)
    found = db.consumers.register("late", after=5)
    assert (found.lag_records, found.held_records) == (db.head - 5, 11)
    assert archive(db, to, keep_records=0).removed == 0
    assert db.log.trimmed.base == db.head - 11


def test_a_restored_database_knows_its_consumers_where_they_registered(opening: Opener, to: Path) -> None:
    db = opening()
    fill(db, 1, 50)
    me = db.consumers.register("mirror", after=7)
    db.consumers.bookmark(me, db.log.cursor(40, db.uuid))
    db.consumers.register("gone")
    db.consumers.remove("gone")
    fill(db, 60, 61)
    backup(db, to)
    for at, names in ((db.head, ["mirror"]), (me.lag_records + 6, [])):
        copy = to.with_name(f"copy at {at}")
        restore(to, copy, at=at)
        assert [(one.name, one.position.seq) for one in opening(at=copy).consumers] == [
            (name, 7) for name in names
        ]
