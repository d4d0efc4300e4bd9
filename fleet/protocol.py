"""Protocol: the rules by which the databases of a fleet are upgraded in unison, as functions without I/O.

It is two-phase commit (Gray, "Notes on data base operating systems", 1978). The coordinator's log is an
everlog database, and the decision is one commit in it. A run upgrades the members of its plan, all or none:

    coordinator                                            member
    start      run in the ledger
               PREPARE ──────────────────────────────────▶ PREPARING   builds beside the live tables
    vote       in the ledger  ◀──────── REFUSED, PREPARED  PREPARED    the vote is on disk: in doubt
    decision   COMMIT or ABORT in the ledger
               COMMIT, or ABORT ─────────────────────────▶ COMMITTED, or ABORTED
    end        in the ledger  ◀──────── COMMITTED, ABORTED
               CONTRACT, if requested ───────────────────▶ CONTRACTED  one version again

    Phases of a member, in its run:

             ┌─ PREPARE ─▶ PREPARING ─ built ─▶ PREPARED ─ COMMIT ─▶ COMMITTED ─ CONTRACT ─▶ CONTRACTED
    IDLE, or ┤                   │                 └─ ABORT ─┐
    an end   │                   └───── ABORT, failed ───────┤
             └─ ABORT ───────────────────────────────────────┴▶ ABORTED

On disk there are two values, `Ledger` at the coordinator and `Holding` at each member. In memory there are
two, `Coordinator` and `Member`. A SIGKILL replaces these by new ones: this is everything that it loses.
Each function takes the pair of a process and an event, and returns the new pair and the messages to send.
Its caller
  1. makes the new `Ledger` or `Holding` durable, in one commit: for COMMITTED with the switch, for ABORTED
     with the removal of what was built. If this fails, or its result is unknown, the process continues as
     after a SIGKILL: with a new memory, from what is on disk.
  2. replaces what is in memory,
  3. sends the messages. Each may be lost, be late, arrive twice, or after a newer one.

Invariants
  (1) A run has at most one decision. It is COMMIT only if each member has voted PREPARED in this run.
  (2) A member that voted PREPARED is prepared until it receives the decision. It neither commits nor aborts
      by itself, also not when it is opened again, and no other migration starts there. It serves reads and
      writes.
  (3) No member is COMMITTED while another is ABORTED. No member ends without a decision in the ledger, its
      removal, or its own refusal, after which the run cannot commit.
  (4) A member that ended a run never holds it again: a late PREPARE changes nothing.
  (5) Only one coordinator writes to the ledger. `Coordinator.runs` is exact while its epoch is that of the
      ledger, and each commit reads the epoch.
  (6) Each run ends: after the decision its orders are repeated until each member reported the end.

Fences. The ledger's `epoch` rises by one with each takeover and each run. It is the fence of each order. A
member refuses an order with a fence below the highest that it has seen. So no order of an earlier run has an
effect after those of a later one, and the former of two coordinators learns that it was replaced.

tests/fleet/test_protocol.py searches all states of small fleets for violations. docs/fleet-protocol.md has
the table of failures.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

from everlog.feed import cursor


class Verb(Enum):
    """What an order asks of a member."""

    PREPARE = "PREPARE"
    COMMIT = "COMMIT"
    ABORT = "ABORT"
    CONTRACT = "CONTRACT"
    REPORT = "REPORT"


class Phase(Enum):
    """The state of a member in the run that it holds or held last."""

    IDLE = "IDLE"
    PREPARING = "PREPARING"
    PREPARED = "PREPARED"
    COMMITTED = "COMMITTED"
    ABORTED = "ABORTED"
    CONTRACTED = "CONTRACTED"


class Vote(Enum):
    """The vote of a member. Without one it is unknown, which is a refusal when the deadline passes."""

    PREPARED = "PREPARED"
    REFUSED = "REFUSED"


class Decision(Enum):
    """The outcome of a run."""

    COMMIT = "COMMIT"
    ABORT = "ABORT"


HELD = frozenset({Phase.PREPARING, Phase.PREPARED})  # a run that has not ended here
ENDS = frozenset({Phase.COMMITTED, Phase.ABORTED, Phase.CONTRACTED})


@dataclass(frozen=True, slots=True)
class Target:
    """One member in the frozen plan of a run: a database, and the upgrade that it votes on.

    `hold`: it serves both versions after the switch, until CONTRACT. Otherwise a database is CONTRACTED by
    COMMIT.
    """

    database: bytes
    from_version: int
    to_version: int
    folder_digest: bytes
    hold: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """A message of the coordinator to one member."""

    decision_id: bytes
    fence: int
    verb: Verb
    target: Target


@dataclass(frozen=True, slots=True)
class Report:
    """A message of a member to the coordinator: its phase in a run.

    `fence` is the highest that the member has seen. `refusal` is the reason why it cannot prepare, or empty.
    """

    database: bytes
    decision_id: bytes
    fence: int
    phase: Phase
    refusal: str = ""


# The coordinator


@dataclass(frozen=True, slots=True)
class Seat:
    """A member in a run, in the coordinator's ledger. `end` is the last phase of ENDS that it reported."""

    target: Target
    vote: Vote | None = None
    reason: str = ""
    removed: bool = False
    end: Phase | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A run in the coordinator's ledger. Its seats are in the order of their databases.

    Votes that are unknown at `deadline_ns` (Unix time) are refusals. `contract`: an operator ended the time
    of two versions.
    """

    decision_id: bytes
    seats: tuple[Seat, ...]
    deadline_ns: int
    decision: Decision | None = None
    contract: bool = False

    def seat(self, database: bytes) -> Seat | None:
        """Return the seat of a member, or None."""
        place = self._place(database)
        found = self.seats[place : place + 1]
        return found[0] if found and found[0].target.database == database else None

    def with_seat(self, changed: Seat) -> Run:
        """Return the run with the seat of this member replaced."""
        place = self._place(changed.target.database)
        return replace(self, seats=(*self.seats[:place], changed, *self.seats[place + 1 :]))

    def _place(self, database: bytes) -> int:
        return bisect_left(self.seats, database, key=lambda seat: seat.target.database)

    def open_seats(self) -> tuple[Seat, ...]:
        """Return the seats of members that have not reported the end. A removed member reports one, too."""
        return tuple(seat for seat in self.seats if seat.end is None)


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the coordinator has on disk, in its own database. Ended runs may be left out."""

    epoch: int = 0
    runs: tuple[Run, ...] = ()


