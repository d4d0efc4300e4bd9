"""Waves: members upgraded group by group, the canary first, with a gate after each group.

    words := word*          1   5%   25%   canary   region=eu   by region   rest
    word  := number | number "%" | "rest" | "by" label | selector

A word takes members that no earlier word took: this number of them, a share of all (rounded up), all others,
one wave for each value of a label (then those without it), or those that a selector matches.

    RUNNING ─ wave upgraded ─▶ PAUSING ─▶ CHECKING ─▶ WAITING ─▶ RUNNING (the next wave) … ─▶ FINISHED
       │                          │          │           │
       │ member failed, stop      └──────────┴───────────┴─ stop, check failed ─▶ STOPPED
       └─▶ STOPPING ─ those that have begun ended ─▶ STOPPED

    STOPPED, FINISHED ─ roll_back ─▶ RETURNING, the last wave first ─▶ RETURNED

A gate has a pause, a check and an approval, each if it is set. How a wave is upgraded is up to the caller:
one run of the protocol (all of its members or none), or a run for each member. These functions have no I/O:
the caller stores a `Rollout`, carries out what is `due`, and gives the outcomes. It can do both again after a
restart, because `due` depends on the rollout alone, and an outcome that comes twice changes nothing.

Invariants
  (1) Each member is in one wave.
  (2) A wave begins only after each member of the previous one was upgraded, and after its gate.
  (3) After a failure or a stop no wave and no member begins. Members that have begun come to their end.
  (4) Only upgraded members are rolled back, those of later waves first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import NamedTuple

import msgspec

from everlog.fleet.selector import Selector
from everlog.fleet.survey import Survey
from everlog.store.errors import MigrationError, RowError, quantity

DEFAULT = ("1", "5%", "25%", "rest")
REST = "rest"

_COUNT = re.compile(r"([0-9]+)(%?)")
_COMMA = re.compile(r",(?![^()]*\))")  # not within parentheses
_BY = re.compile(r"by\s+(\S+)")


def words_of(text: str) -> tuple[str, ...]:
    """Return the words in a text such as `1,5%,region=eu,rest`, or `region=eu,!canary; rest`: with a
    semicolon, commas are part of the selectors."""
    parts = text.split(";") if ";" in text else _COMMA.split(text)
    return tuple(part.strip() for part in parts)


def split(members: Iterable[Survey], words: Sequence[str] = DEFAULT) -> tuple[tuple[str, ...], ...]:
    """Return the waves, each the UUIDs of its members in their order. Waves without members are left out.

    Raises RowError for an invalid word, and if a member would be in no wave.
    """
    left = sorted(members, key=lambda one: one.database)
    total, waves = len(left), list[list[Survey]]()
    for word in words:
        for wave in _taken(word.strip(), left, total):
            waves.append(wave)
            taken = {one.database for one in wave}
            left = [one for one in left if one.database not in taken]
    if left:
        raise RowError(
            f"{quantity(len(left), 'member')} would be in no wave, the first is {left[0].name}; end the waves"
            f" with `{REST}`"
        )
    return tuple(tuple(one.database for one in wave) for wave in waves if wave)


def _taken(word: str, left: Sequence[Survey], total: int) -> list[list[Survey]]:
    """Return the waves of one word."""
    if word == REST:
        return [list(left)]
    if found := _COUNT.fullmatch(word):
        number, percent = int(found[1]), bool(found[2])
        if not 1 <= number <= (100 if percent else math.inf):
            raise RowError(f"expected a wave of 1 or more members, or of 1% to 100%, found {word!r}")
        return [list(left[: math.ceil(total * number / 100) if percent else number])]
    if found := _BY.fullmatch(word):
        values = sorted({one.labels[found[1]] for one in left if found[1] in one.labels})
        groups = [[one for one in left if one.labels.get(found[1]) == value] for value in values]
        return [*groups, [one for one in left if found[1] not in one.labels]]
    if not word:
        raise RowError("expected a wave: a number, a share such as 5%, `by LABEL`, a selector or `rest`")
    selector = Selector.parse(word)
    return [[one for one in left if selector.matches(one.name, one.labels, one.version)]]


class RolloutState(StrEnum):
    """The state of a rollout."""

    RUNNING = "running"
    PAUSING = "pausing"
    CHECKING = "checking"
    WAITING = "waiting for approval"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FINISHED = "finished"
    RETURNING = "rolling back"
    RETURNED = "rolled back"


GATES = (RolloutState.PAUSING, RolloutState.CHECKING, RolloutState.WAITING)
UPGRADING = (RolloutState.RUNNING, RolloutState.STOPPING)
ENDS = (RolloutState.STOPPED, RolloutState.FINISHED, RolloutState.RETURNED)


@dataclass(frozen=True, slots=True)
class Gate:
    """What must happen between two waves: a pause in nanoseconds, a check, an approval."""

    pause_ns: int = 0
    check: bool = False
    approval: bool = False


class Task(Enum):
    """What a caller is to do for a rollout."""

    UPGRADE = "upgrade"
    CHECK = "check"
    APPROVE = "approve"
    ROLL_BACK = "roll back"


class Due(NamedTuple):
    """A task, the number of its wave from 0, and its members. APPROVE is for a person."""

    task: Task
    wave: int
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rollout:
    """Waves, and what has become of their members.

    `wave`: the one that is in progress, or whose gate is. `begun`: members whose upgrade has begun.
    `until_ns`: the end of the pause (Unix time). `deadline_s`: the time for the votes of a wave.
    `failed`: members with the reason; a failed upgrade has left the member as it was. `tried`: members whose
    rollback failed in the last attempt. `reason`: why it was stopped, or what failed.
    """

    waves: tuple[tuple[str, ...], ...]
    gate: Gate = Gate()
    state: RolloutState = RolloutState.RUNNING
    wave: int = 0
    until_ns: int = 0
    begun: frozenset[str] = frozenset()
    upgraded: frozenset[str] = frozenset()
    failed: tuple[tuple[str, str], ...] = ()
    reason: str = ""
    tried: frozenset[str] = frozenset()
    deadline_s: float = 3600.0

    def __post_init__(self) -> None:
        members = [one for wave in self.waves for one in wave]
        if not members or not all(self.waves) or len(set(members)) != len(members):
            raise MigrationError("expected waves with members, each in one wave")

    def encode(self) -> bytes:
        """Return the rollout as JSON: always the same bytes for the same rollout."""
        return msgspec.json.encode(self, order="deterministic")


def due(rollout: Rollout) -> tuple[Due, ...]:
    """Return what is to be done now. While it is PAUSING, nothing until `until_ns`: call `tick` then.

    Record `began` before a member is upgraded. One that has begun is due until its outcome is known.
    """
    wave = rollout.waves[rollout.wave]
    match rollout.state:
        case RolloutState.RUNNING:
            return (Due(Task.UPGRADE, rollout.wave, _open(rollout)),)
        case RolloutState.STOPPING:
            return (Due(Task.UPGRADE, rollout.wave, in_progress(rollout)),)
        case RolloutState.CHECKING:
            return (Due(Task.CHECK, rollout.wave, wave),)
        case RolloutState.WAITING:
            return (Due(Task.APPROVE, rollout.wave, wave),)
        case RolloutState.RETURNING:
            for number in range(len(rollout.waves) - 1, -1, -1):
                if members := _returnable(rollout, number):
                    return (Due(Task.ROLL_BACK, number, members),)
    return ()


def in_progress(rollout: Rollout) -> tuple[str, ...]:
    """Return the members whose upgrade has begun, and whose outcome is unknown."""
    if rollout.state not in UPGRADING:
        return ()
    return tuple(one for one in _open(rollout) if one in rollout.begun)


def began(rollout: Rollout, members: Iterable[str]) -> Rollout:
    """Record that the upgrade of members of the wave in progress begins. Only those in `begun` afterwards may
    begin: after a stop there are no new ones."""
    if rollout.state is not RolloutState.RUNNING:
        return rollout
    return replace(rollout, begun=rollout.begun | (set(members) & set(_open(rollout))))


def ended(rollout: Rollout, member: str, *, now_ns: int, failure: str = "") -> Rollout:
    """Record that a member of the wave in progress was upgraded, or why not."""
    if member not in in_progress(rollout):
        return rollout
    if failure:
        rollout = replace(
            rollout,
            state=RolloutState.STOPPING,
            failed=_failed(rollout, member, failure),
            reason=rollout.reason or failure,
        )
    else:
        rollout = replace(rollout, upgraded=rollout.upgraded | {member})
    if rollout.state is RolloutState.STOPPING:
        return rollout if in_progress(rollout) else replace(rollout, state=RolloutState.STOPPED)
    if _open(rollout):
        return rollout
    if rollout.wave == len(rollout.waves) - 1:
        return replace(rollout, state=RolloutState.FINISHED)
    if rollout.gate.pause_ns:
        return replace(rollout, state=RolloutState.PAUSING, until_ns=now_ns + rollout.gate.pause_ns)
    return _after_pause(rollout)


def tick(rollout: Rollout, *, now_ns: int) -> Rollout:
    """End the pause, if its time has passed."""
    if rollout.state is RolloutState.PAUSING and now_ns >= rollout.until_ns:
        return _after_pause(rollout)
    return rollout


def checked(rollout: Rollout, wave: int, *, failure: str = "") -> Rollout:
    """Record the outcome of the check after a wave. A failure stops the rollout."""
    if rollout.state is not RolloutState.CHECKING or wave != rollout.wave:
        return rollout
    return stop(rollout, reason=failure) if failure else _after_check(rollout)


def approve(rollout: Rollout, wave: int) -> Rollout:
    """Approve that the next wave begins. `wave`: the number of the last one, so that an approval that comes
    twice approves once. Raises MigrationError if the rollout does not wait for it."""
    if rollout.state is not RolloutState.WAITING or wave != rollout.wave:
        raise MigrationError(
            f"the rollout does not wait for approval after wave {wave + 1}: it is {rollout.state} at wave"
            f" {rollout.wave + 1} of {len(rollout.waves)}; nothing was done"
        )
    return _next(rollout)


def stop(rollout: Rollout, *, reason: str) -> Rollout:
    """Begin no other wave and no other member. Raises MigrationError if the rollout has ended."""
    if rollout.state in (RolloutState.STOPPED, RolloutState.STOPPING):
        return rollout
    if rollout.state in (RolloutState.RUNNING, *GATES):
        state = RolloutState.STOPPING if in_progress(rollout) else RolloutState.STOPPED
        return replace(rollout, state=state, reason=reason)
    raise MigrationError(f"the rollout is {rollout.state} and cannot be stopped; nothing was done")


def roll_back(rollout: Rollout) -> Rollout:
    """Roll back the upgraded members, or try again those that failed. Raises MigrationError before the
    rollout has stopped or finished, and if no member is upgraded."""
    if rollout.state not in ENDS or not rollout.upgraded:
        why = "no member is upgraded" if rollout.state in ENDS else "stop it first"
        raise MigrationError(
            f"the rollout is {rollout.state} and cannot be rolled back: {why}; nothing was done"
        )
    return replace(rollout, state=RolloutState.RETURNING, tried=frozenset())


def returned(rollout: Rollout, member: str, *, failure: str = "") -> Rollout:
    """Record that a member was rolled back, or why not: it stays upgraded, and the others continue."""
    here = {one for task in due(rollout) if task.task is Task.ROLL_BACK for one in task.members}
    if member not in here:
        return rollout
    if failure:
        tried = rollout.tried | {member}
        rollout = replace(rollout, tried=tried, failed=_failed(rollout, member, failure))
    else:
        upgraded = rollout.upgraded - {member}
        rollout = replace(rollout, upgraded=upgraded, failed=_failed(rollout, member, ""))
    return rollout if due(rollout) else replace(rollout, state=RolloutState.RETURNED)


def _open(rollout: Rollout) -> tuple[str, ...]:
    """Return the members of the wave in progress without an outcome."""
    known = rollout.upgraded | {member for member, _ in rollout.failed}
    return tuple(one for one in rollout.waves[rollout.wave] if one not in known)


def _failed(rollout: Rollout, member: str, failure: str) -> tuple[tuple[str, str], ...]:
    """Return the failures, with the newest of a member; empty: it has none."""
    others = [one for one in rollout.failed if one[0] != member]
    return tuple(sorted([*others, (member, failure)] if failure else others))


def _returnable(rollout: Rollout, wave: int) -> tuple[str, ...]:
    return tuple(one for one in rollout.waves[wave] if one in rollout.upgraded - rollout.tried)


def _after_pause(rollout: Rollout) -> Rollout:
    return replace(rollout, state=RolloutState.CHECKING) if rollout.gate.check else _after_check(rollout)


def _after_check(rollout: Rollout) -> Rollout:
    return replace(rollout, state=RolloutState.WAITING) if rollout.gate.approval else _next(rollout)


def _next(rollout: Rollout) -> Rollout:
    return replace(rollout, state=RolloutState.RUNNING, wave=rollout.wave + 1, until_ns=0)
