"""Online migrations: rewritten rows, and indexes."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from everlog import MigrationError, SchemaError, migrations
from everlog.migrations.in_progress import give_up
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.progress import Progress
from everlog.store.tx.transaction import Metadata
from tests.migrations.project import Project

ROWS = 3000
BY = Metadata("ann", "release 9")
TWO = {
    "fields": "string faa = 1; string first = 3; string last = 4; reserved 2;",
    "code": """\
        from ..v20260101000000_one.model_pb2 import Airport as AirportV1

        FIRST = field("first", 3, STRING)


        def up(old: AirportV1) -> Airport:
            first, last = old.name.split(" ", 1)
            return Airport(faa=old.faa, first=first, last=last)


        def down(new: Airport) -> AirportV1:
            return AirportV1(faa=new.faa, name=f"{new.first} {new.last}")
        """,
    "table": 'Table("airports", Airport, key=FAA, indexes=(Index("by_first", FIRST),))',
    "drop": ", transforms=[Transform(AIRPORTS, AirportV1, up, down)]",
}


class Airports:
    """A project whose second migration rewrites the rows of the first, and a database at the first."""

    def __init__(self, project: Project, db: Database, rows: int = ROWS) -> None:
        project.add("one", table='Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME),))')
        second = project.add("two", **TWO) / "__init__.py"  # type: ignore[arg-type]
        second.write_text(second.read_text().replace('NAME = field("name", 2, STRING)\n', ""))
        self.path, self.db = project.build().path, db
        loaded = project.load()
        self.old, self.new = (migration.tables[0] for migration in loaded)
        migrations.apply(db, self.path, to=loaded[0].version)
        db.load(self.old, [self.old_row(number) for number in range(rows)])

    def old_row(self, number: int, first: str = "John") -> Any:
        return self.old.model(faa=f"A{number:05}", name=f"{first} {number} of many")

    def new_row(self, number: int, first: str = "John") -> Any:
        return self.new.model(faa=f"A{number:05}", first=first, last=f"{number} of many")

    def steps(self) -> list[str]:
        step = log_pb2.Migration.Step
        return [step.Name(record.migration.step) for record in self.db.migration_records()]


@pytest.fixture
def airports(project: Project, db: Database) -> Airports:
    return Airports(project, db)


def test_rows_are_rewritten_in_chunks_and_switched_by_one_record(airports: Airports) -> None:
    db, steps = airports.db, list[Progress]()
    versions = [db.version(airports.old, f"A{number:05}") for number in (0, ROWS - 1)]
    migrations.apply(db, airports.path, progress=steps.append, actor="ann")
    assert airports.steps() == ["FINISHED", "STARTED", "FINISHED"]
    assert list(db.scan(airports.new)) == [airports.new_row(number) for number in range(ROWS)]
    assert db.count(airports.new.by_first, "John") == ROWS
    assert [db.version(airports.new, f"A{number:05}") for number in (0, ROWS - 1)] == versions
    chunks = [step for step in steps if "rewrite airports" in step.step]
    assert [step.done for step in chunks] == sorted(step.done for step in chunks)
    assert (len(chunks) > 1, chunks[-1].done, chunks[-1].total) == (True, ROWS, ROWS)
    with pytest.raises(
        SchemaError, match=r"were rewritten by migration 20260101000001, but the model .* is older"
    ):
        db.get(airports.old, "A00000")


def test_what_is_written_meanwhile_goes_through_up(airports: Airports) -> None:
    db = airports.db
    seen: list[int] = []

    def write(step: Progress) -> None:
        """Write between two chunks: behind the cursor, and ahead of it."""
        if "rewrite" in step.step and len(seen) < 2:
            seen.append(step.done)
            db.put(airports.old, airports.old_row(5, "Jane"))
            db.put(airports.old, airports.old_row(ROWS - 5, "Jane"))
            db.delete(airports.old, "A00006")
            db.delete(airports.old, f"A{ROWS - 6:05}")
            db.insert(airports.old, airports.old_row(ROWS + 1, "Jane"))
            db.delete(airports.old, f"A{ROWS + 1:05}")
            assert db.get(airports.old, "A00005") == airports.old_row(5, "Jane")
            with pytest.raises(SchemaError, match="is newer; its migration is being applied"):
                db.get(airports.new, "A00005")

    migrations.apply(db, airports.path, progress=write)
    assert len(seen) == 2
    assert db.get(airports.new, "A00005") == airports.new_row(5, "Jane")
    assert db.get(airports.new, f"A{ROWS - 5:05}") == airports.new_row(ROWS - 5, "Jane")
    assert db.count(airports.new) == ROWS - 2
    assert [row.faa for row in db.scan(airports.new.by_first, "Jane")] == ["A00005", f"A{ROWS - 5:05}"]


def test_writers_go_on_beside_it(airports: Airports) -> None:
    db, done, errors = airports.db, threading.Event(), list[BaseException]()
    written: dict[str, str] = {}

    def work(number: int) -> None:
        try:
            while not done.is_set():
                key = f"A{number:05}"
                name = f"Jane {len(written)}"
                db.put(airports.old, airports.old.model(faa=key, name=name), durability="os")
                written[key] = name
                number = (number + 7) % ROWS
        except SchemaError:
            pass  # it has switched
        except BaseException as error:  # noqa: BLE001  the test reports it
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    migrations.apply(db, airports.path)
    done.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert db.count(airports.new) == ROWS
    for key in written:
        row = db.get(airports.new, key)
        assert row is not None
        assert row.first == "Jane"
    assert db.admin.rebuild()["airports"].rows == ROWS


def names_and_rows(db: Database) -> list[tuple[str, int, list[str]]]:
    return [(one.name, one.rows, one.indexes) for one in db.admin.status().tables]


def test_a_row_that_fails_is_named_and_no_trace_is_left(airports: Airports) -> None:
    db = airports.db
    db.put(airports.old, airports.old.model(faa="A00500", name="Prince"))
    before, disk = db.admin.hashes(), names_and_rows(db)
    with pytest.raises(MigrationError, match=r"row airports/A00500: ValueError \(at .*__init__"):
        migrations.apply(db, airports.path)
    assert airports.steps() == ["FINISHED", "STARTED", "FAILED"]
    assert db.admin.hashes() == before
    assert names_and_rows(db) == disk
    assert db.schema.version == 20260101000000
    db.put(airports.old, airports.old_row(500))
    migrations.apply(db, airports.path)
    assert db.get(airports.new, "A00500") == airports.new_row(500)


def test_two_versions_are_served_until_one_is_completed(airports: Airports) -> None:
    db = airports.db
    migrations.apply(db, airports.path, hold=True)
    assert airports.steps()[-1] == "SWITCHED"
    assert migrations.apply(db, airports.path) == []
    db.put(airports.old, airports.old_row(1, "Jane"))
    assert db.get(airports.new, "A00001") == airports.new_row(1, "Jane")
    db.put(airports.new, airports.new_row(2, "Jane"))
    assert db.get(airports.old, "A00002") == airports.old_row(2, "Jane")
    db.delete(airports.new, "A00003")
    assert db.get(airports.old, "A00003") is None
    assert [row.faa for row in db.scan(airports.old.by_name, starts_with="Jane")] == ["A00001", "A00002"]
    with db.transaction() as tx:
        row = tx.get(airports.new, "A00004")
        assert row is not None
        row.first = "Joan"
        tx.put(airports.new, row)
        tx.put(airports.old, airports.old_row(7, "Joan"))
    assert db.get(airports.old, "A00004") == airports.old_row(4, "Joan")
    assert list(db.admin.check()) == []
    assert db.admin.rebuild()["airports"].rows == ROWS - 1
    assert db.get(airports.old, "A00004") == airports.old_row(4, "Joan")
    migrations.complete(db)
    assert db.get(airports.new, "A00002") == airports.new_row(2, "Jane")
    with pytest.raises(SchemaError, match="use the tables of that"):
        db.put(airports.old, airports.old_row(1))
    with pytest.raises(MigrationError, match="no migration is held"):
        migrations.complete(db)


def test_two_versions_can_be_rolled_back_for_free(airports: Airports) -> None:
    db = airports.db
    migrations.apply(db, airports.path, hold=True)
    db.put(airports.new, airports.new_row(2, "Jane"))
    give_up(db, BY)
    assert airports.steps()[-1] == "ROLLED_BACK"
    assert db.get(airports.old, "A00002") == airports.old_row(2, "Jane")
    assert db.count(airports.old) == ROWS
    with pytest.raises(SchemaError):
        db.put(airports.new, airports.new_row(1))
    migrations.apply(db, airports.path)
    assert db.get(airports.new, "A00002") == airports.new_row(2, "Jane")


def test_who_has_not_the_code_cannot_write_that_table_meanwhile(airports: Airports) -> None:
    db = airports.db
    migrations.apply(db, airports.path, hold=True)
    db.core.code = {}
    with pytest.raises(MigrationError, match="this program lacks the code"):
        db.put(airports.old, airports.old_row(1))
    assert db.get(airports.old, "A00001") == airports.old_row(1)
    migrations.apply(db, airports.path)
    db.put(airports.old, airports.old_row(1))
