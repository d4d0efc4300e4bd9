"""`show`: one migration with its files, declarations, bootstrap rows and events, wherever they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from everlog import migrations
from everlog.migrations.details import Details, show
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.wire import details_of, message_of_details
from everlog.store.errors import MigrationError
from tests.migrations.approving import one_pending, proposed, put_file
from tests.migrations.project import Project
from tests.store.people import MASTER

SEALED = 'Table("airports", Airport, key=FAA, person=NAME)'


def steps(found: Details) -> list[str]:
    return [one.step for one in found.events]


def test_an_applied_migration_is_shown_as_the_log_has_it(project: Project, tmp_path: Path) -> None:
    with one_pending(project, tmp_path / "db") as approval:
        first, second = migrations.load(approval.source)
        found = show(approval.db, first.version, approval.source)
        assert (found.origin, found.digest, found.problem) == ("log", first.folder.digest, "")
        assert found.file("model.proto") == first.folder.model.read_text()
        assert [(one.name, one.key, one.indexes) for one in found.tables] == [("airports", ["faa"], [])]
        (rows,) = found.bootstrap
        assert (rows.table, rows.rows) == ("airports", 2)
        assert [json.loads(one)["faa"] for one in rows.first] == ["JFK", "EWR"]
        assert steps(found) == ["finished"]
        put_file(first.folder.path, "EDITED = 1\n")
        edited = show(approval.db, first.version, approval.source)
        assert edited.files == found.files
        assert edited.tables == []
        assert edited.problem
        shutil.rmtree(first.folder.path)
        assert show(approval.db, first.version, approval.source).files == found.files
        assert show(approval.db, first.version, None).problem.startswith("the server was started without")
        pending = show(approval.db, second.version, approval.source)
        assert pending.origin == "folder"


def test_a_pending_migration_is_shown_from_its_folder_and_later_from_its_proposal(
    project: Project, tmp_path: Path
) -> None:
    with one_pending(project, tmp_path / "db") as approval:
        (_, second) = migrations.load(approval.source)
        proposal = proposed(approval)
        found = show(approval.db, second.version, approval.source)
        assert (found.origin, steps(found)) == ("folder", ["proposed"])
        (index,) = found.tables[0].indexes
        assert (index.name, index.fields, index.unique) == ("by_name", ["name"], False)
        before = second.folder.digest
        assert found.digest == before
        put_file(second.folder.path, "# edited\n")
        reviewed = show(approval.db, second.version, approval.source, digest=before)
        assert (reviewed.origin, reviewed.digest) == ("proposal", before)
        assert {one.path: one.sha256 for one in reviewed.files} == proposal.plan.migrations[0].files
        assert reviewed.files == found.files
        nothing = show(approval.db, second.version, approval.source, digest=b"other")
        assert (nothing.files, nothing.problem) == ([], "the server does not have this folder")
        assert details_of(message_of_details(found)) == found
        assert details_of(message_of_details(reviewed)) == reviewed


def test_rows_of_people_are_not_shown(project: Project, tmp_path: Path) -> None:
    project.add("one", table=SEALED, files={"bootstrap_airports.csv": "faa,name\nJFK,Wilhelmina\n"})
    with EmbeddedDatabase(tmp_path / "db", master_key=MASTER) as db:
        (version,) = [one.version for one in migrations.load(project.build().path)]
        for origin in ("folder", "log"):
            found = show(db, version, project.path)
            assert found.origin == origin
            assert "Wilhelmina" not in repr(found)
            (rows,) = found.bootstrap
            assert (rows.rows, rows.first, rows.sealed) == (1, [], True)
            (missing,) = [one for one in found.files if one.content is None]
            assert (missing.path, missing.sha256) == ("bootstrap_airports.csv", "")
            migrations.apply(db, project.path) if origin == "folder" else None


def test_a_folder_that_does_not_load_is_shown_with_the_reason(project: Project, tmp_path: Path) -> None:
    with one_pending(project, tmp_path / "db") as approval:
        (folder,) = Path(approval.source).glob("v*_two")
        put_file(folder, "\ndef up(:\n")  # before its code is loaded
        found = show(approval.db, int(folder.name[1:15]), approval.source)
        assert found.origin == "folder"
        assert "def up(:" in str(found.file("__init__.py"))
        assert found.problem


def test_a_version_that_nobody_knows_is_refused(project: Project, tmp_path: Path) -> None:
    with (
        one_pending(project, tmp_path / "db") as approval,
        pytest.raises(MigrationError, match="no migration 7, neither in the folders nor in the log"),
    ):
        show(approval.db, 7, approval.source)


def test_the_events_of_a_migration_are_those_of_its_proposal_and_its_own(
    project: Project, tmp_path: Path
) -> None:
    with one_pending(project, tmp_path / "db") as approval:
        proposal = proposed(approval)
        approval.approve_and_run(proposal.short, actor="ann", reason="fine")
        migrations.rollback(approval.db, source=approval.source, actor="bob", reason="slow")
        version = proposal.plan.to_version
        found = show(approval.db, version, approval.source)
        assert steps(found)[:2] == ["proposed", "approved"]
        assert steps(found)[-1] == "rolled_back"
        info = next(one for one in migrations.status(approval.db, approval.source) if one.version == version)
        assert (info.state, info.actor, info.seq) == ("pending", "bob", found.events[-1].seq)
        assert info.rolled_back_ns == found.events[-1].time_ns
