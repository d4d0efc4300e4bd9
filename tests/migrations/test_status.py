import pytest

from everlog import migrations
from everlog.migrations import State
from everlog.store.database import Database
from tests.migrations.project import Project


@pytest.fixture
def applied(project: Project, db: Database) -> Project:
    """Return three applied migrations."""
    for name in ("one", "two", "three"):
        project.add(name)
    migrations.apply(db, project.build().path, actor="ann")
    return project


def states(db: Database, project: Project) -> list[State]:
    return [info.state for info in migrations.status(db, project.path)]


def test_what_is_applied_says_when_by_whom_and_by_which_commit(applied: Project, db: Database) -> None:
    info = migrations.status(db, applied.path)[1]
    commit = db.log.commit(info.seq)
    assert (info.title, info.state, info.actor) == ("20260101000001_two", State.APPLIED, "ann")
    assert info.applied_ns == commit.time_ns
    assert info.digest == info.folder_digest == commit.migration.digest


def test_a_new_folder_is_pending(applied: Project, db: Database) -> None:
    applied.add("four")
    assert states(db, applied) == [State.APPLIED, State.APPLIED, State.APPLIED, State.PENDING]


def test_a_folder_that_was_changed_is_edited_and_restored_it_is_not(applied: Project, db: Database) -> None:
    code = applied.folders[1] / "__init__.py"
    before = code.read_text()
    code.write_text(before + "REMARK = 1\n")
    assert states(db, applied) == [State.APPLIED, State.EDITED, State.APPLIED]
    code.write_text(before)
    assert states(db, applied) == [State.APPLIED] * 3


def test_a_folder_that_is_gone_is_missing_or_the_database_ahead(applied: Project, db: Database) -> None:
    applied.folders[1].rename(applied.path.parent / "aside")
    assert states(db, applied) == [State.APPLIED, State.MISSING, State.APPLIED]
    applied.folders[2].rename(applied.path.parent / "aside, too")
    assert states(db, applied) == [State.APPLIED, State.AHEAD, State.AHEAD]


def test_without_any_folder_the_database_is_ahead(applied: Project, db: Database) -> None:
    assert states(db, Project(applied.path / "_none")) == [State.AHEAD] * 3


def test_status_needs_no_model_to_be_built_and_runs_no_code(project: Project, db: Database) -> None:
    project.add(code="raise RuntimeError")
    assert states(db, project) == [State.PENDING]


def test_one_that_comes_after_a_newer_one_is_late(applied: Project, db: Database) -> None:
    applied.add("before", version=20251231000000)
    assert [info.late for info in migrations.status(db, applied.path)] == [True, False, False, False]
