"""SIGKILL at any moment: every acknowledged commit is present, none is partial.

`EVERLOG_TORTURE_S=600` runs for that time in each mode; otherwise there are a few kills.
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

from everlog.store.database import Database
from tests.crash.writer import PAIR
from tests.store.models import ITEMS, open_flights

KILLS = 3
ROOT = Path(__file__).parents[2]


def killed(path: Path, mode: str, first: int, after_s: float, *, after_one: bool) -> list[int]:
    """Run a writer that is killed after some time, or some time after its first commit; return its
    acknowledged commits.
    """
    command = [sys.executable, "-m", "tests.crash.writer", str(path), mode, str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "-1\n"  # it has opened the database
        said = [process.stdout.readline()] if after_one else []
        timer = threading.Timer(after_s, process.send_signal, [signal.SIGKILL])
        timer.start()
        said += process.stdout.read().splitlines(keepends=True)
        timer.join()
    assert process.returncode == -signal.SIGKILL
    return [int(line) for line in said if line.endswith("\n")]


@pytest.mark.parametrize(
    "mode",
    [
        "sync",
        "threads",
        pytest.param("rebuild", marks=pytest.mark.long),
        pytest.param("os", marks=pytest.mark.long),
        pytest.param("load", marks=pytest.mark.long),
    ],
)
@pytest.mark.timeout(0)
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "db"
    open_flights(path, ITEMS).close()
    chance, acknowledged, first, kills = random.Random(), set[int](), 1, 0
    until = time.monotonic() + float(os.environ.get("EVERLOG_TORTURE_S", "0"))
    while kills < KILLS or time.monotonic() < until:
        after_s, after_one = chance.uniform(0.05, 0.8), kills % 2 == 0
        acknowledged.update(killed(path, mode, first, after_s, after_one=after_one))
        kills += 1
        with Database(path) as db:
            assert list(db.admin.check()) == []
            found = {row.id for row in db.scan(ITEMS)}
            if mode == "load":
                assert {number * 10_000 for number in acknowledged} <= found
                assert all(number * 10_000 + 2999 in found for number in acknowledged)
            else:
                assert acknowledged <= found
                assert {one ^ PAIR for one in found} == found, "a transaction is there in half"
            first = max((one % PAIR // (10_000 if mode == "load" else 1) for one in found), default=0) + 1
            if mode == "rebuild":
                assert db.admin.rebuild()["items"].rows == len(found)
    assert acknowledged
