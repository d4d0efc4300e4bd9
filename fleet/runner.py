"""Runner: carries out the plans in waves of a coordinator.

    Rollout ─ due ─▶ UPGRADE    one run for the wave; or APPLY at each member, if one of them cannot wait for
                                a decision
                     CHECK      checks.py at each member of the wave, then the hook of the server
                     ROLL_BACK  at each upgraded member
       ▲                │
       └─ began, ended, checked, returned: each a commit of the ledger (rollouts.py)

Nothing here is on disk: what is in progress follows from the rollout. A coordinator that was killed finds
the run of a wave by its id, and gives tasks again, which have one effect.

Invariants
  (1) A member begins only after `began` is in the ledger.
  (2) The next wave begins only after the outcomes of the last one are in the ledger.
  (3) `tick` does not wait: neither for a member nor for the hook.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, Protocol, Self
from uuid import UUID

from everlog.fleet import waves
from everlog.fleet.plan import FleetPlan, decode_plan
from everlog.fleet.protocol import Run, Target
from everlog.fleet.rollouts import Change, RolloutStore, settle
from everlog.fleet.survey import SHORT, listed
from everlog.fleet.tasks import Answer, Asked, Kind
from everlog.fleet.waves import Due, Gate, Rollout, RolloutState, Task
from everlog.store.errors import MigrationError

AT_ONCE = 16  # members of a wave that are upgraded without a vote at a time
AGAIN_S = 1.0  # between two attempts to start the run of a wave
CHECK_S = 300.0  # how long members have for their checks
AWAY_S = 60.0  # how long a rollback waits for a member that is not connected

Hook = Callable[[Mapping[str, object]], str]  # of a plan and its wave; why it failed, or an empty string


class Carrier(Protocol):
    """The part of a hub that a runner needs."""

    def begin(
        self,
        decision_id: bytes,
        plan: Iterable[Target],
        *,
        deadline_s: float,
        digest: bytes = b"",
        actor: str = "",
        reason: str = "",
    ) -> Run: ...
    def run(self, decision_id: bytes) -> Run | None: ...
    def is_connected(self, database: bytes) -> bool: ...
    def ask(self, asked: Asked) -> Asked: ...
    def dismiss(self, asked: Asked) -> None: ...


class Planned(NamedTuple):
    """The plan of a rollout. `targets`, `names`: of its members, by the UUIDs of their databases as text."""

    plan: FleetPlan
    targets: dict[str, Target]
    names: dict[str, str]

    @classmethod
    def of(cls, plan: FleetPlan) -> Self:
        """Return a plan with its members by UUID."""
        return cls(
            plan,
            {one.database: target for one, target in zip(plan.members, plan.targets(), strict=True)},
            {one.database: one.name for one in plan.members},
        )


class Carried(NamedTuple):
    """A rollout, with its plan. `waits_for`: why the run of its wave has not started yet, or which members
    have not answered; empty: it waits for nothing unexpected."""

    digest: bytes
    rollout: Rollout
    planned: Planned
    waits_for: str = ""

    @property
    def plan(self) -> FleetPlan:
        """Its plan."""
        return self.planned.plan


def run_of_wave(digest: bytes, wave: int) -> bytes:
    """Return the UUID of the run of a wave, 16 bytes: always the same."""
    return UUID(bytes=hashlib.sha256(digest + wave.to_bytes(4)).digest()[:16], version=5).bytes


class _Given(NamedTuple):
    """A task that a member was given, and when."""

    asked: Asked
    since_s: float


class Runner:
    """Carries out rollouts while its hub calls `tick`. Safe to use from many threads."""

    def __init__(self, hub: Carrier, store: RolloutStore, *, actor: str, hook: Hook | None = None) -> None:
        self._hub = hub
        self._store = store
        self._actor = actor
        self._hook = hook
        self._lock = threading.RLock()  # of a change and its copy in memory
        self._rollouts: dict[bytes, Rollout] = {}
        self._plans: dict[bytes, Planned] = {}
        self._given: dict[tuple[bytes, Kind, int, str], _Given] = {}
        self._hooked: dict[tuple[bytes, int], Future[str]] = {}
        self._again: dict[bytes, float] = {}
        self._waits: dict[bytes, str] = {}
        self._pool = ThreadPoolExecutor(2, "everlog-fleet-check")

    def load(self) -> None:
        """Read the rollouts of the ledger, after a takeover. Read-only."""
        with self._lock:
            found = self._store.all()
            self._rollouts = {digest: rollout for digest, rollout, _ in found}
            self._plans = {digest: Planned.of(decode_plan(document)) for digest, _, document in found}

    def close(self) -> None:
        """End the hooks; a check that has not ended is done again."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def carried(self) -> list[Carried]:
        """Return all rollouts, in the order of their start. Read-only."""
        with self._lock:
            return [
                Carried(digest, rollout, self._plans[digest], self._waits.get(digest, ""))
                for digest, rollout in self._rollouts.items()
            ]

    def get(self, digest: bytes) -> Carried:
        """Return a rollout. Raises MigrationError if the plan has none."""
        with self._lock:
            rollout = self._rollouts.get(digest)
            if rollout is None:
                raise MigrationError(
                    f"plan {digest.hex()[:SHORT]} is not carried out in waves; nothing was done",
                    digest=digest.hex(),
                )
            return Carried(digest, rollout, self._plans[digest], self._waits.get(digest, ""))

    def begin(
        self,
        digest: bytes,
        plan: FleetPlan,
        split: Sequence[Sequence[str]],
        gate: Gate,
        *,
        deadline_s: float,
        actor: str,
        reason: str,
    ) -> Carried:
        """Begin a rollout. Writes. Raises MigrationError; see RolloutStore."""
        with self._lock:
            rollout = self._store.begin(
                digest, split, gate=gate, deadline_s=deadline_s, actor=actor, reason=reason
            )
            self._plans[digest] = Planned.of(plan)
            self._rollouts[digest] = rollout
        return self.get(digest)

    def change(self, digest: bytes, change: Change, *, actor: str = "", reason: str = "") -> Carried:
        """Change a rollout. Writes, if something changes. Raises MigrationError; see RolloutStore."""
        with self._lock:
            self.get(digest)
            self._rollouts[digest] = self._store.change(
                digest, change, actor=actor or self._actor, reason=reason
            )
        return self.get(digest)

    def tick(self) -> None:
        """Do what is due. Writes outcomes. Raises Error if the ledger cannot be written."""
        now_ns, going = time.time_ns(), set[tuple[bytes, Kind, int, str]]()
        for one in self.carried():
            rollout, digest = one.rollout, one.digest
            if rollout.state is RolloutState.PAUSING and now_ns >= rollout.until_ns:
                self.change(digest, partial(waves.tick, now_ns=now_ns), reason="the pause has ended")
                continue
            self._waits.pop(digest, None)
            for task in waves.due(rollout):
                match task.task:
                    case Task.UPGRADE:
                        going |= self._upgrade(one, task)
                    case Task.CHECK:
                        going |= self._check(one, task)
                    case Task.ROLL_BACK:
                        going |= self._roll_back(one, task)
        for key in self._given.keys() - going:
            self._hub.dismiss(self._given.pop(key).asked)

    # upgrades

    def _upgrade(self, one: Carried, task: Due) -> set[tuple[bytes, Kind, int, str]]:
        wave = set(one.rollout.waves[task.wave])
        if any(member.unheld for member in one.plan.members if member.database in wave):
            return self._upgrade_each(one, task)
        self._upgrade_together(one, task)
        return set()

    def _upgrade_together(self, one: Carried, task: Due) -> None:
        """Start the run of a wave, or record its outcomes."""
        decision_id, reason = run_of_wave(one.digest, task.wave), _reason(one, task)
        run = self._hub.run(decision_id)
        if run is not None:
            now_ns = time.time_ns()
            if settle(one.rollout, run, now_ns=now_ns) != one.rollout:
                self.change(one.digest, partial(settle, run=run, now_ns=now_ns), reason=f"{reason} ended")
            return
        if time.monotonic() < self._again.get(one.digest, 0.0):
            return
        rollout = one.rollout
        if not set(task.members) <= rollout.begun:
            began = partial(waves.began, members=task.members)
            rollout = self.change(one.digest, began, reason=f"{reason} begins").rollout
        members = waves.in_progress(rollout)
        if not members:
            return
        targets = one.planned.targets
        try:
            self._hub.begin(
                decision_id,
                [targets[member] for member in members],
                deadline_s=rollout.deadline_s,
                digest=one.digest,
                actor=self._actor,
                reason=reason,
            )
        except MigrationError as error:  # such as another run that is undecided
            self._again[one.digest] = time.monotonic() + AGAIN_S
            self._waits[one.digest] = str(error)

    def _upgrade_each(self, one: Carried, task: Due) -> set[tuple[bytes, Kind, int, str]]:
        """Give the members of a wave their tasks, some at a time, or record their outcomes."""
        rollout, targets = one.rollout, one.planned.targets
        room = AT_ONCE - len(waves.in_progress(rollout))
        waiting = [member for member in task.members if member not in rollout.begun]
        ready = [member for member in waiting if self._hub.is_connected(targets[member].database)][:room]
        if ready and rollout.state is RolloutState.RUNNING:
            began = partial(waves.began, members=ready)
            rollout = self.change(one.digest, began, reason=f"{_reason(one, task)} begins").rollout
        members = waves.in_progress(rollout)
        given = self._give(one, Kind.APPLY, task, members)
        done = {member: asked.answers for member, (asked, _) in given.items() if asked.answers}
        if done:
            failures = {member: _problem(found) for member, found in done.items()}
            now_ns = time.time_ns()

            def change(rollout: Rollout) -> Rollout:
                for member, failure in failures.items():
                    rollout = waves.ended(rollout, member, now_ns=now_ns, failure=failure)
                return rollout

            self.change(one.digest, change, reason=f"{_reason(one, task)}: {len(done)} ended")
        away = [member for member in (*members, *waiting) if member not in ready and member not in done]
        self._waits_for(one, away, "{} have not answered")
        return {(one.digest, Kind.APPLY, task.wave, member) for member in members if member not in done}

    # checks

    def _check(self, one: Carried, task: Due) -> set[tuple[bytes, Kind, int, str]]:
        """Check a wave at its members, then by the hook, and record the outcome."""
        given = self._give(one, Kind.CHECK, task, task.members, deadline_s=CHECK_S)
        going = {(one.digest, Kind.CHECK, task.wave, member) for member in task.members}
        if not all(asked.over for asked, _ in given.values()):
            late = [member for member, (asked, _) in given.items() if not asked.over]
            self._waits_for(one, late, "{} have not answered the check")
            return going
        names = one.planned.names
        failed = [
            f"{names[member]}: {problem}"
            for member, (asked, _) in given.items()
            if (problem := _problem(asked.answers) if asked.answers else _late(CHECK_S))
        ]
        failure = listed(failed)
        if not failure and self._hook is not None:
            future = self._hooked.get((one.digest, task.wave))
            if future is None:
                about = _about(one, task)
                future = self._hooked[one.digest, task.wave] = self._pool.submit(self._hook, about)
            if not future.done():
                self._waits[one.digest] = "the check of the server has not ended"
                return going
            failure = future.result()
        self._hooked.pop((one.digest, task.wave), None)
        says = f"the check after wave {task.wave + 1} {f'failed: {failure}' if failure else 'succeeded'}"
        self.change(
            one.digest,
            partial(waves.checked, wave=task.wave, failure=says if failure else ""),
            reason=says,
        )
        return set()

    # rollbacks

    def _roll_back(self, one: Carried, task: Due) -> set[tuple[bytes, Kind, int, str]]:
        """Roll back the members of a wave, and record the outcomes."""
        given = self._give(one, Kind.ROLL_BACK, task, task.members)
        targets, now = one.planned.targets, time.monotonic()
        failures = dict[str, str]()
        for member, (asked, since_s) in given.items():
            if asked.answers:
                failures[member] = _problem(asked.answers)
            elif now - since_s >= AWAY_S and not self._hub.is_connected(targets[member].database):
                failures[member] = f"it is not connected since {AWAY_S:g} s; roll back again when it is back"
        if failures:

            def change(rollout: Rollout) -> Rollout:
                for member, failure in failures.items():
                    rollout = waves.returned(rollout, member, failure=failure)
                return rollout

            count = sum(not failure for failure in failures.values())
            self.change(one.digest, change, reason=f"roll back wave {task.wave + 1}: {count} returned")
        going = [member for member in task.members if member not in failures]
        self._waits_for(one, going, "{} are not rolled back")
        return {(one.digest, Kind.ROLL_BACK, task.wave, member) for member in going}

    # tasks of members

    def _give(
        self, one: Carried, kind: Kind, task: Due, members: Iterable[str], *, deadline_s: float | None = None
    ) -> dict[str, _Given]:
        """Return the tasks of members; those that have none are given it."""
        targets, found = one.planned.targets, dict[str, _Given]()
        for member in members:
            key = (one.digest, kind, task.wave, member)
            if key not in self._given:
                asked = Asked(kind, [targets[member]], deadline_s=deadline_s, reason=_reason(one, task))
                self._given[key] = _Given(self._hub.ask(asked), time.monotonic())
            found[member] = self._given[key]
        return found

    def _waits_for(self, one: Carried, members: Iterable[str], what: str) -> None:
        """Note which members a rollout waits for, if they are not connected."""
        names, targets = one.planned.names, one.planned.targets
        away = [names[one] for one in members if not self._hub.is_connected(targets[one].database)]
        if away:
            self._waits[one.digest] = f"{what.format(', '.join(away[:3]))}: not connected ({len(away)})"


def _reason(one: Carried, task: Due) -> str:
    what = "roll back wave" if task.task is Task.ROLL_BACK else "wave"
    return f"{what} {task.wave + 1} of {len(one.rollout.waves)} of plan {one.digest.hex()[:SHORT]}"


def _problem(answers: Mapping[bytes, Answer]) -> str:
    """Return the problem of the only answer."""
    (answer,) = answers.values()
    return answer.problem


def _late(seconds: float) -> str:
    return f"it has not answered within {seconds:g} s"


def _about(one: Carried, task: Due) -> dict[str, object]:
    """Return what a hook receives."""
    names = one.planned.names
    return {
        "plan": one.digest.hex(),
        "to": one.plan.to_version,
        "wave": task.wave + 1,
        "waves": len(one.rollout.waves),
        "members": [names[member] for member in task.members],
    }
