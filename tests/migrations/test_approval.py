from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from everlog import MigrationError, migrations
from everlog.consumers import Follower, SqliteSink, verify
from everlog.feed.embedded import EmbeddedDatabase
from everlog.migrations import State
from everlog.migrations.approval import Approval, Rules
from everlog.migrations.proposal import Proposal, ProposalState, digest_of
from everlog.proto import log_pb2
from tests.migrations.project import Project

JFK = {"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\nEWR,Newark\n"}
INDEXED = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME),))'
UNIQUE = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME, unique=True),))'


@pytest.fixture
def db(tmp_path: Path) -> Iterator[EmbeddedDatabase]:
    path = tmp_path / "db"
    with EmbeddedDatabase(path) as database:
        yield database
    with EmbeddedDatabase(path) as again:
        assert list(again.check()) == []


@pytest.fixture
def approval(project: Project, db: EmbeddedDatabase) -> Approval:
    """One migration applied, one pending."""
    project.add("one", files=JFK)
    migrations.apply(db, project.build().path)
    project.add("two", table=INDEXED)
    return Approval(db, project.build().path, "airports")


def proposed(approval: Approval, actor: str = "deploy") -> Proposal:
    found = approval.propose(actor=actor, reason="release 7")
    assert found is not None
    return found


def put(approval: Approval, faa: str, name: str) -> None:
    table = migrations.load(approval.source)[0].tables[0]
    approval.db.put(table, table.model(faa=faa, name=name))


def test_a_proposal_is_one_record_that_holds_what_was_shown(approval: Approval) -> None:
    head, before = approval.db.head, approval.db.schema.version
    found = proposed(approval)
    commit = approval.db.log.commit(head + 1)
    assert approval.db.head == head + 1
    assert commit.migration.step == log_pb2.Migration.PROPOSED
    assert not commit.migration.HasField("schema")
    assert (commit.actor, commit.reason) == ("deploy", "release 7")
    assert commit.migration.plan_digest == digest_of(commit.migration.sources[0].content) == found.digest
    plan = found.plan
    assert (plan.from_version, plan.to_version) == (before, before + 1)
    assert [step.text for one in plan.migrations for step in one.steps] == [
        "build index airports.by_name over 2 rows"
    ]
    assert sorted(plan.migrations[0].files) == ["__init__.py", "model.proto"]
    assert found.state is ProposalState.WAITING


def test_a_proposal_is_not_an_applied_migration(approval: Approval) -> None:
    before = approval.db.schema.version
    proposed(approval)
    assert approval.db.schema.version == before
    states = [info.state for info in migrations.status(approval.db, approval.source)]
    assert states == [State.APPLIED, State.PENDING]


def test_the_same_is_proposed_once_however_often_and_whatever_is_written(
    approval: Approval, project: Project
) -> None:
    found = proposed(approval)
    put(approval, "LAX", "Los Angeles")
    assert proposed(approval).digest == found.digest
    assert len(approval.proposals()) == 1
    put_file(project.folders[1], "# another\n")
    assert proposed(approval).digest != found.digest
    assert [one.state for one in approval.proposals()] == [ProposalState.SUPERSEDED, ProposalState.WAITING]


def put_file(folder: Path, more: str) -> None:
    constants = folder / "__init__.py"
    constants.write_text(constants.read_text() + more)


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
    with pytest.raises(MigrationError, match=r"is rejected since commit 4 of bob \(on Monday\)"):
        approval.approve(digest.hex(), actor="ann", reason="now")
    with pytest.raises(MigrationError, match="nothing is approved"):
        approval.run()
    assert proposed(approval).digest == digest
    again = approval.propose(actor="deploy", again=True)
    assert again is not None
    assert (again.digest == digest, again.state) == (False, ProposalState.WAITING)


