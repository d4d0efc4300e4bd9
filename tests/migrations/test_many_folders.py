"""Hundreds of folders or tables: the work for each does not grow with the number of previous ones."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from everlog import migrations
from everlog.proto import log_pb2
from everlog.store import record
from everlog.store.database import Database
from everlog.store.online import apply
from everlog.store.online.apply import MigrationRecords
from everlog.store.schema.schema import Schema
from tests.migrations.project import Project

FOLDERS = 12


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    for at in range(FOLDERS):
        more = "".join(f" string x{number} = {number + 3};" for number in range(at))
        made.add(f"add_x{at}", fields=f"string faa = 1; string name = 2;{more}")
    return made.build()


def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count the records that are decoded, and the schemas that are built from one."""
    counts = {"decoded": 0, "schemas": 0}
    decode, make = record.decode, Schema.__init__

    def counting_decode(*args: Any, **options: Any) -> Any:
        counts["decoded"] += 1
        return decode(*args, **options)

    def counting_make(self: Schema, *args: Any, **options: Any) -> None:
        counts["schemas"] += 1
        make(self, *args, **options)

    monkeypatch.setattr(record, "decode", counting_decode)
    monkeypatch.setattr(Schema, "__init__", counting_make)
    return counts


def test_the_work_of_applying_is_linear_in_the_number_of_folders(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Database(tmp_path / "db") as db:
        counts = counted(monkeypatch)
        assert len(migrations.plan(db, project.path)) == FOLDERS
        assert counts["decoded"] <= 12
        assert counts["schemas"] <= 4 * FOLDERS + 6
        counts.update(decoded=0, schemas=0)
        assert len(migrations.apply(db, project.path)) == FOLDERS
        assert counts["decoded"] <= 6 * FOLDERS
        assert counts["schemas"] <= 4 * FOLDERS + 6
        counts.update(decoded=0, schemas=0)
        assert migrations.apply(db, project.path) == []
        assert counts["decoded"] <= 3 * FOLDERS
        assert counts["schemas"] <= 6
        counts.update(decoded=0, schemas=0)
        db.admin.rebuild()
        assert counts["schemas"] <= 3


def test_each_migration_record_is_decoded_once_however_often_it_is_needed(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, times = record.decode, Counter[int]()

    def counting(framed: bytes, seq: int) -> log_pb2.Commit:
        found: log_pb2.Commit = decode(framed, seq)
        times[seq] += found.HasField("migration")
        return found

    monkeypatch.setattr(record, "decode", counting)
    with Database(tmp_path / "db") as db:
        migrations.apply(db, project.path)
        assert max(times.values()) == 2  # once when it is projected, once when it is read
        assert migrations.apply(db, project.path) == []
        assert len(migrations.status(db, project.path)) == FOLDERS
        assert max(times.values()) == 2
    with Database(tmp_path / "db") as db:
        times.clear()  # opening reads the newest one
        assert migrations.apply(db, project.path) == []
        migrations.status(db, project.path)
        assert set(times.values()) == {1}
        assert len(times) == FOLDERS
        monkeypatch.setattr(apply, "KEPT_BYTES_MAX", 0)
        times.clear()
        unkept = MigrationRecords(db.log)
        assert unkept.all(db.tables) == unkept.all(db.tables) == db.migration_records()
        assert set(times.values()) == {2}


def test_the_work_of_applying_is_linear_in_the_number_of_tables(tmp_path: Path) -> None:
    few, many = (calls_of_tables(tmp_path, count) for count in (60, 240))
    assert many <= 4.5 * few  # four times as many tables


def calls_of_tables(tmp_path: Path, count: int) -> int:
    """Return the number of calls of functions, including generators, to load, lint, plan and apply one folder
    of `count` tables.
    """
    project = Project(tmp_path / str(count))
    messages = [f"message Row{at} {{ uint64 id = 1; string name = 2; }}\n" for at in range(count)]
    folder = project.add("create_tables", model="".join(messages))
    tables = [f'Table("rows_{at}", Row{at}, key=Fields(Row{at})("id", 1, UINT64))' for at in range(count)]
    joined = ",\n    ".join(tables)
    (folder / "__init__.py").write_text(
        "from everlog.migrations import *\nfrom .model_pb2 import *\n\n"
        f"TABLES = [\n    {joined},\n]\nMIGRATION = Migration(tables=TABLES)\n"
    )
    path, calls = project.build().path, 0

    def called(_: object, event: str, __: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    with Database(tmp_path / f"{count}.db") as db:
        before = sys.getprofile()
        sys.setprofile(called)
        try:
            found = migrations.lint(path)
            assert len(migrations.plan(db, path)) == 1
            assert len(migrations.apply(db, path)) == 1
            assert migrations.apply(db, path) == []
        finally:
            sys.setprofile(before)
        assert len(db.schema.tables) == count
    assert not [one for one in found if one.severity >= migrations.Severity.WARNING]
    return calls