@dataclass(frozen=True, slots=True)
class Coordinator:
    """What a coordinator has in memory: its epoch and a copy of the runs. Epoch 0: it does not coordinate."""

    epoch: int = 0
    runs: tuple[Run, ...] = ()

    def run(self, decision_id: bytes) -> Run | None:
        """Return a run of its copy, or None."""
        return next((run for run in self.runs if run.decision_id == decision_id), None)

    def with_run(self, changed: Run) -> tuple[Run, ...]:
        """Return its runs with this one replaced, or added."""
        if self.run(changed.decision_id) is None:
            return (*self.runs, changed)
        return tuple(changed if run.decision_id == changed.decision_id else run for run in self.runs)


class CoordinatorStep(NamedTuple):
    """The result of an event at a coordinator. `refusal` is the reason if nothing was done for an operator.

    `alarm` describes a report that these rules exclude: a member or the ledger was restored or edited.
    """

    ledger: Ledger
    coordinator: Coordinator
    orders: tuple[Order, ...] = ()
    refusal: str = ""
    alarm: str = ""


def take_over(ledger: Ledger) -> CoordinatorStep:
    """Begin to coordinate, also after a restart. Continues all runs of the ledger.

    An undecided run keeps its votes, because each is durable at its member, and its deadline.
    """
    ledger = replace(ledger, epoch=ledger.epoch + 1)
    coordinator = Coordinator(ledger.epoch, ledger.runs)
    return CoordinatorStep(ledger, coordinator, retry(coordinator))


def start(
    ledger: Ledger, coordinator: Coordinator, decision_id: bytes, plan: Iterable[Target], *, deadline_ns: int
) -> CoordinatorStep:
    """Start a run with a new `decision_id`, with the members of a frozen plan."""
    seats = tuple(Seat(target) for target in sorted(plan, key=lambda target: target.database))
    refusal = _start_refusal(coordinator, decision_id, seats)
    if refusal:
        return CoordinatorStep(ledger, coordinator, refusal=refusal)
    return _commit(ledger, coordinator, Run(decision_id, seats, deadline_ns), raised=True)


