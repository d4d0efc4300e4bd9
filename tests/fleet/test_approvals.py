"""Approvals of plans in the ledger, and the start of a run that needs one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from everlog import MigrationError
from everlog.feed import cursor
from everlog.fleet import approvals as approvals_of
from everlog.fleet import protocol
from everlog.fleet.approvals import PlanApprovals, PlanState
from everlog.fleet.coordinator import FleetCoordinator
from everlog.fleet.ledger import LedgerStore
from everlog.fleet.plan import draft
from everlog.fleet.protocol import Coordinator, Ledger, Phase, Report, Verb
from everlog.migrations.proposal import FindingEntry, Rules
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.tx.transaction import Transaction
from tests.fleet.test_ledger import DEADLINE_NS, NEXT, RUN, db, mark
from tests.fleet.test_plan import fleet, surveyed

__all__ = ["db", "mark"]

PLAN = draft(fleet())
BY: dict[str, Any] = {"actor": "bob", "reason": "reviewed"}


@pytest.fixture
def store(db: EmbeddedDatabase, mark: Path) -> LedgerStore:
    return LedgerStore(db, mark)


@pytest.fixture
def approvals(store: LedgerStore) -> PlanApprovals:
    return PlanApprovals(store, Rules(frozenset({"ann", "bob"})))


@pytest.fixture
def coordinator(store: LedgerStore) -> FleetCoordinator:
    coordinator = FleetCoordinator(store, checked=True)
    coordinator.take_over()
    return coordinator


def start(coordinator: FleetCoordinator, decision_id: bytes = RUN, digest: bytes = PLAN.digest) -> list[Verb]:
    orders = coordinator.start(
        decision_id, PLAN.targets(), deadline_ns=DEADLINE_NS, digest=digest, actor="ann"
    )
    return [order.verb for order in orders]


def test_a_plan_is_proposed_approved_and_started_once(
    db: EmbeddedDatabase, approvals: PlanApprovals, coordinator: FleetCoordinator
) -> None:
    proposed = approvals.propose(PLAN, actor="ann", reason="release 12")
    assert (proposed.state, proposed.plan, proposed.digest) == (PlanState.WAITING, PLAN, PLAN.digest)
    head = db.head
    assert approvals.propose(PLAN, actor="bob") == proposed
    assert db.head == head
    approved = approvals.approve(proposed.short[:6], fleet(), **BY)
    assert (approved.state, approved.decided_by) == (PlanState.APPROVED, "bob")
    assert start(coordinator) == [Verb.PREPARE] * 3
    (found,) = approvals.proposals()
    assert (found.state, found.decision_id) == (PlanState.STARTED, RUN)
    coordinator.abort(RUN)
    for target in PLAN.targets():
        coordinator.receive(Report(target.database, RUN, coordinator.epoch, Phase.ABORTED))
    with pytest.raises(MigrationError, match=f"plan {proposed.short} was started as run {cursor.name(RUN)}"):
        start(coordinator, NEXT)
    log = [(entry.actor, entry.reason) for entry in db.past.log(kind="commit")]
    assert log[1:4] == [("ann", "release 12"), ("bob", "reviewed"), ("ann", f"start run {cursor.name(RUN)}")]


def test_a_checked_coordinator_refuses_what_is_not_approved(
    db: EmbeddedDatabase, approvals: PlanApprovals, coordinator: FleetCoordinator
) -> None:
    head, epoch = db.head, coordinator.epoch
    with pytest.raises(MigrationError, match=r"need approval, and no plan was named; .*; nothing was done"):
        start(coordinator, digest=b"")
    with pytest.raises(MigrationError, match="was not proposed; propose it; nothing was done"):
        start(coordinator)
    assert (db.head, coordinator.epoch, coordinator.runs) == (head, epoch, ())
    approvals.propose(PLAN, actor="ann")
    with pytest.raises(MigrationError, match="waits for approval since ann proposed it, and cannot be start"):
        start(coordinator)
    approvals.approve(PLAN.digest.hex(), fleet(), **BY)
    approvals.reject(PLAN.digest.hex(), actor="bob", reason="a holiday")
    with pytest.raises(MigrationError, match=r"was rejected by bob .a holiday., and cannot be started"):
        start(coordinator)
    assert coordinator.epoch == epoch
    with pytest.raises(MigrationError, match=r"was rejected by bob .a holiday., so it cannot be approved"):
        approvals.approve(PLAN.digest.hex(), fleet(), **BY)


def test_an_approval_binds_the_members_of_its_plan(
    approvals: PlanApprovals, coordinator: FleetCoordinator
) -> None:
    approvals.propose(PLAN, actor="ann")
    approvals.approve(PLAN.digest.hex(), fleet(), **BY)
    with pytest.raises(MigrationError, match="other members, versions or folders than plan"):
        coordinator.start(RUN, draft(fleet(2)).targets(), deadline_ns=DEADLINE_NS, digest=PLAN.digest)
    assert start(coordinator) == [Verb.PREPARE] * 3


def test_a_stale_plan_is_not_approved(approvals: PlanApprovals) -> None:
    approvals.propose(PLAN, actor="ann")
    with pytest.raises(MigrationError, match=r"because it is stale: shop-3 left: .*; plan again") as raised:
        approvals.approve(PLAN.digest.hex(), fleet(2), **BY)
    assert len(raised.value.changes) == 1
    assert approvals.proposals()[0].state is PlanState.WAITING


def test_the_rules_of_proposals_hold(approvals: PlanApprovals) -> None:
    approvals.propose(PLAN, actor="ann")
    words = PLAN.digest.hex()
    for actor, reason, error in (
        ("ann", "x", "ann proposed .* and may not approve it; somebody else must"),
        ("eve", "x", "eve may not approve .*; the approvers are: ann, bob"),
        ("", "x", "expected the name of the person who would approve"),
        ("bob", " ", "expected a reason, found none; pass --reason"),
    ):
        with pytest.raises(MigrationError, match=error):
            approvals.approve(words, fleet(), actor=actor, reason=reason)
    with pytest.raises(MigrationError, match="expected the digest of a plan, or at least its first 6 digits"):
        approvals.approve("abc", fleet(), **BY)


def test_errors_of_lint_need_to_be_accepted(approvals: PlanApprovals) -> None:
    error = FindingEntry("wire/type", "error", "v1_x/model.proto", 3, "the type of a field changed")
    surveys = [msgspec.structs.replace(one, findings=[error]) for one in fleet()]
    plan = draft(surveys)
    approvals.propose(plan, actor="ann")
    words = plan.digest.hex()
    with pytest.raises(
        MigrationError, match=r"has errors of lint: v1_x/model.proto:3: the type .*despite-err"
    ):
        approvals.approve(words, surveys, **BY)
    assert approvals.approve(words, surveys, **BY, despite_errors=True).despite_errors


def test_another_plan_supersedes_the_newest(approvals: PlanApprovals, coordinator: FleetCoordinator) -> None:
    other = draft([*fleet(), surveyed(4)])
    approvals.propose(PLAN, actor="ann")
    approvals.approve(PLAN.digest.hex(), fleet(), **BY)
    newest = approvals.propose(other, actor="ann")
    assert [one.state for one in approvals.proposals()] == [PlanState.SUPERSEDED, PlanState.WAITING]
    with pytest.raises(MigrationError, match=f"superseded by another plan, .*; the newest is {newest.short}"):
        approvals.approve(PLAN.digest.hex(), fleet(), **BY)
    with pytest.raises(MigrationError, match="was superseded by another plan, and cannot be started"):
        start(coordinator)
    again = approvals.propose(PLAN, actor="bob")
    assert [one.digest for one in approvals.proposals()] == [other.digest, again.digest]
    assert (again.state, again.decided_by) == (PlanState.WAITING, "")


def test_without_checks_a_run_needs_no_plan_but_respects_one(
    store: LedgerStore, approvals: PlanApprovals
) -> None:
    coordinator = FleetCoordinator(store)
    coordinator.take_over()
    approvals.propose(PLAN, actor="ann")
    approvals.reject(PLAN.digest.hex(), actor="bob", reason="no")
    with pytest.raises(MigrationError, match="was rejected by bob"):
        start(coordinator)
    assert start(coordinator, digest=b"") == [Verb.PREPARE] * 3


def test_a_rejection_that_comes_first_wins(
    db: EmbeddedDatabase, store: LedgerStore, approvals: PlanApprovals, coordinator: FleetCoordinator
) -> None:
    approvals.propose(PLAN, actor="ann")
    approvals.approve(PLAN.digest.hex(), fleet(), **BY)
    found = list[str]()

    def check(tx: Transaction) -> str:
        found.append(approvals_of.start(tx, PLAN.digest, RUN, PLAN.targets(), checked=True))
        if len(found) == 1:
            approvals.reject(PLAN.digest.hex(), actor="bob", reason="a holiday")  # before this one commits
        return found[-1]

    before = Ledger(coordinator.epoch, coordinator.runs)
    memory = Coordinator(coordinator.epoch, coordinator.runs)
    step = protocol.start(before, memory, RUN, PLAN.targets(), deadline_ns=DEADLINE_NS)
    assert step.ledger is not before
    refusal = store.save(before, step.ledger, check=check)
    assert "was rejected by bob (a holiday), and cannot be started" in refusal
    assert (found[0], len(found), coordinator.run(RUN)) == ("", 2, None)
    assert approvals.proposals()[0].state is PlanState.REJECTED
