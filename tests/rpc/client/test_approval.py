from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import everlog
from everlog import MigrationError, migrations
from everlog.migrations import Approval, MigrationInfo, Rules
from everlog.migrations.lock import lock
from everlog.migrations.proposal import ProposalState
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from tests.migrations.approval.test_deciding_races import LONG_S, after_a_call
from tests.migrations.project import Project

INDEXED = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME),))'
TOKENS = {"ann": "sesame", "bob": "thyme"}
PAGE = "http://127.0.0.1:7421/migrations/"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return two migrations."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    project = Project(tmp_path)
    project.add(files={"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\n"})
    project.add("index_names", table=INDEXED)
    return project.build()


@pytest.fixture
def approval(project: Project, tmp_path: Path) -> Iterator[Approval]:
    """Yield a server where the first is applied and the second waits for approval."""
    with EmbeddedDatabase(tmp_path / "db") as db:
        migrations.apply(db, project.path, to=project.load()[0].version)
        approval = Approval(db, project.path, "x", link=lambda digest: PAGE + digest.hex())
        approval.propose(actor="deploy", reason="release 7")
        yield approval
        assert list(db.admin.check()) == []


@pytest.fixture
def server(approval: Approval, project: Project) -> Iterator[Server]:
    served, source = {"x": approval.db}, {"x": str(project.path)}
    with Server(
        served,
        tokens=TOKENS,
        roles=dict.fromkeys(TOKENS, ("owner",)),
        migrations=source,
        approvals={"x": approval},
    ) as server:
        yield server


@pytest.fixture
def remote(server: Server) -> Iterator[RemoteDatabase]:
    with RemoteDatabase(f"{server.url('x')}?token=sesame") as remote:
        yield remote


def test_what_waits_is_told_approved_and_applied_over_the_network(
    remote: RemoteDatabase, approval: Approval
) -> None:
    (waiting,) = remote.migrations.proposals()
    assert waiting == approval.proposals()[0]
    assert waiting.url == PAGE + waiting.digest.hex()
    told: list[MigrationInfo] = []
    begun = list[ProposalState]()
    done = remote.migrations.approve(
        waiting.short,
        reason="looks right",
        approved=lambda one: begun.append(one.state),
        applied=told.append,
    )
    assert begun == [ProposalState.APPROVED]
    assert done.state is ProposalState.FINISHED
    assert [(info.version, info.seq) for info in told] == [(done.plan.to_version, done.last.seq)]
    approved = done.event("approved")
    assert approved is not None
    assert (approved.actor, approved.reason) == ("ann", "looks right")
    assert remote.refresh_schema().version == done.plan.to_version


def test_what_was_rejected_can_be_proposed_again(remote: RemoteDatabase) -> None:
    (waiting,) = remote.migrations.proposals()
    rejected = remote.migrations.reject(waiting.short, reason="on Monday")
    assert (rejected.state, rejected.last.actor) == (ProposalState.REJECTED, "ann")
    again = remote.migrations.propose(reason="it is Monday")
    assert again is not None
    assert (again.state, again.proposed.actor) == (ProposalState.WAITING, "ann")
    with pytest.raises(MigrationError, match=r"ann proposed .* and may not approve it"):
        remote.migrations.approve(again.short, reason="now")


def test_a_token_with_a_name_is_who_calls_and_no_other(server: Server, approval: Approval) -> None:
    approval.rules = Rules(frozenset({"bob"}))
    digest = approval.proposals()[0].short
    with RemoteDatabase(f"{server.url('x')}?token=sesame") as ann:
        with pytest.raises(everlog.AccessError, match="names bob as actor, its token is that of ann"):
            ann.migrations.approve(digest, actor="bob", reason="let me")
        with pytest.raises(MigrationError, match=r"ann may not approve .*; the approvers are: bob"):
            ann.migrations.approve(digest, reason="let me")
    with RemoteDatabase(f"{server.url('x')}?token=thyme") as bob:
        done = bob.migrations.approve(digest, actor="bob", reason="fine")
        assert done.state is ProposalState.FINISHED
    with pytest.raises(everlog.UnavailableError, match="refuses the call"):
        RemoteDatabase(f"{server.url('x')}?token=oregano")


def test_nothing_is_applied_in_another_way(remote: RemoteDatabase) -> None:
    with pytest.raises(
        MigrationError, match=r"not by `up`: the pending migration is waiting for approval"
    ) as caught:
        remote.migrations.apply()
    assert PAGE in str(caught.value)
    with pytest.raises(
        MigrationError, match=r"not by `rollback`: the pending migration is waiting for approval"
    ):
        remote.migrations.rollback(reason="back")


