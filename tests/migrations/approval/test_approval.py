from __future__ import annotations

from pathlib import Path

import pytest

from everlog import MigrationError, migrations
from everlog.consumers import Follower, SqliteSink, verify
from everlog.migrations import State
from everlog.migrations.approval.approval import Approval
from everlog.migrations.approval.notify import ApprovalEvents
from everlog.migrations.proposal import ProposalState, Rules, plan_digest
from everlog.proto import log_pb2
from everlog.rpc.embedded import EmbeddedDatabase
from tests.migrations.approving import UNIQUE, one_pending, proposed, put
from tests.migrations.project import Project


def test_a_proposal_is_one_record_that_holds_what_was_shown(approval: Approval) -> None:
    head, before = approval.db.head, approval.db.schema.version
    found = proposed(approval)
    commit = approval.db.log.commit(head + 1)
    assert approval.db.head == head + 1
    assert commit.migration.step == log_pb2.Migration.PROPOSED
    assert not commit.migration.HasField("schema")
    assert (commit.actor, commit.reason) == ("deploy", "release 7")
    assert commit.migration.plan_digest == plan_digest(commit.migration.sources[0].content) == found.digest
    plan = found.plan
    assert (plan.from_version, plan.to_version) == (before, before + 1)
    assert [step.text for one in plan.migrations for step in one.steps] == [
        "build index airports.by_name over 2 rows, beside the live table"
    ]
    assert sorted(plan.migrations[0].files) == ["__init__.py", "model.proto"]
    assert found.state is ProposalState.WAITING


def test_a_proposal_is_not_an_applied_migration(approval: Approval) -> None:
    before = approval.db.schema.version
    proposed(approval)
    assert approval.db.schema.version == before
    states = [info.state for info in migrations.status(approval.db, approval.source)]
    assert states == [State.APPLIED, State.PENDING]


def test_what_was_approved_is_applied_and_the_log_tells_who_and_why(approval: Approval) -> None:
    digest = proposed(approval).digest
    approval.approve(digest.hex()[:8], actor="ann", reason="looks right")
    assert approval.db.schema.version == approval.proposals()[0].plan.from_version
    done = approval.run()
    assert done.state is ProposalState.FINISHED
    assert approval.db.schema.version == done.plan.to_version
    steps = [(event.step, event.actor, event.reason) for event in done.events]
    assert steps[:2] == [("proposed", "deploy", "release 7"), ("approved", "ann", "looks right")]
    assert steps[-1] == ("finished", "ann", "looks right")
    assert approval.propose() is None


def test_what_was_rejected_is_not_applied_nor_proposed_again_unless_somebody_says_so(
    approval: Approval,
) -> None:
    digest = proposed(approval).digest
    done = approval.reject(digest.hex(), actor="bob", reason="on Monday")
    assert (done.state, done.last.reason) == (ProposalState.REJECTED, "on Monday")
    with pytest.raises(
        MigrationError, match=r"already decided: rejected since commit 4 by bob \(on Monday\)"
    ):
        approval.approve(digest.hex(), actor="ann", reason="now")
    with pytest.raises(MigrationError, match="no approved proposal"):
        approval.run()
    assert proposed(approval).digest == digest
    again = approval.propose(actor="deploy", again=True)
    assert again is not None
    assert (again.digest == digest, again.state) == (False, ProposalState.WAITING)


@pytest.mark.parametrize(
    ("rules", "actor", "says"),
    [
        (Rules(), "", "expected the name of the person who would approve"),
        (Rules(), "deploy", "deploy proposed .* and may not approve it"),
        (Rules(frozenset({"bob"})), "ann", "ann may not approve .*; the approvers are: bob"),
        (Rules(frozenset({"deploy"})), "deploy", "proposed"),
        pytest.param(Rules(own=True), "deploy", "", marks=pytest.mark.long),
        (Rules(frozenset({"ann", "bob"})), "ann", ""),
    ],
)
def test_only_those_who_may_approve(approval: Approval, rules: Rules, actor: str, says: str) -> None:
    approval.rules = rules
    digest, head = proposed(approval).digest.hex(), approval.db.head
    if not says:
        assert approval.approve(digest, actor=actor, reason="yes").state is ProposalState.APPROVED
        return
    with pytest.raises(MigrationError, match=says):
        approval.approve(digest, actor=actor, reason="yes")
    assert approval.db.head == head


def test_one_may_reject_ones_own(approval: Approval) -> None:
    digest = proposed(approval).digest.hex()
    assert approval.reject(digest, actor="deploy", reason="wrong").state is ProposalState.REJECTED


def test_a_decision_wants_a_reason_and_a_digest(approval: Approval) -> None:
    digest, head = proposed(approval).digest.hex(), approval.db.head
    with pytest.raises(MigrationError, match="expected a reason"):
        approval.approve(digest, actor="ann", reason=" ")
    for words in ("", digest[:5], "f" * 64 if digest[0] != "f" else "0" * 64):
        with pytest.raises(MigrationError, match=f"the newest proposals are: {digest[:12]} .waiting."):
            approval.approve(words, actor="ann", reason="yes")
    assert approval.db.head == head


