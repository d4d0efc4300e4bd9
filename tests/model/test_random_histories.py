"""Random histories against a dict: transactions, refusals, reopenings, rebuilds, other readers.

`EVERLOG_SEED=7` repeats the run of that seed; `EVERLOG_TORTURE_S=600` tries new seeds for that time.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from everlog.store.database import Database
from everlog.store.errors import PreconditionError, UniqueError
from everlog.store.tx.reader import Snapshot
from tests.store.models import AIRPORTS, Airport, Position, open_flights

CITIES = ["Lima", "Li", "", "Oslo", "São Paulo", "Rome\0", "Z"]
CODES = [f"A{number:02}" for number in range(40)]
STEPS = 120

Rows = dict[str, Any]


class History:
    """A database and the dict that it must equal."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.random = random.Random(seed)
        self.db: Database = open_flights(path, AIRPORTS)
        self.rows: Rows = {}
        self.snapshots: list[tuple[Snapshot, Rows]] = []

    def row(self, faa: str) -> Any:
        one = Airport(faa=faa, city=self.random.choice(CITIES), name="x" * self.random.randrange(200))
        if self.random.random() < 0.5:
            one.icao = f"K{self.random.randrange(30)}"
        if self.random.random() < 0.5:
            one.position.CopyFrom(Position(lat=self.random.uniform(-90, 90)))
        return one

    def transact(self) -> None:
        """Commit some writes, which may be refused as a whole."""
        wanted, refused = dict(self.rows), False
        durability = self.random.choice(["sync", "os"])
        try:
            with self.db.transaction(durability=durability) as tx:
                for _ in range(self.random.randrange(1, 8)):
                    faa = self.random.choice(CODES)
                    kind = self.random.choice(["put", "put", "insert", "update", "delete", "read"])
                    if kind == "read":
                        assert tx.get(AIRPORTS, faa) == wanted.get(faa)
                        assert list(tx.scan(AIRPORTS)) == [wanted[key] for key in sorted(wanted)]
                    elif kind == "delete":
                        tx.delete(AIRPORTS, faa)
                        wanted.pop(faa, None)
                    else:
                        refused |= (kind == "insert" and faa in wanted) or (
                            kind == "update" and faa not in wanted
                        )
                        one = self.row(faa)
                        getattr(tx, kind)(AIRPORTS, one)
                        wanted[faa] = one
        except UniqueError:
            assert refused or not unique(wanted)
        except PreconditionError:
            assert refused
        else:
            assert not refused
            assert unique(wanted)
            self.rows = wanted

    def reopen(self) -> None:
        for snapshot, _ in self.snapshots:
            snapshot.close()
        self.snapshots.clear()
        self.db.close()
        self.db = Database(self.path)

    def look_back(self) -> None:
        self.snapshots.append((self.db.snapshot(), dict(self.rows)))
        for snapshot, rows in self.snapshots[-3:]:
            agree(snapshot, rows)

    def read_beside(self) -> None:
        with Database(self.path, read_only=True) as reader:
            agree(reader, self.rows)

    def rebuild(self) -> None:
        assert self.db.admin.rebuild()["airports"].rows == len(self.rows)

    def run(self) -> None:
        steps: list[tuple[Callable[[], None], int]] = [
            (self.transact, 40),
            (self.look_back, 5),
            (self.reopen, 2),
            (self.read_beside, 1),
            (self.rebuild, 1),
        ]
        actions, weights = [step for step, _ in steps], [weight for _, weight in steps]
        try:
            for action in self.random.choices(actions, weights, k=STEPS):
                action()
                agree(self.db, self.rows)
            assert list(self.db.admin.check()) == []
        finally:
            self.db.close()


def unique(rows: Rows) -> bool:
    codes = [row.icao for row in rows.values() if row.HasField("icao")]
    return len(codes) == len(set(codes))


def agree(reader: Any, rows: Rows) -> None:
    """Read in every way, and compare with the dict."""
    ordered = [rows[key] for key in sorted(rows)]
    assert list(reader.scan(AIRPORTS)) == ordered
    assert list(reader.scan(AIRPORTS, reverse=True)) == ordered[::-1]
    assert reader.count(AIRPORTS) == len(rows)
    assert reader.get_many(AIRPORTS, CODES) == [rows.get(code) for code in CODES]
    by_city = sorted(ordered, key=lambda row: (row.city.encode(), row.faa))
    assert list(reader.scan(AIRPORTS.by_city)) == by_city
    assert list(reader.scan(AIRPORTS.by_city, "Li")) == [row for row in by_city if row.city == "Li"]
    assert list(reader.scan(AIRPORTS.by_city, starts_with="Li", reverse=True)) == [
        row for row in by_city[::-1] if row.city.startswith("Li")
    ]
    first = reader.scan(AIRPORTS.by_city, limit=5)
    page = list(first)
    if first.resume is not None:
        page += list(reader.scan(AIRPORTS.by_city, resume=first.resume))
    assert page == by_city


def seeds(*first: int) -> Iterator[int]:
    """Yield the first seeds (1, 2, 3), then new ones, as long as there is time."""
    given = os.environ.get("EVERLOG_SEED")
    if given:
        yield int(given)
        return
    yield from first or (1, 2, 3)
    until = time.monotonic() + float(os.environ.get("EVERLOG_TORTURE_S", "0"))
    while time.monotonic() < until:
        yield random.SystemRandom().randrange(1 << 32)


@pytest.mark.timeout(0)
def test_a_database_agrees_with_a_dict(tmp_path: Path) -> None:
    for seed in seeds():
        print(f"EVERLOG_SEED={seed}")  # noqa: T201  shown on failure
        History(tmp_path / str(seed), seed).run()
