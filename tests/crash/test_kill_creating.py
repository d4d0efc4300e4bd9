"""SIGKILL while a database is created, and while it is migrated: completely, or not at all."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from everlog.store.database import Database
from everlog.store.schema.table import Index, Table
from tests.store.models import ITEM_ID, ITEMS, TEXT, Item, declare, items, open_flights

BY_TEXT: Table[Any, int] = Table("items", Item, key=ITEM_ID, indexes=(Index("by_text", TEXT),))
ROWS = 6000
ROOT = Path(__file__).parents[2]

MAKER = """
import sys
from pathlib import Path
from tests.store.models import open_flights
for number in range(10**6):
    print(number, flush=True)
    open_flights(Path(sys.argv[1]) / str(number)).close()
"""
MIGRATOR = """
import sys
from everlog.store.database import Database
from tests.crash.test_kill_creating import BY_TEXT
from tests.store.models import ITEMS, Item, declare
with Database(sys.argv[1]) as db:
    print("open", flush=True)
    while True:
        version = db.schema.version + 1
        table = ITEMS if version % 2 else BY_TEXT
        declare(db, table, rows=[(table, Item(id=version * 100_000, text="of a migration"))])
        print(version, flush=True)
"""


def killed(script: str, path: Path, after_s: float) -> list[str]:
    """Return the output of a process that is killed some time after its first line."""
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        timer = threading.Timer(after_s, process.send_signal, [signal.SIGKILL])
        timer.start()
        said = [first, *process.stdout]
        timer.join()
    assert process.returncode == -signal.SIGKILL
    return [line.strip() for line in said if line.endswith("\n")]


def campaign(least: int) -> Any:
    """Yield at least this number of rounds, or rounds for the time in `EVERLOG_TORTURE_S`."""
    until = time.monotonic() + float(os.environ.get("EVERLOG_TORTURE_S", "0"))
    turn = 0
    while turn < least or time.monotonic() < until:
        turn += 1
        yield turn


@pytest.mark.timeout(0)
def test_a_database_whose_making_was_killed_is_made_when_it_is_opened_again(tmp_path: Path) -> None:
    chance = random.Random()
    for turn in campaign(4):
        said = killed(MAKER, tmp_path / str(turn), chance.uniform(0.001, 0.08))
        with open_flights(tmp_path / str(turn) / said[-1]) as db:
            assert list(db.admin.check()) == []
            db.put(ITEMS, Item(id=1))


@pytest.mark.timeout(0)
def test_a_migration_that_was_killed_is_there_in_whole_or_not_at_all(tmp_path: Path) -> None:
    chance, path = random.Random(), tmp_path / "db"
    with open_flights(path, ITEMS) as db:
        db.load(ITEMS, items(1, ROWS))
        declare(db, BY_TEXT)
    for _ in campaign(4):
        said = killed(MIGRATOR, path, chance.uniform(0.005, 0.3))
        with Database(path) as db:
            version = db.schema.version
            assert version >= max((int(line) for line in said if line.isdecimal()), default=0)
            assert list(db.admin.check()) == []
            table = ITEMS if version % 2 else BY_TEXT
            assert [one.migration.version for one in db.migration_records()] == list(range(1, version + 1))
            assert list(db.schema.table("items").indexes) == list(table.indexes)
            assert db.count(table) == ROWS + version - 2
            assert (db.get(table, version * 100_000) is not None) == (version > 2)
            if not version % 2:
                assert db.count(BY_TEXT.by_text) == ROWS + version - 2
            db.admin.rebuild()
