"""Approvals: a plan of the fleet is started after an authorised person approved its digest.

    draft ─▶ propose ─▶ WAITING ─┬─ approve ─▶ APPROVED ─ start ─▶ STARTED
                                 └─ reject ──▶ REJECTED       (in waves: by rollouts.py)

They are rows of the table `plans` in the ledger's database, which has who decided what, why, and how these
people were authenticated. Its log has the same, and when. A server refuses writes of clients to these tables.
Who may decide, and that nobody approves a proposal of their own, is decided by `Rules`, as for the migrations
of one database (migrations/proposal.py).

Invariants
  (1) Only the newest plan can be decided or started. Another proposal supersedes it.
  (2) An approval binds the bytes that were reviewed, and is refused if the plan is stale.
  (3) A run starts in the commit that marks its plan as started: a plan starts once, and a decision about it
      that comes first wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from everlog.feed import cursor
from everlog.fleet import rollouts
from everlog.fleet.ledger import LedgerStore
from everlog.fleet.migrations.v20261130233000_add_proofs import PLANS, Plan
from everlog.fleet.plan import FleetPlan, changes, decode_plan
from everlog.fleet.protocol import Target
from everlog.fleet.survey import SHORT, Survey, listed
from everlog.migrations.proposal import Rules, check_reason, pick, plan_digest
from everlog.store.errors import MigrationError
from everlog.store.tx.transaction import Metadata, Transaction, marked, proof_name, proof_of

ERRORS_SHOWN = 3


class PlanState(StrEnum):
    """The state of a plan."""

    WAITING = "waiting"
    APPROVED = "approved"
    REJECTED = "rejected"
    STARTED = "started"
    SUPERSEDED = "superseded"


_STATES = {Plan.State.Value(state.name): state for state in PlanState}
_OPEN = (Plan.WAITING, Plan.APPROVED)


@dataclass(frozen=True)
class ProposedPlan:
    """A plan that was proposed. `document`: the bytes that were reviewed. `decision_id`: the run that was
    started with it; empty: none, or several, in waves. `proposed_proof`, `decided_proof`: how these people
    were authenticated, as a word."""

    digest: bytes
    document: bytes = field(repr=False)
    state: PlanState
    proposed_by: str
    decided_by: str = ""
    reason: str = ""
    despite_errors: bool = False
    decision_id: bytes = b""
    proposed_proof: str = "claimed"
    decided_proof: str = ""

    @property
    def plan(self) -> FleetPlan:
        """The plan. Raises CorruptionError if the document is invalid."""
        return decode_plan(self.document)

    @property
    def short(self) -> str:
        """The first digits of the digest."""
        return self.digest.hex()[:SHORT]

    @property
    def says(self) -> str:
        """Its state, as a clause after the plan's digest."""
        by = f" by {self.decided_by}{marked(self.decided_proof)}" if self.decided_by else ""
        why = f" ({self.reason})" if self.reason else ""
        match self.state:
            case PlanState.WAITING:
                return f"waits for approval since {self.proposed_by or 'an unnamed caller'} proposed it"
            case PlanState.STARTED:
                how = f"as run {cursor.name(self.decision_id)}" if self.decision_id else "in waves"
                return f"was started {how}"
            case PlanState.SUPERSEDED:
                return "was superseded by another plan"
        return f"was {self.state}{by}{why}"


def start(
    tx: Transaction, digest: bytes, decision_id: bytes, targets: Sequence[Target], *, checked: bool
) -> str:
    """Mark a plan as started, in the transaction that starts its run. Return why it may not start, or an
    empty string.

    `targets`: the members that the run gets. `checked`: plans need approval. A run of a plan for waves needs
    that its rollout has begun these members.
    """
    if not digest:
        why = "runs of this fleet need approval, and no plan was named; approve one, and start its digest"
        return why if checked else ""
    row = tx.get(PLANS, digest)
    if row is None:
        return f"plan {digest.hex()[:SHORT]} was not proposed; propose it" if checked else ""
    refusal = _start_refusal(tx, row, targets, checked=checked)
    if not refusal and row.state != Plan.STARTED:
        row.state, row.decision_id = Plan.STARTED, decision_id
        tx.put(PLANS, row)
    return refusal


def _start_refusal(tx: Transaction, row: Plan, targets: Sequence[Target], *, checked: bool) -> str:
    found = _proposed(row)
    plan = found.plan
    if not plan.unison and row.state in (Plan.STARTED, *_OPEN):
        return rollouts.check_run(tx, row.digest, targets)
    if row.state not in _OPEN or (checked and row.state != Plan.APPROVED):
        return f"plan {found.short} {found.says}, and cannot be started"
    if set(plan.targets()) != set(targets):
        return f"the run has other members, versions or folders than plan {found.short}"
    return ""