def test_a_program_of_the_new_version_is_told_to_wait_and_where_to_look(
    server: Server, project: Project, remote: RemoteDatabase
) -> None:
    url, (waiting,) = f"{server.url('x')}?token=thyme", remote.migrations.proposals()
    with pytest.raises(MigrationError, match="the migration to it is waiting for approval") as caught:
        everlog.open(url, migrations=project.path)
    assert str(caught.value).endswith(f"; see {PAGE}{waiting.digest.hex()}")
    assert (caught.value.digest, caught.value.see) == (waiting.digest.hex(), waiting.url)
    remote.migrations.reject(waiting.short, reason="on Monday")
    with pytest.raises(MigrationError, match=r"was rejected as \w+ by ann \(on Monday\)"):
        everlog.open(url, migrations=project.path)
    again = remote.migrations.propose()
    assert again is not None
    with RemoteDatabase(url) as bob:
        bob.migrations.approve(again.short, reason="it is Monday")
    with everlog.open(url, migrations=project.path) as opened:
        assert opened.schema.version == again.plan.to_version


def test_rows_are_read_and_written_in_the_old_version_while_it_waits(
    remote: RemoteDatabase, project: Project
) -> None:
    old = project.load()[0].tables[0]
    remote.put(old, old.model(faa="LAX", name="Los Angeles"))
    assert [row.faa for row in remote.scan(old)] == ["JFK", "LAX"]


def test_a_server_goes_on_with_what_was_approved_when_it_starts(approval: Approval, project: Project) -> None:
    approval.approve(approval.proposals()[0].short, actor="ann", reason="yes")
    served, source = {"x": approval.db}, {"x": str(project.path)}
    with (
        Server(served, migrations=source, approvals={"x": approval}) as server,
        RemoteDatabase(server.url("x")) as remote,
    ):
        (found,) = remote.migrations.proposals()  # closing waits for everything that the server started
        assert found.state is ProposalState.FINISHED


def test_a_server_that_applies_what_it_is_told_approves_nothing(approval: Approval) -> None:
    digest = approval.proposals()[0].short
    with Server({"x": approval.db}) as server, RemoteDatabase(server.url("x")) as remote:
        assert len(remote.migrations.proposals()) == 1
        with pytest.raises(MigrationError, match="start the server with --migrate checked"):
            remote.migrations.approve(digest, actor="ann", reason="yes")
        with pytest.raises(everlog.OpenError, match="hosts no database"):
            RemoteDatabase(server.url("y")).migrations.approve(digest)


def test_a_server_says_who_may_decide_and_shows_a_migration_as_its_database_does(
    remote: RemoteDatabase, approval: Approval, project: Project
) -> None:
    assert remote.migrations.rules() == Rules()
    approval.rules = Rules(frozenset({"ann"}), own=True)
    assert remote.migrations.rules() == approval.rules
    embedded = approval.db
    for version in (one.version for one in project.load()):
        assert remote.migrations.show(version) == migrations.show(embedded, version, project.path)
    with pytest.raises(MigrationError, match="there is no migration 7"):
        remote.migrations.show(7)
    with Server({"x": embedded}) as other, RemoteDatabase(other.url("x")) as plain:
        assert plain.migrations.rules() is None
        assert "started without the migrations" in plain.migrations.show(project.load()[0].version).problem


@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_a_decision_that_waited_until_its_caller_lost_its_token_is_not_made(
    server: Server, approval: Approval, verb: str
) -> None:
    """The migration of another caller has the lock meanwhile."""
    digest, waits, ended = approval.proposals()[0].short, threading.Event(), threading.Event()
    after_a_call(approval, "_check_decidable", waits)
    after_a_call(approval, {"approve": "approve_and_run"}.get(verb, verb), ended)
    with RemoteDatabase(f"{server.url('x')}?token=sesame") as ann, ThreadPoolExecutor(1) as pool:
        with lock(approval.db.uuid, "somebody else"):
            decides = pool.submit(getattr(ann.migrations, verb), digest, reason="yes")
            assert waits.wait(LONG_S)
            server.reload(tokens={"bob": TOKENS["bob"]}, roles={"bob": ("owner",)})
            assert isinstance(decides.exception(LONG_S), everlog.Error)
        assert ended.wait(LONG_S)
    (found,) = approval.proposals()
    assert found.state is ProposalState.WAITING
