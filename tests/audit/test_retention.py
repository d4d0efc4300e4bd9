"""Retention: a database archives automatically, disturbs no one, and reports failures."""

from __future__ import annotations

import logging
import os
import threading
from itertools import count
from pathlib import Path

import pytest

from everlog.audit import Retention, holds, verify_backup
from everlog.audit.archive import removable
from everlog.audit.archived import attach
from everlog.store.clock import JUMP_S
from everlog.store.database import Database
from everlog.store.errors import Error, ReadOnlyError, RowError
from everlog.store.progress import Progress
from tests.audit.conftest import Opener
from tests.audit.test_backup import fill
from tests.store.models import ITEMS, Item, items
from tests.store.upkeep.test_expiry import SECOND, Time


class Watch:
    """Waits for progress: `seen` is set when this step was reported."""

    def __init__(self, step: str) -> None:
        self.step = step
        self.seen, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def __call__(self, at: Progress) -> None:
        if at.step == self.step:
            self.seen.set()
            assert self.go_on.wait(60)


class Tries(logging.Handler):
    """Waits for each failed attempt, and holds the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.more, self.go_on = threading.Semaphore(0), threading.Semaphore(0)

    def emit(self, record: logging.LogRecord) -> None:
        self.more.release()
        assert self.go_on.acquire(timeout=60)


def test_a_database_archives_by_itself_while_it_is_written(db: Database, to: Path) -> None:
    fill(db, 1, 50)
    attach(db)
    watch = Watch("compact")
    with Retention(db, to, keep_records=10, every_s=0, look_s=0.01, progress=watch):
        for _ in range(5):
            watch.seen.clear()
            for number in count(1000):
                db.put(ITEMS, *items(number, number))
                if watch.seen.is_set():
                    break
        found = db.admin.status().archive
        assert (found.target, found.error) == (str(to), "")
        assert found.base == db.log.trimmed.base > 10
        assert found.archived_ns > 0
    assert db.admin.status().archive.target == ""
    assert [seq for seq, _ in db.log.scan()] == list(range(1, db.head + 1))
    assert db.admin.rebuild() == db.admin.hashes()
    assert list(verify_backup(to, deep=True)) == []


def test_it_waits_until_there_is_enough_or_it_was_long_ago(db: Database, to: Path) -> None:
    fill(db, 1, 50)
    retention = Retention(db, to, keep_records=10)
    done = retention.look()  # it never existed
    assert done is not None
    assert done.base == db.head - 10
    fill(db, 60, 90)
    assert retention.look() is None
    archive = db.path / "ARCHIVE"
    hour_ago = archive.stat().st_mtime - 3601
    os.utime(archive, (hour_ago, hour_ago))
    assert retention.look() is not None
    retention.close()
    fill(db, 100, 120)
    with_less = Retention(db, to, keep_records=10, enough_bytes=1)
    assert with_less.look() is not None
    assert with_less.look() is None
    with_less.close()


def test_holds_and_consumers_are_kept_by_it_as_well(db: Database, to: Path) -> None:
    fill(db, 1, 50)
    holds.hold(db.path, "audit", 20)
    retention = Retention(db, to, every_s=0)
    done = retention.look()
    assert done is not None
    assert (done.base, done.held) == (19, "hold 'audit'")
    assert retention.look() is None
    holds.release(db.path, "audit")
    db.consumers.register("mirror", after=30)
    done = retention.look()
    assert done is not None
    assert (done.base, done.held) == (30, "consumer 'mirror'")


def test_what_goes_wrong_is_told_until_it_works_again(
    db: Database, to: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(db, 1, 50)
    to.write_text("a file, where a directory should be")
    failed, worked = threading.Event(), Watch("compact")

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            failed.set()

    handler = Handler()
    logging.getLogger("everlog").addHandler(handler)
    try:
        with Retention(db, to, keep_records=10, every_s=0, look_s=0.01, progress=worked):
            assert failed.wait(60)
            found = db.admin.status().archive
            assert "expected the directory of a backup, found a file" in found.error
            assert found.error_ns > 0
            assert db.log.trimmed.base == 0
            db.put(ITEMS, *items(1000, 1000))
            to.unlink()
            assert worked.seen.wait(60)
    finally:
        logging.getLogger("everlog").removeHandler(handler)
    assert "cannot archive old log to" in caplog.text
    retention = Retention(db, to, every_s=0)
    retention.look()
    assert db.admin.status().archive.error == ""
    assert db.log.trimmed.base == db.head - 1


def test_it_tries_again_ever_later_and_says_since_when(db: Database, to: Path) -> None:
    fill(db, 1, 50)
    to.write_text("a file, where a directory should be")
    tried, waits, since = Tries(), list[float](), set[int]()
    logging.getLogger("everlog").addHandler(tried)
    try:
        with Retention(
            db, to, keep_records=10, every_s=0, look_s=0.001, progress=Watch("compact")
        ) as retention:
            for _ in range(5):
                tried.more.acquire(timeout=60)
                waits.append(retention.wait_s)
                since.add(db.admin.status().archive.error_ns)
                tried.go_on.release()
    finally:
        logging.getLogger("everlog").removeHandler(tried)
    assert waits == [0.002, 0.004, 0.008, 0.016, 0.032]
    assert len(since) == 1


def test_once_it_works_it_looks_as_often_as_before(db: Database, to: Path) -> None:
    fill(db, 1, 50)
    retention = Retention(db, to, keep_records=10)
    for _ in range(3):
        retention._failed(Error("again"))  # noqa: SLF001  the test would wait for each
    assert (retention.wait_s, retention.status().error) == (480, "again")
    assert retention.look() is not None
    assert (retention.wait_s, retention.status().error, retention.status().error_ns) == (60, "", 0)
    retention.close()


def test_an_hour_is_the_longest_that_it_waits(db: Database, to: Path) -> None:
    retention = Retention(db, to)
    for _ in range(2000):
        retention._failed(Error("again"))  # noqa: SLF001  the test would wait for each
    assert retention.wait_s == 3600
    retention.close()
    with_days = Retention(db, to, look_s=86_400)
    with_days._failed(Error("again"))  # noqa: SLF001  as above
    assert with_days.wait_s == 86_400
    with_days.close()


def test_it_ends_with_its_database_in_the_middle_of_things(opening: Opener, to: Path) -> None:
    db = opening()
    fill(db, 1, 300)
    head, watch = db.head, Watch("back up")
    watch.go_on.clear()
    retention = Retention(db, to, keep_records=1, progress=watch).start()
    assert watch.seen.wait(60)
    closing = threading.Thread(target=db.close)
    closing.start()
    assert retention._stopped.wait(60)  # noqa: SLF001  it is notified before it continues
    watch.go_on.set()
    closing.join(60)
    assert not closing.is_alive()
    db = opening()
    assert db.log.trimmed.base == 0
    assert [seq for seq, _ in db.log.scan()] == list(range(1, head + 1))
    attach(db)
    with Retention(db, to, keep_records=1, progress=(again := Watch("compact"))):
        assert again.seen.wait(60)
    assert db.log.trimmed.base == head - 1


def test_an_id_of_a_clock_that_is_ahead_holds_nothing_for_longer(opening: Opener) -> None:
    clock = Time()
    db = opening(clock=clock())
    commit_id = bytes.fromhex("0fffffffffff7000800000000000abcd")  # in the year 2527
    first = db.put(ITEMS, Item(id=1), commit_id=commit_id).seq
    fill(db, 2, 50)
    assert removable(db, 0, 0)[0] == first - 1
    clock.pass_(2 * 86_400 * SECOND)
    db.put(ITEMS, Item(id=1))
    assert removable(db, 0, 0)[0] == db.head - 1


def test_nothing_goes_by_its_age_while_the_clock_is_one_that_jumped(opening: Opener, to: Path) -> None:
    clock = Time()
    db = opening(clock=clock())
    fill(db, 1, 50)
    retention = Retention(db, to, keep_ns=1, every_s=0)
    clock.wall += int(2 * JUMP_S * SECOND)
    assert retention.look() is None
    clock.wall -= int(2 * JUMP_S * SECOND)
    assert retention.look() is not None


def test_what_it_cannot_do_is_said_at_once(db: Database, to: Path) -> None:
    with pytest.raises(RowError, match="expected to keep 0 records or more"):
        Retention(db, to, keep_records=-1)
    retention = Retention(db, to)
    with pytest.raises(Error, match="is already archived automatically"):
        Retention(db, to)
    retention.close()
    Retention(db, to).close()
    with Database(db.path, read_only=True) as beside, pytest.raises(ReadOnlyError):
        Retention(beside, to)
