"""SIGKILL while old records are archived under load: every record is in the log, in the archive, or in both,
and no record that a consumer lacks is removed, although its bookmark may be behind.

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

from everlog.audit import archive, verify_backup
from everlog.audit import manifest as manifests
from everlog.audit.archived import attach
from everlog.audit.place import place
from everlog.store.database import Database
from tests.store.models import ITEMS, items, open_flights

KILLS = 5
ROOT = Path(__file__).parents[2]
WORK = """
import os, signal, sys, threading
from itertools import count
from everlog.audit import archive
from everlog.audit.archived import attach
from everlog.store.rocks.engine import Engine
from tests.store.models import *
db, to, point = Database(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3]
attach(db)
first = 1 + max((row.id for row in db.scan(ITEMS)), default=0)
def write() -> None:
    for number in count(first):
        db.put(ITEMS, *items(number, number, "x" * 500))
        print(number, flush=True)
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if point == "before removal":
    Engine.trim = die
elif point == "after removal":
    Engine.compact_log = die
print("ready", flush=True)
threading.Thread(target=write, daemon=True).start()
for number in count():
    archive(db, to, keep_records=20)
"""


FOLLOWED = """
import sys, threading
from itertools import count
from everlog.audit import Retention
from everlog.audit.archived import attach
from tests.store.models import *
db, to = Database(Path(sys.argv[1])), Path(sys.argv[2])
attach(db)
me = db.consumers.register("mirror")
first = 1 + max((row.id for row in db.scan(ITEMS)), default=0)
def write() -> None:
    for number in count(first):
        db.put(ITEMS, *items(number, number, "x" * 500))
print("ready", flush=True)
threading.Thread(target=write, daemon=True).start()
Retention(db, to, every_s=0, look_s=0.01).start()
while True:
    position = db.cursor()
    print(position.seq, flush=True)  # it has it durably
    db.consumers.bookmark(me, position)
"""


def killed(db: Path, to: Path, point: str, after_s: float, work: str = WORK) -> list[int]:
    """Return the numbers whose commits were acknowledged, or of records that a consumer has."""
    command = [sys.executable, "-c", work, str(db), str(to), point]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        timer = threading.Timer(after_s if point == "any" else 60, process.send_signal, [signal.SIGKILL])
        timer.start()
        said = process.stdout.read().splitlines(keepends=True)
        timer.cancel()
        timer.join()
    assert process.returncode == -signal.SIGKILL
    return [int(line) for line in said if line.endswith("\n")]


@pytest.mark.long
@pytest.mark.timeout(0)
def test_no_record_is_lost_when_archiving_is_killed(tmp_path: Path) -> None:
    path, to = tmp_path / "db", tmp_path / "archive"
    with open_flights(path, ITEMS) as db:
        for row in items(1, 30):
            db.put(ITEMS, row)
    chance, acknowledged, kills = random.Random(), set(range(1, 31)), 0
    until = time.monotonic() + float(os.environ.get("EVERLOG_TORTURE_S", "0"))
    points = ["before removal", "after removal"]
    while kills < KILLS or time.monotonic() < until:
        point = points.pop() if points else "any"
        acknowledged.update(killed(path, to, point, chance.uniform(0.05, 1.0)))
        kills += 1
        if to.exists() and manifests.read(place(to)) is not None:
            left = [problem for problem in verify_backup(to) if "a killed backup left it" not in problem]
            assert left == []
        with Database(path) as db:
            attach(db)
            assert list(db.admin.check()) == []
            assert acknowledged <= {row.id for row in db.scan(ITEMS)}
            assert [seq for seq, _ in db.log.scan()] == list(range(1, db.head + 1))
            assert db.admin.rebuild() == db.admin.hashes()
    with Database(path) as db:
        archive(db, to, keep_records=1)
        assert db.admin.rebuild() == db.admin.hashes()
        assert list(verify_backup(to, deep=True)) == []


@pytest.mark.timeout(0)
@pytest.mark.long
def test_a_bookmark_is_never_ahead_and_what_its_consumer_lacks_is_in_the_log(tmp_path: Path) -> None:
    path, to = tmp_path / "db", tmp_path / "archive"
    with open_flights(path, ITEMS) as db:
        for row in items(1, 30):
            db.put(ITEMS, row)
    chance, has, kills = random.Random(), 0, 0
    until = time.monotonic() + float(os.environ.get("EVERLOG_TORTURE_S", "0"))
    while kills < KILLS or time.monotonic() < until:
        has = max([has, *killed(path, to, "any", chance.uniform(0.3, 1.5), FOLLOWED)])
        kills += 1
        with Database(path) as db:
            attach(db)
            assert db.log.trimmed.base <= has
            (found,) = db.consumers
            assert found.position.seq <= has
            assert list(db.admin.check()) == []
            assert [seq for seq, _ in db.log.scan()] == list(range(1, db.head + 1))
    assert has > 30
    with Database(path) as db:
        attach(db)
        assert db.admin.rebuild() == db.admin.hashes()
        assert db.log.trimmed.base > 0
