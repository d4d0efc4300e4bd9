from __future__ import annotations

import sys
from pathlib import Path

import pytest

import everlog
from everlog.migrations.status import MigrationInfo, State
from everlog.proto import migrations_pb2, migrations_pb2_grpc
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.progress import Progress
from tests.migrations.project import Project

INDEXED = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME),))'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(sys, "path", [*sys.path])
    project = Project(tmp_path)
    project.add()
    project.add("index_names", table=INDEXED)
    return project.build()


def states(infos: list[MigrationInfo]) -> list[State]:
    return [info.state for info in infos]


def test_migrations_are_planned_and_applied_by_the_server(
    remote: RemoteDatabase, empty: EmbeddedDatabase
) -> None:
    assert states(remote.migrations.status()) == [State.PENDING, State.PENDING]
    planned = remote.migrations.plan()
    assert [one.name for one in planned] == ["create_airports", "index_names"]
    assert [step.text for step in planned[0].steps] == ["create table airports"]
    assert remote.head == 1

    steps: list[Progress] = []
    told: list[MigrationInfo] = []
    done = remote.migrations.apply(actor="ann", reason="go", progress=steps.append, applied=told.append)
    assert [info.seq for info in done] == [2, 3]
    assert told == done
    assert steps
    assert empty.migration_records()[0].actor == "ann"
    infos = remote.migrations.status()
    assert states(infos) == [State.APPLIED, State.APPLIED]
    assert infos[0].digest == infos[0].folder_digest
    assert infos[0].applied_ns == empty.migration_records()[0].time_ns
    assert sorted(remote.refresh_schema().tables) == ["airports"]


def test_migrations_are_applied_up_to_a_version(remote: RemoteDatabase, project: Project) -> None:
    first = project.load()[0].version
    assert [info.version for info in remote.migrations.apply(to=first)] == [first]
    assert [one.version for one in remote.migrations.plan()] == [first + 1]
    stub = migrations_pb2_grpc.MigrationsStub(remote.channel.grpc)
    answer = stub.Status(migrations_pb2.MigrationStatusRequest(database="x"))
    assert (answer.version, answer.applied, answer.pending, answer.ahead) == (first, 1, 1, 0)


def test_an_edited_migration_is_an_error_that_says_so(remote: RemoteDatabase, project: Project) -> None:
    first = project.load()[0].version
    remote.migrations.apply(to=first)
    constants = project.folders[0] / "__init__.py"
    constants.write_text(f"{constants.read_text()}EDITED = 1\n")
    assert states(remote.migrations.status()) == [State.EDITED, State.PENDING]
    with pytest.raises(everlog.MigrationError, match="was edited after commit 2 applied it") as caught:
        remote.migrations.apply()
    assert caught.value.version == first


def test_a_server_without_migrations_lists_what_the_log_knows_and_applies_nothing(
    empty: EmbeddedDatabase, project: Project
) -> None:
    everlog.migrations.apply(empty, project.path)
    with Server({"x": empty}) as server, RemoteDatabase(server.url("x")) as remote:
        assert states(remote.migrations.status()) == [State.AHEAD, State.AHEAD]
        for call in (remote.migrations.plan, remote.migrations.apply):
            with pytest.raises(everlog.MigrationError, match="started without the migrations of x"):
                call()


def test_a_server_rolls_back_with_the_log_alone(
    empty: EmbeddedDatabase, project: Project, remote: RemoteDatabase
) -> None:
    everlog.migrations.apply(empty, project.path)
    with Server({"x": empty}) as server, RemoteDatabase(server.url("x")) as other:
        assert [[step.text for step in one.steps] for one in other.migrations.plan_rollback()] == [
            ["drop index airports.by_name"]
        ]
        told: list[MigrationInfo] = []
        done = other.migrations.rollback(to=0, actor="ann", reason="back", rolled_back=told.append)
        assert told == done
        assert [(info.name, info.seq) for info in done] == [("index_names", 4), ("create_airports", 5)]
        assert empty.migration_records()[-1].actor == "ann"
        assert not other.refresh_schema().tables
        with pytest.raises(everlog.MigrationError, match="none is applied"):
            other.migrations.rollback()
    assert states(remote.migrations.status()) == [State.PENDING, State.PENDING]


def test_a_client_sees_a_version_that_came_again_with_other_tables(
    remote: RemoteDatabase, empty: EmbeddedDatabase
) -> None:
    remote.migrations.apply()
    before = remote.refresh_schema().tables["airports"].space
    remote.migrations.rollback(2)
    remote.migrations.apply()
    assert remote.refresh_schema().tables["airports"].space == empty.schema.tables["airports"].space > before


def test_what_was_edited_is_shown_by_the_server(remote: RemoteDatabase, project: Project) -> None:
    remote.migrations.apply()
    assert remote.migrations.differences() == {}
    constants = project.folders[0] / "__init__.py"
    constants.write_text(f"{constants.read_text()}EDITED = 1\n")
    ((version, diff),) = remote.migrations.differences().items()
    assert version == project.load()[0].version
    assert "+EDITED = 1\n" in diff
