import pytest

from everlog import MigrationError, SchemaError, migrations
from everlog.migrations import State
from everlog.store.database import Database
from tests.migrations.project import Project
from tests.migrations.test_online import TWO

LATE = 20260101000001
WITH_ALT = "string faa = 1; string name = 2; int32 alt = 3;"


def others(project: Project, version: int, **more: str) -> None:
    """Write a folder with another table, and without the first one."""
    folder = project.add("others", version=version, **more)  # type: ignore[arg-type]
    for name in ("__init__.py", "model.proto"):
        text = (folder / name).read_text().replace('Table("airports"', 'Table("others"')
        text = (
            text.replace("AIRPORTS", "OTHERS")
            .replace("Airport", "Other")
            .replace("string name = 2", "string place = 2")
        )
        (folder / name).write_text(text.replace('NAME = field("name"', 'PLACE = field("place"'))


@pytest.fixture
def newer(project: Project, db: Database) -> Project:
    """Apply the first and the third of three migrations."""
    project.add("one", version=20260101000000)
    project.add(
        "three",
        version=20260101000002,
        fields=WITH_ALT,
        table='Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME),))',
    )
    migrations.apply(db, project.build().path)
    return project


def test_one_that_comes_late_is_refused_and_the_way_out_is_told(newer: Project, db: Database) -> None:
    others(newer, LATE)
    newer.build()
    for call in (migrations.plan, migrations.apply):
        with pytest.raises(MigrationError, match=r"give the folder .* or pass --out-of-order"):
            call(db, newer.path)


def test_out_of_order_the_database_ends_where_it_would_have_ended(newer: Project, db: Database) -> None:
    before = db.schema.tables["airports"].proto
    code = newer.add("two", version=LATE, files={"bootstrap_others.csv": "faa\nJFK\n"}) / "__init__.py"
    text = code.read_text().replace("[AIRPORTS]", "[AIRPORTS, OTHERS]")
    code.write_text(text.replace("MIGRATION", 'OTHERS = Table("others", Airport, key=FAA)\nMIGRATION'))
    newer.build()
    (planned,) = migrations.plan(db, newer.path, out_of_order=True)
    assert [step.text for step in planned.steps] == [
        "apply out of order, after version 20260101000002; airports stay as newer migrations define them",
        "create table others",
        "put 1 bootstrap row into others",
    ]
    (done,) = migrations.apply(db, newer.path, out_of_order=True)
    assert done.version == LATE
    assert db.schema.version == 20260101000002
    assert db.schema.tables["airports"].proto == before
    infos = migrations.status(db, newer.path)
    assert [(info.state, info.late) for info in infos] == [
        (State.APPLIED, False),
        (State.APPLIED, True),
        (State.APPLIED, False),
    ]
    assert migrations.apply(db, newer.path) == []
    assert [info.version for info in migrations.rollback(db)] == [LATE]
    assert sorted(db.schema.tables) == ["airports"]


def test_in_an_empty_database_the_order_is_that_of_the_folders(
    newer: Project, db: Database, tmp_path: str
) -> None:
    others(newer, LATE)
    newer.build()
    migrations.apply(db, newer.path, out_of_order=True)
    with Database(f"{tmp_path}/fresh") as fresh:
        migrations.apply(fresh, newer.path, out_of_order=True)
        assert fresh.schema.tables.keys() == db.schema.tables.keys()
        assert not any(info.late for info in migrations.status(fresh, newer.path))


def test_rows_are_rewritten_late_if_no_newer_migration_decides_on_their_table(
    project: Project, db: Database
) -> None:
    project.add("one", version=20260101000000)
    others(project, 20260101000002)
    old = project.build().load()[0].tables[0]
    migrations.apply(db, project.path)
    db.load(old, [old.model(faa=f"A{number:04}", name=f"John {number}") for number in range(2000)])
    code = project.add("two", **{**TWO, "version": LATE}) / "__init__.py"  # type: ignore[arg-type]
    code.write_text(code.read_text().replace('NAME = field("name", 2, STRING)\n', ""))
    new = project.build().load()[1].tables[0]
    migrations.apply(db, project.path, out_of_order=True)
    assert db.schema.version == 20260101000002
    assert db.count(new.by_first, "John") == 2000
    with pytest.raises(SchemaError, match=f"were rewritten by migration {LATE}"):
        db.get(old, "A0001")
    migrations.rollback(db, source=project.path)
    assert db.get(old, "A0001") == old.model(faa="A0001", name="John 1")
    assert list(db.admin.check()) == []
