"""Status: what a coordinator knows of its fleet, as values.

MemberReport  what a member says of itself
MemberStatus  the newest report of a member, and what the coordinator adds: connected, alarm
EndedRun      a run that has ended, in short
FleetStatus   all members, stragglers first, and the runs
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

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
    their start.
    """

    epoch: int
    problem: str
    members: list[MemberStatus]
    runs: list[Run]
    ended: list[EndedRun] = []


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
