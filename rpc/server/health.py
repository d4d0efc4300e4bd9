"""Health: whether a server and each of its databases take calls, and why not.

    databases, approvals, problems ─▶ Readiness ─┬─▶ Admin.Health, Admin.Status   with the reason
                                                 ├─▶ grpc.health.v1.Health        HealthService
                                                 ├─▶ HTTP /healthz, /readyz       endpoint.py
                                                 └─▶ systemd                      console/cli/systemd.py

    service of grpc.health.v1     SERVING
    ""                            every database takes calls
    liveness                      the server runs, whatever its databases do
    NAME                          this database takes calls
    NAME/migrations               its pending migrations can be applied
    everlog.v1.Store              every database accepts writes
    other services                the server runs

Invariants
  (1) a watcher that does not read delays nobody: each sends for itself, and misses what is outdated;
  (2) after `drain` all is NOT_SERVING, permanently, and every watcher ends;
  (3) a database that the caller may not see is unknown to it, and the health of the whole names none;
  (4) nothing here waits for a disk or a lock, except `look`, which a thread calls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]

from everlog.migrations.proposal import ProposalState, proposals
from everlog.rpc.http2.grpc import Context
from everlog.store.database import Database
from everlog.store.errors import Error
from everlog.store.online.backfill import is_building, prepared
from everlog.store.upkeep.status import Health, HealthState, waits

if TYPE_CHECKING:
    from everlog.migrations.approval.approval import Approval

Response = health_pb2.HealthCheckResponse
LIVENESS = "liveness"
STALLED_S = 15.0  # without a beat of the event loop


class Readiness:
    """The health of a server, from before its databases are opened until it has stopped. For any thread."""

    def __init__(self) -> None:
        self._phase: Health | None = Health(ready=False, state=HealthState.OPENING)  # None: it serves
        self._databases: Mapping[str, Database] = {}
        self._approvals: Mapping[str, Approval] = {}
        self._problem: Callable[[str], str] = lambda _: ""
        self._waiting: dict[str, tuple[int, str]] = {}  # head of the log, and what waits for a decision
        self._beat_s = 0.0
        self._reported: Health | None = None
        self.on_change: Callable[[Health], None] = lambda _: None  # gets the health of the whole

    def starting(self, state: HealthState, reason: str = "") -> None:
        """Set what the server does before it serves."""
        self._phase = Health(ready=False, state=state, reason=reason)
        self.report()

    def serve(
        self,
        databases: Mapping[str, Database],
        approvals: Mapping[str, Approval],
        problem: Callable[[str], str],
    ) -> None:
        """Begin to serve. `problem` returns why migrations of a database without approval cannot continue."""
        self._databases, self._approvals, self._problem = databases, approvals, problem
        self.beat()
        self._phase = None
        self.report()

    def stop(self) -> None:
        """The server stops: it is not ready any more."""
        self._phase = Health(ready=False, state=HealthState.STOPPING)
        self.report()

    def beat(self) -> None:
        """Note that the event loop runs."""
        self._beat_s = time.monotonic()

    @property
    def alive(self) -> bool:
        """Whether the event loop runs, or has not begun, or is about to end."""
        return self._phase is not None or time.monotonic() - self._beat_s < STALLED_S

    @property
    def whole(self) -> Health:
        """The health of the whole server, without names and reasons of databases."""
        if self._phase is not None:
            return self._phase
        for name in self._databases:
            found = self.of(name)
            if not found.ready:
                return Health(ready=False, state=found.state, since_ns=found.since_ns)
        return Health()

    def of(self, name: str, found: Health | None = None) -> Health:
        """Return the health of a database. `found`: as the database itself sees it, with its progress."""
        if self._phase is not None:
            return self._phase
        found = found or _health(self._databases[name])
        if not found.ready:
            return found
        if problem := self.problem(name):
            return Health(state=HealthState.BLOCKED, reason=problem)
        if found.state not in {HealthState.MIGRATING, HealthState.PREPARED}:
            if name in self._approvals and self._approvals[name].running:
                return Health(state=HealthState.MIGRATING, reason="approved migrations are applied")
            if waiting := self._waiting.get(name, (0, ""))[1]:
                return Health(state=HealthState.WAITING, reason=waiting)
        return found

    def problem(self, name: str) -> str:
        """Return why the migrations of a database cannot be applied; empty: they can."""
        approval = self._approvals.get(name)
        return approval.problem if approval is not None else self._problem(name)

    def look(self) -> None:
        """Read which proposals wait for a decision, where the log has changed."""
        for name in self._approvals:
            db, before = self._databases[name], self._waiting.get(name, (-1, ""))
            try:
                head = db.head
                if head == before[0]:
                    continue
                found = [one.says for one in proposals(db) if one.state is ProposalState.WAITING]
            except Error:  # it is closed, which `of` reports
                continue
            self._waiting[name] = head, ", ".join(found)

    def report(self) -> None:
        """Call `on_change` if the health of the whole has changed."""
        found = self.whole
        if found != self._reported:
            self._reported = found
            self.on_change(found)


def _health(db: Database) -> Health:
    """Return the health of a database. Reads a note, and a record while a migration is prepared."""
    refusal = db.engine.refusal
    if refusal.since_ns:
        return Health(ready=False, state=HealthState.REFUSED, reason=refusal.error, since_ns=refusal.since_ns)
    if db.core.closed:
        return Health(ready=False, state=HealthState.CLOSED)
    if (waiting := prepared(db.core)) is not None:
        return Health(state=HealthState.PREPARED, reason=waits(waiting))
    return Health(state=HealthState.MIGRATING) if is_building(db.schema) else Health()


def migrations_health(name: str) -> str:
    """Return the health service's name for the pending migrations of a database."""
    return f"{name}/migrations"


