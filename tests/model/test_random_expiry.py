"""Random rows that expire, against a dict and an artificial clock: expired rows are deleted, and no others.

`EVERLOG_SEED=7` repeats the run of that seed.
"""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

from everlog.store.clock import Clock
from everlog.store.database import Database
from everlog.store.schema.table import Table
from tests.model.test_random_histories import seeds
from tests.store.models import ITEM_ID, ITEMS, Item, open_flights

STEPS, IDS = 150, 30
SECOND = 10**9
BRIEF: Table[Any, int] = Table("brief", Item, key=ITEM_ID, ttl=timedelta(seconds=20))


class Lives:
    """A database, and for each row of both tables its text and its expiry."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.random = path, random.Random(seed)
        self.now = self.steady = 1_790_000_000 * SECOND
        self.rows: dict[tuple[str, int], tuple[str, int]] = {}
        self.open()

    def open(self) -> None:
        clock = Clock(wall=lambda: self.now, steady=lambda: self.steady)
        self.db: Database = open_flights(self.path, ITEMS, BRIEF, clock=clock)
        self.db.sweeper.close()  # it sweeps at any time; here the test does

    def write(self) -> None:
        with self.db.transaction() as tx:
            for _ in range(self.random.randrange(1, 6)):
                table, number = self.random.choice([ITEMS, BRIEF]), self.random.randrange(IDS)
                if self.random.random() < 0.2:
                    tx.delete(table, number)
                    self.rows.pop((table.name, number), None)
                    continue
                text, kind = f"{self.random.random()}", self.random.randrange(3)
                expires = {0: None, 1: 0, 2: self.now + self.random.randrange(-5, 30) * SECOND}[kind]
                tx.put(table, Item(id=number, text=text), expires=expires)
                end = self.now + 20 * SECOND if table is BRIEF and expires is None else expires or 0
                self.rows[table.name, number] = text, end

    def pass_(self) -> None:
        more = self.random.randrange(10) * SECOND
        self.now, self.steady = self.now + more, self.steady + more

    def expire(self) -> None:
        over = [key for key, (_, end) in self.rows.items() if 0 < end <= self.now]
        assert self.db.admin.expire() == len(over)
        for key in over:
            del self.rows[key]

    def rebuild(self) -> None:
        self.db.admin.rebuild()

    def reopen(self) -> None:
        self.db.close()
        self.open()
        self.db.admin.expire()  # the database itself may already have deleted expired rows
        self.rows = {key: one for key, one in self.rows.items() if not 0 < one[1] <= self.now}

    def check(self) -> None:
        found = {
            (table.name, row.id): (row.text, self.db.expires_ns(table, row.id))
            for table in (ITEMS, BRIEF)
            for row in self.db.scan(table)
        }
        assert found == self.rows
        lives = [end for _, end in self.rows.values() if end]
        status = self.db.admin.status().expiry
        assert (status.rows, status.next_ns) == (len(lives), min(lives, default=0))
        assert status.due == sum(end <= self.now for end in lives)


def test_lives_end_when_they_are_over_and_never_before(tmp_path: Path) -> None:
    for seed in seeds(1, 2):
        print(f"EVERLOG_SEED={seed}")  # noqa: T201  shown on failure
        live(tmp_path / str(seed), seed)


def live(path: Path, seed: int) -> None:
    lives = Lives(path, seed)
    kinds = [lives.write] * 12 + [lives.pass_] * 6 + [lives.expire] * 4 + [lives.rebuild, lives.reopen]
    for _ in range(STEPS):
        lives.random.choice(kinds)()
        lives.check()
    assert list(lives.db.admin.check()) == []
    lives.db.close()
