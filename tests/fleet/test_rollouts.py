"""Rollouts in the ledger: plans that are carried out in waves."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from everlog import CorruptionError, MigrationError
from everlog.audit.restore import restore
from everlog.fleet import waves
from everlog.fleet.approvals import PlanApprovals, PlanState
from everlog.fleet.coordinator import FleetCoordinator
from everlog.fleet.ledger import LedgerStore
from everlog.fleet.migrations.v20261130210000_create_rollouts import ROLLOUTS, StoredRollout
from everlog.fleet.plan import draft
from everlog.fleet.protocol import Phase, Run, Seat, Vote
from everlog.fleet.rollouts import RolloutStore, settle
from everlog.fleet.waves import Gate, Rollout, RolloutState, split
from everlog.rpc.embedded import EmbeddedDatabase
from tests.fleet.test_ledger import DEADLINE_NS, RUN, db, mark, opened
from tests.fleet.test_plan import database, fleet

__all__ = ["db", "mark"]

PLAN = draft(fleet(), unison=False)
WAVES = split(fleet(), ("1", "rest"))
FIRST, SECOND, THIRD = (database(number) for number in (1, 2, 3))


@pytest.fixture
def store(db: EmbeddedDatabase, mark: Path) -> LedgerStore:
    return LedgerStore(db, mark)


@pytest.fixture
def approvals(store: LedgerStore) -> PlanApprovals:
    approvals = PlanApprovals(store)
    approvals.propose(PLAN, actor="ann")
    return approvals


@pytest.fixture
def rollouts(store: LedgerStore, approvals: PlanApprovals) -> RolloutStore:
    approvals.approve(PLAN.digest.hex(), fleet(), actor="bob", reason="reviewed")
    return RolloutStore(store, checked=True)


def test_a_rollout_is_read_again_as_it_was(
    db: EmbeddedDatabase, store: LedgerStore, rollouts: RolloutStore
) -> None:
    assert rollouts.get(PLAN.digest) is None
    begun = rollouts.begin(PLAN.digest, WAVES, gate=Gate(5, check=True, approval=True), actor="ann")
    assert begun == RolloutStore(store).get(PLAN.digest) == Rollout(WAVES, Gate(5, check=True, approval=True))
    (plan,) = PlanApprovals(store).proposals()
    assert (plan.state, plan.says) == (PlanState.STARTED, "was started in waves")
    after = begun
    for change in (
        partial(waves.began, members=[FIRST]),
        partial(waves.ended, member=FIRST, now_ns=10),
        partial(waves.tick, now_ns=15),
        partial(waves.checked, wave=0),
        partial(waves.approve, wave=0),
        partial(waves.began, members=[SECOND, THIRD]),
        partial(waves.ended, member=SECOND, now_ns=20, failure="disk full"),
        partial(waves.ended, member=THIRD, now_ns=20),
        waves.roll_back,
        partial(waves.returned, member=THIRD, failure="down"),
    ):
        after = rollouts.change(PLAN.digest, change, actor="ann", reason="because")
        assert RolloutStore(store).get(PLAN.digest) == after
    assert (after.state, after.upgraded) == (RolloutState.RETURNING, frozenset({FIRST, THIRD}))
    head = db.head
    assert rollouts.change(PLAN.digest, partial(waves.tick, now_ns=99)) == after
    assert db.head == head
    assert [entry.reason for entry in db.past.log(kind="commit")][-2:] == ["because", "because"]


def test_a_run_has_only_members_in_progress(store: LedgerStore, rollouts: RolloutStore) -> None:
    coordinator = FleetCoordinator(store, checked=True)
    coordinator.take_over()
    targets = PLAN.targets()

    def start(*numbers: int) -> int:
        chosen = [targets[number - 1] for number in numbers]
        return len(coordinator.start(RUN, chosen, deadline_ns=DEADLINE_NS, digest=PLAN.digest))

    with pytest.raises(MigrationError, match="is for waves; begin its rollout first; nothing was done"):
        start(1)
    rollouts.begin(PLAN.digest, WAVES)
    with pytest.raises(MigrationError, match=f"{FIRST} is not in progress in wave 1 of 2, and .* is running"):
        start(1)
    rollouts.change(PLAN.digest, partial(waves.began, members=[FIRST, SECOND]))
    with pytest.raises(MigrationError, match=f"database {SECOND} is not in progress in wave 1 of 2"):
        start(1, 2)
    other = draft(fleet(), hold=True).targets()[0]
    with pytest.raises(MigrationError, match="other members, versions or folders than plan"):
        coordinator.start(RUN, [other], deadline_ns=DEADLINE_NS, digest=PLAN.digest)
    assert start(1) == 1


def test_the_outcomes_of_a_run_are_recorded_together() -> None:
    first, second, third = PLAN.targets()
    rollout = waves.began(Rollout(((FIRST, SECOND, THIRD),)), [FIRST, SECOND, THIRD])
    undecided = Run(RUN, (Seat(first), Seat(second), Seat(third)), 0)
    assert settle(rollout, undecided, now_ns=1) == rollout
    done = tuple(Seat(target, end=Phase.COMMITTED) for target in (first, second, third))
    assert settle(rollout, Run(RUN, done, 0), now_ns=1).state is RolloutState.FINISHED
    aborted = Run(
        RUN,
        (
            Seat(first, end=Phase.ABORTED),
            Seat(second, Vote.REFUSED, "row 3 does not fit", end=Phase.ABORTED),
            Seat(third),
        ),
        0,
    )
    after = settle(rollout, aborted, now_ns=1)
    assert (after.state, after.failed) == (
        RolloutState.STOPPING,
        ((FIRST, "row 3 does not fit"), (SECOND, "row 3 does not fit")),
    )
    last = Run(RUN, (*aborted.seats[:2], Seat(third, end=Phase.ABORTED)), 0)
    assert settle(after, last, now_ns=1).state is RolloutState.STOPPED


def test_what_cannot_be_begun_is_refused(
    db: EmbeddedDatabase, store: LedgerStore, approvals: PlanApprovals
) -> None:
    rollouts = RolloutStore(store, checked=True)
    with pytest.raises(MigrationError, match="is waiting, and cannot be begun; nothing was done"):
        rollouts.begin(PLAN.digest, WAVES)
    with pytest.raises(MigrationError, match="was not proposed; propose it first; nothing was done"):
        rollouts.begin(bytes(32), WAVES)
    with pytest.raises(MigrationError, match="is not carried out in waves; nothing was done"):
        rollouts.change(PLAN.digest, waves.roll_back)
    with pytest.raises(MigrationError, match="has other members than the waves; nothing was done"):
        RolloutStore(store).begin(PLAN.digest, WAVES[:1])
    RolloutStore(store).begin(PLAN.digest, WAVES)
    with pytest.raises(MigrationError, match="is begun already; nothing was done"):
        RolloutStore(store).begin(PLAN.digest, WAVES)
    unison = approvals.propose(draft(fleet()), actor="ann")
    with pytest.raises(MigrationError, match="is in unison, not for waves; plan again with waves"):
        RolloutStore(store).begin(unison.digest, WAVES)
    db.put(ROLLOUTS, StoredRollout(digest=b"\1", document=b"{}"))
    with pytest.raises(CorruptionError, match="expected the rollout of plan 01 as JSON, found: "):
        rollouts.get(b"\1")


def test_a_restored_ledger_that_lacks_a_stop_is_refused(
    db: EmbeddedDatabase, store: LedgerStore, mark: Path, rollouts: RolloutStore, tmp_path: Path
) -> None:
    FleetCoordinator(store).take_over()
    rollouts.begin(PLAN.digest, WAVES)
    db.archive.backup(str(tmp_path / "backup"))
    rollouts.change(PLAN.digest, partial(waves.stop, reason="too slow"), actor="ann")
    restore(tmp_path / "backup", tmp_path / "other")
    with opened(tmp_path / "other") as other:
        restored = LedgerStore(other, mark)
        for why in ("ahead of the log", "of another history"):
            with pytest.raises(MigrationError, match=f"the cursor is {why}"):
                FleetCoordinator(restored).take_over()
            PlanApprovals(restored).propose(draft(fleet(2)), actor="ann")