class _Known(NamedTuple):
    status: int
    database: str  # empty: every caller may know of it


class HealthService:
    """Use it in the thread of the event loop. `sees`: whether an identity may know of a database."""

    def __init__(self, sees: Callable[[Any, str], bool] = lambda _, __: True) -> None:
        self._sees = sees
        self._statuses = {"": _Known(Response.SERVING, ""), LIVENESS: _Known(Response.SERVING, "")}
        self._changed = asyncio.Event()
        self._draining = False

    def set(self, name: str, status: int, *, database: str = "") -> None:
        """Set the status of a service. `database`: whose it is, if only some callers may know of it."""
        known = _Known(status, database)
        if not self._draining and self._statuses.get(name) != known:
            self._statuses[name] = known
            self._wake()

    def show(self, readiness: Readiness, databases: Mapping[str, Database], writes: str) -> None:
        """Set the status of the whole, of `writes`, and of the databases, from their health."""

        def status(*, ready: bool) -> int:
            answer: int = Response.SERVING if ready else Response.NOT_SERVING
            return answer

        refused = False
        for name in databases:
            found = readiness.of(name)
            refused = refused or found.state == HealthState.REFUSED
            self.set(migrations_health(name), status(ready=not readiness.problem(name)), database=name)
            if name not in self._statuses or self._statuses[name].database:  # not a service of this name
                self.set(name, status(ready=found.ready), database=name)
        self.set("", status(ready=readiness.whole.ready))
        self.set(writes, status(ready=not refused))

    def drain(self) -> None:
        """Set all to NOT_SERVING, and end all watchers."""
        self._draining = True
        for name, known in self._statuses.items():
            self._statuses[name] = known._replace(status=Response.NOT_SERVING)
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _status(self, name: str, context: Context) -> int | None:
        known = self._statuses.get(name)
        return known.status if known is not None and self._shown(known, context) else None

    def _shown(self, known: _Known, context: Context) -> bool:
        return not known.database or self._sees(context.identity, known.database)

    async def Check(self, request: Any, context: Context) -> Any:
        status = self._status(request.service, context)
        if status is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"expected a known service, found {request.service[:80]!r}"
            )
        return Response(status=status)

    async def List(self, request: Any, context: Context) -> Any:
        statuses = {
            name: Response(status=known.status)
            for name, known in self._statuses.items()
            if self._shown(known, context)
        }
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
        sent = None
        while True:
            changed = self._changed
            status = self._status(request.service, context)
            if status is None:
                status = Response.SERVICE_UNKNOWN
            if status != sent:
                sent = status
                yield Response(status=status)
            elif self._draining:
                return
            else:
                await changed.wait()
