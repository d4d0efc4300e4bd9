"""Status: what a coordinator knows of its fleet, as values.

MemberReport  what a member says of itself
MemberStatus  the newest report of a member, and what the coordinator adds: connected, alarm
EndedRun      a run that has ended, in short
FleetStatus   all members, stragglers first, and the runs
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from everlog.feed import cursor
from everlog.fleet.protocol import Decision, Phase, Report, Run, Seat, Vote

ENDED_MAX = 20


class MemberReport(msgspec.Struct, frozen=True):
    """What a member says of itself.

    `database`: UUID. `seq` and `checksum`: its newest record. `newest`: the newest version that its folders
    have. `phase` is in the run `decision_id`. `rows`, `total` (0: unknown) and `rate` (rows a second): while
    it prepares. `error`: why it could not carry out its last order. `diverged`: why its log is not the one
    that the coordinator knows, which it has compared up to `compared`.
    """

    name: str
    database: bytes
    labels: dict[str, str] = {}
    seq: int = 0
    checksum: int = 0
    version: int = 0
    newest: int = 0
    pending: int = 0
    folder_digest: bytes = b""
    phase: Phase = Phase.IDLE
    decision_id: bytes = b""
    fence: int = 0
    refusal: str = ""
    rows: int = 0
    total: int = 0
    rate: float = 0.0
    waits_for: str = ""
    error: str = ""
    diverged: str = ""
    release: str = ""
    compared: int = 0

    @property
    def report(self) -> Report:
        """The report as the protocol has it."""
        return Report(self.database, self.decision_id, self.fence, self.phase, self.refusal)


class MemberStatus(msgspec.Struct, frozen=True):
    """A member as the coordinator sees it. `last_seen_ns`: Unix time. `peer`: address of its process.
    `alarm`: a contradiction that an operator has to solve; empty: none."""

    report: MemberReport
    connected: bool = False
    last_seen_ns: int = 0
    peer: str = ""
    alarm: str = ""

    @property
    def left_s(self) -> float:
        """The estimated seconds until it is prepared; 0: unknown."""
        one = self.report
        return max(0, one.total - one.rows) / one.rate if one.rate > 0 else 0.0


class EndedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that has ended, in short. `members`: their number, without those that were removed. `upgraded`:
    that of those which were upgraded. Unix times. `actor` and `reason`: of its start. `why`: the reason of an
    abort."""

    decision_id: bytes
    decision: Decision
    members: int
    upgraded: int
    started_ns: int
    decided_ns: int
    ended_ns: int
    actor: str
    reason: str
    why: str

    @property
    def outcome(self) -> str:
        """As that of `outcome`."""
        return "contracted" if self.decision is Decision.COMMIT else "aborted"


class FleetStatus(msgspec.Struct, frozen=True):
    """The state of a fleet. `epoch`: of the coordinator; 0: it does not coordinate, `problem` says why.

    `members`: stragglers first. `runs`: those that have not ended, and those that ended last, since the
    coordinator started. `ended`: the newest that have ended, at most ENDED_MAX. Both are in the order of
    their start. `checked`: a run starts only with a plan that was approved.
    """

    epoch: int
    problem: str
    members: list[MemberStatus]
    runs: list[Run]
    ended: list[EndedRun] = []
    checked: bool = False


def stragglers_first(members: Iterable[MemberStatus], runs: Iterable[Run]) -> list[MemberStatus]:
    """Return the members in this order: those with an alarm, those that a run waits for (unreachable ones
    first, then those with the most left to do), those that are not connected, all others by name."""
    waits = {seat.target.database for run in runs for seat in run.seats if waits_for(run, seat)}

    def order(one: MemberStatus) -> tuple[bool, bool, bool, float, str]:
        waited = one.report.database in waits
        done = one.report.rows / one.report.total if waited and one.report.total else 0.0
        return not one.alarm, not waited, one.connected, done, one.report.name

    return sorted(members, key=order)


def waits_for(run: Run, seat: Seat) -> bool:
    """Whether a run waits for a member: for its vote, or for its end."""
    if seat.end is not None:
        return run.contract and seat.end is Phase.COMMITTED
    return run.decision is not None or seat.vote is not Vote.PREPARED


def outcome(run: Run) -> str:
    """Return the state of a run in a word, such as preparing, committing, committed or aborted."""
    if run.decision is None:
        return "preparing"
    committed = run.decision is Decision.COMMIT
    if run.open_seats():
        return "committing" if committed else "aborting"
    if not committed:
        return "aborted"
    ends = {seat.end for seat in run.seats if not seat.removed}
    if ends == {Phase.CONTRACTED}:
        return "contracted"
    return "contracting" if run.contract else "committed"


def state_of(one: MemberStatus) -> str:
    """Return the state of a member in words, such as preparing, current or `away, prepared`."""
    phase = one.report.phase.value.lower()
    held = phase in {"preparing", "prepared"}
    if one.alarm:
        return "alarm"
    if not one.connected:
        return f"away, {phase}" if held else "away"
    if held or phase == "committed":
        return phase
    return f"{one.report.pending} pending" if one.report.pending else "current"


def status_dict(found: FleetStatus) -> dict[str, Any]:
    """Return a status as JSON values."""
    return {
        "epoch": found.epoch,
        "problem": found.problem,
        "checked": found.checked,
        "members": [member_dict(one) for one in found.members],
        "runs": [run_dict(run) for run in found.runs],
        "ended": [_ended_dict(run) for run in found.ended],
    }


def member_dict(one: MemberStatus) -> dict[str, Any]:
    """Return a member as JSON values."""
    report = one.report
    return {
        "name": report.name,
        "labels": report.labels,
        "database": cursor.name(report.database),
        "state": state_of(one),
        "connected": one.connected,
        "peer": one.peer,
        "last_seen_ns": one.last_seen_ns,
        "alarm": one.alarm,
        "version": report.version,
        "newest": report.newest,
        "pending": report.pending,
        "folder_digest": report.folder_digest.hex(),
        "seq": report.seq,
        "phase": report.phase.value,
        "run": cursor.name(report.decision_id) if report.decision_id else None,
        "refusal": report.refusal,
        "rows": report.rows,
        "total": report.total,
        "rate": report.rate,
        "left_s": one.left_s,
        "waits_for": report.waits_for,
        "error": report.error,
        "release": report.release,
    }


def _ended_dict(run: EndedRun) -> dict[str, Any]:
    return {
        "run": cursor.name(run.decision_id),
        "state": run.outcome,
        "decision": run.decision.value,
        "members": run.members,
        "upgraded": run.upgraded,
        "started_ns": run.started_ns,
        "decided_ns": run.decided_ns,
        "ended_ns": run.ended_ns,
        "actor": run.actor,
        "reason": run.reason,
        "why": run.why,
    }


def run_dict(run: Run) -> dict[str, Any]:
    """Return a run as JSON values."""
    return {
        "run": cursor.name(run.decision_id),
        "state": outcome(run),
        "decision": run.decision.value if run.decision else None,
        "deadline_ns": run.deadline_ns,
        "contract": run.contract,
        "seats": [
            {
                "database": cursor.name(seat.target.database),
                "from_version": seat.target.from_version,
                "to_version": seat.target.to_version,
                "folder_digest": seat.target.folder_digest.hex(),
                "hold": seat.target.hold,
                "vote": seat.vote.value if seat.vote else None,
                "reason": seat.reason,
                "removed": seat.removed,
                "end": seat.end.value if seat.end else None,
            }
            for seat in run.seats
        ],
    }
