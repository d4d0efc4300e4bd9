"""Indexes that are built online."""

from __future__ import annotations

from typing import Any

import pytest

from everlog import MigrationError, SchemaError, UniqueError, migrations
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.progress import Progress
from tests.migrations.project import Project
from tests.migrations.test_online import names_and_rows

ROWS = 4000
CITY = {
    "fields": "string faa = 1; string name = 2; string city = 3;",
    "code": 'CITY = field("city", 3, STRING)',
    "table": (
        'Table("airports", Airport, key=FAA,'
        ' indexes=(Index("by_name", NAME{unique}), Index("by_city", CITY)))'
    ),
}


class Airports:
    """A project whose second migration adds indexes, one over a new field, and a database at the first."""

    def __init__(self, project: Project, db: Database, *, unique: bool = False) -> None:
        project.add("one")
        table = CITY["table"].replace("{unique}", ", unique=True" if unique else "")
        project.add("two", fields=CITY["fields"], code=CITY["code"], table=table)
        self.path, self.db = project.build().path, db
        self.old, self.new = (migration.tables[0] for migration in project.load())
        migrations.apply(db, self.path, to=20260101000000)
        db.load(self.old, [self.row(number) for number in range(ROWS)])

    def row(self, number: int, name: str = "") -> Any:
        return self.old.model(faa=f"A{number:05}", name=name or f"name {number}")

    def steps(self) -> list[str]:
        return [log_pb2.Migration.Step.Name(record.migration.step) for record in self.db.migration_records()]


def test_an_index_gets_every_row_and_every_write_meanwhile(project: Project, db: Database) -> None:
    airports = Airports(project, db)
    done: list[int] = []

    def write(step: Progress) -> None:
        if "build index airports.by_name" in step.step:
            done.append(step.done)
            db.put(airports.old, airports.row(1, f"Jane {len(done)}"))
            db.put(airports.old, airports.row(ROWS - 1, "Jane"))
            db.delete(airports.old, "A00002")
            db.put(airports.old, airports.row(ROWS + len(done), "Joan"))
            with pytest.raises(SchemaError, match=r"by_name is being built|no index 'by_name'|is newer"):
                db.count(airports.new.by_name, "Jane")

    migrations.apply(db, airports.path, progress=write)
    assert airports.steps() == ["FINISHED", "STARTED", "FINISHED"]
    assert len(done) > 2
    assert db.count(airports.new.by_name) == db.count(airports.new) == ROWS - 1 + len(done)
    assert [row.faa for row in db.scan(airports.new.by_name, starts_with="Jane")] == [
        f"A{ROWS - 1:05}",
        "A00001",
    ]
    assert db.count(airports.new.by_city, "") == db.count(airports.new)
    assert db.admin.rebuild()["airports"].rows == db.count(airports.new.by_name)


@pytest.mark.parametrize("apart", [1, 2000])
def test_two_rows_with_one_value_are_named_and_no_trace_is_left(
    project: Project, db: Database, apart: int
) -> None:
    airports = Airports(project, db, unique=True)
    db.put(airports.old, airports.row(500, f"name {500 + apart}"))
    tables = names_and_rows(db)
    with pytest.raises(
        MigrationError, match=rf"airports/A{500 + apart:05} has the same name in the unique index by_name"
    ):
        migrations.apply(db, airports.path)
    assert airports.steps() == ["FINISHED", "STARTED", "FAILED"]
    assert names_and_rows(db) == tables
    db.put(airports.old, airports.row(500))
    migrations.apply(db, airports.path)
    assert db.count(airports.new.by_name, "name 500") == 1


def test_a_write_that_would_break_a_unique_index_is_refused_while_it_is_built(
    project: Project, db: Database
) -> None:
    airports = Airports(project, db, unique=True)
    refused: list[UniqueError] = []

    def write(step: Progress) -> None:
        if "build index airports.by_name" in step.step and not refused:
            with pytest.raises(UniqueError) as error:
                db.put(airports.old, airports.row(ROWS, "name 7"))
            refused.append(error.value)

    migrations.apply(db, airports.path, progress=write)
    assert refused
    assert db.get(airports.new, f"A{ROWS:05}") is None


@pytest.mark.parametrize("number", [2, 4], ids=["over a field that both have", "over a new field"])
def test_an_index_is_built_while_another_goes_with_its_field(
    project: Project, db: Database, number: int
) -> None:
    """Both are served by one model if it has the fields of both; otherwise writers wait for the new one."""
    two = ', indexes=(Index("by_city", CITY),))'
    project.add(
        "one", fields=CITY["fields"], code=CITY["code"], table=f'Table("airports", Airport, key=FAA{two}'
    )
    project.add(
        "two",
        fields="string faa = 1; string name = 2; reserved 3; string country = 4;",
        code=f'OTHER = field("{"country" if number == 4 else "name"}", {number}, STRING)',
        table='Table("airports", Airport, key=FAA, indexes=(Index("by_other", OTHER),))',
    )
    path, (old, new) = project.build().path, (migration.tables[0] for migration in project.load())
    migrations.apply(db, path, to=20260101000000)
    db.load(old, [old.model(faa=f"A{n:05}", name=f"name {n}", city=f"city {n % 7}") for n in range(ROWS)])
    (planned,) = migrations.plan(db, path)
    how = "while writers wait" if number == 4 else "beside the live table"
    assert f"build index airports.by_other over 4,000 rows, {how}" in [step.text for step in planned.steps]
    seen = []

    def write(step: Progress) -> None:
        if "build index" in step.step and step.done < ROWS:
            seen.append(step.done)
            db.put(old, old.model(faa=f"B{len(seen)}", name="new", city="city 8"))
            assert db.count(old.by_city, "city 8") == len(seen)

    migrations.apply(db, path, progress=write)
    assert bool(seen) == (number == 2)
    assert db.count(new.by_other, "name 3" if number == 2 else "") == (1 if number == 2 else ROWS)
    assert list(db.admin.check()) == []
    assert db.admin.rebuild_into(db.path.parent / "again") == db.admin.hashes()
