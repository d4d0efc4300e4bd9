"""Rolling back rewritten rows at a server: the server has the folders, and its clients continue."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlog import SchemaError
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from tests.migrations.conftest import project
from tests.migrations.project import Project
from tests.migrations.test_online import Airports
from tests.migrations.test_remake import Split

__all__ = ["project"]


def test_rows_go_back_through_down(project: Project, tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "db") as db:
        airports = Airports(project, db, 500)
        with (
            Server({"x": db}, migrations={"x": str(airports.path)}) as server,
            RemoteDatabase(server.url("x")) as remote,
        ):
            remote.migrations.apply()
            remote.put(airports.new, airports.new_row(7, "Jane"))
            (planned,) = remote.migrations.plan_rollback(1)
            assert "rewrite 500 rows of airports with `down`" in planned.steps[0].text
            assert [info.name for info in remote.migrations.rollback(1)] == ["two"]
            assert remote.get(airports.old, "A00007") == airports.old_row(7, "Jane")
            with pytest.raises(SchemaError, match="is newer"):
                remote.get(airports.new, "A00007")
            remote.migrations.apply()
            assert remote.count(airports.new) == 500
        assert list(db.admin.check()) == []


def test_rows_are_made_anew_and_back(project: Project, tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "db") as db:
        split = Split(project, db)
        with (
            Server({"x": db}, migrations={"x": str(split.path)}) as server,
            RemoteDatabase(server.url("x")) as remote,
        ):
            (planned,) = remote.migrations.plan(try_rows=True)
            assert any("writers will wait about" in step.text for step in planned.steps)
            remote.migrations.apply()
            split.check()
            remote.migrations.rollback(1)
            assert list(remote.scan(split.old))[-1] == list(db.scan(split.old))[-1]
        assert list(db.admin.check()) == []
