"""Rolling back finished migrations that rewrote rows, with `down`."""

from __future__ import annotations

from typing import Any

import pytest

from everlog import MigrationError, SchemaError, migrations
from everlog.migrations import State
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.online.backfill import built_rows
from everlog.store.progress import Progress
from tests.migrations.project import Project
from tests.migrations.test_online import ROWS, Airports


class StoppedError(Exception):
    pass


@pytest.fixture
def airports(project: Project, db: Database) -> Airports:
    made = Airports(project, db)
    migrations.apply(db, made.path)
    return made


def test_rows_go_back_through_down_and_up_again(airports: Airports) -> None:
    db = airports.db
    db.put(airports.new, airports.new_row(7, "Jane"))
    done = migrations.rollback(db, source=airports.path, actor="ann", reason="a slip")
    assert [(info.name, info.state) for info in done] == [("two", State.PENDING)]
    assert airports.steps()[-2:] == ["STARTED", "ROLLED_BACK"]
    assert [state.state for state in migrations.status(db, airports.path)] == [State.APPLIED, State.PENDING]
    names = ["John", "Jane"]
    assert list(db.scan(airports.old)) == [airports.old_row(n, names[n == 7]) for n in range(ROWS)]
    assert db.count(airports.old.by_name, "Jane 7 of many") == 1
    with pytest.raises(SchemaError, match="is newer; apply its migration first"):
        db.get(airports.new, "A00007")
    assert list(db.admin.check()) == []
    migrations.apply(db, airports.path)
    assert list(db.scan(airports.new)) == [airports.new_row(n, names[n == 7]) for n in range(ROWS)]
    assert db.admin.rebuild_into(db.path.parent / "again") == db.admin.hashes()


def test_clients_go_on_meanwhile_and_their_writes_go_through_down(airports: Airports) -> None:
    db, seen = airports.db, list[int]()

    def write(at: Progress) -> None:
        if "rewrite" in at.step:
            number = len(seen)
            db.put(airports.new, airports.new_row(ROWS - 1 - number, "Jane"))
            seen.append(number)

    migrations.rollback(db, source=airports.path, progress=write)
    assert len(seen) > 1
    for number in seen:
        row = ROWS - 1 - number
        assert db.get(airports.old, f"A{row:05}") == airports.old_row(row, "Jane")
    assert db.count(airports.old) == ROWS


def test_stopped_half_way_it_goes_on_and_an_apply_gives_it_up(airports: Airports) -> None:
    db, told = airports.db, list[int]()

    def stop(at: Progress) -> None:
        if "rewrite" in at.step:
            told.append(at.done)
            if len(told) == 2:
                raise StoppedError

    def roll_back(*, stopping: bool) -> None:
        migrations.rollback(db, source=airports.path, progress=stop if stopping else None)

    with pytest.raises(StoppedError):
        roll_back(stopping=True)
    (_, half) = migrations.status(db, airports.path)
    assert (half.state, airports.steps()[-1]) == (State.APPLIED, "STARTED")
    assert half.rolling_back
    assert half.rows == built_rows(db.core) > 0
    assert half.started_ns == db.migration_records()[-1].time_ns > half.applied_ns
    assert db.get(airports.new, "A00001") == airports.new_row(1)

    migrations.apply(db, airports.path)
    record = db.migration_records()[-1].migration
    assert (record.step, record.back) == (log_pb2.Migration.FAILED, True)
    assert "given up" in record.error
    assert [info.state for info in migrations.status(db, airports.path)] == [State.APPLIED, State.APPLIED]
    assert not any(info.rolling_back for info in migrations.status(db, airports.path))
    assert list(db.admin.check()) == []

    told.clear()
    with pytest.raises(StoppedError):
        roll_back(stopping=True)
    before = told[-1]
    migrations.rollback(db, source=airports.path, progress=lambda at: told.append(at.done))
    assert min(done for done in told[2:] if done) > before * 0.9
    assert db.count(airports.old) == ROWS
    assert list(db.admin.check()) == []


def test_a_row_that_down_does_not_take_leaves_the_migration_in_force(
    airports: Airports, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, transform = airports.db, project.load()[-1].transforms["airports"]
    down = transform.down
    assert down is not None

    def picky(row: Any) -> Any:
        if row.first == "":
            raise ValueError("no first name")
        return down(row)

    db.put(airports.new, airports.new.model(faa="ZZZ", last="Lee"))
    with monkeypatch.context() as patched:
        patched.setattr(transform, "down", picky)
        with pytest.raises(
            MigrationError, match=r"`down` of table airports fails .*airports/ZZZ.*no first name"
        ):
            migrations.rollback(db, source=airports.path)
    assert migrations.status(db, airports.path)[-1].state is State.APPLIED
    assert db.migration_records()[-1].migration.step == log_pb2.Migration.FAILED
    assert db.get(airports.new, "A00001") == airports.new_row(1)
    assert not db.schema.building
    assert list(db.admin.check()) == []


def test_without_its_folder_as_it_was_it_is_refused(airports: Airports) -> None:
    db, head = airports.db, airports.db.head
    with pytest.raises(MigrationError, match="and its folder: no directory"):
        migrations.rollback(db, source=airports.path.parent / "nowhere")
    code = next(path for path in airports.path.iterdir() if path.name.endswith("two")) / "__init__.py"
    code.write_text(code.read_text() + "EDITED = 1\n")
    with pytest.raises(MigrationError, match="is missing or was edited since it ran"):
        migrations.rollback(db, source=airports.path)
    assert db.head == head


def test_what_would_be_lost_is_found_by_going_there_and_back(airports: Airports) -> None:
    db = airports.db
    (planned,) = migrations.plan_rollback(db, source=airports.path)
    assert [step.text for step in planned.steps] == [
        f"rewrite {ROWS:,} rows of airports with `down`, and switch to them, beside the live table"
    ]
    assert planned.lost == []
    db.put(airports.new, airports.new.model(faa="ZZZ", first="Anna Maria", last="Lee"))
    (planned,) = migrations.plan_rollback(db, source=airports.path)
    (lost,) = planned.lost
    assert "1 of its 3,001 rows would change by `down` and then `up`" in lost
    assert "in first, last" in lost


def test_several_are_rolled_back_one_after_the_other(airports: Airports) -> None:
    db = airports.db
    assert [info.name for info in migrations.rollback(db, to=0, source=airports.path)] == ["two", "one"]
    assert not db.schema.tables
    migrations.apply(db, airports.path)
    assert [info.state for info in migrations.status(db, airports.path)] == [State.APPLIED, State.APPLIED]
