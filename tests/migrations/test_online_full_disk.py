"""A disk that fills while a migration builds: the migration reports it, and resumes when there is space."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from everlog import migrations
from everlog.migrations import DecisionState, status
from everlog.store.database import Database
from everlog.store.errors import DiskError, MigrationError
from everlog.store.online.backfill import retry_while_full
from everlog.store.progress import Progress
from tests.migrations.project import Project
from tests.migrations.test_online import ROWS, Airports


def test_how_far_it_is_and_why_nobody_works_on_it_are_told(project: Project, db: Database) -> None:
    airports = Airports(project, db)
    seen = []

    def look(step: Progress) -> None:
        if "rewrite airports" in step.step:
            [_, info] = status(db, airports.path)
            seen.append((info.rows, info.total, info.stopped, info.left_s > 0))
            if len(seen) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        migrations.apply(db, airports.path, progress=look)
    assert [one[1:] for one in seen] == [(ROWS, "", True)] * 2
    assert 0 < seen[0][0] < seen[1][0] < ROWS
    [_, info] = status(db, airports.path)
    assert (info.rows, info.total, info.stopped, info.left_s) == (
        seen[1][0],
        ROWS,
        "no process is working on it",
        0,
    )
    migrations.apply(db, airports.path)
    assert [info.stopped for info in status(db, airports.path)] == ["", ""]


def test_it_waits_while_the_disk_refuses_only_the_key_store(db: Database) -> None:
    refused = [DiskError("KEYS: the disk is full", outcome="nothing written", full=True)]
    said: list[str] = []

    def work() -> str:
        if refused:
            raise refused.pop()
        return "done"

    assert retry_while_full(db.engine.refusal, work, lambda step: said.append(step.step)) == "done"
    assert said == ["waiting for space on the disk"]


@pytest.mark.parametrize("way", ["up", "rollback"])
def test_writes_find_the_code_of_a_record_that_the_tables_took_late(
    project: Project, db: Database, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Its first record is in the log, the tables are written later; meanwhile somebody tries again."""
    airports = Airports(project, db)

    def up() -> None:
        migrations.apply(db, airports.path)

    def rollback() -> None:
        migrations.rollback(db, source=airports.path)

    run = up if way == "up" else rollback
    if way == "rollback":
        migrations.apply(db, airports.path)

    def refuse(*_: object) -> None:
        raise DiskError("the disk is full", outcome="nothing written")

    with monkeypatch.context() as patched:
        patched.setattr(type(db.tables.pending), "flush", refuse)
        patched.setattr(db.tables, "reread", refuse)
        with pytest.raises(DiskError):
            run()
        for again in (rollback, up):
            with contextlib.suppress(DiskError, MigrationError):
                again()
    table, row = (
        (airports.old, airports.old_row(3, "Jane"))
        if way == "up"
        else (airports.new, airports.new_row(3, "Jane"))
    )
    db.put(table, row)
    assert airports.steps()[-1] == "STARTED"
    run()
    assert db.get(airports.new if way == "up" else airports.old, "A00003") is not None


@pytest.mark.long
def test_it_stops_while_the_disk_is_full_and_goes_on_when_there_is_room(
    project: Project, small_disk: Path
) -> None:
    with Database(small_disk / "db") as db:
        airports = Airports(project, db)
        said: list[str] = []

        def fill(step: Progress) -> None:
            if "rewrite airports" in step.step and not said:
                said.append("full")
                with (small_disk / "ballast").open("ab") as file, pytest.raises(OSError, match="No space"):
                    file.write(bytes(64 << 20))
                with contextlib.suppress(DiskError):
                    while True:
                        name = f"John {os.urandom(50_000).hex()}"
                        db.put(airports.old, airports.old.model(faa="A00001", name=name))
            elif "stopped: the disk is full" in step.step:
                said.append(step.step)
                [_, info] = status(db, airports.path)
                assert (info.stopped, info.total) == ("disk full", ROWS)
                (small_disk / "ballast").unlink(missing_ok=True)

        migrations.apply(db, airports.path, progress=fill)
        assert len(said) > 1
        assert airports.steps() == ["FINISHED", "STARTED", "FINISHED"]
        assert db.count(airports.new) == ROWS
        assert list(db.admin.check()) == []


@pytest.mark.long
def test_a_prepared_migration_waits_for_space_and_stays_prepared(project: Project, small_disk: Path) -> None:
    decision_id, ballast = bytes(16), small_disk / "ballast"
    with Database(small_disk / "db") as db:
        airports = Airports(project, db)
        said: list[str] = []

        def fill() -> None:
            with ballast.open("ab") as file, pytest.raises(OSError, match="No space"):
                file.write(bytes(64 << 20))
            with contextlib.suppress(DiskError):
                while True:
                    name = f"John {os.urandom(50_000).hex()}"
                    db.put(airports.old, airports.old.model(faa="A00001", name=name))

        def tell(step: Progress) -> None:
            if "rewrite airports" in step.step and not said:
                said.append("full")
                fill()
            elif "stopped: the disk is full" in step.step:
                said.append(step.step)
                ballast.unlink(missing_ok=True)

        assert migrations.prepare(db, decision_id, airports.path, progress=tell).state == "prepared"
        assert len(said) > 1
        fill()
        with pytest.raises(DiskError):
            migrations.commit_prepared(db, decision_id)
        [_, info] = status(db, airports.path)
        assert info.prepared
        assert db.count(airports.old) == ROWS
        ballast.unlink()
        db.engine.refusal.wait(10)
        done = migrations.commit_prepared(db, decision_id)
        assert done.state is DecisionState.COMMITTED
        assert db.count(airports.new) == ROWS
        assert list(db.admin.check()) == []
