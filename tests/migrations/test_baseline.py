import shutil

import pytest

from everlog import MigrationError, migrations
from everlog.migrations import State
from everlog.proto import log_pb2
from everlog.store.database import Database
from tests.migrations.project import Project
from tests.migrations.test_status import states

INDEXED = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME),))'
WITH_CITY = "string faa = 1; string name = 2; string city = 3;"
BASE = 20260201000000


@pytest.fixture
def folded(project: Project, db: Database) -> Project:
    """Return a database at the second of two migrations, whose folders were replaced by one."""
    project.add("one", files={"bootstrap_airports.csv": "faa\nJFK\n"})
    project.add("two", fields=WITH_CITY, table=INDEXED)
    migrations.apply(db, project.build().path)
    for folder in project.folders:
        shutil.rmtree(folder)
    project.add("base", version=BASE, fields=WITH_CITY, table=INDEXED)
    return project.build()


def test_a_baseline_records_what_is_there_already(folded: Project, db: Database) -> None:
    with pytest.raises(MigrationError, match="20260101000000_one was applied by commit 2, but its folder is"):
        migrations.apply(db, folded.path)
    (done,) = migrations.baseline(db, BASE, folded.path, actor="ann")
    assert (done.version, done.seq, done.actor) == (BASE, db.head, "ann")
    assert db.schema.version == BASE
    assert states(db, folded) == [State.APPLIED]
    assert migrations.apply(db, folded.path) == []
    assert migrations.baseline(db, BASE, folded.path) == []
    assert db.count(folded.load()[0].tables[0]) == 1
    folded.add("more", version=BASE + 1, fields=WITH_CITY, drop=', drop=["airports.by_name"]')
    migrations.apply(db, folded.build().path)
    migrations.rollback(db)
    with pytest.raises(MigrationError, match=f"{BASE}_base was adopted by commit"):
        migrations.rollback(db)


def test_a_baseline_of_another_schema_is_refused_with_the_difference(folded: Project, db: Database) -> None:
    folded.add(
        "more", version=BASE + 1, fields=f"{WITH_CITY} int32 alt = 4;", drop=', drop=["airports.by_name"]'
    )
    head = db.head
    with pytest.raises(MigrationError, match="do not make the schema") as caught:
        migrations.baseline(db, BASE + 1, folded.build().path)
    lines = str(caught.value).splitlines()
    assert "-  index by_name name" not in lines
    assert "+  index by_name name" in lines
    assert any(line.startswith("-") and '"alt"' in line for line in lines)
    with pytest.raises(MigrationError, match="no migration 7; the versions are"):
        migrations.baseline(db, 7, folded.path)
    assert db.head == head


def test_a_database_that_nobody_migrated_is_adopted(project: Project, db: Database) -> None:
    project.add("one")
    project.add("two", table=INDEXED)
    with_schema = Database(db.path.parent / "other")
    migrations.apply(with_schema, project.build().path)
    schema = with_schema.schema.proto
    with_schema.close()
    db.apply_migration(log_pb2.Migration(step=log_pb2.Migration.SWITCHED, version=1, schema=schema))
    db.apply_migration(log_pb2.Migration(step=log_pb2.Migration.FAILED, version=1))
    assert [info.name for info in migrations.baseline(db, 20260101000001, project.path)] == ["one", "two"]
    assert states(db, project) == [State.APPLIED, State.APPLIED]
