"""The sweeper: rows expire automatically in a writing process, but not after the clock jumped."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta

import pytest

from everlog.store.clock import JUMP_S
from everlog.store.database import Database
from everlog.store.errors import Error
from tests.store.conftest import Opener
from tests.store.models import ITEMS, Item
from tests.store.upkeep.test_expiry import NOW, SECOND, Time


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def db(opening: Opener, time: Time) -> Database:
    return opening(clock=time())


def test_nothing_expires_after_the_clock_jumped_until_it_is_confirmed_or_right_again(
    db: Database, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    db.put(ITEMS, Item(id=1), expires=NOW + 1)
    time.wall += int(2 * JUMP_S * SECOND)
    with caplog.at_level(logging.WARNING, "everlog"), pytest.raises(Error, match="jumped forward by 1,200 s"):
        db.admin.expire()
    assert "nothing expires" in caplog.text
    assert db.admin.status().expiry.jumped_s == pytest.approx(2 * JUMP_S)
    time.wall -= int(2 * JUMP_S * SECOND)
    assert db.admin.expire() == 0
    assert db.admin.status().expiry.jumped_s == 0
    time.wall += int(2 * JUMP_S * SECOND)
    with pytest.raises(Error, match="everlog expire --trust-clock"):
        db.admin.expire()
    assert db.admin.expire(confirm_time=True) == 1


def swept(db: Database) -> threading.Event:
    """Return an event that is set when a commit of the sweeper is on disk."""
    done = threading.Event()
    db.log.on_advance(lambda: done.set() if db.log.commit(db.head).actor == "everlog" else None)
    return done


def test_what_writes_the_database_sweeps_by_itself(opening: Opener) -> None:
    db = opening()
    done = swept(db)
    db.put(ITEMS, Item(id=1), expires=datetime.now(UTC) + timedelta(milliseconds=1))
    assert done.wait(60)
    assert db.get(ITEMS, 1) is None


def test_what_ended_while_nobody_had_the_database_open_is_swept_when_it_is_opened(
    opening: Opener, time: Time
) -> None:
    db = opening(clock=time())
    db.put(ITEMS, Item(id=1), expires=NOW + 1)
    db.close()
    time.pass_(1)
    db = opening(clock=time())
    db.sweeper.close()  # it ends after the current sweep
    assert db.admin.expire() == 0 or db.get(ITEMS, 1) is None
    assert db.get(ITEMS, 1) is None


def test_what_opens_it_for_a_moment_with_a_clock_that_is_ahead_deletes_nothing(
    opening: Opener, time: Time
) -> None:
    db = opening(clock=time())
    db.put(ITEMS, Item(id=1), expires=NOW + 3600 * SECOND)
    db.close()
    time.wall += 3 * 86_400 * SECOND
    for n in (2, 3):
        db = opening(clock=time())
        db.put(ITEMS, Item(id=n))
        db.close()
    time.wall -= 3 * 86_400 * SECOND
    db = opening(clock=time())
    db.sweeper.close()
    assert db.get(ITEMS, 1) is not None
    assert db.admin.status().expiry.due == 0


def test_a_database_without_lives_has_no_thread_for_them(db: Database) -> None:
    db.put(ITEMS, Item(id=1))
    assert "everlog-sweeper" not in {thread.name for thread in threading.enumerate()}
