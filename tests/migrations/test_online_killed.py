"""Processes that are killed while they build beside the live tables, again and again."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from everlog import migrations
from everlog.store.database import Database
from tests.migrations import apply_and_be_killed
from tests.migrations.project import Project
from tests.migrations.test_online import Airports

KILLS_MAX = 30
LINES = (20, 120)  # so many lines of a process are heard before it is killed; later more


def heard(path: Path, project: Project, lines: int) -> Iterator[str]:
    """What a process says, until it is killed after so many lines (0: never)."""
    command = [sys.executable, apply_and_be_killed.__file__, str(path), str(project.path), "20000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for number, line in enumerate(process.stdout, 1):
            if line.endswith("\n"):
                yield line.strip()
            if number == lines:
                process.kill()


@pytest.mark.timeout(300)
def test_killed_anywhere_it_goes_on_where_it_was_and_loses_nothing(project: Project, tmp_path: Path) -> None:
    path, chance = tmp_path / "killed", random.Random(7)
    with Database(path) as db:
        airports = Airports(project, db, 6000)
    written: dict[str, str] = {}
    reached = kills = 0
    for _ in range(KILLS_MAX):
        said = list(heard(path, project, chance.randint(*LINES) * (1 + kills // 4)))
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
        assert migrations.apply(db, project.path) == []
        assert list(db.check()) == []
        assert db.count(airports.new) == 6000
        for key, number in written.items():
            row = db.get(airports.new, key)
            assert row is not None
            assert row.first == "Jane"
            assert int(row.last) >= int(number)
        hashes = db.hashes()
        assert db.rebuild_into(tmp_path / "proof") == hashes
