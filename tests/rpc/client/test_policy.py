"""Other changes of a schema at a server whose migrations wait for approval, with real tokens."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from everlog import AccessError, MigrationError, RowError, migrations
from everlog.migrations import Approval, Rules
from everlog.migrations.proposal import ProposalState
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.tx.transaction import proof_name
from tests.migrations.conftest import project
from tests.migrations.project import Project
from tests.migrations.test_online import Airports

__all__ = ["project"]

TOKENS = {"ann": "sesame", "bob": "thyme", "cy": "basil"}
BASE = 20270201000000


@pytest.fixture
def db(tmp_path: Path) -> Iterator[EmbeddedDatabase]:
    with EmbeddedDatabase(tmp_path / "db") as db:
        yield db
        assert list(db.admin.check()) == []


@contextmanager
def served(approval: Approval, path: Path) -> Iterator[dict[str, RemoteDatabase]]:
    """Yield clients by the names of their tokens; ann and bob may approve."""
    approval.rules = Rules(frozenset({"ann", "bob"}))
    source = {"x": str(path)}
    with Server(
        {"x": approval.db},
        tokens=TOKENS,
        roles=dict.fromkeys(TOKENS, ("owner",)),
        migrations=source,
        approvals={"x": approval},
    ) as server:
        clients = {name: RemoteDatabase(f"{server.url('x')}?token={token}") for name, token in TOKENS.items()}
        yield clients
        for client in clients.values():
            client.close()


def test_two_versions_are_ended_by_who_may_approve(project: Project, db: EmbeddedDatabase) -> None:
    airports = Airports(project, db, 10)
    approval = Approval(db, airports.path, "x", hold=True)
    waiting = approval.propose(actor="ann", reason="names in two")
    assert waiting is not None
    with served(approval, airports.path) as by:
        by["bob"].migrations.approve(waiting.short, reason="yes")
        assert db.schema.retiring
        for who, how, says in (
            ("cy", "now", "cy may not complete a migration of x; the approvers are: ann, bob"),
            ("ann", "", "expected a reason, found none"),
        ):
            with pytest.raises(MigrationError, match=says):
                by[who].migrations.complete(reason=how)
        with pytest.raises(AccessError, match="names bob as actor, its token is that of ann"):
            by["ann"].migrations.complete(actor="bob", reason="now")
        assert db.schema.retiring
        done = by["ann"].migrations.complete(reason="all clients are new")
        assert (db.log.commit(done.seq).actor, db.schema.retiring) == ("ann", {})


def test_a_return_is_for_who_may_approve_and_did_not_propose_it(
    project: Project, db: EmbeddedDatabase
) -> None:
    project.add("one")
    approval = Approval(db, project.build().path, "x")
    waiting = approval.propose(actor="ann", reason="the first")
    assert waiting is not None
    with served(approval, project.path) as by:
        with pytest.raises(MigrationError, match=r"not by `rollback`: the pending migration is waiting"):
            by["bob"].migrations.rollback(reason="never mind")
        by["bob"].migrations.approve(waiting.short, reason="yes")
        for who, how, says in (
            ("cy", "back", r"cy may not roll back \w+; the approvers are: ann, bob"),
            ("ann", "back", r"ann proposed \w+ and may not roll it back; somebody else must"),
        ):
            with pytest.raises(MigrationError, match=says):
                by[who].migrations.rollback(reason=how)
        with pytest.raises(RowError, match="cannot be undone, so it needs a reason; found none"):
            by["bob"].migrations.rollback()
        assert db.schema.version
        (done,) = by["bob"].migrations.rollback(reason="it was a slip")
        assert (db.log.commit(done.seq).actor, db.schema.version) == ("bob", 0)


def test_a_schema_that_nobody_was_shown_is_loaded_by_nobody(
    project: Project, db: EmbeddedDatabase, tmp_path: Path
) -> None:
    project.add("one")
    with EmbeddedDatabase(tmp_path / "model") as model:
        migrations.apply(model, project.build().path)
        text = migrations.dump_schema(model)
    with served(Approval(db, project.path, "x"), project.path) as by:
        for who in TOKENS:
            with pytest.raises(MigrationError, match="x is migrated after approval, not by `load`"):
                by[who].migrations.load(text, reason="quickly")
            with pytest.raises(MigrationError, match="x is migrated after approval, not by `up`"):
                by[who].migrations.apply(reason="quickly")
    assert db.schema.version == 0


def test_folders_are_adopted_by_who_may_approve(project: Project, db: EmbeddedDatabase) -> None:
    project.add("one")
    migrations.apply(db, project.build().path)
    shutil.rmtree(project.folders[0])
    project.add("base", version=BASE)
    with served(Approval(db, project.build().path, "x"), project.path) as by:
        with pytest.raises(MigrationError, match="cy may not baseline x"):
            by["cy"].migrations.baseline(BASE, reason="folded")
        with pytest.raises(MigrationError, match="expected a reason"):
            by["ann"].migrations.baseline(BASE)
        (done,) = by["ann"].migrations.baseline(BASE, reason="folded")
        assert (done.version, done.actor) == (BASE, "ann")
        assert all(one.state is not ProposalState.WAITING for one in by["ann"].migrations.proposals())


def test_an_edited_folder_is_accepted_by_who_may_approve(project: Project, db: EmbeddedDatabase) -> None:
    code = project.add("one") / "__init__.py"
    migrations.apply(db, project.build().path)
    project.add("two", fields="string faa = 1; string name = 2; string city = 3;")
    project.build()
    code.write_text(code.read_text() + "EDITED = 1\n")
    approval = Approval(db, project.path, "x")
    approval.prepare_or_report()
    assert "was edited" in approval.problem
    with served(approval, project.path) as by:
        head = db.head
        for who, why, says in (
            ("cy", "sorted", "cy may not accept folders of x; the approvers are: ann, bob"),
            ("ann", " ", "expected a reason, found none"),
        ):
            with pytest.raises(MigrationError, match=says):
                by[who].migrations.accept(reason=why)
        with pytest.raises(AccessError, match="ann"):
            by["ann"].migrations.accept(actor="bob", reason="sorted")
        with pytest.raises(MigrationError, match="is pending; expected one that was edited"):
            by["ann"].migrations.accept([20260101000001], reason="sorted")
        assert db.head == head
        (done,) = by["ann"].migrations.accept([20260101000000], reason="sorted")
        commit = db.log.commit(db.head)
        assert (done.seq, done.actor, commit.actor, commit.reason) == (db.head, "ann", "ann", "sorted")
        assert proof_name(commit.proof) == "token"
        assert [str(one.state) for one in by["cy"].migrations.status()] == ["applied", "pending"]
        waiting = by["cy"].migrations.propose(reason="release 8")
        assert waiting is not None
        assert by["cy"].migrations.problem() == ""
        by["bob"].migrations.approve(waiting.short, reason="yes")
        assert len(db.migration_records()) > 3
        assert db.schema.version == 20260101000001
