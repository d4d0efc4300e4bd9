"""Hundreds of folders: what is done for each of them does not grow with those before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from everlog import migrations
from everlog.store import record
from everlog.store.database import Database
from everlog.store.schema import Schema
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
    """How many records are decoded, and how many schemas are made of one."""
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
