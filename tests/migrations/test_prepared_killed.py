"""Orders about a decision that are killed at each of their writes."""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from everlog import migrations
from everlog.migrations import DecisionState
from everlog.migrations.in_progress import attach
from everlog.migrations.prepared import decision
from everlog.store.database import Database
from tests.migrations import decide_and_be_killed
from tests.migrations.decide_and_be_killed import DECISION
from tests.migrations.project import Project
from tests.migrations.test_online import Airports
from tests.migrations.test_prepared import on_disk

ROOT = Path(__file__).parents[2]
ROWS = 200
POINTS_MAX = 60


@contextmanager
def orders(source: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", decide_and_be_killed.__name__, str(source)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def killed(process: subprocess.Popen[str], path: Path, order: str, point: str) -> bool:
    """Give an order in another process; return whether it was killed. It must not fail otherwise."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{path} {order} {point}\n")
    process.stdin.flush()
    status = int(process.stdout.readline())
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "order", ["prepare", *(pytest.param(order, marks=pytest.mark.long) for order in ("commit", "abort"))]
)
@pytest.mark.parametrize(
    ("call", "side"),
    [
        ("log write", "after"),
        *(
            pytest.param(call, side, marks=pytest.mark.long)
            for call, side in itertools.product(
                ("log write", "sync", "projection", "flush", "migration"), ("before", "after")
            )
            if (call, side) != ("log write", "after")
        ),
    ],
)
def test_an_order_that_is_killed_has_no_effect_or_its_whole_effect(
    project: Project, tmp_path: Path, order: str, call: str, side: str
) -> None:
    with Database(tmp_path / "base") as db:
        airports = Airports(project, db, ROWS)
        before, hashes = on_disk(db), db.admin.hashes()
        if order != "prepare":
            migrations.prepare(db, DECISION, project.path, fence=3)
    kills = 0
    with orders(project.path) as process:
        for nth in range(1, POINTS_MAX):
            path = tmp_path / f"killed-{nth}"
            shutil.copytree(tmp_path / "base", path)
            if not killed(process, path, order, f"{call}, {side}, {nth}"):
                break
            kills += 1
            with Database(path) as db:
                assert list(db.admin.check()) == []
                found = decision(db, DECISION)
                attach(db, project.load())
                if order == "prepare":
                    assert found is None or found.state in {DecisionState.PREPARING, DecisionState.PREPARED}
                    assert db.get(airports.old, "A00005") == airports.old_row(5)
                    if found is not None and nth % 2:
                        migrations.abort_prepared(db, DECISION)
                    else:
                        db.put(airports.old, airports.old_row(5, "Jane"))
                        migrations.prepare(db, DECISION, project.path)
                        db.put(airports.old, airports.old_row(6, "Jane"))
                        migrations.commit_prepared(db, DECISION)
                elif order == "commit":
                    assert found is not None
                    assert found.state in {DecisionState.PREPARED, DecisionState.COMMITTED}
                    migrations.commit_prepared(db, DECISION, fence=3)
                else:
                    assert found is not None
                    assert found.state in {DecisionState.PREPARED, DecisionState.ABORTED}
                    migrations.abort_prepared(db, DECISION, fence=3)
                found = decision(db, DECISION)
                assert found is not None
                if found.state is DecisionState.ABORTED:
                    assert (on_disk(db), db.admin.hashes()) == (before, hashes)
                    assert db.count(airports.old) == ROWS
                else:
                    assert found.state is DecisionState.COMMITTED
                    assert db.count(airports.new) == ROWS
                    assert db.count(airports.new.by_first, "Jane") == (2 if order == "prepare" else 0)
                assert list(db.admin.check()) == []
                assert db.admin.rebuild_into(tmp_path / f"proof-{nth}") == db.admin.hashes()
            shutil.rmtree(path)
            shutil.rmtree(tmp_path / f"proof-{nth}")
        else:
            pytest.fail(f"it was killed {kills} times, and not done")
    assert kills or call in {"flush", "projection"}
