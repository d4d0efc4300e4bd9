import pytest

from everlog import MigrationError, SchemaError, migrations
from everlog.migrations import testdata
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.upkeep.testdata import LoadedTestdata
from tests.migrations.project import Project

CODE = """
    from . import AIRPORTS, Airport

    def rows(random, scale):
        for number in range(10 * scale):
            yield AIRPORTS, Airport(faa=f"{number:04}", name=str(random.random()))
    """


@pytest.fixture
def applied(project: Project, db: Database) -> Project:
    project.add(files={"testdata.py": CODE})
    migrations.apply(db, project.build().path)
    return project


def test_the_same_seed_gives_the_same_rows_and_a_greater_scale_more(applied: Project) -> None:
    (migration,) = applied.load()
    rows = [row.SerializeToString() for _, row in testdata.rows(migration, seed=1)]
    assert rows == [row.SerializeToString() for _, row in testdata.rows(migration, seed=1)]
    assert rows != [row.SerializeToString() for _, row in testdata.rows(migration, seed=2)]
    assert len(list(testdata.rows(migration, scale=3))) == 30


def test_test_data_is_a_load_of_its_kind_and_a_second_time_does_nothing(
    applied: Project, db: Database
) -> None:
    assert migrations.load_testdata(db, applied.path, scale=2) == {"airports": 20}
    head = db.head
    commit = db.log.commit(head)
    assert (commit.load.kind, commit.load.step) == (log_pb2.Load.TEST, log_pb2.Load.FINISHED)
    assert "seed 0, scale 2" in commit.load.source
    assert migrations.load_testdata(db, applied.path, scale=2) == {"airports": 20}
    assert db.head == head


def test_rows_of_many_tables_come_together_table_by_table(
    applied: Project, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testdata, "_ROWS_AT_ONCE", 7)
    assert migrations.load_testdata(db, applied.path) == {"airports": 10}
    assert db.count(applied.load()[0].tables[0]) == 10


def test_what_was_loaded_is_listed_by_version_seed_and_scale(
    applied: Project, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testdata, "_ROWS_AT_ONCE", 7)  # a load of several parts
    migrations.load_testdata(db, applied.path, version=db.schema.version, scale=2)
    migrations.load_testdata(db, applied.path, seed=-5)
    version = db.schema.version
    assert db.admin.testdata() == [
        LoadedTestdata(version, -5, 1, "airports", 10, finished=True),
        LoadedTestdata(version, 0, 2, "airports", 20, finished=True),
    ]
    with pytest.raises(MigrationError, match="version 7 has no folder; expected one of: "):
        migrations.load_testdata(db, applied.path, version=7)


def test_a_database_without_test_data_or_folder_of_its_version_is_said(
    project: Project, db: Database
) -> None:
    with pytest.raises(MigrationError, match="is at version 0, which has no folder; expected one of: none"):
        migrations.load_testdata(db, project.path)
    project.add()
    migrations.apply(db, project.build().path)
    with pytest.raises(MigrationError, match=r"has no test data; create .*testdata.py with `def rows"):
        migrations.load_testdata(db, project.path)


def test_a_mistake_in_the_generator_is_said_with_its_line(project: Project, db: Database) -> None:
    project.add(files={"testdata.py": "def rows(random, scale):\n    yield 1 / 0\n"})
    migrations.apply(db, project.build().path)
    with pytest.raises(SchemaError, match=r"testdata\.py:2: ZeroDivisionError"):
        migrations.load_testdata(db, project.path)
