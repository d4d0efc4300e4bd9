"""Followers apply a rollback of the schema like any other schema change."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from everlog import migrations
from everlog.consumers import Follower, SqliteSink, verify
from everlog.rpc.embedded import EmbeddedDatabase
from tests.migrations.project import Project

UNIQUE = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME, unique=True),))'
WITH_CITY = "string faa = 1; string name = 2; string city = 3;"


def test_tables_come_and_go_and_stay_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    project = Project(tmp_path)
    project.add("one", table=UNIQUE, files={"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\nEWR,Newark\n"})
    project.add(
        "two",
        fields=WITH_CITY,
        drop=', drop=["airports.by_name"]',
        files={"bootstrap_airports.csv": "faa,name,city\nLGA,LG,NYC\n"},
    )
    path = project.build().path
    with EmbeddedDatabase(tmp_path / "db") as db, SqliteSink(tmp_path / "mirror.db") as sink:
        steps: tuple[Callable[[], object], ...] = (
            lambda: migrations.apply(db, path),
            lambda: migrations.rollback(db),
            lambda: migrations.apply(db, path),
            lambda: migrations.rollback(db, to=0),
            lambda: migrations.apply(db, path),
        )
        for step in steps:
            step()
            Follower(db, sink).run(bounded=True)
            assert verify(db, sink) == []
    with (
        EmbeddedDatabase(tmp_path / "db") as db,
        SqliteSink(tmp_path / "late.db") as late,
    ):
        Follower(db, late).run(bounded=True)  # the whole history at once
        assert verify(db, late) == []