def receive(ledger: Ledger, coordinator: Coordinator, report: Report) -> CoordinatorStep:
    """Record what a member reports: its vote, which may bring the decision, or the end.

    Returns the orders that this brings, or, if it is not new, the order that its member waits for.
    """
    if report.fence > coordinator.epoch:
        return CoordinatorStep(ledger, Coordinator())  # replaced by a takeover
    run = coordinator.run(report.decision_id)
    seat = run.seat(report.database) if run else None
    if run is None or seat is None:
        return CoordinatorStep(ledger, coordinator)
    alarm = _alarm(run, seat, report)
    if alarm:
        return CoordinatorStep(ledger, coordinator, alarm=alarm)
    before = seat
    if report.phase in ENDS and seat.end is not Phase.CONTRACTED:
        seat = replace(seat, end=report.phase)
    if run.decision is None and seat.vote is None and not seat.removed:
        # The first vote stays: a refusal that is late cannot change a vote that is durable at its member.
        if report.refusal:
            seat = replace(seat, vote=Vote.REFUSED, reason=report.refusal)
        elif report.phase is Phase.PREPARED:
            seat = replace(seat, vote=Vote.PREPARED)
    if seat == before:
        return CoordinatorStep(ledger, coordinator, _orders(run, [seat], coordinator.epoch))
    return _commit(ledger, coordinator, _counted(run.with_seat(seat)))


def expire(ledger: Ledger, coordinator: Coordinator, decision_id: bytes, *, now_ns: int) -> CoordinatorStep:
    """Abort a run if its deadline has passed and it is undecided."""
    run = coordinator.run(decision_id)
    if run is not None and now_ns < run.deadline_ns:
        return CoordinatorStep(ledger, coordinator)
    return _decide_abort(ledger, coordinator, decision_id)


def abort(ledger: Ledger, coordinator: Coordinator, decision_id: bytes) -> CoordinatorStep:
    """Abort a run for an operator. Refused after the decision to commit."""
    return _decide_abort(ledger, coordinator, decision_id)


def remove(ledger: Ledger, coordinator: Coordinator, decision_id: bytes, database: bytes) -> CoordinatorStep:
    """Remove a member from a run for an operator, which aborts it there. Refused after the decision."""
    run = coordinator.run(decision_id)
    seat = run.seat(database) if run else None
    if run is None or seat is None:
        refusal = f"run {cursor.name(decision_id)} has no member {cursor.name(database)}"
        return CoordinatorStep(ledger, coordinator, refusal=refusal)
    if run.decision is not None:
        return CoordinatorStep(ledger, coordinator, refusal=_decided(run))
    return _commit(ledger, coordinator, _counted(run.with_seat(replace(seat, removed=True))))


def contract(ledger: Ledger, coordinator: Coordinator, decision_id: bytes) -> CoordinatorStep:
    """End the time of two versions, at all members, for an operator. Refused before all have committed."""
    run = coordinator.run(decision_id)
    if run is None or run.decision is not Decision.COMMIT or run.open_seats():
        refusal = (
            f"run {cursor.name(decision_id)} has not committed at each member; `everlog fleet status`"
            " shows those that it waits for"
        )
        return CoordinatorStep(ledger, coordinator, refusal=refusal)
    return _commit(ledger, coordinator, replace(run, contract=True))


def retry(coordinator: Coordinator) -> tuple[Order, ...]:
    """Return the orders that members have not carried out. Called repeatedly, without a limit."""
    return tuple(order for run in coordinator.runs for order in _orders(run, run.seats, coordinator.epoch))


def has_ended(run: Run) -> bool:
    """Whether no order of a run is left, nor can one come: a commit can be contracted."""
    final = {Phase.ABORTED, Phase.CONTRACTED}
    return run.decision is not None and all(seat.end in final for seat in run.seats)


def _commit(ledger: Ledger, coordinator: Coordinator, run: Run, *, raised: bool = False) -> CoordinatorStep:
    """Write a run in one commit that reads the epoch. A coordinator that was replaced writes nothing."""
    if ledger.epoch != coordinator.epoch:
        return CoordinatorStep(ledger, Coordinator())
    before, runs = coordinator.run(run.decision_id), coordinator.with_run(run)
    ledger = Ledger(ledger.epoch + raised, runs)
    coordinator = Coordinator(ledger.epoch, runs)
    return CoordinatorStep(ledger, coordinator, _orders(run, _changed(before, run), coordinator.epoch))


