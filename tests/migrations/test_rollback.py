import os
import subprocess
import sys
from pathlib import Path

import pytest

from everlog import MigrationError, UniqueError, migrations
from everlog.migrations import MigrationInfo, State
from everlog.proto import log_pb2
from everlog.store.database import Database
from tests.migrations import apply_and_die
from tests.migrations.project import Project
from tests.migrations.test_status import states

JFK = {"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\nEWR,Newark\n"}
CITY = {"bootstrap_airports.csv": "faa,name,city\nLGA,LaGuardia,New York\n"}
WITH_CITY = "string faa = 1; string name = 2; string city = 3;"
INDEXED = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME),))'
UNIQUE = INDEXED.replace("NAME)", "NAME, unique=True)")
DEADLY_POINTS = 30  # more points than two rollbacks have
# Every third one, or with more time (CONTRIBUTING.md) each one.
EACH = 1 if os.environ.get("EVERLOG_TORTURE_S") else 3


@pytest.fixture
def two(project: Project, db: Database) -> Project:
    """Return a table with two rows, to which a migration added a field, an index and a row."""
    project.add("one", files=JFK)
    project.add("two", fields=WITH_CITY, table=INDEXED, files=CITY)
    migrations.apply(db, project.build().path)
    return project


def index_ids(db: Database) -> list[int]:
    return [index.id for index in db.schema.tables["airports"].proto.indexes]


def test_the_last_migration_is_rolled_back_by_one_record_and_is_pending_again(
    two: Project, db: Database
) -> None:
    before, head = db.schema_at(2), db.head
    told: list[MigrationInfo] = []
    done = migrations.rollback(db, actor="ann", reason="a slip", rolled_back=told.append)
    assert told == done
    assert [(info.name, info.state, info.seq) for info in done] == [("two", State.PENDING, head + 1)]
    commit = db.log.commit(head + 1)
    assert (db.head, commit.actor, commit.reason) == (head + 1, "ann", "a slip")
    assert (commit.migration.step, commit.migration.version) == (
        log_pb2.Migration.ROLLED_BACK,
        20260101000001,
    )
    assert commit.schema == db.schema.version == before.version
    assert db.schema.proto.models == before.models
    assert states(db, two) == [State.APPLIED, State.PENDING]


def test_rows_stay_and_values_of_a_field_come_back_with_it(two: Project, db: Database) -> None:
    old, new = (migration.tables[0] for migration in two.load())
    migrations.rollback(db)
    assert [row.faa for row in db.scan(old)] == ["EWR", "JFK", "LGA"]
    db.put(old, old.model(faa="LGA", name="written again"))
    migrations.apply(db, two.path)
    assert [row.city for row in db.scan(new)] == ["", "", "New York"]  # loaded by the bootstrap again
    assert [row.faa for row in db.scan(new.by_name, "Newark")] == ["EWR"]


def test_numbers_are_never_used_twice(two: Project, db: Database) -> None:
    assert index_ids(db) == [1]
    migrations.rollback(db)
    migrations.apply(db, two.path)
    assert index_ids(db) == [2]
    (table,) = db.schema.proto.tables
    migrations.rollback(db, 2)
    assert not db.schema.tables
    migrations.apply(db, two.path)
    (again,) = db.schema.proto.tables
    assert again.id > table.id
    assert again.space > table.space


def test_a_dropped_table_comes_back_empty_and_its_history_goes_on_back(
    project: Project, db: Database
) -> None:
    project.add("one", files=JFK)
    project.add("two", table=INDEXED)
    code = project.add("three", drop=', drop=["airports"]') / "__init__.py"
    text = code.read_text().replace('"airports",', '"others",', 1).replace("AIRPORTS = ", "OTHERS = ")
    code.write_text(text.replace("[AIRPORTS]", "[OTHERS]"))
    migrations.apply(db, project.build().path)
    first, second, _ = (migration.tables[0] for migration in project.load())
    (planned,) = migrations.plan_rollback(db)
    assert [step.text for step in planned.steps] == [
        "drop table others with its 0 rows",
        "create table airports again, empty; the log keeps its old rows",
    ]
    migrations.rollback(db)
    assert db.count(second) == 0
    db.put(second, second.model(faa="BOS", name="Logan"))
    migrations.rollback(db)  # the table now has an id that differs from the one in the log
    assert [row.faa for row in db.scan(first)] == ["BOS"]
    assert not db.schema.tables["airports"].indexes
    migrations.rollback(db)
    assert not db.schema.tables