def test_a_run_that_fails_is_recorded_and_leaves_the_database_as_it_was(
    project: Project, tmp_path: Path
) -> None:
    with one_pending(project, tmp_path / "db", UNIQUE) as approval:
        fail(approval)


def fail(approval: Approval) -> None:
    db = approval.db
    digest = proposed(approval).digest.hex()
    approval.approve(digest, actor="ann", reason="yes")
    put(approval, "LGA", "Newark")
    before = db.schema.version
    with pytest.raises(MigrationError, match="the database is unchanged"):
        approval.run()
    found = approval.proposals()[-1]
    assert (found.state, db.schema.version) == (ProposalState.FAILED, before)
    assert "row airports/LGA has the same name" in found.last.error
    assert "Newark" not in found.last.error
    table = migrations.load(approval.source)[0].tables[0]
    db.delete(table, "LGA")
    assert proposed(approval).digest.hex() == digest
    assert len(approval.proposals()) == 1


def test_after_a_restart_it_is_known_what_waits_and_what_was_approved(
    approval: Approval,
) -> None:
    path, digest = approval.db.path, proposed(approval).digest
    approval.db.close()
    with EmbeddedDatabase(path) as approval.db:
        assert proposed(approval).digest == digest
        approval.approve(digest.hex(), actor="ann", reason="yes")
    with EmbeddedDatabase(path) as approval.db:
        assert proposed(approval).state is ProposalState.APPROVED
        assert approval.run().state is ProposalState.FINISHED
        assert list(approval.db.admin.check()) == []


def test_followers_and_rebuilds_pass_over_proposals(approval: Approval, tmp_path: Path) -> None:
    db = approval.db
    assert isinstance(db, EmbeddedDatabase)
    put(approval, "LAX", "Los Angeles")
    approval.reject(proposed(approval).digest.hex(), actor="bob", reason="not yet")
    put(approval, "SFO", "San Francisco")
    approval.propose(actor="deploy", again=True)
    approval.approve(approval.proposals()[-1].digest.hex(), actor="ann", reason="yes")
    put(approval, "BOS", "Boston")
    approval.run()
    put(approval, "SEA", "Seattle")
    for number, tables in enumerate((None, ["airports"])):
        with SqliteSink(tmp_path / f"mirror{number}.db") as sink:
            Follower(db, sink, tables=tables).run(bounded=True)
            assert verify(db, sink) == []
    live = db.admin.hashes()
    assert db.admin.rebuild() == live == db.admin.rebuild_into(tmp_path / "again")
    assert list(db.admin.check()) == []


def test_whoever_listens_is_told_of_each_change(approval: Approval) -> None:
    told: list[str] = []
    approval.changed = lambda: told.append(approval.proposals()[-1].state)
    approval.approve(proposed(approval).digest.hex(), actor="ann", reason="yes")
    approval.run()
    assert list(dict.fromkeys(told)) == ["waiting", "approved", "finished"]


def test_a_plan_with_errors_is_approved_despite_them_and_with_a_reason_alone(
    project: Project, tmp_path: Path
) -> None:
    with one_pending(project, tmp_path / "db", UNIQUE) as approval:
        put(approval, "LGA", "Newark")
        found = proposed(approval)
        head, words = approval.db.head, "1 error, and would fail: .*data/not-unique.*--despite-errors"
        (message, *_) = ApprovalEvents(approval).messages(0)
        assert "data/not-unique" in message.body
        assert "unique index by_name of airports: 1 of 3 rows" in message.body
        with pytest.raises(MigrationError, match=words) as caught:
            approval.approve(found.short, actor="ann", reason="yes")
        assert caught.value.errors == 1
        with pytest.raises(MigrationError, match="expected a reason"):
            approval.approve(found.short, actor="ann", reason=" ", despite_errors=True)
        assert (approval.db.head, approval.proposals()[-1].state) == (head, ProposalState.WAITING)
        by = {"actor": "ann", "reason": "bob removes them"}
        with pytest.raises(MigrationError, match="the database is unchanged"):
            approval.approve_and_run(found.short, **by, despite_errors=True)  # type: ignore[arg-type]
        events = {event.step: event.despite_errors for event in approval.proposals()[-1].events}
        assert events == {"proposed": False, "approved": True, "failed": False}
        again = approval.propose(actor="deploy", again=True)
        approval.db.delete(migrations.load(approval.source)[0].tables[0], "LGA")
        assert again is not None
        done = approval.approve_and_run(again.short, **by)  # type: ignore[arg-type]  # it has no errors now
        assert (done.state, done.event("approved").despite_errors) == (ProposalState.FINISHED, False)  # type: ignore[union-attr]
