"""Running: what the server does now, as far as a caller may see it, and the end of one call.

    Activity, Hosting, connections ─▶ RunningCalls ─ now ──▶ CallsResponse
                                            └─────── kill ─▶ the call ends: CANCELLED, "ended by …"

    a killed call    waits for a thread    ended      it never begins
                     reads                 ended      it reads no further chunk
                     writes in steps       stops      before the next chunk, or at the next progress report;
                                                      what it has written stays
                     writes at once        finishes   it is in the log whole or not at all

The client gets its error at once. A call whose work continues is listed until its end.

Invariants
  (1) a caller sees and ends its own calls, and those of databases in which it has the right ADMIN; an id that
      it may not see looks to it like one that does not exist;
  (2) the event loop waits for nothing here, and a response is bounded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import grpc

from everlog.migrations.lock import holder_of
from everlog.proto import access_pb2
from everlog.proto import admin_pb2 as pb
from everlog.rpc.http2.connection import Connection
from everlog.rpc.http2.grpc import Aborted, Call, end
from everlog.rpc.security import Identity
from everlog.rpc.server.activity import ENDLESS, Activity, tables
from everlog.rpc.server.host import Hosting
from everlog.rpc.server.leases import Lease, Leases
from everlog.rpc.server.threads import Steps, Threads, Work
from everlog.store.database import Database
from everlog.store.errors import AccessError, Error, RowError, UnavailableError
from everlog.store.online.backfill import built_rows, total_rows
from everlog.store.program_log import about

CALLS_MAX, PEERS_MAX, BEHIND_MAX, TABLES_MAX = 1000, 1000, 8, 5
NAME_MAX = 100  # characters of a name that a client has sent
WRITES = ("short writes", "long writes")
LOAD = "Store/Load"  # it commits chunks, and waits for its client between them

logger = logging.getLogger("everlog")


class RunningCalls:
    """The running calls of one server. Use it in the event loop."""

    def __init__(
        self,
        activity: Activity,
        hosting: Hosting,
        connections: Iterable[Connection],
        connections_max: Callable[[], int],
    ) -> None:
        self._activity = activity
        self._hosting = hosting
        self._connections = connections
        self._connections_max = connections_max
        self.leases: Mapping[str, Leases] = {}

    def now(self, identity: Identity) -> pb.CallsResponse:
        """Return what a caller may see. Read-only."""
        ours = self._administered(identity)
        whole = len(ours) == len(self._hosting.databases)
        running = self._activity.running
        ended = {one.call.id: one.call for one in self._busy() if one.call and one.call.id not in running}
        seen = [one for one in (*running.values(), *ended.values()) if self._sees(one, identity, ours)]
        answer = pb.CallsResponse(total=len(seen))
        answer.calls.extend(self._call(one) for one in seen[:CALLS_MAX])
        if whole:
            answer.calls.extend(self._own_work())
            answer.connections, answer.connections_max = self._connected()
            answer.peers.extend(self._peers())
        if ours:
            for pool in self._hosting.pools:
                answer.pools.add(name=pool.name, running=len(pool.busy), waiting=pool.waiting)
        return answer

    def databases(self, identity: Identity) -> list[pb.DatabaseNow]:
        """Return the state of the databases of which a caller may see all calls. Read-only, for a thread."""
        return [self._database(name) for name in sorted(self._administered(identity))]

    def kill(self, id: int, identity: Identity, reason: str) -> pb.RunningCall:
        """End a call, and return it. Raises RowError if the caller sees no such call."""
        call = self._activity.running.get(id)
        if call is None or not self._sees(call, identity, self._administered(identity)):
            raise RowError(
                f"there is no running call {id}: it has ended, or is not visible to the caller"
                " (`everlog top` lists the running calls)",
                id=id,
            )
        told, ending = self._call(call), _ending(call)
        told.ending = ending
        by = str(identity.name) or "an unnamed caller"
        text = f"the call was ended by {by}" + (f": {reason}" if reason else "") + _OUTCOMES[ending]
        logger.warning(
            "%s of %s was ended by %s",
            call.method,
            told.identity or "an unnamed caller",
            by,
            extra=about(
                "call.killed",
                database=told.database,
                identity=str(identity.name),
                same=str(id),
                caller=told.identity,
                peer=told.peer,
                reason=reason,
            ),
        )
        end(call, grpc.StatusCode.CANCELLED, UnavailableError(text, code="CANCELLED", ended_by=by))
        return told

    def _busy(self) -> Iterator[Work]:
        for pool in self._hosting.pools:
            yield from list(pool.busy)

    # who may see what

    def _administered(self, identity: Identity) -> set[str]:
        """Return the databases in which a caller has the right ADMIN."""
        found = set[str]()
        for name in self._hosting.databases:
            try:
                if self._hosting.rights.holder(identity, name).decide(access_pb2.ADMIN).allowed:
                    found.add(name)
            except (AccessError, Aborted):
                continue
        return found

    def _sees(self, call: Call, identity: Identity, ours: set[str]) -> bool:
        whose = call.identity
        if whose is not None and (identity.name or identity.token):
            same = whose.name == identity.name if identity.name else whose.token == identity.token
            if same and (identity.databases is None or _named(call) in identity.databases):
                return True
        name = _named(call)
        return name in ours if name in self._hosting.databases else len(ours) == len(self._hosting.databases)

    # what there is

    def _connected(self) -> tuple[int, int]:
        return sum(1 for _ in self._connections), self._connections_max()

    def _peers(self) -> Iterator[pb.OpenConnection]:
        now = time.time()
        for number, one in enumerate(self._connections):
            if number == PEERS_MAX:
                return
            yield pb.OpenConnection(
                peer=one.peer,
                identities=list(one.account.names)[:BEHIND_MAX] if one.account is not None else (),
                calls=len(one.streams),
                age_s=max(0.0, now - one.began),
                bytes_in=one.bytes_received,
                bytes_out=one.out.sent,
            )

    def _database(self, name: str) -> pb.DatabaseNow:
        db: Database = self._hosting.databases[name]
        leases = self.leases.get(name)
        answer = pb.DatabaseNow(
            name=name,
            head=db.log.head,
            commits_waiting=db.committer.waiting,
            migrated_by=holder_of(db.uuid),
            lease=leases.holder if leases is not None else 0,
        )
        work = db.core.backfilling
        try:
            total = total_rows(db.tables) if work is not None else 0
            if work is not None and total:
                done, took_s = built_rows(db.core), time.monotonic() - work.since_s
                rate = max(0.0, done - work.rows) / took_s if took_s > 0 else 0.0
                answer.migration.CopyFrom(
                    pb.WorkProgress(
                        step="build rows",
                        done=done,
                        total=max(done, total),
                        unit="rows",
                        rate=rate,
                        left_s=max(0, total - done) / rate if rate else 0.0,
                    )
                )
        except Error:  # the database is closed
            pass
        return answer

    def _own_work(self) -> Iterator[pb.RunningCall]:
        """Work of the server itself, such as an approved migration."""
        for work in self._busy():
            if work.call is None:
                yield pb.RunningCall(
                    method=work.pool.name if work.pool is not None else "",
                    age_s=time.perf_counter() - work.began,
                    state=_STATES.get(work.state, pb.CALL_RUNS),
                    progress=_progress(work.progress),
                )

    def _call(self, call: Call) -> pb.RunningCall:
        name = _named(call)
        waits = _waits(call)
        return pb.RunningCall(
            id=call.id,
            database=name if name in self._hosting.databases else "",
            method=call.method,
            identity=str(call.identity.name)[:NAME_MAX] if call.identity is not None else "",
            peer=call.stream.connection.peer,
            age_s=time.perf_counter() - call.began,
            state=waits.state,
            waits_for=waits.what,
            behind=waits.behind[:BEHIND_MAX],
            ahead=waits.ahead,
            rows=call.rows,
            bytes=call.bytes,
            tables=[one[:NAME_MAX] for one in sorted(tables(call.request))[:TABLES_MAX]],
            progress=_progress(call.progress),
            ending=_ending(call) if call.ends_with is not None else pb.CALL_ENDING_UNSPECIFIED,
        )


_OUTCOMES: dict[int, str] = {
    pb.CALL_ENDED: "",
    pb.CALL_STOPS: "; it stops before its next write, and what it has written stays",
    pb.CALL_FINISHES: "; what it was writing is in the log whole, or not at all",
}


def _ending(call: Call) -> Any:
    """Return what becomes of a call's work when the call is ended."""
    work: Work | None = call.work
    if call.method == LOAD:
        return pb.CALL_STOPS
    if work is None or work.state in ("queued", "done") or work.pool is None or work.pool.name not in WRITES:
        return pb.CALL_ENDED
    return pb.CALL_STOPS if work.stops else pb.CALL_FINISHES


