"""Writers between two steps of an online migration."""

from __future__ import annotations

from typing import Any

import pytest

from everlog import migrations
from everlog.store.database import Database
from tests.migrations.project import Project
from tests.migrations.test_online import Airports

ROWS, MANY = 10, 4000


def after_a_call(of: Any, name: str, once: Any) -> None:
    """Call a function after the next call of a method, once."""
    call = getattr(of, name)

    def called(*args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        setattr(of, name, call)
        once()
        return result

    setattr(of, name, called)


def test_a_row_that_comes_when_the_table_was_seen_to_be_empty_is_rewritten(
    project: Project, db: Database
) -> None:
    airports = Airports(project, db, rows=0)
    after_a_call(db.admin, "status", lambda: db.put(airports.old, airports.old_row(1)))
    migrations.apply(db, airports.path)
    assert list(db.scan(airports.new)) == [airports.new_row(1)]


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_row_that_comes_as_soon_as_it_has_begun_is_taken(project: Project, db: Database, way: str) -> None:
    airports = Airports(project, db, rows=ROWS)
    if way == "down":
        migrations.apply(db, airports.path)
        after_a_call(db, "apply_migration", lambda: db.put(airports.new, airports.new_row(3, "Jane")))
        migrations.rollback(db, source=airports.path)
        assert db.get(airports.old, "A00003") == airports.old_row(3, "Jane")
    else:
        after_a_call(db, "apply_migration", lambda: db.put(airports.old, airports.old_row(3, "Jane")))
        migrations.apply(db, airports.path)
        assert db.get(airports.new, "A00003") == airports.new_row(3, "Jane")
    assert list(db.admin.check()) == []


def test_a_row_that_is_written_while_the_time_of_two_versions_ends_is_written_after_it(
    project: Project, db: Database
) -> None:
    airports = Airports(project, db, rows=ROWS)
    migrations.apply(db, airports.path, hold=True)

    class Ending(dict[int, Any]):
        """The transforms as seen by a writer that `complete` has overtaken."""

        def get(self, version: int, default: Any = None) -> Any:
            migrations.complete(db)
            return default

    db.core.code = Ending()
    db.put(airports.new, airports.new_row(3, "Jane"))
    assert db.get(airports.new, "A00003") == airports.new_row(3, "Jane")
    assert not db.schema.is_online


def test_a_row_that_is_written_with_the_same_value_while_its_entry_is_made_keeps_it(
    project: Project, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = 'CITY = field("city", 3, STRING)'
    fields = "string faa = 1; string name = 2; string city = 3;"
    project.add("one", fields=fields, code=code)
    project.add(
        "two",
        fields=fields,
        code=code,
        table='Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME),))',
    )
    path, (old, new) = project.build().path, (migration.tables[0] for migration in project.load())
    migrations.apply(db, path, to=20260101000000)
    db.load(old, [old.model(faa=f"A{number}", name=f"name {number}") for number in range(MANY)])
    snapshot = db.tables.snapshot

    def snapshot_and_write() -> Any:
        found = snapshot()
        if db.schema.is_online:
            db.put(old, old.model(faa="A3", name="name 3", city="written after its slice was read"))
        return found

    monkeypatch.setattr(db.tables, "snapshot", snapshot_and_write)
    migrations.apply(db, path)
    (row,) = db.scan(new.by_name, "name 3")
    assert row.city
    assert row == db.get(new, "A3")
    assert list(db.admin.check()) == []
