"""Wrong clocks: writing continues, rows expire at the right time, and times resolve to positions."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from everlog.store.clock import CORRECTED, Clock
from everlog.store.database import Database
from everlog.store.errors import CursorError
from everlog.store.schema.table import Table
from tests.store.conftest import Opener
from tests.store.models import ITEM_ID, ITEMS, Item
from tests.store.upkeep.test_expiry import DAY_NS, NOW, SECOND, Time

HOUR_NS = 3600 * SECOND
BRIEF: Table[Any, int] = Table("items", Item, key=ITEM_ID, ttl=timedelta(hours=1))


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def reopen(opening: Opener, time: Time) -> Callable[[], Database]:
    """Open the database as a new process does: with a clock that only knows its current reading."""
    opened: list[Database] = []

    def again() -> Database:
        if opened:
            opened[-1].close()
        opened.append(opening(BRIEF, clock=time()) if not opened else Database(opened[0].path, clock=time()))
        opened[-1].sweeper.close()  # only the test deletes rows
        return opened[-1]

    return again


def write_ahead(reopen: Callable[[], Database], time: Time, ahead_ns: int = 3 * DAY_NS) -> Database:
    """Return a database with one commit made while the clock was ahead; it is correct again."""
    db = reopen()
    db.put(ITEMS, Item(id=1), expires=0)
    time.pass_(SECOND)
    time.wall += ahead_ns
    db = reopen()
    db.put(ITEMS, Item(id=2), expires=0)
    time.wall -= ahead_ns
    time.pass_(SECOND)
    return reopen()


def test_commits_keep_what_a_clock_read_that_is_behind_the_log(
    reopen: Callable[[], Database], time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    db = write_ahead(reopen, time)
    ahead = db.log.commit(db.head)
    with caplog.at_level(logging.WARNING, "everlog"):
        commits = [db.log.commit(db.put(ITEMS, Item(id=n), expires=0).seq) for n in (3, 4)]
    assert [commit.time_ns for commit in commits] == [ahead.time_ns] * 2
    assert [commit.reading_ns for commit in commits] == [time.wall] * 2
    assert ahead.reading_ns == 0
    assert [record.message[:43] for record in caplog.records] == [
        "the newest commit is 259199 s ahead of the "
    ]
    time.pass_(3 * DAY_NS)
    later = db.log.commit(db.put(ITEMS, Item(id=5), expires=0).seq)
    assert (later.time_ns, later.reading_ns) == (time.wall, 0)


def test_rows_end_by_the_clock_and_not_by_the_time_of_the_log(
    reopen: Callable[[], Database], time: Time
) -> None:
    db = write_ahead(reopen, time)
    db.put(ITEMS, Item(id=7))
    db.put(ITEMS, Item(id=8), expires=time.wall + HOUR_NS)
    db.load(ITEMS, [Item(id=9)])
    assert db.admin.expire() == 0
    assert db.admin.status().expiry.due == 0
    time.pass_(HOUR_NS - 1)
    assert db.admin.expire() == 0
    time.pass_(1)
    assert db.admin.status().expiry.due == 3
    assert db.admin.expire() == 3
    assert [row.id for row in db.scan(ITEMS)] == [1, 2]


@pytest.mark.parametrize("corrected", [False, True])
def test_a_moment_finds_the_commits_that_were_made_by_then(
    reopen: Callable[[], Database], time: Time, corrected: bool
) -> None:
    db = write_ahead(reopen, time)
    made, start = [], time.wall
    for n in range(10):
        time.pass_(60 * SECOND)
        made.append((time.wall, db.put(ITEMS, Item(id=100 + n), expires=0).seq))
        if n == 4 and corrected:
            notice = db.admin.correct_clock(actor="ann", reason="NTP was down")
            assert db.admin.correct_clock() == notice
    before = {at: db.at(time=at).seq for at, _ in made}
    assert before == {at: seq + (corrected and n == 4) for n, (at, seq) in enumerate(made)}
    assert db.at(time=time.wall).seq == db.head
    assert db.at(time=datetime.fromtimestamp(time.wall // SECOND, UTC)).seq == made[-1][1]
    assert db.at(time=start - 2 * SECOND).seq == made[0][1] - 2
    assert [entry.seq for entry in db.past.log(since=made[7][0], kind="commit")] == [
        seq for _, seq in made[7:]
    ]
    assert db.past.position(time=made[3][0] + 1) == made[3][1]
    with pytest.raises(CursorError, match="in the future"):
        db.at(time=time.wall + 4 * DAY_NS)
    if corrected:  # then it stays ahead
        time.pass_(5 * DAY_NS)
        db.put(ITEMS, Item(id=1), expires=0)
        assert {at: db.at(time=at).seq for at, _ in made} == before
        db.admin.rebuild()
        assert {at: db.at(time=at).seq for at, _ in made} == before


def test_a_database_that_was_made_while_the_clock_was_ahead_has_moments(
    reopen: Callable[[], Database], time: Time
) -> None:
    time.wall += 3 * DAY_NS
    reopen()
    time.wall -= 3 * DAY_NS
    time.pass_(SECOND)
    db = reopen()
    db.put(ITEMS, Item(id=1), expires=0)
    assert db.at(time=time.wall).seq == db.head
    with pytest.raises(CursorError, match="there is nothing at"):
        db.at(time=time.wall - 1)


def test_status_says_how_far_ahead_the_log_is_and_that_it_is_known(
    reopen: Callable[[], Database], time: Time
) -> None:
    db = write_ahead(reopen, time)
    found = db.admin.status().clock
    assert (found.reading_ns, found.ahead_s, found.corrected) == (time.wall, 3 * 86_400 - 1, 0)
    seq = db.admin.correct_clock(actor="ann", reason="NTP was down")
    commit = db.log.commit(seq)
    assert (commit.notice.kind, commit.actor, commit.reason) == (CORRECTED, "ann", "NTP was down")
    assert db.admin.status().clock.corrected == seq
    time.pass_(3 * DAY_NS)
    db.put(ITEMS, Item(id=1), expires=0)
    assert db.admin.status().clock.ahead_s == 0
    assert db.admin.correct_clock() == 0


def test_two_clocks_that_were_ahead_one_after_the_other_are_two_corrections(
    reopen: Callable[[], Database], time: Time
) -> None:
    db = write_ahead(reopen, time)
    first = time.wall, db.put(ITEMS, Item(id=5), expires=0).seq
    first_notice = db.admin.correct_clock()
    time.pass_(HOUR_NS)
    time.wall += 9 * DAY_NS
    reopen().put(ITEMS, Item(id=6), expires=0)
    time.wall -= 9 * DAY_NS
    time.pass_(HOUR_NS)
    db = reopen()
    second = time.wall, db.put(ITEMS, Item(id=7), expires=0).seq
    assert db.admin.correct_clock() > first_notice
    time.pass_(20 * DAY_NS)
    db.put(ITEMS, Item(id=8), expires=0)
    assert [db.at(time=at).seq for at, _ in (first, second)] == [first[1] + 1, second[1] + 1]


def test_a_clock_that_was_ahead_once_more_is_corrected_once_more(
    reopen: Callable[[], Database], time: Time
) -> None:
    db = write_ahead(reopen, time, 90 * DAY_NS)
    first = db.admin.correct_clock()
    time.pass_(HOUR_NS)
    assert db.admin.correct_clock() == first
    time.wall += 3 * DAY_NS
    db = reopen()
    db.put(ITEMS, Item(id=5), expires=0)  # behind the log, and ahead of the actual time
    time.wall -= 3 * DAY_NS
    time.pass_(HOUR_NS)
    db = reopen()
    assert db.admin.status().clock.corrected == 0
    second = db.admin.correct_clock()
    assert second > first
    assert db.admin.correct_clock() == db.admin.status().clock.corrected == second
    assert db.at(time=time.wall).get(ITEMS, 5) is not None


def test_clocks_that_were_wrong_for_a_moment_do_not_hide_what_others_wrote(
    reopen: Callable[[], Database], time: Time
) -> None:
    db, made = write_ahead(reopen, time), []
    for n, off_ns in enumerate((0, -DAY_NS, DAY_NS, 0, HOUR_NS, -NOW, 0, 0, DAY_NS, 0, 0)):
        time.pass_(60 * SECOND)
        time.wall += off_ns
        db = reopen()
        seq = db.put(ITEMS, Item(id=n), expires=0).seq
        time.wall -= off_ns
        if not off_ns:
            made.append((time.wall, seq))
        db = reopen()
        assert db.at(time=time.wall).seq >= made[-1][1]
    assert db.at(time=time.wall).seq == db.head
    db.admin.correct_clock()
    assert db.at(time=time.wall).seq == db.head
    assert all(db.at(time=at).seq >= seq for at, seq in made)


@pytest.mark.parametrize("behind_ns", [DAY_NS, NOW])
def test_a_clock_that_is_behind_changes_no_moment_of_before(
    reopen: Callable[[], Database], time: Time, behind_ns: int
) -> None:
    db, made = reopen(), []
    for n in range(5):
        time.pass_(10 * HOUR_NS)
        made.append((time.wall, db.put(ITEMS, Item(id=n), expires=0).seq))
    time.wall -= behind_ns
    db = reopen()
    db.put(ITEMS, Item(id=9), expires=0)
    time.wall += behind_ns
    time.pass_(SECOND)
    db = reopen()
    assert [db.at(time=at).seq for at, _ in made[:-1]] == [seq for _, seq in made[:-1]]
    assert db.at(time=time.wall).seq == db.head


def test_a_clock_that_was_never_set_is_not_believed(reopen: Callable[[], Database], time: Time) -> None:
    db = reopen()
    last = db.log.commit(db.head).time_ns
    right = time.wall
    time.wall = 0  # 1970, like a board without a battery
    db = reopen()
    time.pass_(HOUR_NS // 2)
    db.put(ITEMS, Item(id=1))
    commit = db.log.commit(db.head)
    assert (commit.time_ns, commit.reading_ns) == (last + HOUR_NS // 2, 0)
    assert db.expires_ns(ITEMS, 1) == last + HOUR_NS * 3 // 2
    time.wall = right + HOUR_NS // 2
    db = reopen()
    assert db.admin.expire() == 0, "a row with an hour to live is there half an hour later"
    time.pass_(HOUR_NS)
    assert db.admin.expire() == 1


def test_a_clock_that_stands_still_stops_nothing_but_the_end_of_rows(
    reopen: Callable[[], Database], time: Time
) -> None:
    db = reopen()
    time.steady += DAY_NS
    seqs = [db.put(ITEMS, Item(id=n)).seq for n in range(3)]
    assert db.at(time=time.wall).seq == seqs[-1]
    time.steady += DAY_NS
    assert db.admin.expire() == 0


def test_a_machine_that_was_paused_waits_until_its_clock_is_confirmed(
    reopen: Callable[[], Database], time: Time
) -> None:
    db = reopen()
    db.put(ITEMS, Item(id=1))
    time.wall += 2 * HOUR_NS  # after a suspend, which the monotonic clock does not count
    db.put(ITEMS, Item(id=2), expires=0)
    assert db.admin.status().expiry.jumped_s == 7200
    assert db.admin.correct_clock() == 0
    assert db.admin.status().expiry.jumped_s == 0
    assert db.admin.expire() == 1


@pytest.mark.parametrize("step_ns", [-SECOND, SECOND, -HOUR_NS])
def test_leap_seconds_and_a_clock_that_is_set_to_local_time_are_small_steps(
    reopen: Callable[[], Database], time: Time, step_ns: int
) -> None:
    db = reopen()
    first = db.put(ITEMS, Item(id=1), expires=0)
    time.wall += step_ns
    second = db.put(ITEMS, Item(id=2), expires=0)
    assert second.time_ns == max(first.time_ns, time.wall)
    assert db.at(time=time.wall).seq == second.seq
    assert db.admin.status().expiry.jumped_s == 0


@pytest.mark.parametrize("born_ns", [0, NOW - DAY_NS - 1, NOW - 400 * DAY_NS, NOW + DAY_NS, 2**47 * 10**6])
def test_an_id_of_any_clock_commits_once(reopen: Callable[[], Database], time: Time, born_ns: int) -> None:
    raw = bytearray(uuid.uuid4().bytes)
    raw[:6] = (born_ns // 1_000_000).to_bytes(6, "big")
    raw[6] = 0x70 | raw[6] & 0x0F

    def put() -> Any:
        with db.transaction(commit_id=bytes(raw)) as tx:
            tx.put(ITEMS, Item(id=1), expires=0)
            return tx.commit()

    db = write_ahead(reopen, time)
    first = put()
    time.pass_(10 * DAY_NS)
    db = reopen()
    again = put()
    assert (again.seq, again.repeated, first.repeated) == (first.seq, True, False)


def test_the_clocks_of_two_machines_are_not_compared() -> None:
    clock = Clock(wall=lambda: NOW, steady=lambda: 7)
    clock.start(NOW + 5 * DAY_NS)  # the log of another machine
    assert (clock.now(), clock.reading_ns, clock.read(), clock.look()) == (NOW + 5 * DAY_NS, NOW, NOW, 0)
