"""The past across migrations: earlier rows that were rewritten, renamed, or are read with other models."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

import everlog
from everlog import MigrationError, SchemaError, migrations
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
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
    with pytest.raises(SchemaError, match=r"were rewritten by migration 20260101000001; their model before"):
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
    before, hashes = db.head, db.admin.hashes()
    migrations.apply(db, split.path)
    after, then = db.head, db.admin.hashes()
    migrations.rollback(db, source=split.path)
    for seq, expected in ((before, hashes), (after, then), (db.head, db.admin.hashes())):
        assert db.at(seq=seq).hashes() == expected


def test_what_was_given_up_was_never_there(project: Project, db: Database) -> None:
    airports = Airports(project, db, rows=1200)
    hashes = db.admin.hashes()

    def refuse(step: Progress) -> None:
        if "rewrite" in step.step:
            raise MigrationError("no")

    with pytest.raises(MigrationError):
        migrations.apply(db, airports.path, progress=refuse)
    for seq in range(db.head - 1, db.head + 1):
        assert db.at(seq=seq).hashes() == hashes


def test_the_history_of_a_row_goes_on_across_a_rewriting(project: Project, db: Database) -> None:
    airports = Airports(project, db, rows=1200)
    loaded = db.head
    meanwhile: list[int] = []

    def write(step: Progress) -> None:
        if "rewrite" in step.step and not meanwhile:
            meanwhile.append(db.put(airports.old, airports.old_row(1100, "Jane")).seq)
            meanwhile.append(db.delete(airports.old, "A01101").seq)

    migrations.apply(db, airports.path, progress=write)
    last = db.put(airports.new, airports.new_row(5, "Joan"), actor="ann").seq
    versions = list(db.history(airports.new, "A00005"))
    assert [(version.op, version.migration) for version in versions] == [
        ("put", 0), ("put", 20260101000001), ("put", 0),
    ]  # fmt: skip
    assert [version.row for version in versions[:2]] == [airports.new_row(5, "Joan"), airports.new_row(5)]
    oldest: Any = versions[2].row
    assert (oldest.DESCRIPTOR.full_name, oldest.name) == (
        airports.old.model.DESCRIPTOR.full_name,
        "John 5 of many",
    )
    assert [version.fields for version in versions] == [
        ("first",),
        ("name", "first", "last"),
        ("faa", "name"),
    ]
    assert (versions[0].seq, versions[0].actor) == (last, "ann")
    assert versions[2].seq <= loaded < versions[1].seq < last
    changed = list(db.history(airports.new, "A01100"))
    assert meanwhile[0] in [version.seq for version in changed]
    assert len({version.seq for version in changed}) == len(changed)
    assert [version.op for version in db.history(airports.new, "A01101")] == ["delete", "put"]
    assert list(db.history(airports.new, "A00005", newest_first=False)) == versions[::-1]
    by_old: Any = next(iter(db.history(airports.old, "A00005", newest_first=False))).row
    assert by_old == airports.old_row(5)


def test_the_history_of_a_row_has_both_names_of_its_table(project: Project, db: Database) -> None:
    project.add("one")
    project.add("two", table='Table("fields", Airport, key=FAA)', drop=', rename={"airports": "fields"}')
    loaded = project.build().load()
    old, new = (migration.tables[0] for migration in loaded)
    migrations.apply(db, project.path, to=loaded[0].version)
    db.put(old, old.model(faa="JFK", name="Idlewild"))
    migrations.apply(db, project.path)
    db.put(new, new.model(faa="JFK", name="Kennedy"))
    for table in (old, new):
        found: Any = [version.row for version in db.history(table, "JFK")]
        assert [row.name for row in found] == ["Kennedy", "Idlewild"]


def test_the_history_of_rows_that_were_made_anew_and_of_a_table_that_went_again(
    project: Project, db: Database
) -> None:
    split = Split(project, db)
    migrations.apply(db, split.path)
    migrations.rollback(db, source=split.path)
    versions: list[Any] = list(db.history(split.old, "A00001"))
    assert [(version.op, bool(version.migration)) for version in versions] == [
        ("put", True), ("put", True), ("put", False),
    ]  # fmt: skip
    assert [version.row.name for version in versions] == [
        "Airport 1, City 1", "Airport 1", "Airport 1, City 1",
    ]  # fmt: skip
    cities = list(db.history(split.cities, 1))
    assert [(version.op, bool(version.migration)) for version in cities] == [("delete", True), ("put", True)]


def test_a_table_that_was_rolled_back_and_made_again_is_one(project: Project, db: Database) -> None:
    project.add("one")
    loaded = project.build().load()
    (table,) = loaded[0].tables
    migrations.apply(db, project.path)
    before = db.put(table, table.model(faa="JFK", name="Idlewild"), actor="ann").seq
    migrations.rollback(db, source=project.path)
    gone = db.head
    migrations.apply(db, project.path)
    after = db.put(table, table.model(faa="JFK", name="Kennedy")).seq
    versions = list(db.history(table, "JFK"))
    assert [(one.seq, one.op, bool(one.migration)) for one in versions] == [
        (after, "put", False), (gone, "delete", True), (before, "put", False),
    ]  # fmt: skip
    assert list(db.history(table, "JFK", newest_first=False)) == versions[::-1]
    assert [one.seq for one in db.past.log(table=table)] == [before, after]
    assert [one.seq for one in db.past.log(table="airports", key="JFK")] == [before, after]
    for start, end, kinds in (
        (before - 1, before, ["added"]),
        (before, gone, ["deleted"]),
        (gone, after, ["added"]),
        (before, after, ["changed"]),
    ):
        assert [one.kind for one in db.past.diff(table, start, end)] == kinds, (start, end)
    (one,) = db.past.diff(table, before, after)
    assert one.fields == ("name",)


def test_rows_that_were_rewritten_in_between_differ_by_their_fields(project: Project, db: Database) -> None:
    airports = Airports(project, db, rows=3)
    before = db.head
    migrations.apply(db, airports.path)
    db.put(airports.new, airports.new_row(1, "Joan"))
    db.delete(airports.new, "A00002")
    db.put(airports.new, airports.new_row(3))
    old, new = airports.old_row, airports.new_row
    expected = [
        ("changed", "A00000", old(0), new(0), ("name", "first", "last")),
        ("changed", "A00001", old(1), new(1, "Joan"), ("name", "first", "last")),
        ("deleted", "A00002", old(2), None, ()),
        ("added", "A00003", None, new(3), ("faa", "first", "last")),
    ]
    wanted = [(kind, key, as_bytes(was), as_bytes(now), fields) for kind, key, was, now, fields in expected]
    with EmbeddedDatabase(db.path, read_only=True) as served, Server({"x": served}, "127.0.0.1:0") as server:
        remote = everlog.open(f"everlog+insecure://127.0.0.1:{server.port}/x")
        for asked, table in itertools.product((db, remote), (airports.old, airports.new)):
            found: list[Any] = list(asked.past.diff(table, before, db.head))
            assert [
                (one.kind, one.key[0], as_bytes(one.before), as_bytes(one.after), one.fields) for one in found
            ] == wanted
            mine = [one.before if table is airports.old else one.after for one in found]
            assert {type(row) for row in mine if row is not None} == {table.model}
        told = [one.seq for one in db.past.log(table="airports")]
        assert [one.seq for one in remote.past.log(table="airports")] == told
        remote.close()


def as_bytes(row: Any) -> bytes | None:
    return None if row is None else row.SerializeToString(deterministic=True)
