"""The past across migrations: what rows were before they were rewritten, renamed, or read by other models."""

from __future__ import annotations

from typing import Any

import pytest

from everlog import MigrationError, SchemaError, migrations
from everlog.store.database import Database
from everlog.store.progress import Progress
from tests.migrations.project import Project
from tests.migrations.test_online import Airports
from tests.migrations.test_remake import Split


def test_rows_are_read_as_they_were_before_while_and_after_they_were_rewritten(
    project: Project, db: Database
) -> None:
    airports = Airports(project, db, rows=1200)
    before = db.head
    while_it_ran: list[int] = []

    def write(step: Progress) -> None:
        if "rewrite" in step.step and not while_it_ran:
            while_it_ran.append(db.put(airports.old, airports.old_row(5, "Jane")).seq)

    migrations.apply(db, airports.path, progress=write)
    after = db.put(airports.new, airports.new_row(5, "Joan")).seq
    old, new = airports.old, airports.new
    assert db.at(seq=before).get(old, "A00005") == airports.old_row(5)
    assert db.at(seq=while_it_ran[0]).get(old, "A00005") == airports.old_row(5, "Jane")
    assert db.at(seq=after - 1).get(new, "A00005") == airports.new_row(5, "Jane")
    assert db.at(seq=after).get(new, "A00005") == airports.new_row(5, "Joan")
    assert db.at(seq=before).count(old) == db.at(seq=after).count(new) == 1200
    assert [row.faa for row in db.at(seq=after).scan(new.by_first, "Joan")] == ["A00005"]
    assert [row.faa for row in db.at(seq=before).scan(old.by_name, "John 5 of many")] == ["A00005"]
    with pytest.raises(SchemaError, match=r"were rewritten by migration 20260101000001, and at that time"):
        db.at(seq=before).get(new, "A00005")
    with pytest.raises(SchemaError, match=r"were rewritten by migration 20260101000001, but the model"):
        db.at(seq=after).get(old, "A00005")


def test_constants_of_now_read_what_a_compatible_change_left_as_it_was(
    project: Project, db: Database
) -> None:
    project.add("one")
    project.add("two", fields="string faa = 1; string name = 2; string city = 3;")
    loaded = project.build().load()
    old, new = (migration.tables[0] for migration in loaded)
    migrations.apply(db, project.path, to=loaded[0].version)
    before = db.put(old, old.model(faa="JFK", name="Idlewild")).seq
    migrations.apply(db, project.path)
    db.put(new, new.model(faa="JFK", name="Kennedy", city="New York"))
    found: Any = db.at(seq=before).get(new, "JFK")
    assert (type(found), found.name, found.city) == (new.model, "Idlewild", "")
    found = db.at(seq=db.head).get(old, "JFK")
    assert (type(found), found.name) == (old.model, "Kennedy")


def test_a_table_that_was_renamed_since_is_read_by_both_names(project: Project, db: Database) -> None:
    project.add("one")
    project.add("two", table='Table("fields", Airport, key=FAA)', drop=', rename={"airports": "fields"}')
    loaded = project.build().load()
    old, new = (migration.tables[0] for migration in loaded)
    migrations.apply(db, project.path, to=loaded[0].version)
    before = db.put(old, old.model(faa="JFK", name="Idlewild")).seq
    migrations.apply(db, project.path)
    for table in (old, new):
        found: Any = db.at(seq=before).get(table, "JFK")
        assert found.name == "Idlewild"
    assert db.at(seq=before).count(new) == db.at(seq=db.head).count(new) == 1


def test_rows_that_were_made_anew_and_the_way_back(project: Project, db: Database) -> None:
    split = Split(project, db)
    before, hashes = db.head, db.hashes()
    migrations.apply(db, split.path)
    after, then = db.head, db.hashes()
    migrations.rollback(db, source=split.path)
    for seq, expected in ((before, hashes), (after, then), (db.head, db.hashes())):
        assert db.at(seq=seq).hashes() == expected


def test_what_was_given_up_was_never_there(project: Project, db: Database) -> None:
    airports = Airports(project, db, rows=1200)
    hashes = db.hashes()

    def refuse(step: Progress) -> None:
        if "rewrite" in step.step:
            raise MigrationError("no")

    with pytest.raises(MigrationError):
        migrations.apply(db, airports.path, progress=refuse)
    for seq in range(db.head - 1, db.head + 1):
        assert db.at(seq=seq).hashes() == hashes
