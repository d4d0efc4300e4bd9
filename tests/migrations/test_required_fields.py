"""Required fields of proto2: a row without them is refused, and a row from before is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from everlog import migrations
from everlog.console.export import exported
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.errors import RowError
from everlog.store.schema.table import Table
from everlog.store.upkeep.roles import Role, Rule
from tests.migrations.project import Project

FIELDS = "optional string faa = 1; optional string name = 2; optional string code = 4;"
MUST = f"{FIELDS} required string must = 3;"


def write(project: Project, *added: str) -> Project:
    for name, fields in zip(("one", "two"), added, strict=False):
        model = project.add(name, fields=fields) / "model.proto"
        model.write_text(model.read_text().replace("proto3", "proto2"))
    return project.build()


def test_a_row_without_a_required_field_is_refused_wherever_it_enters(
    project: Project, tmp_path: Path
) -> None:
    write(project, MUST)
    with EmbeddedDatabase(tmp_path / "db") as embedded:
        migrations.apply(embedded, project.path)
        table: Table[Any, Any] = project.load()[0].tables[0]
        with Server({"x": embedded}) as server, RemoteDatabase(server.url("x")) as remote:
            databases: tuple[Any, ...] = (embedded, remote)
            for db in databases:
                for call in (db.put, lambda table, row, db=db: db.load(table, [row])):
                    with pytest.raises(RowError, match=r"airports cannot be serialized: .* must"):
                        call(table, table.model(faa="JFK"))
        assert embedded.count(table) == 0


def test_a_row_from_before_a_field_was_required_is_read_in_every_way(
    project: Project, tmp_path: Path
) -> None:
    write(project, FIELDS, MUST)
    with EmbeddedDatabase(tmp_path / "db") as embedded:
        migrations.apply(embedded, project.path, to=20260101000000)
        before: Table[Any, Any] = project.load()[0].tables[0]
        embedded.put(before, before.model(faa="JFK", code="x"))
        first = embedded.head
        migrations.apply(embedded, project.path)
        table: Table[Any, Any] = project.load()[1].tables[0]
        row = table.model(faa="JFK", code="x")
        embedded.access.define(Role("some", (Rule(rights=("read", "history"), hidden=("code",)),)))
        tokens: dict[str, Any] = {"tokens": {"ann": "sesame", "bob": "thyme"}}
        roles = {"ann": ("owner",), "bob": ("some",)}
        with Server({"x": embedded}, **tokens, roles=roles) as server:
            with RemoteDatabase(f"{server.url('x')}?token=sesame") as remote:
                databases: tuple[Any, ...] = (embedded, remote)
                for db in databases:
                    assert db.get(table, "JFK") == row
                    assert list(db.scan(table)) == [row]
                    assert [one.row for one in db.history(table, "JFK")] == [row]
                    assert [one.after for one in db.past.diff(table, first - 1, first)] == [row]
                    assert db.admin.hashes()["airports"].rows == 1
                    assert list(db.admin.check(deep=True)) == []
            with RemoteDatabase(f"{server.url('x')}?token=thyme") as limited:
                assert limited.get(table, "JFK") == table.model(faa="JFK")
        embedded.admin.rebuild()
        for form in ("csv", "jsonl", "parquet"):
            assert b"JFK" in b"".join(exported(embedded.scan(table), form, table.model))