_STATES = {"queued": pb.CALL_QUEUED, "running": pb.CALL_RUNS, "paused": pb.CALL_PAUSED}


def _named(call: Call) -> str:
    """Return the database that a call names, which need not exist."""
    return str(getattr(call.request, "database", ""))


class _Wait(NamedTuple):
    """The state of a call, what it waits for, the ids of the calls that have that, and those before it."""

    state: Any
    what: str = ""
    behind: tuple[int, ...] = ()
    ahead: int = 0


def _waits(call: Call) -> _Wait:
    stream, work = call.stream, call.work
    pool = work.pool if work is not None else None
    if call.waits is not None:
        lease = call.waits
        holder = lease.holder if isinstance(lease, Lease) else None
        found = _Wait(pb.CALL_WAITS, "lease", (holder.id,) if holder is not None else ())
    elif pool is not None and work.state == "queued":
        ahead, running = pool.before(work)
        found = _Wait(pb.CALL_QUEUED, pool.name, _ids(running), ahead)
    elif pool is not None and work.state == "paused":
        found = _Wait(pb.CALL_PAUSED, pool.name, _ids(one for one in _busy(pool) if one.holds))
    elif stream.meter is not None and stream.meter.held:
        found = _Wait(pb.CALL_WAITS, "limit")
    elif stream.blocked:
        found = _Wait(pb.CALL_WAITS, "client")
    elif call.method in ENDLESS and (work is None or work.state == "done"):
        found = _Wait(pb.CALL_IDLE)
    else:
        found = _Wait(pb.CALL_RUNS)
    return found


def _busy(pool: Threads) -> list[Work]:
    return list(pool.busy)


def _ids(works: Iterable[Work]) -> tuple[int, ...]:
    return tuple(one.call.id for one in works if one.call is not None)


def _progress(steps: Steps | None) -> pb.WorkProgress | None:
    found = steps.now() if steps is not None else None
    if found is None:
        return None
    at, rate, left_s = found
    return pb.WorkProgress(
        step=at.step, done=at.done, total=at.total or 0, unit=at.unit, rate=rate, left_s=left_s
    )
