"""Consumers: durable names, bookmarks outside of the log, and the records held for each."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from everlog.proto import consumers_pb2, log_pb2
from everlog.store.database import Database
from everlog.store.errors import CursorError, ReadOnlyError, RowError
from everlog.store.upkeep.allowance import DAY_S
from everlog.store.upkeep.consumers import Bookmark, Cap
from tests.store.conftest import Opener
from tests.store.models import ITEMS, items
from tests.store.upkeep.test_expiry import SECOND, Time

AT_ONCE = 8


def fill(db: Database, count: int) -> None:
    for number in range(count):
        db.put(ITEMS, *items(number, number))


def test_who_registers_is_in_the_log_and_known_after_opening_and_after_a_rebuild(opening: Opener) -> None:
    db = opening()
    fill(db, 10)
    cap = Cap(records=100, seconds=0, bytes=0)
    found = db.consumers.register("mirror", after=db.log.cursor(5, db.uuid), cap=cap, actor="ann")
    notice = db.log.commit(db.head)
    assert (notice.actor, notice.notice.kind, notice.notice.subject) == (
        "ann",
        "consumer.registered",
        "mirror",
    )
    detail = consumers_pb2.Registration.FromString(notice.notice.detail)
    assert (detail.position.seq, detail.cap.records) == (5, 100)
    assert (found.position, found.cap, found.lag_records) == (db.log.cursor(5, db.uuid), cap, db.head - 5)
    assert (found.registered_ns, found.moved_ns, found.over) == (notice.time_ns, 0, "")
    assert found.held_records == found.lag_records
    assert found.held_bytes > 0
    head = db.head
    assert db.consumers.register("mirror").position == found.position  # again: nothing new is written
    assert db.head == head
    db.close()
    db = opening()
    db.admin.rebuild()
    (again,) = db.consumers
    assert (again.name, again.cap, again.registered_ns) == ("mirror", cap, found.registered_ns)
    db.consumers.register("mirror", cap=Cap())
    assert db.head == head + 1
    assert db.consumers["mirror"].cap == Cap(seconds=7 * DAY_S, bytes=10 << 30)
    db.consumers.remove("mirror", actor="bob", reason="gone")
    commit = db.log.commit(db.head)
    assert (commit.actor, commit.reason, commit.notice.kind) == ("bob", "gone", "consumer.removed")
    assert list(db.consumers) == []
    db.admin.rebuild()
    assert list(db.consumers) == []


def test_a_bookmark_is_no_commit_and_is_written_once_a_second_at_most(opening: Opener) -> None:
    db = opening()
    fill(db, 50)
    me = db.consumers.register("mirror")
    head, file = db.head, db.path / "BOOKMARKS"
    written = set()
    for seq in range(1, 51):
        db.consumers.bookmark(me, db.log.cursor(seq, db.uuid))
        written.add(json.loads(file.read_text())["bookmarks"]["mirror"]["seq"])
        assert db.consumers["mirror"].position.seq == seq
    assert db.head == head
    assert len(written) < 25
    assert max(written) <= 50
    db.close()
    (found,) = opening().consumers
    assert (found.position.seq, found.lag_records) == (50, head - 50)
    assert found.moved_ns > 0


def test_a_bookmark_never_goes_back_unless_its_consumer_registers_so(db: Database) -> None:
    fill(db, 20)
    me = db.consumers.register("mirror")
    db.consumers.bookmark(me, db.log.cursor(15, db.uuid))
    db.consumers.bookmark(me, db.log.cursor(10, db.uuid))
    assert db.consumers["mirror"].position.seq == 15
    assert db.consumers.register("mirror").position.seq == 15
    assert db.consumers.register("mirror", after=3).position == db.log.cursor(3, db.uuid)


def test_of_two_under_one_name_the_later_has_it(db: Database) -> None:
    fill(db, 20)
    first = db.consumers.register("mirror")
    second = db.consumers.register("mirror", after=0)
    with pytest.raises(CursorError, match="two processes run under one name; give each its own") as caught:
        db.consumers.bookmark(first, db.log.cursor(15, db.uuid))
    assert caught.value.why == "taken"
    assert db.consumers["mirror"].position.seq == 0
    db.consumers.bookmark(second, db.log.cursor(7, db.uuid))
    db.consumers.remove("mirror")
    with pytest.raises(RowError, match="consumer 'mirror' no longer exists"):
        db.consumers.bookmark(second, db.log.cursor(8, db.uuid))
    assert db.consumers.register("mirror").position.seq == 0
    with pytest.raises(CursorError, match="two processes run under one name"):
        db.consumers.bookmark(second, db.log.cursor(8, db.uuid))


def test_a_position_of_another_history_is_refused(db: Database, opening: Opener) -> None:
    fill(db, 20)
    other = opening(at=db.path.with_name("other"))
    fill(other, 20)
    me = db.consumers.register("mirror")
    for cursor in (other.cursor(), log_pb2.Cursor(seq=7, checksum=1)):
        for call in (
            lambda at: db.consumers.bookmark(me, at),
            lambda at: db.consumers.register("another", after=at),
        ):
            with pytest.raises(CursorError, match=r"of another history .* under the same name") as caught:
                call(cursor)
            assert caught.value.why == "diverged"
    with pytest.raises(
        CursorError, match=r"has record 99, but the newest record is .* a new target"
    ) as caught:
        db.consumers.register("another", after=99)
    assert caught.value.why == "ahead"
    assert [one.name for one in db.consumers] == ["mirror"]


def test_names_are_text_of_one_line(db: Database) -> None:
    for name in ("", " a", "a\nb", "x" * 201):
        with pytest.raises(RowError, match="expected a name of 1 to 200 bytes"):
            db.consumers.register(name)
    assert db.consumers.register("sqlite:/srv/Spiegel Zürich").name == "sqlite:/srv/Spiegel Zürich"
    with pytest.raises(
        RowError, match="there is no consumer 'nobody'; the consumers are: sqlite:/srv/Spiegel"
    ):
        db.consumers.remove("nobody")


def test_beside_a_process_that_writes_a_consumer_moves_and_does_not_register(db: Database) -> None:
    fill(db, 20)
    db.consumers.register("mirror")
    db.tables.flush()
    db.engine.flush()
    with Database(db.path, read_only=True) as beside:
        with pytest.raises(ReadOnlyError, match="register it where the database is open for writing"):
            beside.consumers.register("another")
        with pytest.raises(ReadOnlyError, match="or has another cap"):
            beside.consumers.register("mirror", cap=Cap(records=1))
        me = beside.consumers.register("mirror")
        beside.consumers.bookmark(me, db.log.cursor(9, db.uuid))
        assert db.consumers["mirror"].position.seq == 9
        beside.consumers.bookmark(me, db.log.cursor(11, db.uuid))
    assert db.consumers["mirror"].position.seq == 11


def test_beyond_its_cap_nothing_is_held_for_a_consumer(db: Database) -> None:
    fill(db, 20)
    db.consumers.register("by records", cap=Cap(records=30, seconds=0, bytes=0))
    db.consumers.register("by bytes", cap=Cap(seconds=0, bytes=1))
    assert not db.consumers["by records"].over
    assert db.consumers["by bytes"].over == "more than 1 byte"
    fill(db, 30)
    found = db.consumers["by records"]
    assert (found.over, found.held_records, found.held_bytes) == ("more than 30 records", 0, 0)
    assert found.lag_records == db.head
    me = db.consumers.register("by records")
    db.consumers.bookmark(me, db.log.cursor(db.head - 3, db.uuid))
    assert (db.consumers["by records"].over, db.consumers["by records"].held_records) == ("", 3)


def test_a_consumer_that_is_away_for_too_long_is_beyond_its_cap_unless_the_clock_jumped(
    opening: Opener,
) -> None:
    time = Time()
    db = opening(clock=time())
    fill(db, 3)
    db.consumers.register("mirror", cap=Cap(seconds=DAY_S, bytes=0))
    time.wall += 2 * DAY_S * SECOND
    assert db.consumers["mirror"].over == ""
    assert db.consumers["mirror"].lag_s < DAY_S
    time.steady += 2 * DAY_S * SECOND
    assert db.consumers["mirror"].over == "more than 1 day"
    assert db.consumers["mirror"].lag_s == pytest.approx(2 * DAY_S, rel=0.01)
    db.consumers.register("new", cap=Cap(seconds=DAY_S, bytes=0))  # it has the whole history to catch up with
    assert (db.consumers["new"].position.seq, db.consumers["new"].over) == (0, "")


def test_where_bookmarks_were_lost_a_consumer_is_where_it_registered(opening: Opener) -> None:
    db = opening()
    fill(db, 20)
    me = db.consumers.register("mirror", after=4)
    db.consumers.bookmark(me, db.log.cursor(15, db.uuid))
    db.close()
    (db.path / "BOOKMARKS").unlink()
    db = opening()
    assert db.consumers["mirror"].position == db.log.cursor(4, db.uuid)
    with pytest.raises(RowError, match="or its bookmark was lost; register"):
        db.consumers.bookmark(me, db.log.cursor(16, db.uuid))
    assert db.consumers.register("mirror").position.seq == 4


def test_many_consumers_at_once_lose_nothing_of_one_another(opening: Opener) -> None:
    db = opening()
    fill(db, 100)
    ready = threading.Barrier(AT_ONCE)

    def follow(number: int) -> None:
        ready.wait()
        me = db.consumers.register(f"consumer-{number}")
        for seq in range(1, 50 + number):
            db.consumers.bookmark(me, db.log.cursor(seq, db.uuid))

    threads = [threading.Thread(target=follow, args=(number,)) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {f"consumer-{number}": 49 + number for number in range(AT_ONCE)}
    assert {one.name: one.position.seq for one in db.consumers} == expected
    db.close()
    assert {one.name: one.position.seq for one in opening().consumers} == expected


def test_one_who_is_removed_while_it_registers_is_registered_first_and_then_gone(opening: Opener) -> None:
    db = opening()
    fill(db, 10)
    db.consumers.register("mirror", after=5)
    here, go_on, bookmarks = threading.Event(), threading.Event(), db.consumers.bookmarks
    take = bookmarks.take

    def slow(name: str, seq: int, checksum: int) -> Bookmark:
        here.set()
        assert go_on.wait(60)
        return take(name, seq, checksum)

    bookmarks.take = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        registering = pool.submit(db.consumers.register, "mirror", cap=Cap(records=7))
        assert here.wait(60)
        removing = pool.submit(db.consumers.remove, "mirror")
        done, _ = wait([removing], timeout=0.2)
        go_on.set()
        assert registering.result(60).cap.records == 7
        removing.result(60)
    assert not done
    assert ("mirror" in bookmarks.all(), list(db.consumers)) == (False, [])
