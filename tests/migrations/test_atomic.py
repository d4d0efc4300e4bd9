import os
import subprocess
import sys
from pathlib import Path

import pytest

from everlog import migrations
from everlog.migrations import State
from everlog.store.database import Database
from tests.migrations import apply_and_die
from tests.migrations.project import Project

INDEXED = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME, unique=True),))'
ROWS = "faa,name\n" + "".join(f"{number},name {number}\n" for number in range(1, 501))
DEADLY_POINTS = 36  # more points than one migration has
# Every third one, or with more time (CONTRIBUTING.md) each one.
EACH = 1 if os.environ.get("EVERLOG_TORTURE_S") else 3


@pytest.mark.timeout(300)
def test_killed_at_any_point_a_migration_is_there_in_whole_or_not_at_all(
    project: Project, tmp_path: Path
) -> None:
    project.add("one", files={"bootstrap_airports.csv": ROWS})
    project.add("two", table=INDEXED, files={"bootstrap_airports.csv": "faa,name\nX,more\n"})
    old, table = (migration.tables[0] for migration in project.build().load())
    seen = set()
    for point in range(0, DEADLY_POINTS, EACH):
        path = tmp_path / f"db-{point}"
        command = [sys.executable, apply_and_die.__file__, str(path), str(project.path), str(point)]
        died = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert died.returncode in (-9, 0), died.stderr
        with Database(path) as db:
            states = [info.state for info in migrations.status(db, project.path)]
            rows = db.count(old) if db.schema.tables else 0
            indexed = db.count(table.by_name) if states[1] is State.APPLIED else 0
            assert (rows, indexed) == {0: (0, 0), 1: (500, 0), 2: (501, 501)}[states.count(State.APPLIED)]
            assert list(db.admin.check()) == []
            migrations.apply(db, project.path)
            assert db.count(table.by_name) == 501
            assert list(db.admin.check()) == []
        seen.add(states.count(State.APPLIED))
        if died.returncode == 0:
            break
    else:
        pytest.fail(f"{DEADLY_POINTS} points are not all")
    assert seen == {0, 1, 2}