def _changed(before: Run | None, run: Run) -> Iterable[Seat]:
    """Return the seats whose orders may have changed: all of them, unless only a seat has changed."""
    if before is None or (before.decision, before.contract) != (run.decision, run.contract):
        return run.seats
    return [seat for seat, was in zip(run.seats, before.seats, strict=True) if seat is not was]


def _counted(run: Run) -> Run:
    """Return the run with the decision that its votes bring, if they do."""
    votes = [seat.vote for seat in run.seats if not seat.removed]
    if run.decision is not None:
        return run
    if not votes or Vote.REFUSED in votes:
        return replace(run, decision=Decision.ABORT)
    if all(vote is Vote.PREPARED for vote in votes):
        return replace(run, decision=Decision.COMMIT)
    return run


def _decide_abort(ledger: Ledger, coordinator: Coordinator, decision_id: bytes) -> CoordinatorStep:
    run = coordinator.run(decision_id)
    if run is None:
        return CoordinatorStep(ledger, coordinator, refusal=f"run {cursor.name(decision_id)} is unknown")
    if run.decision is not None:
        return CoordinatorStep(ledger, coordinator, refusal=_decided(run))
    return _commit(ledger, coordinator, replace(run, decision=Decision.ABORT))


def _orders(run: Run, seats: Iterable[Seat], fence: int) -> tuple[Order, ...]:
    """Return the order of each seat that has one."""
    return tuple(
        Order(run.decision_id, fence, verb, seat.target) for seat in seats if (verb := _verb(run, seat))
    )


def _verb(run: Run, seat: Seat) -> Verb | None:
    """Return what a member is to do next. None after its vote, until the decision, and after its end."""
    if seat.end is not None:
        return Verb.CONTRACT if run.contract and seat.end is Phase.COMMITTED else None
    if seat.removed or run.decision is Decision.ABORT:
        return Verb.ABORT
    if run.decision is Decision.COMMIT:
        return Verb.COMMIT
    return Verb.PREPARE if seat.vote is None else None


def _start_refusal(coordinator: Coordinator, decision_id: bytes, seats: tuple[Seat, ...]) -> str:
    databases = {seat.target.database for seat in seats}
    if not coordinator.epoch:
        return "this process does not coordinate the fleet (`everlog fleet status` shows the reason)"
    if len(databases) != len(seats) or not seats:
        return "expected a plan that has each database once"
    for run in coordinator.runs:
        if run.decision_id == decision_id:
            return f"run {cursor.name(decision_id)} exists already; start the run with a new id"
        if run.decision is None:
            name = cursor.name(run.decision_id)
            return (
                f"run {name} is undecided; wait for its decision, or abort it (`everlog fleet abort {name}`)"
            )
        for seat in run.open_seats():
            if seat.target.database in databases:
                return (
                    f"database {cursor.name(seat.target.database)} has not ended run"
                    f" {cursor.name(run.decision_id)}; wait until it is connected, or leave it out"
                )
    return ""


def _alarm(run: Run, seat: Seat, report: Report) -> str:
    """Return why a report contradicts the ledger, or an empty string."""
    outcome = Decision.ABORT if seat.removed else run.decision
    at = (
        f"database {cursor.name(seat.target.database)} reports {report.phase.value} in run"
        f" {cursor.name(run.decision_id)}"
    )
    refused = report.refusal and run.decision is None and seat.vote is None
    if report.phase is Phase.ABORTED and outcome is not Decision.ABORT and not refused:
        return f"{at}, which is not aborted"
    if report.phase in (Phase.COMMITTED, Phase.CONTRACTED) and outcome is not Decision.COMMIT:
        return f"{at}, which is not committed"
    return ""


def _decided(run: Run) -> str:
    assert run.decision is not None
    return f"run {cursor.name(run.decision_id)} is decided: {run.decision.value}"


# The member


