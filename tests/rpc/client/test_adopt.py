"""Schemas and folders that a server adopts without running them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from everlog import MigrationError, SchemaError, migrations
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from tests.migrations.project import Project

BASE = 20260201000000


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(sys, "path", [*sys.path])
    project = Project(tmp_path)
    project.add("one")
    return project.build()


def test_a_server_makes_an_empty_database_one_of_a_schema(
    remote: RemoteDatabase, empty: EmbeddedDatabase, project: Project, tmp_path: Path
) -> None:
    with EmbeddedDatabase(tmp_path / "model") as model:
        migrations.apply(model, project.path)
        text = migrations.dump_schema(model)
    version = remote.migrations.load(text, actor="ann", reason="a new one")
    assert version == empty.schema.version == project.load()[0].version
    assert (empty.migration_records()[-1].actor, empty.log.commit(empty.head).reason) == ("ann", "a new one")
    assert migrations.dump_schema(empty) == text
    with pytest.raises(MigrationError, match="a schema can only be loaded into an empty database"):
        remote.migrations.load(text)


def test_a_text_that_is_none_is_refused_by_its_line(remote: RemoteDatabase, empty: EmbeddedDatabase) -> None:
    head = empty.head
    with pytest.raises(SchemaError, match=r"mine\.txt:1: expected a migration, a table or a file"):
        remote.migrations.load("nonsense\n", where="mine.txt")
    assert empty.head == head


def test_a_server_compares_with_its_folders_and_records_them(
    remote: RemoteDatabase, empty: EmbeddedDatabase, project: Project
) -> None:
    remote.migrations.apply()
    shutil.rmtree(project.folders[0])
    project.add("base", version=BASE)
    project.build()
    (done,) = remote.migrations.baseline(BASE, actor="ann", reason="folded")
    assert (done.version, done.name, done.seq, done.actor) == (BASE, "base", empty.head, "ann")
    assert empty.schema.version == BASE
    assert remote.migrations.baseline(BASE) == []
    with pytest.raises(MigrationError, match="no migration 7; the versions are"):
        remote.migrations.baseline(7)


def test_a_server_without_folders_has_nothing_to_compare_with(empty: EmbeddedDatabase) -> None:
    with (
        Server({"x": empty}) as server,
        RemoteDatabase(server.url("x")) as remote,
        pytest.raises(MigrationError, match="started without the migrations of x"),
    ):
        remote.migrations.baseline(BASE)
