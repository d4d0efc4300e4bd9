"""The reports of status and rollback on a running migration."""

import shutil

import pytest

from everlog import MigrationError, migrations
from everlog.migrations import State
from everlog.store.database import Database
from everlog.store.progress import Progress
from tests.migrations.project import Project
from tests.migrations.test_online import ROWS, Airports

VERSION = 20260101000001


@pytest.fixture
def airports(project: Project, db: Database) -> Airports:
    return Airports(project, db)


def interrupted(airports: Airports) -> None:
    """Begin the second migration, and stop it in the middle."""

    def stop(step: Progress) -> None:
        if "rewrite" in step.step and step.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        migrations.apply(airports.db, airports.path, progress=stop, actor="bob")


def test_status_says_how_far_it_is_and_since_when(airports: Airports) -> None:
    interrupted(airports)
    db = airports.db
    info = migrations.status(db, airports.path)[-1]
    assert (info.version, info.state, info.actor, info.held) == (VERSION, State.BUILDING, "bob", False)
    assert 0 < info.rows < ROWS
    assert info.applied_ns == 0
    assert info.started_ns == db.migration_records()[1].time_ns
    migrations.apply(db, airports.path)
    assert migrations.status(db, airports.path)[-1].state is State.APPLIED


def test_what_comes_before_it_waits_for_it(airports: Airports) -> None:
    interrupted(airports)
    with pytest.raises(
        MigrationError, match=r"has been in progress since commit .* before another .* finish it or"
    ):
        migrations.apply(airports.db, airports.path, to=VERSION - 1)
    shutil.rmtree(airports.path / f"v{VERSION}_two")
    with pytest.raises(MigrationError, match="restore its folder, which is missing, or give it up"):
        migrations.apply(airports.db, airports.path)


def test_rollback_gives_it_up(airports: Airports) -> None:
    interrupted(airports)
    db = airports.db
    planned = migrations.plan_rollback(db, 2)
    assert [step.text for step in planned[0].steps] == ["give up what was built so far; no row is lost"]
    assert [step.text for step in planned[1].steps] == [f"drop table airports with its {ROWS:,} rows"]
    (done,) = migrations.rollback(db, actor="ann")
    assert (done.version, done.seq) == (VERSION, db.head)
    assert migrations.status(db, airports.path)[-1].state is State.PENDING
    assert db.count(airports.old) == ROWS
    migrations.apply(db, airports.path)
    assert db.count(airports.new) == ROWS


def test_two_versions_are_told_and_rolled_back_for_free(airports: Airports) -> None:
    db = airports.db
    migrations.apply(db, airports.path, hold=True)
    info = migrations.status(db, airports.path)[-1]
    assert (info.state, info.held) == (State.BUILDING, True)
    (planned,) = migrations.plan_rollback(db)
    assert [step.text for step in planned.steps] == ["stop serving the new version; no row is lost"]
    db.put(airports.new, airports.new_row(7, "Jane"))
    migrations.rollback(db)
    assert db.get(airports.old, "A00007") == airports.old_row(7, "Jane")


def test_once_it_is_finished_the_way_back_needs_its_folder(airports: Airports) -> None:
    db = airports.db
    migrations.apply(db, airports.path)
    with pytest.raises(
        MigrationError,
        match="rolling it back needs its `down`, and its folder is missing or was edited since it ran",
    ):
        migrations.rollback(db)
