"""A disk on which any one write or sync fails: the database is whole before and after, and nothing is lost.

The disk is a preloaded library (disk.c), of which the store knows nothing.
"""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from everlog.store.database import Database
from tests.crash import disk
from tests.store.models import ITEMS, items, open_flights

ROOT = Path(__file__).parents[2]
CALLS_MAX = 200
USUAL, SOME = 50, 2  # without the full time, only some of them

SCRIPT = """
import json, sys
from everlog.store.database import Database
from everlog.store.errors import Error
from tests.crash.test_kill_creating import BY_TEXT
from tests.store.models import *
acknowledged, refused, said = [], [], []
def step(what, number=None):
    try:
        what()
        acknowledged.append(number)
    except Error as error:
        said.append(f"{type(error).__name__}: {error}")
        if getattr(error, "outcome", "") == "nothing written":
            refused.append(number)
try:
    with Database(sys.argv[1]) as db:
        for number in range(100, 130):
            step(lambda: db.put(ITEMS, Item(id=number)), number)
            if number == 110:
                step(db.admin.rebuild)
                try:
                    found = [row.id for row in db.scan(ITEMS, start=100)]
                    assert {one for one in acknowledged if one} <= set(found), (found, acknowledged)
                    assert not set(found) & set(refused), (found, refused)
                except Error as error:
                    said.append(f"{type(error).__name__}: {error}")
            if number == 120:
                step(lambda: declare(db, BY_TEXT))
            if number == 125:
                step(lambda: (db.tables.flush(), db.engine.flush()))
except Error as error:
    said.append(f"{type(error).__name__}: {error}")
print(json.dumps([[one for one in acknowledged if one], [one for one in refused if one], said]))
"""


@pytest.mark.skipif(disk.library() is None, reason=disk.NO_COMPILER)
@pytest.mark.parametrize(
    "error", [errno.ENOSPC, *(pytest.param(one, marks=pytest.mark.long) for one in (errno.EIO, errno.EDQUOT))]
)
@pytest.mark.parametrize("what", ["write", "sync"])
@pytest.mark.timeout(0)
def test_whichever_call_fails_what_was_acknowledged_is_there_and_the_rest_is_not(
    tmp_path: Path, what: str, error: int
) -> None:
    seed = int(os.environ.get("EVERLOG_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    print(f"EVERLOG_SEED={seed}")  # noqa: T201  shown where it fails
    some = random.Random(seed).sample(range(1, USUAL), SOME)
    for nth in range(1, CALLS_MAX) if os.environ.get("EVERLOG_TORTURE_S") else some:
        path = tmp_path / f"{what}-{nth}"
        with open_flights(path, ITEMS) as db:
            db.load(ITEMS, items(0, 50))
        environment = os.environ | disk.nth_failing(path, what, nth, 1, error)
        command = [sys.executable, "-c", SCRIPT, str(path)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, env=environment)
        assert done.returncode == 0, (nth, done.stderr)
        acknowledged, refused, said = json.loads(done.stdout)
        with Database(path) as db:
            assert list(db.admin.check()) == [], (nth, said)
            found = {row.id for row in db.scan(ITEMS, start=100)}
            assert set(acknowledged) <= found, (nth, said)
            assert not found & set(refused), (nth, said)
            assert db.count(ITEMS, end=100) == 51
        if not said and nth > USUAL:
            break  # there are fewer calls than this
