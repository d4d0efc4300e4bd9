"""Large bootstrap data, which does not fit into one record: loaded before the record, all or nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from everlog import MigrationError, SchemaError, migrations
from everlog.migrations import State
from everlog.store.database import Database
from tests.migrations import seed_and_be_killed
from tests.migrations.project import Project

ROWS, WIDE = 3000, 3100  # more than one record can contain
INDEXED = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME, unique=True),))'


def csv(rows: int = ROWS, *, first: int = 0) -> str:
    lines = (f"A{number:05},{number:06}{'x' * WIDE}" for number in range(first, first + rows))
    return "faa,name\n" + "\n".join(lines) + "\n"


@pytest.fixture
def seeded(project: Project) -> Project:
    """Return two migrations: the first creates a table, the second one with more rows than a record can
    contain.
    """
    one = project.add("zero", fields="string faa = 1; string name = 2;")
    for name in ("__init__.py", "model.proto"):
        text = (one / name).read_text().replace('"airports"', '"others"').replace("Airport", "Other")
        (one / name).write_text(
            text.replace("string name", "bytes name").replace('"name", 2, STRING', '"name", 2, BYTES')
        )
    project.add("one", table=INDEXED, files={"bootstrap_airports.csv": csv()})
    return project.build()


@pytest.mark.long
def test_a_dry_run_and_the_run_agree_and_a_rebuild_makes_the_same(seeded: Project, db: Database) -> None:
    assert [one.text for one in migrations.lint(seeded.path, db) if str(one.severity) == "error"] == []
    (*_, last) = migrations.plan(db, seeded.path, try_rows=True)[-1].steps
    assert (
        last.text
        == f"put {ROWS:,} bootstrap rows into airports, in several records, before the table becomes readable"
    )
    migrations.apply(db, seeded.path)
    table = seeded.load()[1].tables[0]
    assert db.count(table) == ROWS
    assert [row.faa for row in db.scan(table.by_name, starts_with="000042")] == ["A00042"]
    assert migrations.apply(db, seeded.path) == []
    sources = db.migration_records()[-1].migration.sources
    assert [len(file.digest) for file in sources if file.path == "bootstrap_airports.csv"] == [32]
    code = seeded.folders[1] / "__init__.py"
    code.write_text(code.read_text() + "# a remark\n")
    assert [one.state for one in migrations.status(db, seeded.path)] == [State.APPLIED] * 2
    rows = seeded.folders[1] / "bootstrap_airports.csv"
    rows.write_text(rows.read_text().replace("A00001,", "A0000x,"))
    assert migrations.status(db, seeded.path)[1].state is State.EDITED
    db.admin.rebuild()
    assert db.count(table) == ROWS
    migrations.rollback(db)
    assert [*db.schema.tables] == ["others"]


@pytest.mark.long
def test_killed_half_way_it_goes_on_and_nobody_reads_a_part(seeded: Project, tmp_path: Path) -> None:
    path = tmp_path / "killed"
    command = [sys.executable, seed_and_be_killed.__file__, str(path), str(seeded.path)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        assert child.stdin is not None
        first = int(child.stdout.readline())
        child.stdin.write("\n")
        child.stdin.flush()
        assert int(child.stdout.readline()) > first
        child.kill()
    table = seeded.load()[1].tables[0]
    with Database(path) as db:
        head = db.head
        with pytest.raises(SchemaError):
            db.count(table)
        assert [one.state for one in migrations.status(db, seeded.path)] == [State.APPLIED, State.BUILDING]
        migrations.apply(db, seeded.path)
        assert db.count(table) == ROWS
        assert db.head - head < 23  # existing rows were not loaded again
        assert list(db.admin.check()) == []


def test_rows_that_a_unique_index_refuses_leave_nothing(seeded: Project, db: Database) -> None:
    rows = seeded.folders[1] / "bootstrap_airports.csv"
    rows.write_text(f"{rows.read_text()}B,{0:06}{'x' * WIDE}\n")
    (*_, problem) = migrations.plan(db, seeded.path, try_rows=True)[-1].steps
    assert problem.problem
    with pytest.raises(MigrationError, match="the bootstrap data has"):
        migrations.apply(db, seeded.path)
    assert [*db.schema.tables] == ["others"]
    assert not db.schema.building