class PlanApprovals:
    """The plans in a ledger. Safe to use from many threads and processes."""

    def __init__(self, store: LedgerStore, rules: Rules | None = None) -> None:
        self._store = store
        self.rules = rules or Rules()

    def proposals(self) -> list[ProposedPlan]:
        """Return all plans, the newest last. Read-only."""
        return self._store.read(lambda tx: [_proposed(row) for row in _rows(tx)])

    def find(self, words: str) -> ProposedPlan:
        """Return the plan whose digest starts with `words`. Read-only. Raises MigrationError."""
        return pick(self.proposals(), words, what="a plan")

    def check_startable(self, found: ProposedPlan, *, checked: bool, unison: bool = True) -> None:
        """Raise MigrationError if a plan cannot be started in unison, or otherwise in waves: it is for the
        other, was decided otherwise, or needs approval. The commit that starts it checks this again."""
        if found.plan.unison is not unison:
            how = (
                f"is for waves, and has no run of its own; start it with `everlog fleet rollout start"
                f" {found.short}`"
                if unison
                else f"is in unison; start it with `everlog fleet upgrade {found.short}`, or plan again with"
                " `everlog fleet plan --for-waves`"
            )
            raise MigrationError(f"plan {found.short} {how}", digest=found.digest.hex())
        if found.state is PlanState.APPROVED or (found.state is PlanState.WAITING and not checked):
            return
        how = f"; approve it with `everlog fleet approve {found.short}`" * (found.state is PlanState.WAITING)
        raise MigrationError(
            f"plan {found.short} {found.says}, and cannot be started{how}", digest=found.digest.hex()
        )

    def propose(self, plan: FleetPlan, *, actor: str = "", reason: str = "") -> ProposedPlan:
        """Propose a plan, which supersedes the newest one, unless that is the same and not decided yet.
        Return it. Writes one commit or none."""
        Metadata(actor, reason).check()
        document = plan.encode()
        digest = plan_digest(document)

        def write(tx: Transaction) -> ProposedPlan:
            rows = _rows(tx)
            newest = rows[-1] if rows else None
            if newest is not None and newest.state in _OPEN:
                if newest.digest == digest:
                    return _proposed(newest)
                newest.state = Plan.SUPERSEDED
                tx.put(PLANS, newest)
            number = newest.number + 1 if newest is not None else 1
            row = Plan(
                digest=digest,
                document=document,
                number=number,
                proposed_by=actor,
                proposed_proof=proof_name(proof_of(actor)),
            )
            tx.put(PLANS, row)
            return _proposed(row)

        return self._store.commit(write, actor, reason or f"propose plan {digest.hex()[:SHORT]}")

    def approve(
        self,
        words: str,
        surveys: Iterable[Survey],
        *,
        actor: str,
        reason: str,
        despite_errors: bool = False,
    ) -> ProposedPlan:
        """Approve the plan whose digest starts with `words`. Return it. Writes one commit.

        `surveys`: of the selected members, as they are now. A plan with errors of lint needs
        `despite_errors`, which is recorded. Raises MigrationError if `actor` may not approve, if the plan is
        decided already, or if it is stale; nothing was approved then.
        """
        surveys = list(surveys)

        def check(found: ProposedPlan, row: Plan) -> None:
            stale = changes(found.plan, surveys)
            if stale:
                raise MigrationError(
                    f"{found.short} is not approved, because it is stale: {listed(stale)}; plan again with"
                    " `everlog fleet plan`",
                    digest=found.digest.hex(),
                    changes=stale,
                )
            errors = found.plan.errors
            if errors and not despite_errors:
                raise MigrationError(
                    f"{found.short} has errors of lint: {listed(errors, ERRORS_SHOWN)}; fix them"
                    " and plan again, or approve it with --despite-errors and a reason",
                    digest=found.digest.hex(),
                    errors=len(errors),
                )
            row.despite_errors = bool(errors)

        return self._decide(words, "approve", Plan.APPROVED, actor, reason, check=check)

    def reject(self, words: str, *, actor: str, reason: str) -> ProposedPlan:
        """Reject a plan that was not started. Return it. Writes one commit. Raises MigrationError."""
        return self._decide(words, "reject", Plan.REJECTED, actor, reason)

    def _decide(
        self,
        words: str,
        verb: str,
        state: Plan.State.ValueType,
        actor: str,
        reason: str,
        *,
        check: Callable[[ProposedPlan, Plan], None] = lambda _, __: None,
    ) -> ProposedPlan:
        Metadata(actor, reason).check()

        def write(tx: Transaction) -> ProposedPlan:
            found, row = self._decidable(tx, words, verb, state, actor, reason)
            check(found, row)
            row.state, row.decided_by, row.reason = state, actor, reason
            row.decided_proof = proof_name(proof_of(actor))
            tx.put(PLANS, row)
            return _proposed(row)

        return self._store.commit(write, actor, reason)

    def check_approvable(self, words: str, *, actor: str, reason: str) -> ProposedPlan:
        """Return the plan that `approve` would approve if it is not stale: check this before members are
        surveyed. Read-only. Raises MigrationError as `approve`."""
        decide = self._decidable
        return self._store.read(lambda tx: decide(tx, words, "approve", Plan.APPROVED, actor, reason)[0])

    def _decidable(  # noqa: PLR0917  what a decision consists of
        self, tx: Transaction, words: str, verb: str, state: Plan.State.ValueType, actor: str, reason: str
    ) -> tuple[ProposedPlan, Plan]:
        """Return a plan that `actor` may decide about, and its row."""
        rows = _rows(tx)
        found = pick([_proposed(row) for row in rows], words, what="a plan")
        row = next(row for row in rows if row.digest == found.digest)
        if row.state not in _OPEN or row.state == state:
            newest = "" if row is rows[-1] else f"; the newest is {_proposed(rows[-1]).short}"
            raise MigrationError(
                f"plan {found.short} {found.says}, so it cannot be {_STATES[state]}{newest}; plan again"
                " with `everlog fleet plan`",
                digest=found.digest.hex(),
                state=str(found.state),
            )
        self.rules.check_decision(actor, found.proposed_by, found.short, verb)
        check_reason(reason)
        return found, row


def _rows(tx: Transaction) -> list[Plan]:
    """Return all plans, the newest last."""
    return sorted(tx.scan(PLANS), key=lambda row: row.number)


def _proposed(row: Plan) -> ProposedPlan:
    return ProposedPlan(
        row.digest,
        row.document,
        _STATES[row.state],
        row.proposed_by,
        row.decided_by,
        row.reason,
        row.despite_errors,
        row.decision_id,
        row.proposed_proof or "claimed",
        row.decided_proof,
    )
