"""Processes that are killed again and again while they build online."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from everlog import migrations
from everlog.store.database import Database
from tests.migrations import apply_and_be_killed
from tests.migrations.project import Project
from tests.migrations.test_online import Airports

ROWS = 6000
KILLS_MAX = 30
SLICES = (2, 16)  # the number of slices that a process may build before it is killed; later more
RATE = "20000"  # a slice has 80 rows then


def heard(path: Path, project: Project, way: str, slices: int, after_s: float) -> Iterator[str]:
    """Return the output of a process that is killed `after_s` seconds after it may build the last slice."""
    command = [sys.executable, apply_and_be_killed.__file__, str(path), str(project.path), RATE, way]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith("\n"):
                yield line.strip()
            if line.startswith("rows ") and slices > 0:
                slices -= 1
                process.stdin.write("continue\n")
                if slices == 0:
                    threading.Timer(after_s, process.kill).start()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["up", pytest.param("down", marks=pytest.mark.long)])
def test_killed_anywhere_it_goes_on_where_it_was_and_loses_nothing(
    project: Project, tmp_path: Path, way: str
) -> None:
    path, chance = tmp_path / "killed", random.Random(7)
    with Database(path) as db:
        airports = Airports(project, db, ROWS)
        if way == "down":
            migrations.apply(db, project.path)
    written: dict[str, str] = {}
    reached = kills = 0
    for _ in range(KILLS_MAX):
        slices = chance.randint(*SLICES) * (1 + kills // 4)
        said = list(heard(path, project, way, slices, after_s=chance.uniform(0, 0.01)))
        starts = [int(line.split()[1]) for line in said if line.startswith("rows ")]
        if starts:
            assert starts[0] > reached * 0.5, "it began from zero"
            reached = max(starts)
        for line in said:
            if line.startswith("wrote "):
                _, key, number = line.split()
                written[key] = number
        if said and said[-1] == "done":
            break
        kills += 1
    else:
        pytest.fail(f"it was not done after {kills} kills")
    assert kills > 2
    with Database(path) as db:
        table = airports.new if way == "up" else airports.old
        assert not db.schema.is_online
        assert len(migrations.apply(db, project.path, to=db.schema.version)) == 0
        assert list(db.admin.check()) == []
        assert db.count(table) == ROWS
        for key, number in written.items():
            row = db.get(table, key)
            assert row is not None
            first, last = (row.first, row.last) if way == "up" else row.name.split()
            assert first == "Jane"
            assert int(last) >= int(number)
        hashes = db.admin.hashes()
        assert db.admin.rebuild_into(tmp_path / "proof") == hashes
