"""SIGKILL during a backup under load, and during a restore: the backup is complete, if shorter, and the next
one continues it; the restored directory is a complete database, or not a database.

`EVERLOG_TORTURE_S=600` runs for that time; otherwise there are a few kills.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from everlog.audit import backup, restore, verify_backup
from everlog.audit import manifest as manifests
from everlog.audit.place import place
from everlog.store.database import Database
from everlog.store.errors import OpenError
from tests.store.models import ITEMS, items, open_flights

KILLS = 4
ROOT = Path(__file__).parents[2]
WORK = """
import sys, threading
from itertools import count
from everlog.audit import backup, restore
from tests.store.models import *
db, to = Database(Path(sys.argv[1])), Path(sys.argv[2])
first = 1 + max((row.id for row in db.scan(ITEMS)), default=0)
def write() -> None:
    for number in count(first, 200):
        if number % 3:
            db.put(ITEMS, *items(number, number, "x" * 4000))
        else:
            db.load(ITEMS, items(number, number + 199))
threading.Thread(target=write, daemon=True).start()
print("ready", flush=True)
for number in count():
    if sys.argv[3] == "backup":
        backup(db, to)
    else:
        restore(to, to.with_name(f"restored-{number}-{first}"))
"""


def killed(db: Path, to: Path, what: str, after_s: float) -> None:
    command = [sys.executable, "-c", WORK, str(db), str(to), what]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        timer = threading.Timer(after_s, process.send_signal, [signal.SIGKILL])
        timer.start()
        process.stdout.read()
        timer.join()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.long
@pytest.mark.timeout(0)
def test_a_backup_survives_kills_and_goes_on(tmp_path: Path) -> None:
    path, to = tmp_path / "db", tmp_path / "backup"
    open_flights(path, ITEMS).close()
    chance, last, kills = random.Random(), 0, 0
    until = time.monotonic() + float(os.environ.get("EVERLOG_TORTURE_S", "0"))
    while kills < KILLS or time.monotonic() < until:
        killed(path, to, "backup", chance.uniform(0.02, 0.6))
        kills += 1
        if to.exists() and (known := manifests.read(place(to))) is not None:
            assert known.head.seq >= last
            left = [problem for problem in verify_backup(to) if "a killed backup left it" not in problem]
            assert left == []
        with Database(path) as db:
            last = backup(db, to).last
            assert last == db.head
            assert list(verify_backup(to, deep=True)) == []


@pytest.mark.long
@pytest.mark.timeout(0)
def test_a_restore_that_is_killed_leaves_no_database_or_a_whole_one(tmp_path: Path) -> None:
    path, to = tmp_path / "db", tmp_path / "backup"
    chance = random.Random()
    with open_flights(path, ITEMS) as db:
        db.load(ITEMS, items(1, 3000))
        expected, head = db.admin.hashes(), backup(db, to).last
    for _ in range(KILLS):
        killed(path, to, "restore", chance.uniform(0.02, 0.6))
    for found in tmp_path.glob("restored-*"):
        try:
            with Database(found, create=False) as copy:
                assert (copy.head, copy.admin.hashes()) == (head, expected)
                assert list(copy.admin.check()) == []
        except OpenError as error:
            said = str(error)
            assert "was killed" in said or "there is no database" in said
            assert restore(to, found).tables == expected
