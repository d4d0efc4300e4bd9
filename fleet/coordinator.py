"""Coordinator: one process that coordinates a fleet: the rules of `protocol`, with a ledger on disk.

    report, or operator ─▶ protocol ─▶ ledger, in one commit ─▶ memory ─▶ orders, for the caller to send

Invariants
  (1) The ledger is on disk before memory changes and an order is returned.
  (2) If a commit fails, or its outcome is unknown, memory is dropped, as by a SIGKILL. `take_over` reads the
      ledger again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from everlog.feed import cursor
from everlog.fleet import approvals, protocol
from everlog.fleet.ledger import LedgerStore
from everlog.fleet.protocol import CoordinatorStep, Ledger, Order, Report, Run, Target, has_ended
from everlog.fleet.status import ENDED_MAX, EndedRun
from everlog.store.errors import MigrationError
from everlog.store.tx.transaction import Transaction

SEATS_MAX = 4_000  # of runs that have ended, in memory


class FleetCoordinator:
    """Coordinates the fleet of a ledger after `take_over`. Safe to use from many threads.

    Each call returns the orders to send. An order may be lost: send those of `retry` repeatedly.
    """

    def __init__(self, store: LedgerStore, *, name: str = "coordinator", checked: bool = False) -> None:
        """`name`: the actor of commits that no operator requested. `checked`: a run starts only with a plan
        that was approved (`fleet.approvals`)."""
        self._store = store
        self._checked = checked
        self._name = name
        self._memory = protocol.Coordinator()
        self._lock = threading.Lock()

    @property
    def checked(self) -> bool:
        """Whether a run starts only with a plan that was approved."""
        return self._checked

    @property
    def epoch(self) -> int:
        """Its epoch; 0: it does not coordinate: it has not taken over, was replaced, or a commit failed."""
        return self._memory.epoch

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs that have not ended, and those that ended last, in the order of their start."""
        return self._memory.runs

    def run(self, decision_id: bytes) -> Run | None:
        """Return a run, also one that has ended; None: there is none. Read-only."""
        return self._memory.run(decision_id) or self._store.run(decision_id)

    def ended(self) -> list[EndedRun]:
        """Return the newest runs that have ended, in the order of their start. Read-only."""
        return self._store.ended(ENDED_MAX)

    def take_over(self, *, accept: bool = False) -> tuple[Order, ...]:
        """Begin to coordinate, and continue all runs. Writes.

        `accept`: also with a database that is not the one that a coordinator wrote last. Raises
        MigrationError if it was restored, forked or replaced; nothing was done then.
        """
        with self._lock:
            self._memory = protocol.Coordinator()
            ledger = self._store.take_over(actor=self._name, accept=accept)
            self._memory = protocol.Coordinator(ledger.epoch, ledger.runs)
        return self.retry()

    def start(
        self,
        decision_id: bytes,
        plan: Iterable[Target],
        *,
        deadline_ns: int,
        digest: bytes = b"",
        actor: str = "",
        reason: str = "",
    ) -> tuple[Order, ...]:
        """Start a run with a new UUID, 16 bytes. Votes that are unknown at `deadline_ns` (Unix time) are
        refusals. `digest`: of the proposed plan with these members, which the same commit marks as started.
        Writes. Raises MigrationError if the plan cannot start now, or is not approved and must be."""
        plan = tuple(plan)
        return self._operate(
            lambda ledger, memory: protocol.start(ledger, memory, decision_id, plan, deadline_ns=deadline_ns),
            actor,
            reason or f"start run {cursor.name(decision_id)}",
            check=lambda tx: approvals.start(tx, digest, decision_id, plan, checked=self._checked),
        )

    def receive(self, report: Report) -> tuple[Order, ...]:
        """Record what a member reports. Writes, if it is new. Raises MigrationError if it contradicts the
        ledger: an operator has to look, and nothing was written."""
        step = self._do(
            lambda ledger, memory: protocol.receive(ledger, memory, report),
            self._name,
            f"database {cursor.name(report.database)} reports {report.phase.value}"
            f" in run {cursor.name(report.decision_id)}",
        )
        if step.alarm:
            raise MigrationError(
                f"{step.alarm} in the ledger: the ledger or the member was restored or edited. Nothing was"
                " written; compare the two logs (`everlog log`)",
                database=report.database.hex(),
                decision_id=report.decision_id.hex(),
            )
        return step.orders

    def expire(self, *, now_ns: int) -> tuple[Order, ...]:
        """Abort the undecided runs whose deadline has passed. Writes, if there are any."""
        orders: list[Order] = []
        for run in self.runs:
            if run.decision is None and now_ns >= run.deadline_ns:
                passed = datetime.fromtimestamp(run.deadline_ns / 1e9, UTC).isoformat(timespec="seconds")
                step = self._do(
                    partial(protocol.expire, decision_id=run.decision_id, now_ns=now_ns),
                    self._name,
                    f"the deadline {passed} of run {cursor.name(run.decision_id)} has passed",
                )
                orders += step.orders
        return tuple(orders)

    def abort(self, decision_id: bytes, *, actor: str = "", reason: str = "") -> tuple[Order, ...]:
        """Abort a run. Writes. Raises MigrationError if it is unknown or decided."""
        return self._operate(
            lambda ledger, memory: protocol.abort(ledger, memory, decision_id),
            actor,
            reason or f"abort run {cursor.name(decision_id)}",
        )

    def remove(
        self, decision_id: bytes, database: bytes, *, actor: str = "", reason: str = ""
    ) -> tuple[Order, ...]:
        """Remove a member from a run, which aborts the run there alone. Writes. Raises MigrationError if the
        run is decided, or has no such member."""
        return self._operate(
            lambda ledger, memory: protocol.remove(ledger, memory, decision_id, database),
            actor,
            reason or f"remove database {cursor.name(database)} from run {cursor.name(decision_id)}",
        )

    def contract(self, decision_id: bytes, *, actor: str = "", reason: str = "") -> tuple[Order, ...]:
        """End the time of two versions at all members of a run. Writes. Raises MigrationError before each has
        committed."""
        return self._operate(
            lambda ledger, memory: protocol.contract(ledger, memory, decision_id),
            actor,
            reason or f"contract run {cursor.name(decision_id)}",
        )

    def retry(self) -> tuple[Order, ...]:
        """Return the orders that members have not carried out. Read-only."""
        return protocol.retry(self._memory)

    def _operate(
        self,
        event: Callable[[Ledger, protocol.Coordinator], CoordinatorStep],
        actor: str,
        reason: str,
        *,
        check: Callable[[Transaction], str] | None = None,
    ) -> tuple[Order, ...]:
        """Carry out what an operator requests. Raises MigrationError if it was refused."""
        step = self._do(event, actor or self._name, reason, check)
        if step.refusal:
            raise MigrationError(f"{step.refusal}; nothing was done")
        return step.orders

    def _do(
        self,
        event: Callable[[Ledger, protocol.Coordinator], CoordinatorStep],
        actor: str,
        reason: str,
        check: Callable[[Transaction], str] | None = None,
    ) -> CoordinatorStep:
        with self._lock:
            memory = self._memory
            before = Ledger(memory.epoch, memory.runs)
            step = event(before, memory)
            if step.ledger is not before:
                try:
                    refusal = self._store.save(before, step.ledger, actor=actor, reason=reason, check=check)
                except BaseException:
                    self._memory = protocol.Coordinator()
                    raise
                if refusal:
                    step = CoordinatorStep(before, memory, refusal=refusal)
            self._memory = replace(step.coordinator, runs=kept(step.coordinator.runs))
            return step


def kept(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    """Return the runs without those that ended first, if many have: the ledger has these, and a takeover
    leaves out all that have ended."""
    if len(runs) <= 1:
        return runs
    left, seats = 0, 0
    out = set()
    for run in reversed(runs):
        if has_ended(run):
            left, seats = left + 1, seats + len(run.seats)
            if left > 1 and (left > ENDED_MAX or seats > SEATS_MAX):
                out.add(run.decision_id)
    return tuple(run for run in runs if run.decision_id not in out) if out else runs
