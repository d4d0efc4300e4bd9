"""Rollouts: plans that are carried out in waves, in the ledger.

    plan ─ begin ─▶ Rollout (waves.py) ─ change ─▶ Rollout … each in one commit, with actor and reason
                        │
                        ├─▶ `check_run`: a run may have only members that the rollout has begun
                        └◀─ `settle`: the outcomes of a run

A coordinator that is killed reads the rollout again, and does what is `due`. Each change is a function of
waves.py, called on what is stored. A commit contains the whole rollout, about 100 bytes a member: record the
outcomes of many members in one change.

Invariants
  (1) A plan has one rollout, and only a plan for waves has one. If plans need approval, it is approved.
  (2) A run of a rollout has only members in progress, so no run evades a gate or a stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter

import msgspec

from everlog.feed import cursor
from everlog.fleet.ledger import LedgerStore
from everlog.fleet.migrations.v20261130210000_create_rollouts import ROLLOUTS, StoredRollout
from everlog.fleet.migrations.v20261130233000_add_proofs import PLANS, Plan
from everlog.fleet.plan import decode_plan
from everlog.fleet.protocol import Phase, Run, Target
from everlog.fleet.survey import SHORT
from everlog.fleet.waves import Gate, Rollout, ended, in_progress
from everlog.store.errors import CorruptionError, MigrationError
from everlog.store.tx.transaction import Transaction

OPEN = Gate()  # the next wave begins at once

Change = Callable[[Rollout], Rollout]


class RolloutStore:
    """The rollouts in a ledger. Safe to use from many threads and processes.

    `checked`: a plan needs approval before it is begun.
    """

    def __init__(self, store: LedgerStore, *, checked: bool = False) -> None:
        self._store = store
        self._checked = checked

    def get(self, digest: bytes) -> Rollout | None:
        """Return the rollout of a plan; None: it was not begun. Read-only."""
        return self._store.read(lambda tx: _stored(tx, digest))

    def all(self) -> list[tuple[bytes, Rollout, bytes]]:
        """Return the digest, the rollout and the document of each plan that was begun, in the order of their
        proposals. Read-only."""

        def read(tx: Transaction) -> list[tuple[bytes, Rollout, bytes]]:
            found = []
            for stored in tx.scan(ROLLOUTS):
                row, rollout = tx.get(PLANS, stored.digest), _stored(tx, stored.digest)
                if row is not None and rollout is not None:
                    found.append((row.number, (stored.digest, rollout, row.document)))
            return [one for _, one in sorted(found, key=itemgetter(0))]

        return self._store.read(read)

    def begin(
        self,
        digest: bytes,
        waves: Iterable[Iterable[str]],
        *,
        gate: Gate = OPEN,
        deadline_s: float = 3600.0,
        actor: str = "",
        reason: str = "",
    ) -> Rollout:
        """Begin to carry out the proposed plan with this digest. Writes one commit.

        `waves`: the UUIDs of its members, from `waves.split`. `deadline_s`: for the votes of a wave.
        Raises MigrationError if the plan is unknown, in unison, not approved and must be, or begun already,
        or if the waves have other members.
        """
        rollout = Rollout(tuple(tuple(wave) for wave in waves), gate, deadline_s=deadline_s)

        def write(tx: Transaction) -> Rollout:
            refusal = _begin_refusal(tx, digest, rollout, checked=self._checked)
            if refusal:
                raise MigrationError(
                    f"plan {digest.hex()[:SHORT]} {refusal}; nothing was done", digest=digest.hex()
                )
            row = tx.get(PLANS, digest)
            assert row is not None
            row.state = Plan.STARTED
            tx.put(PLANS, row)
            return _put(tx, digest, rollout)

        return self._store.commit(write, actor, reason or f"roll out plan {digest.hex()[:SHORT]}")

    def change(self, digest: bytes, change: Change, *, actor: str = "", reason: str = "") -> Rollout:
        """Change a rollout, as with `partial(waves.stop, reason=…)`, and return it. Writes one commit, or
        none if nothing changes. Raises MigrationError if the plan has none, and what `change` raises."""

        def write(tx: Transaction) -> Rollout:
            before = _stored(tx, digest)
            if before is None:
                raise MigrationError(
                    f"plan {digest.hex()[:SHORT]} is not carried out in waves; nothing was done",
                    digest=digest.hex(),
                )
            after = change(before)
            return after if after == before else _put(tx, digest, after)

        return self._store.commit(write, actor, reason)


def settle(rollout: Rollout, run: Run, *, now_ns: int) -> Rollout:
    """Return the rollout with the outcome of each member whose end in a run is known; for `change`.

    store.change(digest, partial(settle, run=coordinator.run(decision_id), now_ns=time.time_ns()))
    """
    refused = next(
        (seat.reason for seat in run.seats if seat.reason), f"run {cursor.name(run.decision_id)} was aborted"
    )
    for seat in run.seats:
        if seat.end is not None:
            failure = (seat.reason or refused) if seat.end is Phase.ABORTED else ""
            rollout = ended(rollout, _name(seat.target), now_ns=now_ns, failure=failure)
    return rollout


def _name(target: Target) -> str:
    """Return the UUID of a target as plans and waves have it."""
    return cursor.name(target.database)


def check_run(tx: Transaction, digest: bytes, targets: Iterable[Target]) -> str:
    """Return why the members of a run may not be upgraded now, or an empty string. Read-only."""
    rollout = _stored(tx, digest)
    row = tx.get(PLANS, digest)
    if rollout is None or row is None:
        return f"plan {digest.hex()[:SHORT]} is for waves; begin its rollout first"
    targets = list(targets)
    if not set(targets) <= set(decode_plan(row.document).targets()):
        return f"the run has other members, versions or folders than plan {digest.hex()[:SHORT]}"
    others = {_name(target) for target in targets} - set(in_progress(rollout))
    if others:
        return (
            f"database {min(others)} is not in progress in wave {rollout.wave + 1} of {len(rollout.waves)},"
            f" and the rollout is {rollout.state}"
        )
    return ""


def _begin_refusal(tx: Transaction, digest: bytes, rollout: Rollout, *, checked: bool) -> str:
    row = tx.get(PLANS, digest)
    if row is None:
        return "was not proposed; propose it first"
    if _stored(tx, digest) is not None:
        return "is begun already"
    if row.state not in (Plan.APPROVED, *(() if checked else (Plan.WAITING,))):
        return f"is {Plan.State.Name(row.state).lower()}, and cannot be begun"
    plan = decode_plan(row.document)
    if plan.unison:
        return "is in unison, not for waves; plan again with waves"
    if {one for wave in rollout.waves for one in wave} != {one.database for one in plan.members}:
        return "has other members than the waves"
    return ""


def _stored(tx: Transaction, digest: bytes) -> Rollout | None:
    row = tx.get(ROLLOUTS, digest)
    if row is None:
        return None
    return decode_rollout(row.document, digest)


def decode_rollout(document: bytes, digest: bytes) -> Rollout:
    """Parse the output of `Rollout.encode`. `digest`: of the plan. Raises CorruptionError."""
    try:
        return msgspec.json.decode(document, type=Rollout)
    except msgspec.MsgspecError as error:
        raise CorruptionError(
            f"expected the rollout of plan {digest.hex()[:SHORT]} as JSON, found: {error}", place="rollouts"
        ) from None


def _put(tx: Transaction, digest: bytes, rollout: Rollout) -> Rollout:
    tx.put(ROLLOUTS, StoredRollout(digest=digest, document=rollout.encode()))
    return rollout
