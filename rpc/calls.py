"""Calls: what a server does now, as values: running calls, connections, threads, and work in progress.

server ─ CallsResponse ─▶ now_of ─▶ Now { calls, peers, pools, databases }
"""

from __future__ import annotations

import msgspec

from everlog.proto import admin_pb2 as pb

STATES = {
    pb.CALL_RUNS: "running",
    pb.CALL_QUEUED: "queued",
    pb.CALL_PAUSED: "paused",
    pb.CALL_WAITS: "waiting",
    pb.CALL_IDLE: "idle",
}
ENDINGS = {pb.CALL_ENDED: "ended", pb.CALL_STOPS: "stops", pb.CALL_FINISHES: "finishes"}


class WorkProgress(msgspec.Struct, frozen=True):
    """The progress of a step of long work: `done` of `total` (0: unknown), in `unit`s. `rate`: in a second,
    `left_s`: seconds until the end of the step; 0: unknown."""

    step: str
    done: int
    total: int
    unit: str
    rate: float
    left_s: float


class RunningCall(msgspec.Struct, frozen=True):
    """A call that runs on a server. `id` names it until it ends; 0: work of the server itself.

    `identity`: name of the caller, empty if it has none; `peer`: address of its client. `state`: running,
    queued (for a thread), paused (others have their turn), waiting, or idle. `waits_for`: a kind of threads,
    `lease`, `client` or `limit`; `behind`: ids of the calls that have it; `ahead`: calls before it in its
    queue. `rows` and `bytes`: so far. `ending`: of a call that somebody has ended: ended (nothing continues),
    stops (before its next write; what it has written stays), or finishes (its write cannot be stopped).
    """

    id: int
    database: str
    method: str
    identity: str
    peer: str
    age_s: float
    state: str
    waits_for: str
    behind: list[int]
    ahead: int
    rows: int
    bytes: int
    tables: list[str]
    progress: WorkProgress | None
    ending: str = ""


class OpenConnection(msgspec.Struct, frozen=True):
    """A connection to a server, the names that have called over it, and its running calls."""

    peer: str
    identities: list[str]
    calls: int
    age_s: float
    bytes_in: int
    bytes_out: int


class ThreadPool(msgspec.Struct, frozen=True):
    """The threads of a server for a kind of work: calls that run, and that wait for a thread."""

    name: str
    running: int
    waiting: int


class DatabaseNow(msgspec.Struct, frozen=True):
    """A database of a server. `migrated_by`: the holder of the lock of migrations; `lease`: id of the call
    that has a lease, 0: none; `migration`: the progress of the migration in progress."""

    name: str
    head: int
    commits_waiting: int
    migrated_by: str
    lease: int
    migration: WorkProgress | None


class Now(msgspec.Struct, frozen=True):
    """What a server does now, as far as the caller may see it.

    `calls`: the oldest first, 1,000 at most of `total`. `connections`, `connections_max` and `peers` are 0
    and empty for a caller without the right `admin` in all databases.
    """

    calls: list[RunningCall]
    total: int
    connections: int
    connections_max: int
    peers: list[OpenConnection]
    pools: list[ThreadPool]
    databases: list[DatabaseNow]


def now_of(answer: pb.CallsResponse) -> Now:
    """Return the values in a response."""
    return Now(
        calls=[call_of(one) for one in answer.calls],
        total=answer.total,
        connections=answer.connections,
        connections_max=answer.connections_max,
        peers=[
            OpenConnection(one.peer, list(one.identities), one.calls, one.age_s, one.bytes_in, one.bytes_out)
            for one in answer.peers
        ],
        pools=[ThreadPool(one.name, one.running, one.waiting) for one in answer.pools],
        databases=[
            DatabaseNow(
                one.name,
                one.head,
                one.commits_waiting,
                one.migrated_by,
                one.lease,
                _progress(one.migration) if one.HasField("migration") else None,
            )
            for one in answer.databases
        ],
    )


def call_of(one: pb.RunningCall) -> RunningCall:
    """Return a running call from its message."""
    return RunningCall(
        id=one.id,
        database=one.database,
        method=one.method,
        identity=one.identity,
        peer=one.peer,
        age_s=one.age_s,
        state=STATES.get(one.state, "unknown"),
        waits_for=one.waits_for,
        behind=list(one.behind),
        ahead=one.ahead,
        rows=one.rows,
        bytes=one.bytes,
        tables=list(one.tables),
        progress=_progress(one.progress) if one.HasField("progress") else None,
        ending=ENDINGS.get(one.ending, ""),
    )


def _progress(one: pb.WorkProgress) -> WorkProgress:
    return WorkProgress(one.step, one.done, one.total, one.unit, one.rate, one.left_s)
