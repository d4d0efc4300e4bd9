"""Power failures: data that was only in the operating system's memory may be lost, from the end and never in
between.

A copy of the files represents the disk, with its write-ahead log truncated somewhere after the last sync.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from everlog.audit.archived import attach
from everlog.store.database import Database
from tests.crash import disk
from tests.crash.test_kill_creating import campaign
from tests.store.models import ITEMS, Item, open_flights

ROOT = Path(__file__).parents[2]

DIES = """
import os, signal, sys
from everlog.audit import archive
from tests.store.models import *
under = Path(sys.argv[1])
db = open_flights(under / "new" / "db", ITEMS)
for number in range(20):
    db.put(ITEMS, Item(id=number))
if sys.argv[2] == "archived":
    archive(db, under / "other" / "archive")
db.log.write_head_file(sync=False)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(disk.library() is None, reason=disk.NO_COMPILER)
@pytest.mark.parametrize("what", ["made", "archived"])
@pytest.mark.parametrize("seed", range(2))
def test_what_was_made_is_there_under_its_name_and_whole(tmp_path: Path, seed: int, what: str) -> None:
    under, synced = tmp_path / "under", tmp_path / "synced"
    under.mkdir()
    environment = os.environ | disk.telling(under, synced)
    died = subprocess.run(
        [sys.executable, "-c", DIES, str(under), what], check=False, cwd=ROOT, env=environment
    )
    assert died.returncode == -signal.SIGKILL
    disk.lose(under, synced, random.Random(seed))
    with Database(under / "new" / "db", create=False) as db:
        attach(db)
        assert db.count(ITEMS) == 20
        assert [seq for seq, _ in db.log.scan()] == list(range(1, db.head + 1))
        assert list(db.admin.check()) == []
        assert (db.log.trimmed.base > 0) == (what == "archived")


def newest_log(path: Path) -> Path:
    return max((path / "db").glob("*.log"), key=lambda file: int(file.stem))


@pytest.mark.timeout(0)
def test_what_was_synced_is_there_and_the_rest_is_lost_from_its_end(tmp_path: Path) -> None:
    for turn in campaign(8):
        chance = random.Random(turn)
        path = tmp_path / "db"
        db = open_flights(path, ITEMS, durability="os")
        for number in range(chance.randrange(1, 300)):
            db.put(ITEMS, Item(id=number, text="x" * chance.randrange(300)))
        synced = db.put(ITEMS, Item(id=1000), durability="sync").seq
        log, size = newest_log(path), newest_log(path).stat().st_size
        for number in range(chance.randrange(1, 300)):
            with db.transaction() as tx:
                for part in range(chance.randrange(1, 5)):
                    tx.put(ITEMS, Item(id=2000 + number * 10 + part, text="y" * chance.randrange(300)))
            if not chance.randrange(100):
                db.tables.flush()
        shutil.rmtree(tmp_path / "disk", ignore_errors=True)
        shutil.copytree(path, tmp_path / "disk")
        records = [db.log.get(seq) for seq in range(1, db.log.written + 1)]
        db.close()
        shutil.rmtree(path)

        (cut,) = (tmp_path / "disk" / "db").glob(log.name)
        with cut.open("r+b") as file:
            file.truncate(chance.randint(size, cut.stat().st_size))
        with Database(tmp_path / "disk") as after:
            assert list(after.admin.check()) == []
            assert synced <= after.head <= len(records)
            assert [after.log.get(seq) for seq in range(1, after.head + 1)] == records[: after.head]
            for number in range(300):
                parts = after.count(ITEMS, start=2000 + number * 10, end=2010 + number * 10)
                assert not parts or after.get(ITEMS, 2000 + number * 10) is not None
            after.admin.rebuild()