@dataclass(frozen=True, slots=True)
class Holding:
    """What a member has on disk: its version, and its phase in the run that it holds or held last.

    `fence` is that of the order, or higher: of the highest order seen when this was written. `reason` is that
    of a build that failed.
    """

    version: int
    folder_digest: bytes
    phase: Phase = Phase.IDLE
    decision_id: bytes = b""
    fence: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """What a member has in memory.

    `fence` is the highest that it has seen. `target` is what it builds now.
    """

    database: bytes
    fence: int = 0
    target: Target | None = None


class MemberStep(NamedTuple):
    """The result of an event at a member."""

    holding: Holding
    member: Member
    reports: tuple[Report, ...] = ()


def obey(holding: Holding, member: Member, order: Order) -> MemberStep:
    """Carry out an order, in whichever phase and however often it arrives. Reports the phase afterwards.

    If `Member.target` is set afterwards, the caller builds it, or resumes, and calls `built` or `failed`.
    """
    seen = max(holding.fence, member.fence)
    if order.fence < seen:
        return ask(holding, member)
    member = replace(member, fence=order.fence)
    if order.verb is Verb.PREPARE:
        return _prepare(holding, member, order)
    held = holding.phase if holding.decision_id == order.decision_id else None
    phase = None
    if order.verb is Verb.COMMIT and held is Phase.PREPARED:
        phase = Phase.COMMITTED
        holding = replace(holding, version=order.target.to_version)
    elif order.verb is Verb.CONTRACT and held is Phase.COMMITTED:
        phase = Phase.CONTRACTED
    elif order.verb is Verb.ABORT and (held in HELD or (held is None and holding.phase not in HELD)):
        # Also if it holds nothing of this run: a late PREPARE must find that it has ended.
        phase = Phase.ABORTED
    if phase is None:
        return ask(holding, member)
    holding = Holding(holding.version, holding.folder_digest, phase, order.decision_id, order.fence)
    return ask(holding, replace(member, target=None))


def built(holding: Holding, member: Member) -> MemberStep:
    """Vote PREPARED: everything is built. The vote is durable before the report is sent."""
    if holding.phase is not Phase.PREPARING or member.target is None:
        return MemberStep(holding, member)
    holding = replace(holding, phase=Phase.PREPARED, fence=max(holding.fence, member.fence))
    return ask(holding, replace(member, target=None))


def failed(holding: Holding, member: Member, reason: str) -> MemberStep:
    """Vote REFUSED: the build failed. It ends the run here, because a run with a refusal cannot commit."""
    if holding.phase is not Phase.PREPARING or member.target is None:
        return MemberStep(holding, member)
    fence = max(holding.fence, member.fence)
    holding = replace(holding, phase=Phase.ABORTED, fence=fence, reason=reason)
    return ask(holding, replace(member, target=None))


def ask(holding: Holding, member: Member) -> MemberStep:
    """Report the phase. Called when the member is opened, when it connects, and repeatedly while in doubt."""
    fence = max(holding.fence, member.fence)
    report = Report(member.database, holding.decision_id, fence, holding.phase, holding.reason)
    return MemberStep(holding, member, (report,))


def local_refusal(holding: Holding) -> str:
    """Return why no migration may start, end or be given up at the member by itself, or an empty string."""
    if holding.phase not in HELD:
        return ""
    run = cursor.name(holding.decision_id)
    return f"the database is {holding.phase.value} in run {run}, which only its decision ends"


def _prepare(holding: Holding, member: Member, order: Order) -> MemberStep:
    if holding.decision_id == order.decision_id:
        if holding.phase is Phase.PREPARING:
            member = replace(member, target=order.target)
        return ask(holding, member)
    target = order.target
    if holding.phase in HELD:
        reason = local_refusal(holding)
    elif holding.version != target.from_version:
        reason = f"expected version {target.from_version}, found {holding.version}"
    elif holding.folder_digest != target.folder_digest:
        reason = (
            f"expected folders with digest {target.folder_digest.hex()}, found {holding.folder_digest.hex()};"
            " open the database with the folders of the plan"
        )
    else:
        holding = Holding(
            holding.version, holding.folder_digest, Phase.PREPARING, order.decision_id, order.fence
        )
        return ask(holding, replace(member, target=target))
    report = Report(member.database, order.decision_id, order.fence, Phase.IDLE, reason)
    return MemberStep(holding, member, (report,))