def test_a_plan_says_what_would_be_done_and_lost_and_does_nothing(two: Project, db: Database) -> None:
    head = db.head
    planned = migrations.plan_rollback(db, to=0)
    assert db.head == head
    assert [one.title for one in planned] == ["20260101000001_two", "20260101000000_one"]
    assert [step.text for step in planned[0].steps] == [
        "restore the model of airports: remove city",
        "drop index airports.by_name",
        "keep 1 row of airports from the migration's bootstrap data",
    ]
    (lost,) = planned[0].lost
    assert lost.startswith("airports.city, which has a value in 1 row: it is no longer read")
    assert [step.text for step in planned[1].steps] == ["drop table airports with its 3 rows"]
    assert planned[1].lost == ["3 rows of table airports, which is dropped; the log keeps them"]


def test_an_index_that_was_dropped_is_built_again(project: Project, db: Database) -> None:
    project.add("one", table=UNIQUE, files=JFK)
    project.add("two", drop=', drop=["airports.by_name"]')
    migrations.apply(db, project.build().path)
    old, new = (migration.tables[0] for migration in project.load())
    (planned,) = migrations.plan_rollback(db)
    assert [(step.text, step.instant) for step in planned.steps] == [
        ("build unique index airports.by_name again over 2 rows, while writers wait", False)
    ]
    db.put(new, new.model(faa="XXX", name="Newark"))
    with pytest.raises(UniqueError, match="the same name"):
        migrations.rollback(db)
    assert states(db, project) == [State.APPLIED, State.APPLIED]
    db.delete(new, "XXX")
    migrations.rollback(db)
    assert [row.faa for row in db.scan(old.by_name, "Newark")] == ["EWR"]
    assert index_ids(db) == [2]


def test_a_field_that_became_wider_has_no_way_back(project: Project, db: Database) -> None:
    project.add("one", fields="string faa = 1; string name = 2; int32 alt = 3;")
    project.add("two", fields="string faa = 1; string name = 2; int64 alt = 3;")
    migrations.apply(db, project.build().path)
    head = db.head
    for call in (migrations.plan_rollback, migrations.rollback):
        with pytest.raises(MigrationError, match=r"airports\.alt an int64; restored to int32"):
            call(db, 2)
    assert db.head == head


def test_it_goes_back_to_a_version_without_any_folder(project: Project, db: Database) -> None:
    for name in ("one", "two", "three"):
        project.add(name)
    migrations.apply(db, project.build().path)
    for folder in project.folders:
        folder.rename(project.path.parent / folder.name)
    done = migrations.rollback(db, to=20260101000000)
    assert [info.name for info in done] == ["three", "two"]
    assert db.schema.version == 20260101000000
    assert migrations.rollback(db, to=20260101000000) == []
    with pytest.raises(
        MigrationError, match="20260101000001 is not applied, so the database cannot return to it"
    ):
        migrations.rollback(db, to=20260101000001)
    migrations.rollback(db, to=0)
    with pytest.raises(MigrationError, match="expected 1 applied migration to roll back, but none is"):
        migrations.rollback(db)


def test_the_tables_are_rebuilt_from_the_log_across_a_rollback(
    two: Project, db: Database, tmp_path: Path
) -> None:
    migrations.rollback(db)
    migrations.apply(db, two.path)
    migrations.rollback(db)
    live = db.admin.hashes()
    assert db.admin.rebuild_into(tmp_path / "again") == live


@pytest.mark.long
@pytest.mark.timeout(300)
def test_killed_at_any_point_each_return_is_there_in_whole_or_not_at_all(
    project: Project, tmp_path: Path
) -> None:
    project.add("one", table=UNIQUE, files=JFK)
    project.add("two", fields=WITH_CITY, drop=', drop=["airports.by_name"]', files=CITY)
    first = project.build().load()[0].tables[0]
    seen = set()
    for point in range(0, DEADLY_POINTS, EACH):
        path = tmp_path / f"db-{point}"
        with Database(path) as db:
            migrations.apply(db, project.path)
        command = [sys.executable, apply_and_die.__file__, str(path), "", str(point), "rollback"]
        died = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert died.returncode in (-9, 0), died.stderr
        with Database(path) as db:
            applied = states(db, project).count(State.APPLIED)
            assert db.schema.version == (0, 20260101000000, 20260101000001)[applied]
            assert (db.count(first) if applied else 0) == (0, 3, 3)[applied]
            assert list(db.admin.check()) == []
            migrations.apply(db, project.path)
            assert db.count(first) == 3
            assert list(db.admin.check()) == []
        seen.add(applied)
        if died.returncode == 0:
            break
    else:
        pytest.fail(f"{DEADLY_POINTS} points are not all")
    assert seen == {0, 1, 2}