@pytest.mark.parametrize(
    ("rules", "actor", "says"),
    [
        (Rules(), "", "expected who would approve"),
        (Rules(), "deploy", "deploy proposed .* and may not approve it"),
        (Rules(frozenset({"bob"})), "ann", "ann may not approve .*; those who may are: bob"),
        (Rules(frozenset({"deploy"})), "deploy", "proposed"),
        (Rules(own=True), "deploy", ""),
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


def test_an_approval_of_what_has_changed_since_is_refused_and_says_what(
    approval: Approval, project: Project
) -> None:
    digest = proposed(approval).digest.hex()
    put_file(project.folders[1], "# edited\n")
    with pytest.raises(MigrationError, match=r"_two was edited: __init__.py is another") as caught:
        approval.approve(digest, actor="ann", reason="yes")
    assert caught.value.digest == digest
    old, new = approval.proposals()
    assert (old.state, new.state) == (ProposalState.SUPERSEDED, ProposalState.WAITING)
    assert (new.proposed.actor, new.proposed.reason) == ("deploy", "release 7")
    assert f"It is {new.short} now" in str(caught.value)


def test_a_folder_more_is_another_plan(approval: Approval, project: Project) -> None:
    digest = proposed(approval).digest.hex()
    project.add("three")
    project.build()
    with pytest.raises(MigrationError, match=r"migration \d+_three is new"):
        approval.approve(digest, actor="ann", reason="yes")


def test_a_table_that_was_empty_and_is_not_is_another_plan(project: Project, db: EmbeddedDatabase) -> None:
    project.add("one")
    migrations.apply(db, project.build().path)
    project.add("two", table=INDEXED)
    approval = Approval(db, project.build().path)
    digest = proposed(approval).digest.hex()
    put(approval, "JFK", "Kennedy")
    with pytest.raises(MigrationError, match=r"does: build index airports.by_name over 1 rows"):
        approval.approve(digest, actor="ann", reason="yes")


def test_what_was_applied_in_another_way_takes_the_place_of_a_proposal(approval: Approval) -> None:
    digest = proposed(approval).digest.hex()
    migrations.apply(approval.db, approval.source)
    assert [one.state for one in approval.proposals()] == [ProposalState.SUPERSEDED]
    with pytest.raises(MigrationError, match="it is superseded"):
        approval.approve(digest, actor="ann", reason="yes")


def test_a_run_that_fails_is_recorded_and_leaves_the_database_as_it_was(
    project: Project, db: EmbeddedDatabase
) -> None:
    project.add("one", files=JFK)
    migrations.apply(db, project.build().path)
    project.add("two", table=UNIQUE)
    approval = Approval(db, project.build().path)
    digest = proposed(approval).digest.hex()
    approval.approve(digest, actor="ann", reason="yes")
    put(approval, "LGA", "Newark")
    before = db.schema.version
    with pytest.raises(MigrationError, match="nothing of it is in the database"):
        approval.run()
    found = approval.proposals()[-1]
    assert (found.state, db.schema.version) == (ProposalState.FAILED, before)
    assert "Newark" in found.last.error
    assert proposed(approval).digest.hex() == digest
    assert len(approval.proposals()) == 1


def test_what_was_approved_and_edited_before_it_ran_is_not_applied(
    approval: Approval, project: Project
) -> None:
    approval.approve(proposed(approval).digest.hex(), actor="ann", reason="yes")
    put_file(project.folders[1], "# edited\n")
    with pytest.raises(MigrationError, match="_two is not as it was approved"):
        approval.run()
    assert approval.proposals()[-1].state is ProposalState.FAILED
    assert proposed(approval).state is ProposalState.WAITING


def test_after_a_restart_it_is_known_what_waits_and_what_was_approved(
    approval: Approval, db: EmbeddedDatabase
) -> None:
    path = db.path
    digest = proposed(approval).digest
    db.close()
    with EmbeddedDatabase(path) as approval.db:
        assert proposed(approval).digest == digest
        approval.approve(digest.hex(), actor="ann", reason="yes")
    with EmbeddedDatabase(path) as approval.db:
        assert proposed(approval).state is ProposalState.APPROVED
        assert approval.run().state is ProposalState.FINISHED
        assert list(approval.db.check()) == []


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
    live = db.hashes()
    assert db.rebuild() == live == db.rebuild_into(tmp_path / "again")
    assert list(db.check()) == []


def test_whoever_listens_is_told_of_each_change(approval: Approval) -> None:
    told: list[str] = []
    approval.changed = lambda: told.append(approval.proposals()[-1].state)
    approval.approve(proposed(approval).digest.hex(), actor="ann", reason="yes")
    approval.run()
    assert list(dict.fromkeys(told)) == ["waiting", "approved", "finished"]
