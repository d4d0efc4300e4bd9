"""Work that gives way to commits: pauses while others commit, and shorter turns."""

from __future__ import annotations

import sys

import pytest

from everlog.store.database import Database
from everlog.store.progress import TURN_S, YIELDING_ROWS, Pace, yielding
from tests.store.models import ITEMS, Item, declare


def test_work_pauses_while_others_commit_and_python_takes_shorter_turns(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(db, ITEMS)
    slept: list[float] = []
    before = sys.getswitchinterval()
    monkeypatch.setattr("everlog.store.progress.time.sleep", slept.append)
    with yielding(0.25):
        assert sys.getswitchinterval() == pytest.approx(TURN_S)
        pace = Pace(None)
        assert pace.slice_rows == YIELDING_ROWS
        pace.wait()
        assert slept == []
        db.put(ITEMS, Item(id=1))
        pace.wait()
        assert len(slept) == 1
        assert slept[0] > 0
        with yielding(0.5):  # of another thread, in effect
            pass
        assert sys.getswitchinterval() == pytest.approx(TURN_S)
    assert sys.getswitchinterval() == pytest.approx(before)
    assert Pace(None).slice_rows > YIELDING_ROWS
