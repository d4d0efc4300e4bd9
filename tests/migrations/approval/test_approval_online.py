"""Approved migrations that are built online: stopped, resumed, abandoned, held."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlog import ClosedError, DiskError, MigrationError, migrations
from everlog.migrations import Approval, State
from everlog.migrations.lock import Stop
from everlog.migrations.proposal import ProposalState
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.progress import Progress
from tests.migrations.approving import proposed
from tests.migrations.project import Project

ROWS = 3000  # more than are built in one slice


@pytest.fixture
def large(approval: Approval) -> Approval:
    """Return a table so large that the index of the second migration is built online."""
    table = migrations.load(approval.source)[0].tables[0]
    approval.db.load(table, (table.model(faa=f"A{number}", name=f"n{number}") for number in range(ROWS)))
    return approval


def stop(at: Progress) -> None:
    """Stop a run like a full disk does, after it has begun to build."""
    if "build" in at.step and at.done:
        raise DiskError("the disk is full", outcome="nothing written")


def test_what_was_stopped_on_its_way_stays_approved_and_is_gone_on_with(large: Approval) -> None:
    large.approve(proposed(large).short, actor="ann", reason="yes")
    with pytest.raises(DiskError):
        large.run(progress=stop)
    found = large.proposals()[-1]
    assert (found.state, found.last.step) == (ProposalState.APPROVED, "started")
    assert proposed(large).state is ProposalState.APPROVED
    large.start()
    assert large.proposals()[-1].state is ProposalState.FINISHED
    assert [info.state for info in migrations.status(large.db, large.source)] == [State.APPLIED] * 2


def test_what_was_stopped_on_its_way_can_be_rejected_and_leaves_no_trace(large: Approval) -> None:
    before = large.db.admin.hashes()
    digest = proposed(large).short
    large.approve(digest, actor="ann", reason="yes")
    with pytest.raises(DiskError):
        large.run(progress=stop)
    with pytest.raises(MigrationError, match="expected a reason"):
        large.reject(digest, actor="bob", reason="")
    found = large.reject(digest, actor="bob", reason="too slow")
    assert (found.state, found.last.step, found.last.actor) == (ProposalState.REJECTED, "rolled_back", "bob")
    assert large.db.admin.hashes() == before
    assert [info.state for info in migrations.status(large.db, large.source)] == [
        State.APPLIED,
        State.PENDING,
    ]
    assert proposed(large).digest == found.digest
    again = large.propose(actor="deploy", again=True)
    assert again is not None
    large.approve(again.short, actor="ann", reason="yes")
    assert large.run().state is ProposalState.FINISHED


def test_a_folder_that_was_edited_on_the_way_is_neither_gone_on_with_nor_forgotten(
    large: Approval, project: Project
) -> None:
    large.approve(proposed(large).short, actor="ann", reason="yes")
    with pytest.raises(DiskError):
        large.run(progress=stop)
    constants = project.folders[1] / "__init__.py"
    before = constants.read_text()
    constants.write_text(before + "EDITED = 1\n")
    with pytest.raises(MigrationError, match="was edited after commit"):
        large.run()
    with pytest.raises(MigrationError, match="was edited after commit"):
        large.prepare()
    constants.write_text(before)
    assert large.run().state is ProposalState.FINISHED


def test_whether_two_versions_are_served_is_part_of_what_is_shown(approval: Approval) -> None:
    shown = proposed(approval)
    approval.hold = True
    with pytest.raises(MigrationError, match="two versions would be served"):
        approval.approve(shown.short, actor="ann", reason="yes")
    assert approval.proposals()[-1].plan.hold


def test_whoever_opens_a_database_that_was_stopped_goes_on(large: Approval, tmp_path: Path) -> None:
    large.approve(proposed(large).short, actor="ann", reason="yes")
    with pytest.raises(DiskError):
        large.run(progress=stop)
    path = large.db.path
    large.db.close()
    with EmbeddedDatabase(path) as large.db:
        assert proposed(large).state is ProposalState.APPROVED
        large.prepare()
        large.start()
        assert large.proposals()[-1].state is ProposalState.FINISHED
        assert list(large.db.admin.check()) == []


def test_to_approve_again_what_has_stopped_is_to_go_on(large: Approval) -> None:
    digest = proposed(large).short
    large.approve(digest, actor="ann", reason="yes")
    with pytest.raises(DiskError):
        large.run(progress=stop)
    head = large.db.head
    assert large.approve(digest, actor="ann", reason="again").state is ProposalState.APPROVED
    assert large.db.head == head
    assert large.run().state is ProposalState.FINISHED


def test_a_run_that_is_told_to_stop_ends_soon_and_is_gone_on_with(large: Approval) -> None:
    large.approve(proposed(large).short, actor="ann", reason="yes")

    def stopping(at: Progress) -> None:
        if "build" in at.step:
            large.stop.set()

    with pytest.raises(ClosedError, match="the next start resumes it"):
        large.run(progress=stopping)
    assert large.proposals()[-1].state is ProposalState.APPROVED
    large.stop = Stop()
    large.start()
    assert large.proposals()[-1].state is ProposalState.FINISHED
