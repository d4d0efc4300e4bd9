"""A backup may end in the middle of a load or of a migration. The restored database resumes there, as does
one that was archived in the middle.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from everlog import migrations
from everlog.audit import archive, backup, restore
from everlog.proto import log_pb2
from everlog.store.database import Database
from tests.migrations.project import Project
from tests.migrations.test_online import Airports

ROWS = 2500


def seq_of(db: Database, step: log_pb2.Migration.Step.ValueType, *, last: bool = False) -> int:
    found = [seq for seq in range(1, db.head + 1) if db.log.commit(seq).migration.step == step]
    return found[-1 if last else 0]


@pytest.fixture
def kept(project: Project, db: Database, tmp_path: Path) -> tuple[Airports, Path]:
    """Return a database that was loaded and migrated, and its backup."""
    airports = Airports(project, db, rows=10)
    db.load(airports.old, [airports.old_row(number) for number in range(10, ROWS)], id="many")
    migrations.apply(db, airports.path)
    backup(db, tmp_path / "backup")
    return airports, tmp_path / "backup"


def test_a_database_of_the_middle_of_a_load_goes_on_with_it(kept: tuple[Airports, Path]) -> None:
    airports, to = kept
    chunks = [seq for seq in range(1, airports.db.head + 1) if airports.db.log.commit(seq).load.id == "many"]
    assert len(chunks) > 1
    restore(to, to.with_name("loading"), at=chunks[0])
    with Database(to.with_name("loading"), create=False) as db:
        assert list(db.admin.check()) == []
        before = db.admin.status().tables[0].rows
        assert before < ROWS
        db.load(airports.old, [airports.old_row(number) for number in range(10, ROWS)], id="many")
        assert db.admin.status().tables[0].rows == ROWS
        migrations.apply(db, airports.path)
        assert db.admin.hashes() == airports.db.admin.hashes()


@pytest.mark.parametrize("step", ["STARTED", "BACKFILL"])
@pytest.mark.parametrize("archived", [pytest.param(False, marks=pytest.mark.long), True])
def test_a_database_of_the_middle_of_a_migration_goes_on_with_it(
    kept: tuple[Airports, Path], step: str, archived: bool
) -> None:
    airports, to = kept
    at = seq_of(airports.db, log_pb2.Migration.Step.Value(step))
    assert airports.db.log.commit(at + 1).migration.step == log_pb2.Migration.BACKFILL
    restore(to, to.with_name("migrating"), at=at + archived)
    if archived:  # its records are in an archive that is not reachable now
        with Database(to.with_name("migrating"), create=False) as db:
            archive(db, to.with_name("archive"))
            assert db.log.trimmed.base == at
        to.with_name("archive").rename(to.with_name("away"))
    with Database(to.with_name("migrating"), create=False) as db:
        assert list(db.admin.check()) == []
        assert db.schema.version == migrations.load(airports.path)[0].version
        migrations.apply(db, airports.path)
        assert db.admin.hashes() == airports.db.admin.hashes()
        assert list(db.scan(airports.new))[-1] == airports.new_row(ROWS - 1)
