import pytest

from everlog import MigrationError, migrations
from everlog.store.database import Database
from tests.migrations.project import Project

INDEXED = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME),))'


def steps(db: Database, project: Project, to: int | None = None) -> list[list[str]]:
    return [[step.text for step in one.steps] for one in migrations.plan(db, project.path, to=to)]


def test_a_plan_says_what_would_be_done_and_does_nothing(project: Project, db: Database) -> None:
    project.add("one", files={"bootstrap_airports.csv": "faa\nJFK\nEWR\n"})
    project.add("two", table=INDEXED)
    gone = ', drop=["airports.by_name"]'
    project.add("three", table=INDEXED.replace("NAME)", "NAME, unique=True)"), drop=gone)
    titled = 'string faa = 1; string title = 2; reserved "name"; int32 alt = 3;'
    more = project.add("four", fields=titled, drop=gone) / "__init__.py"
    more.write_text(more.read_text().replace('field("name"', 'field("title"'))
    head = db.head
    assert steps(db, project.build()) == [
        ["create table airports", "put 2 bootstrap rows into airports"],
        ["build index airports.by_name over 2 rows, beside the live table"],
        ["rebuild unique index airports.by_name over 2 rows, beside the live table"],
        ["change the model of airports: add alt, rename name to title", "drop index airports.by_name"],
    ]
    assert db.head == head


def test_a_plan_counts_the_rows_that_are_there(project: Project, db: Database) -> None:
    project.add("one")
    table = project.build().load()[0].tables[0]
    migrations.apply(db, project.path)
    db.load(table, (table.model(faa=str(number)) for number in range(1, 1001)))
    project.add("two", table=INDEXED)
    (planned,) = migrations.plan(db, project.build().path)
    assert [(step.text, step.instant, step.rows) for step in planned.steps] == [
        ("build index airports.by_name over 1,000 rows, beside the live table", False, 1000)
    ]


def test_a_plan_goes_to_a_version(project: Project, db: Database) -> None:
    for name in ("one", "two", "three"):
        project.add(name)
    project.build()
    assert len(steps(db, project, to=20260101000001)) == 2
    with pytest.raises(MigrationError, match="no migration 7; the versions are: 20260101000000"):
        steps(db, project, to=7)


def test_a_table_that_is_dropped_is_said_with_its_rows(project: Project, db: Database) -> None:
    project.add("one", files={"bootstrap_airports.csv": "faa\nJFK\n"})
    code = project.add("two", drop=', drop=["airports"]') / "__init__.py"
    code.write_text(
        code.read_text().replace("AIRPORTS = ", "OTHERS = ").replace('"airports",', '"others",', 1)
    )
    code.write_text(code.read_text().replace("[AIRPORTS]", "[OTHERS]"))
    assert steps(db, project.build())[1] == ["drop table airports with its 1 row", "create table others"]


def test_a_dry_run_finds_what_would_stop_the_run_and_the_run_agrees(project: Project, db: Database) -> None:
    unique = INDEXED.replace("NAME)", "NAME, unique=True)")
    project.add("one", files={"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\nEWR,Newark\n"})
    project.add("two", table=unique, files={"bootstrap_airports.csv": "faa,name\nLGA,Kennedy\n"})
    path = project.build().path
    for _ in range(2):  # in a new database, and in one with the first migration applied
        planned = migrations.plan(db, path, try_rows=True)
        (problem,) = [step for step in planned[-1].steps if step.problem]
        assert problem.text.startswith(
            "FAILS: unique index by_name of airports: 1 of 3 rows have the values of another"
        )
        with pytest.raises(MigrationError, match="_two was not applied"):
            migrations.apply(db, path)
    airport = project.load()[0].tables[0]
    db.put(airport, airport.model(faa="LGA", name="Kennedy"))
    db.put(airport, airport.model(faa="JFK", name="Idlewild"))
    assert not any(step.problem for one in migrations.plan(db, path, try_rows=True) for step in one.steps)
    migrations.apply(db, path)
