"""Restore: to the end, to a record, to a time; as the same database, or as a fork."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from everlog.audit import backup, restore
from everlog.feed import cursor
from everlog.feed.subscription import Subscription
from everlog.store.database import Database
from everlog.store.errors import CursorError, DiskError, OpenError
from everlog.store.tables.hashing import TableHash
from tests.audit.conftest import Opener
from tests.audit.test_backup import fill
from tests.store.models import AIRPORTS, ITEMS, Item, airport, declare, items
from tests.store.upkeep.test_expiry import DAY_NS, SECOND, Time

SCRIPT = """
import os, signal, sys
from everlog.audit import restore
def die(progress) -> None:
    if progress.done > 1000:
        os.kill(os.getpid(), signal.SIGKILL)
restore(sys.argv[1], sys.argv[2], progress=die)
"""


def grown(db: Database) -> dict[int, dict[str, TableHash]]:
    """Return a database with changes of many kinds, and the hashes of its tables at some records."""
    at = {}
    fill(db, 1, 30)
    at[db.head] = db.admin.hashes()
    for faa in ("JFK", "LAX"):
        db.put(AIRPORTS, airport(faa, "Somewhere", icao=f"K{faa}"))
    db.delete(ITEMS, 7)
    at[db.head] = db.admin.hashes()
    declare(db, ITEMS)
    db.load(ITEMS, items(100, 3000), id="a load")
    at[db.head] = db.admin.hashes()
    db.put(AIRPORTS, airport("JFK", "New York"))
    at[db.head] = db.admin.hashes()
    return at


def test_what_is_restored_is_the_database_as_it_was(opening: Opener, to: Path) -> None:
    db = opening()
    at = grown(db)
    backup(db, to)
    done = restore(to, to.with_name("copy"))
    assert (done.seq, done.tables, done.proven) == (db.head, db.admin.hashes(), True)
    copy = opening(at=to.with_name("copy"))
    assert copy.uuid == db.uuid
    assert copy.cursor() == db.cursor()
    assert copy.log.read(0, 1 << 30) == db.log.read(0, 1 << 30)
    assert at[db.head] == copy.admin.hashes()
    copy.put(ITEMS, *items(1, 1))


def test_a_database_is_restored_as_of_any_record(opening: Opener, to: Path) -> None:
    db = opening()
    at = grown(db)
    backup(db, to)
    for seq, expected in at.items():
        done = restore(to, to.with_name(f"at {seq}"), at=seq)
        assert (done.seq, done.tables) == (seq, expected)
        assert opening(at=to.with_name(f"at {seq}")).head == seq
    for seq in (0, db.head + 1, -1):
        with pytest.raises(CursorError, match=f"has records 1 to {db.head}, not {seq}"):
            restore(to, to.with_name("none"), at=seq)
    assert not to.with_name("none").exists()


def test_a_database_is_restored_as_of_a_time(opening: Opener, to: Path) -> None:
    db = opening()
    grown(db)
    for _ in range(3):  # in more than one segment
        backup(db, to)
        fill(db, 5000, 5010)
    backup(db, to)
    times = {seq: db.log.commit(seq).time_ns for seq in range(1, db.head + 1)}
    for seq in (1, 2, 20, db.head - 12, db.head - 11, db.head):
        last = max(one for one, time_ns in times.items() if time_ns <= times[seq])
        path = to.with_name(f"time {seq}")
        assert restore(to, path, at_time_ns=times[seq]).seq == last
    before = max((one for one, time_ns in times.items() if time_ns <= times[9] - 1))
    assert restore(to, to.with_name("between"), at_time_ns=times[9] - 1).seq == before
    with pytest.raises(CursorError, match="the database was created after that time"):
        restore(to, to.with_name("never"), at_time_ns=times[1] - 1)


def test_a_time_is_found_by_the_clock_s_readings_where_the_clock_was_corrected(
    opening: Opener, to: Path
) -> None:
    wall = Time()
    db = opening(clock=wall())
    for ahead_ns in (3 * DAY_NS, -3 * DAY_NS):  # a commit while the clock is ahead; then it is right again
        db.put(ITEMS, Item(id=1))
        db.close()
        wall.pass_(SECOND)
        wall.wall += ahead_ns
        db = Database(db.path, clock=wall())
    made = []
    for n in range(10):
        wall.pass_(60 * SECOND)
        made.append((wall.wall, db.put(ITEMS, Item(id=2, n=n)).seq))
    db.admin.correct_clock()
    for n in range(20):
        backup(db, to)  # in more than one segment
        wall.pass_(DAY_NS)
        db.put(ITEMS, Item(id=3, n=n))
    backup(db, to)
    for at_ns, seq in (made[0], made[4], made[8]):
        assert db.at(time=at_ns).seq == seq
        assert restore(to, to.with_name(f"at {seq}"), at_time_ns=at_ns).seq == seq
    db.close()


def test_who_follows_a_database_that_went_back_goes_on_or_is_told_that_it_diverged(
    opening: Opener, to: Path
) -> None:
    db = opening()
    fill(db, 1, 20)
    early = db.cursor()
    fill(db, 21, 40)
    late = db.cursor()
    backup(db, to)
    restore(to, to.with_name("back"), at=early.seq)
    back = opening(at=to.with_name("back"))
    assert Subscription(back, after=early).position == early.seq
    with pytest.raises(CursorError, match="ahead"):
        Subscription(back, after=late)
    fill(back, 900, 930)
    assert Subscription(back, after=early).position == early.seq
    with pytest.raises(CursorError, match=r"checksum|history|diverged"):
        Subscription(back, after=late)


def test_a_fork_is_another_database_that_says_where_it_is_from(opening: Opener, to: Path) -> None:
    db = opening()
    fill(db, 1, 20)
    backup(db, to)
    done = restore(to, to.with_name("fork"), at=db.head - 3, fork=True)
    fork = opening(at=to.with_name("fork"))
    assert fork.uuid != db.uuid
    assert str(done.database) in cursor.show(fork.cursor())
    created = fork.log.commit(1).created
    assert (created.origin, created.origin_seq) == (db.uuid, db.head - 3)
    assert created.origin_checksum == db.log.checksum_at(db.head - 3)
    assert fork.log.read(1, 1 << 30)[0] == db.log.read(1, 1 << 30, db.head - 3)[0]
    with pytest.raises(OpenError, match="this is a backup of database"):
        backup(fork, to)
    with pytest.raises(CursorError, match="database"):
        Subscription(fork, after=db.log.cursor(5, db.uuid))


@pytest.mark.long
def test_a_restore_that_is_killed_leaves_no_database_and_the_next_goes_on(opening: Opener, to: Path) -> None:
    db, copy = opening(), to.with_name("copy")
    fill(db, 1, 1500)
    backup(db, to)
    words = [sys.executable, "-c", SCRIPT, str(to), str(copy)]
    assert subprocess.run(words, check=False, timeout=60).returncode == -signal.SIGKILL
    with pytest.raises(OpenError, match="is running or was killed"):
        Database(copy)
    told: list[int] = []
    assert restore(to, copy, progress=lambda now: told.append(now.done)).tables == db.admin.hashes()
    assert min(told) > 1000

    fill(db, 1, 20)
    other = to.with_name("other backup")
    diverged = opening(at=to.with_name("diverged"))
    fill(diverged, 1, 1600)
    backup(diverged, other)
    assert subprocess.run([*words[:-2], str(to), str(to.with_name("mixed"))], check=False).returncode < 0
    done = restore(other, to.with_name("mixed"))  # the remaining files are of another backup
    assert done.tables == diverged.admin.hashes()


def test_nothing_is_restored_over_what_is_there(opening: Opener, to: Path) -> None:
    db = opening()
    backup(db, to)
    with pytest.raises(OpenError, match="is not empty"):
        restore(to, db.path)


def test_a_restore_that_cannot_remove_its_files_says_so_and_the_next_goes_on(
    opening: Opener, to: Path
) -> None:
    db = opening()
    fill(db, 1, 30)
    backup(db, to)
    copy = to.with_name("copy")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    def exhaust(_: object) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        os.open(os.devnull, os.O_RDONLY)

    try:
        with pytest.raises(
            DiskError, match=r"Its files could not be removed \(Too many open files"
        ) as caught:
            restore(to, copy, progress=exhaust)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert caught.value.facts["outcome"] == "nothing written"
    assert not (copy / "EVERLOG").exists()
    assert restore(to, copy).seq == db.head
