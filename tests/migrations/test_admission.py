"""Migrations cannot add rows that no reader can parse, and errors name such a row that exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from everlog import LoadError, MigrationError, RowError, SchemaError, migrations
from everlog.store.database import Database
from everlog.store.upkeep.repair import repair
from tests.migrations.project import Project
from tests.store.documents import put_unasked

IMPORT = 'import "google/protobuf/struct.proto";\n'
FIELDS = "string faa = 1; string name = 2; google.protobuf.Value body = 3;"
DEEP = """\
    def deep(row, depth):
        value = row.body
        for _ in range(depth):
            value = value.list_value.values.add()
        value.string_value = "x"
        return row
    """


def model(fields: str = FIELDS) -> str:
    return f"{IMPORT}message Airport {{ {fields} }}\n"


def deep(row: Any, depth: int = 60) -> Any:
    value = row.body
    for _ in range(depth):
        value = value.list_value.values.add()
    value.string_value = "x"
    return row


@pytest.mark.parametrize("form", ["code", "jsonl", "csv"])
def test_a_bootstrap_row_that_no_reader_could_parse_is_refused(
    project: Project, db: Database, form: str
) -> None:
    lists = "[" * 60 + "]" * 60
    files = {
        "code": {
            "bootstrap.py": "from . import AIRPORTS, Airport, deep\n\n\ndef rows():\n"
            '    yield AIRPORTS, deep(Airport(faa="JFK"), 60)\n'
        },
        "jsonl": {"bootstrap_airports.jsonl": f'{{"faa": "JFK", "body": {lists}}}\n'},
        "csv": {"bootstrap_airports.csv": f'faa,body\nJFK,"{lists}"\n'},
    }[form]
    project.add("one", model=model(), code=DEEP, files=files)
    with pytest.raises((SchemaError, LoadError), match=r"bootstrap") as caught:
        migrations.apply(db, project.build().path)
    assert "nested deeper than 100 levels" in f"{caught.value} {caught.value.private}"
    assert db.schema.version == 0


def _rewriting(project: Project, depth: int) -> Path:
    """Return a second migration whose `up` gives each row a body of this depth."""
    project.add("one", model=model())
    code = (
        "from ..v20260101000000_one.model_pb2 import Airport as AirportV1\n\n\n"
        "def up(old: AirportV1) -> Airport:\n"
        "    row = Airport(faa=old.faa, name=old.name, size=len(old.name))\n"
        f"    value = row.body\n    for _ in range({depth}):\n        value = value.list_value.values.add()\n"
        '    value.string_value = "x"\n    return row\n'
    )
    project.add(
        "two",
        model=model(f"{FIELDS} int64 size = 4;"),
        code=code,
        drop=", transforms=[Transform(AIRPORTS, AirportV1, up)]",
    )
    return project.build().path


def test_a_transform_that_makes_a_row_that_no_reader_could_parse_ends_its_migration(
    project: Project, db: Database
) -> None:
    path = _rewriting(project, 60)
    old = project.load()[0].tables[0]
    migrations.apply(db, path, to=20260101000000)
    db.put(old, old.model(faa="JFK"))
    with pytest.raises((MigrationError, RowError), match=r"airports/JFK.* nested deeper than 100 levels"):
        migrations.apply(db, path)
    assert db.get(old, "JFK") == old.model(faa="JFK")
    assert list(db.admin.check()) == []


def test_a_row_that_a_transform_cannot_read_is_named_and_set_aside_by_repair(
    project: Project, tmp_path: Path
) -> None:
    path = _rewriting(project, 1)
    old, new = (migration.tables[0] for migration in project.load())
    with Database(tmp_path / "x") as db:
        migrations.apply(db, path, to=20260101000000)
        for faa in ("EWR", "JFK", "LGA"):
            row = old.model(faa=faa)
            put_unasked(db, old, deep(row) if faa == "JFK" else row)
        with pytest.raises(MigrationError, match=r"row airports/JFK cannot be read: .* `everlog repair`"):
            migrations.apply(db, path)
        assert [row.faa for row in db.scan(old, limit=1)] == ["EWR"]
    assert repair(tmp_path / "x").aside == ("airports/JFK",)
    with Database(tmp_path / "x") as db:
        migrations.apply(db, path)
        assert [row.faa for row in db.scan(new)] == ["EWR", "LGA"]
        assert list(db.admin.check()) == []


def test_an_index_is_built_over_a_row_that_cannot_be_read(project: Project, db: Database) -> None:
    project.add("one", model=model())
    indexed = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME),))'
    project.add("two", model=model(), table=indexed)
    path = project.build().path
    old, new = (migration.tables[0] for migration in project.load())
    migrations.apply(db, path, to=20260101000000)
    for faa in ("EWR", "JFK", "LGA"):
        row = old.model(faa=faa, name="x")
        put_unasked(db, old, deep(row) if faa == "JFK" else row)
    migrations.apply(db, path)
    assert db.count(new.by_name, "x") == 3
    db.delete(new, "JFK")
    assert [row.faa for row in db.scan(new.by_name, "x")] == ["EWR", "LGA"]
    assert list(db.admin.check()) == []
