"""Clients of two versions at one server, each with its own model."""

from __future__ import annotations

from pathlib import Path

import pytest

import everlog
from everlog import migrations
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.tx.transaction import new_commit_id
from tests.migrations.conftest import project
from tests.migrations.project import Project
from tests.migrations.test_online import Airports

__all__ = ["project"]


def test_each_reads_and_writes_in_its_own_model_until_one_is_completed(
    project: Project, tmp_path: Path
) -> None:
    with EmbeddedDatabase(tmp_path / "db") as db, Server({"x": db}) as server:
        url = f"everlog+insecure://127.0.0.1:{server.port}/x"
        airports = Airports(project, db, 100)
        old_row, new_row = airports.old_row, airports.new_row
        with RemoteDatabase(url) as before:
            assert before.get(airports.old, "A00001") == old_row(1)
            migrations.apply(db, airports.path, hold=True)
            with RemoteDatabase(url) as after:
                before.put(airports.old, old_row(1, "Jane"))
                assert after.get(airports.new, "A00001") == new_row(1, "Jane")
                with after.transaction() as tx:
                    row = tx.get(airports.new, "A00002")
                    assert row == new_row(2)
                    tx.put(airports.new, new_row(2, "Jane"))
                assert before.get(airports.old, "A00002") == old_row(2, "Jane")
                assert [row.faa for row in before.scan(airports.old.by_name, starts_with="Jane")] == [
                    "A00001",
                    "A00002",
                ]
                assert after.count(airports.new.by_first, "Jane") == 2
                before.load(airports.old, [old_row(200, "Joan")])
                after.load(airports.new, [new_row(201, "Joan")])
                assert after.get(airports.new, "A00200") == new_row(200, "Joan")
                assert before.get_many(airports.old, ["A00201"]) == [old_row(201, "Joan")]
                migrations.complete(db)
                assert after.get(airports.new, "A00001") == new_row(1, "Jane")
                for call in (
                    lambda: before.get(airports.old, "A00001"),
                    lambda: before.put(airports.old, old_row(3)),
                    lambda: list(before.scan(airports.old)),
                ):
                    with pytest.raises(everlog.SchemaError, match="use the tables of"):
                        call()


def test_a_commit_that_is_sent_again_is_the_same_before_while_and_after_two_versions_are_served(
    project: Project, tmp_path: Path
) -> None:
    with EmbeddedDatabase(tmp_path / "db") as db, Server({"x": db}) as server:
        airports = Airports(project, db, 10)
        first, second = new_commit_id(), new_commit_id()
        with RemoteDatabase(server.url("x")) as before:
            before.put(airports.old, airports.old_row(1, "Jane"), commit_id=first)
            migrations.apply(db, airports.path, hold=True)
            head = db.head
            before.put(airports.old, airports.old_row(1, "Jane"), commit_id=first)
            assert db.head == head
        with RemoteDatabase(server.url("x")) as after:
            after.put(airports.new, airports.new_row(2, "Jane"), commit_id=second)
            migrations.complete(db)
            head = db.head
            after.put(airports.new, airports.new_row(2, "Jane"), commit_id=second)
            assert db.head == head
            for row in (airports.new_row(2, "Joan"), airports.new_row(3, "Jane")):
                with pytest.raises(everlog.PreconditionError, match="with other content"):
                    after.put(airports.new, row, commit_id=second)
            with pytest.raises(everlog.PreconditionError, match="with other content"):
                after.put(airports.new, airports.new_row(1, "Jane"), commit_id=first)
