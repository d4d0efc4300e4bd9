"""Random clocks: the wall clock jumps ahead and back, stops, is unset, and is correct again.

Commits are accepted throughout, and their times never decrease; no row expires early; and when the clock is
correct, the view at the current time is the last state. `EVERLOG_SEED=7` repeats the run of that seed.
"""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

from everlog.store.clock import JUMP_S, Clock
from everlog.store.errors import Error
from everlog.store.schema.table import Table
from tests.model.test_random_histories import seeds
from tests.store.models import ITEM_ID, ITEMS, Item, open_flights

STEPS = 120
SECOND, HOUR = 10**9, 3600 * 10**9
MINUTE, DAY = 60 * SECOND, 24 * HOUR
ERRORS_NS = (0, 0, 3 * DAY, 90 * DAY, 5 * MINUTE, -5 * MINUTE, -DAY, -60 * 365 * DAY)
BRIEF: Table[Any, int] = Table("brief", Item, key=ITEM_ID, ttl=timedelta(hours=10))

Named = tuple[Table[Any, int], int]


class Clocks:
    """A database, the true time, and the reading of its machine's clock."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.random = path, random.Random(seed)
        self.true = 1_790_000_000 * SECOND
        self.error = 0
        self.stands: int | None = None
        self.ends: dict[Named, int] = {}  # of rows written while the clock was correct: their true expiry
        self.texts: dict[Named, str] = {}
        self.last_ns = 0
        self.open()

    def wall(self) -> int:
        return self.true + self.error if self.stands is None else self.stands

    def open(self) -> None:
        self.db = open_flights(self.path, ITEMS, BRIEF, clock=Clock(wall=self.wall, steady=lambda: self.true))
        self.db.sweeper.close()  # it sweeps at any time; here the test does

    @property
    def right(self) -> bool:
        return self.error == 0 and self.stands is None

    def step(self) -> None:
        self.true += self.random.choice((SECOND, 60 * SECOND, HOUR))
        what = self.random.choice(
            (self.put, self.put, self.put, self.turn, self.expire, self.look, self.again)
        )
        what()

    def put(self) -> None:
        table, number, text = self.random.choice((ITEMS, BRIEF)), self.random.randrange(40), f"{self.true}"
        done = self.db.put(table, Item(id=number, text=text))
        time_ns = self.db.log.commit(done.seq).time_ns
        assert time_ns >= self.last_ns
        self.last_ns = time_ns
        self.texts[table, number] = text
        self.ends.pop((table, number), None)
        if table is ITEMS:
            self.ends[table, number] = 1 << 62
        elif self.right:
            self.ends[table, number] = self.true + 10 * HOUR

    def turn(self) -> None:
        self.error = self.random.choice(ERRORS_NS)
        self.stands = self.true if self.random.random() < 0.1 else None

    def expire(self) -> None:
        """Check that no row expires early, except after a jump that may also be a correction of the clock."""
        try:
            self.db.admin.expire()
        except Error as error:
            assert "jumped" in str(error)  # noqa: PT017  it may or may not be raised
        for (table, number), end in self.ends.items():
            if self.true < end - JUMP_S * SECOND:
                assert self.db.get(table, number) is not None, f"{number} went before its time"

    def look(self) -> None:
        """Check that the view at the current time is the last state."""
        if not self.right:
            return
        self.db.admin.correct_clock()
        now = self.db.at(time=self.true)
        for (table, number), end in self.ends.items():
            row = now.get(table, number)
            if row is not None:
                assert row.text == self.texts[table, number]
            else:
                assert self.true >= end - JUMP_S * SECOND

    def again(self) -> None:
        """Open it again: a new process cannot detect a wrong clock, so here it starts with a correct one."""
        if self.right:
            self.put()  # an unset clock relies on the time of this commit
            self.db.close()
            self.open()
        assert list(self.db.admin.check()) == []


def test_no_clock_refuses_a_commit_or_ends_a_row_before_its_time(tmp_path: Path) -> None:
    for seed in seeds(1, 2):
        print(f"EVERLOG_SEED={seed}")  # noqa: T201  shown on failure
        clocks = Clocks(tmp_path / str(seed), seed)
        for _ in range(STEPS):
            clocks.step()
        clocks.db.close()
