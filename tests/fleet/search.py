"""A breadth-first search of all states of a small fleet that follows the rules of `everlog.fleet.protocol`.

    state := ledger  coordinator coordinator  member member  network

The network holds each message that was ever sent. Any of them may be delivered at any time, any number of
times, or never: this is loss, delay, duplication and reordering, without a bound. A SIGKILL gives a process a
new memory. A process that is down is one to which nothing happens. So only takeovers and runs are bounded.

Processes send what they repeat at once, because it may arrive late or never. Reports have no fence here: it
can only end a coordinator that was replaced, as a kill does.

Each part of a state is a number: two parts that are equal have the same one, and each rule is called once for
each combination of numbers. States that differ only in the names of the members, or in the order of the
coordinators, are counted once.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import fields, is_dataclass, replace
from types import ModuleType
from typing import Any, NamedTuple

MEMBERS = (b"\x01", b"\x02")
RUNS = (b"\xaa", b"\xbb")
DEADLINE_NS = 9
FOLDERS, OTHER = b"\x0f", b"\x0e"


class Bounds(NamedTuple):
    """The size of a search. A takeover follows a kill, or replaces a live coordinator."""

    takeovers: int
    runs: int = 1
    removals: bool = False  # an operator removes members
    contracts: bool = False  # an operator ends the time of two versions
    local: bool = False  # migrations and deployments at members, outside of the fleet


class Violation(Exception):  # noqa: N818 - it is what a search looks for
    """A broken invariant."""


class Found(NamedTuple):
    """The result of a search, with the shortest trace to a violation, if there is one."""

    states: int
    moves: int
    violation: str
    trace: tuple[str, ...]

    def __str__(self) -> str:
        lines = (
            f"{self.states:,} states, {self.moves:,} steps",
            self.violation or "no violation",
            *self.trace,
        )
        return "\n  ".join(lines)


class Move(NamedTuple):
    """A step of one process: what happened, its numbers afterwards, and the bits of its messages."""

    label: str
    after: tuple[int, ...]
    sent: int


State = tuple[int, int, int, int, int, int]  # ledger, coordinators, members, bits of the network


class Search:
    """One search. `rules` is the module of the rules, or a mutant of it."""

    def __init__(self, rules: ModuleType, bounds: Bounds) -> None:
        self._rules: Any = rules
        self._bounds = bounds
        self._numbers: dict[Hashable, int] = {}
        self._parts: list[Any] = []
        self._swapped: dict[int, int] = {}
        self._messages: dict[Any, int] = {}  # each message, and its bit
        self._swapped_nets: dict[int, int] = {0: 0}
        self._inbox = dict.fromkeys((*MEMBERS, b""), 0)  # the bits of each receiver; b"": the coordinators
        self._member_moves: dict[tuple[int, int], list[Move]] = {}
        self._coordinator_moves: dict[tuple[int, int, int], list[Move]] = {}
        self._checked: set[tuple[int, int, int]] = set()
        self._ending: set[tuple[Any, ...]] = set()

    # Numbers

    def _number(self, part: Any) -> int:
        number = self._numbers.setdefault(part, len(self._parts))
        if number == len(self._parts):
            self._parts.append(part)
        return number

    def _bits(self, messages: tuple[Any, ...]) -> int:
        bits = 0
        for message in messages:
            bit = self._messages.get(message)
            if bit is None:
                bit = self._messages[message] = 1 << len(self._messages)
                receiver = message.target.database if isinstance(message, self._rules.Order) else b""
                self._inbox[receiver] |= bit
            bits |= bit
        return bits

    def _delivered(self, bits: int) -> list[Any]:
        return [message for message, bit in self._messages.items() if bit & bits]

    def _swap(self, number: int) -> int:
        """Return the number of a part after its members have exchanged their names."""
        if number not in self._swapped:
            self._swapped[number] = self._number(swap(self._parts[number]))
        return self._swapped[number]

    def _swap_net(self, net: int) -> int:
        if net not in self._swapped_nets:
            messages = tuple(swap(message) for message in self._delivered(net))
            self._swapped_nets[net] = self._bits(messages)
        return self._swapped_nets[net]

    def _canonical(self, state: State) -> State:
        ledger, one, two, first, second, net = state
        if two < one:
            one, two = two, one
        here = (ledger, one, two, first, second, net)
        one, two = self._swap(one), self._swap(two)
        if two < one:
            one, two = two, one
        there = (self._swap(ledger), one, two, self._swap(second), self._swap(first), self._swap_net(net))
        return min(here, there)

    # Moves

    def _of_member(self, number: int, net: int) -> list[Move]:
        """Return the steps of a member."""
        holding, member = self._parts[number]
        bits = net & self._inbox[member.database]
        moves = self._member_moves.get((number, bits))
        if moves is None:
            moves = self._member_moves[number, bits] = []
            for label, step in self._events_of_member(holding, member, bits):
                self._check_member(label, holding, step.holding)
                after = self._number((step.holding, step.member))
                asked = self._rules.ask(step.holding, step.member)
                reports = tuple(replace(report, fence=0) for report in step.reports + asked.reports)
                moves.append(Move(label, (after,), self._bits(reports)))
        return moves

    def _events_of_member(self, holding: Any, member: Any, bits: int) -> Iterator[tuple[str, Any]]:
        rules, name = self._rules, f"member {member.database.hex()}"
        yield f"{name} is killed", rules.MemberStep(holding, rules.Member(member.database))
        yield f"{name} has built", rules.built(holding, member)
        yield f"{name} fails to build", rules.failed(holding, member, "the disk is full")
        if self._bounds.local and not rules.local_refusal(holding):
            if holding.version == 1:
                yield f"{name} migrates by itself", rules.MemberStep(replace(holding, version=2), member)
            folders = OTHER if holding.folder_digest == FOLDERS else FOLDERS
            there = replace(holding, folder_digest=folders)
            yield f"{name} is deployed with folders {folders.hex()}", rules.MemberStep(there, member)
        for order in self._delivered(bits):
            yield f"{name} receives {text(order)}", rules.obey(holding, member, order)

    def _of_coordinator(self, ledger: int, number: int, net: int) -> list[Move]:
        """Return the steps of a coordinator."""
        bits = net & self._inbox[b""]
        moves = self._coordinator_moves.get((ledger, number, bits))
        if moves is None:
            moves = self._coordinator_moves[ledger, number, bits] = []
            for label, step in self._events_of_coordinator(self._parts[ledger], self._parts[number], bits):
                self._check_ledger(label, self._parts[ledger], step)
                after = self._number(step.ledger), self._number(step.coordinator)
                moves.append(
                    Move(label, after, self._bits(step.orders + self._rules.retry(step.coordinator)))
                )
        return moves

    def _events_of_coordinator(self, ledger: Any, coordinator: Any, bits: int) -> Iterator[tuple[str, Any]]:
        rules, name = self._rules, f"coordinator {coordinator.epoch}"
        if not coordinator.epoch:
            if ledger.epoch - len(ledger.runs) <= self._bounds.takeovers:
                yield f"a coordinator takes over from epoch {ledger.epoch}", rules.take_over(ledger)
            return
        yield f"{name} is killed", rules.CoordinatorStep(ledger, rules.Coordinator())
        if len(coordinator.runs) < self._bounds.runs:
            run_id, plan = RUNS[len(coordinator.runs)], self._plan(coordinator)
            step = rules.start(ledger, coordinator, run_id, plan, deadline_ns=DEADLINE_NS)
            yield f"{name} starts a run", step
        for run in coordinator.runs:
            named = f"{name}: run {run.decision_id.hex()}"
            yield (
                f"{named} reaches its deadline",
                rules.expire(ledger, coordinator, run.decision_id, now_ns=DEADLINE_NS),
            )
            yield f"{named} is aborted by an operator", rules.abort(ledger, coordinator, run.decision_id)
            if self._bounds.removals:
                for member in MEMBERS:
                    step = rules.remove(ledger, coordinator, run.decision_id, member)
                    yield f"{named} loses member {member.hex()}", step
            if self._bounds.contracts:
                yield f"{named} is contracted", rules.contract(ledger, coordinator, run.decision_id)
        for report in self._delivered(bits):
            yield f"{name} receives {text(report)}", rules.receive(ledger, coordinator, report)

    def _plan(self, coordinator: Any) -> list[Any]:
        rules = self._rules
        committed = [run for run in coordinator.runs if run.decision is rules.Decision.COMMIT]
        version = 1 + len(committed)
        return [rules.Target(member, version, version + 1, FOLDERS) for member in MEMBERS]

    def _moves(self, state: State) -> Iterator[tuple[str, State]]:
        ledger, one, two, first, second, net = state
        for label, (after,), sent in self._of_member(first, net):
            yield label, (ledger, one, two, after, second, net | sent)
        for label, (after,), sent in self._of_member(second, net):
            yield label, (ledger, one, two, first, after, net | sent)
        for label, (book, after), sent in self._of_coordinator(ledger, one, net):
            yield label, (book, after, two, first, second, net | sent)
        if two != one:
            for label, (book, after), sent in self._of_coordinator(ledger, two, net):
                yield label, (book, one, after, first, second, net | sent)

    # Invariants

    def _check_member(self, label: str, before: Any, after: Any) -> None:
        phase = self._rules.Phase
        same = before.decision_id == after.decision_id
        if before.phase is phase.PREPARED and after != before:
            ends = {phase.COMMITTED: "COMMIT", phase.ABORTED: "ABORT"}
            _require(
                same and f"receives {ends.get(after.phase)}" in label,
                "a member leaves PREPARED by itself",
                label,
            )
        if before.phase in self._rules.ENDS and same:
            contracted = (before.phase, after.phase) == (phase.COMMITTED, phase.CONTRACTED)
            _require(after.phase is before.phase or contracted, "a member changes the end of its run", label)

    def _check_ledger(self, label: str, before: Any, step: Any) -> None:
        exact = step.coordinator.epoch == step.ledger.epoch
        _require(not (exact and step.alarm), "a report contradicts the ledger", label)
        after = {run.decision_id: run for run in step.ledger.runs}
        _require(step.ledger.epoch >= before.epoch, "the epoch falls", label)
        for run in before.runs:
            _require(run.decision_id in after, "the ledger loses a run", label)
            now = after[run.decision_id]
            _require(run.decision in (None, now.decision), "a run has two decisions", label)
            for seat, then in zip(now.seats, run.seats, strict=True):
                _require(then.vote in (None, seat.vote), "the ledger changes a vote", label)
                _require(then.removed <= seat.removed, "the ledger forgets a removal", label)
                _require(
                    then.removed == seat.removed or run.decision is None, "removed after the decision", label
                )
                _require(
                    then.end in (None, seat.end, self._rules.Phase.COMMITTED), "the ledger changes an end"
                )

    def _check(self, state: State) -> None:
        """Check what must hold in each state, between the ledger and the members."""
        ledger, _, _, first, second, _ = state
        if (ledger, first, second) in self._checked:
            return
        rules, book = self._rules, self._parts[ledger]
        phase, holdings = rules.Phase, [self._parts[first][0], self._parts[second][0]]
        for holding in holdings:
            known = [run.decision_id for run in book.runs]
            _require(
                holding.phase is phase.IDLE or holding.decision_id in known, "a run is not in the ledger"
            )
        for run in book.runs:
            stayed = [
                holding
                for holding, seat in zip(holdings, run.seats, strict=True)
                if holding.decision_id == run.decision_id and not seat.removed
            ]
            committed = [one for one in stayed if one.phase in (phase.COMMITTED, phase.CONTRACTED)]
            aborted = [one for one in stayed if one.phase is phase.ABORTED]
            _require(not (committed and aborted), "a member is COMMITTED and another ABORTED")
            decision, removed = run.decision, [seat for seat in run.seats if seat.removed]
            commit = decision is rules.Decision.COMMIT
            _require(not commit or len(removed) < len(run.seats), "COMMIT without a member")
            _require(not run.contract or (commit and not run.open_seats()), "contracted before all committed")
            _require(not committed or commit, "COMMITTED without a decision")
            refused = decision is None and all(one.reason for one in aborted)
            _require(not aborted or decision is rules.Decision.ABORT or refused, "ABORTED without a decision")
            later = book.runs[book.runs.index(run) + 1 :]
            for holding, seat in zip(holdings, run.seats, strict=True):
                mine = holding.phase if holding.decision_id == run.decision_id else None
                if commit and not seat.removed:
                    _require(seat.vote is rules.Vote.PREPARED, "COMMIT with a missing vote")
                if seat.vote is rules.Vote.PREPARED and seat.end is None:
                    true = mine is phase.PREPARED or mine in rules.ENDS
                    _require(true, "a vote in the ledger is not durable")
                if mine is phase.PREPARED:
                    _require(holding.version == seat.target.from_version, "a vote for another version")
                if seat.end is not None:
                    _require(mine not in rules.HELD, "a member holds a run that it has ended")
                    later_runs = [one.decision_id for one in later]
                    replaced = holding.decision_id in later_runs
                    _require(mine in rules.ENDS or replaced, "an end is not durable")
                if seat.removed:
                    _require(mine not in (phase.COMMITTED, phase.CONTRACTED), "a removed member is COMMITTED")
        self._checked.add((ledger, first, second))

    def _check_ending(self, state: State) -> None:
        """Check that all ends without further faults, after all messages were lost.

        Once as it is, if a coordinator has the epoch. Once after all were killed and one takes over.
        """
        ledger, one, two, first, second, _ = state
        holdings = [self._parts[first], self._parts[second]]
        book = self._parts[ledger]
        for coordinator in (self._parts[one], self._parts[two]):
            if coordinator.epoch == book.epoch and book.epoch:
                self._end(book, coordinator, holdings)
        rules = self._rules
        killed = [(holding, rules.Member(member.database)) for holding, member in holdings]
        self._end(book, None, killed)

    def _end(self, ledger: Any, coordinator: Any, members: list[Any]) -> None:
        """Run one schedule without faults until nothing changes; all must have ended."""
        seen = []
        while (key := (ledger, coordinator, *members)) not in self._ending:
            if key in seen:
                self._check_ended(ledger, members)
                break
            seen.append(key)
            ledger, coordinator, members = self._round(ledger, coordinator, members)
        self._ending.update(seen)

    def _round(self, ledger: Any, coordinator: Any, members: list[Any]) -> tuple[Any, Any, list[Any]]:
        """Deliver the orders that a coordinator repeats, and the reports of members, which build."""
        rules = self._rules
        if coordinator is None:
            ledger, coordinator, orders, *_ = rules.take_over(ledger)
        else:
            orders = rules.retry(coordinator)
        after, reports = [], []
        for holding, member in members:
            steps = [rules.ask(holding, member)]
            for order in orders:
                if order.target.database == member.database:
                    steps.append(rules.obey(*steps[-1][:2], order))
            if steps[-1].member.target is not None:
                steps.append(rules.built(*steps[-1][:2]))
            after.append(tuple(steps[-1][:2]))
            reports += [report for step in steps for report in step.reports]
        for report in reports:
            ledger, coordinator, *_ = rules.receive(ledger, coordinator, report)
        return ledger, coordinator, after

    def _check_ended(self, ledger: Any, members: list[Any]) -> None:
        rules = self._rules
        for run in ledger.runs:
            _require(run.decision is not None and not run.open_seats(), "a run does not end")
            committed = [seat for seat in run.seats if seat.end is rules.Phase.COMMITTED]
            _require(not (run.contract and committed), "a contraction does not end")
        for holding, _ in members:
            _require(holding.phase not in rules.HELD, "a member does not end its run")

    # The search

    def run(self) -> Found:
        """Return the number of states, or the shortest trace to a state that breaks an invariant."""
        gc.disable()  # there are no cycles, and each collection would visit all states
        try:
            return self._run()
        finally:
            gc.enable()

    def _run(self) -> Found:
        rules = self._rules
        ledger, coordinator, *_ = rules.take_over(rules.Ledger())
        one, none = self._number(coordinator), self._number(rules.Coordinator())
        first, second = (
            self._number((rules.Holding(1, FOLDERS), rules.Member(database))) for database in MEMBERS
        )
        start = (self._number(ledger), one, none, first, second, 0)
        parents: dict[State, tuple[State, str] | None] = {start: None}
        seen = {self._canonical(start)}
        queue, moves = deque([start]), 0
        while queue:
            state = queue.popleft()
            after = None
            try:
                for label, after in self._moves(state):
                    moves += 1
                    if after == state or after in parents:
                        continue
                    if (key := self._canonical(after)) in seen:
                        continue
                    seen.add(key)
                    parents[after] = state, label
                    self._check(after)
                    queue.append(after)
            except Violation as broken:
                end = after if after in parents else state
                return Found(len(seen), moves, broken.args[0], (*trace(parents, end), *broken.args[1:]))
        for state in parents:
            try:
                self._check_ending(state)
            except Violation as broken:
                return Found(len(seen), moves, broken.args[0], tuple(trace(parents, state)))
        return Found(len(seen), moves, "", ())


def trace(parents: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    """Return what happened from the start to a state."""
    labels = []
    while (step := parents[state]) is not None:
        state, label = step
        labels.append(label)
    return labels[::-1]


def text(message: Any) -> str:
    """Return a message as a short text."""
    if hasattr(message, "verb"):
        return f"{message.verb.value} {message.decision_id.hex()} of epoch {message.fence}"
    said = f"REFUSED, {message.refusal}," if message.refusal else message.phase.value
    return f"{said} {message.decision_id.hex() or '-'} of {message.database.hex()}, epoch {message.fence}"


def swap(part: Any) -> Any:
    """Return a part of a state in which the two members have exchanged their names."""
    if isinstance(part, bytes):
        return dict(zip(MEMBERS, MEMBERS[::-1], strict=True)).get(part, part)
    if is_dataclass(part):
        made: Callable[..., Any] = type(part)
        return made(*(swap(getattr(part, one.name)) for one in fields(part)))
    if isinstance(part, tuple):
        swapped = tuple(swap(one) for one in part)
        # The seats of a run are in the order of the plan.
        return (
            swapped[::-1]
            if hasattr(part[0] if part else None, "target") and hasattr(part[0], "vote")
            else swapped
        )
    return part


def _require(holds: bool, invariant: str, *label: str) -> None:
    """Raise a violation unless the invariant holds; `label` is the step that broke it."""
    if not holds:
        raise Violation(invariant, *label)
