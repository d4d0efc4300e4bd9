"""Health: the health service of gRPC (grpc.health.v1), for load balancers and supervisors.

    set(name, status) ─▶ statuses ─┬─ Check: the status
                                   └─ wakes ─▶ each Watch sends the newest, if it differs

Invariants
  (1) a watcher that does not read delays nobody: each sends for itself, and misses what is outdated;
  (2) after `drain` all is NOT_SERVING, permanently, and every watcher ends;
  (3) anybody may ask for the services of the server; those of a database do not exist for a caller without
      rights in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]

from everlog.rpc.http2.grpc import Context

Response = health_pb2.HealthCheckResponse


class HealthService:
    """Use it in the thread of the event loop. `sees`: whether an identity may know of a database."""

    def __init__(self, sees: Callable[[Any, str], bool] = lambda _, __: True) -> None:
        self._sees = sees
        self._statuses: dict[str, int] = {"": Response.SERVING}
        self._databases: dict[str, str] = {}  # of the services that are of one
        self._changed = asyncio.Event()
        self._draining = False

    def set(self, name: str, status: int, database: str | None = None) -> None:
        """Set the status of a service, which may be of a database."""
        if database is not None:
            self._databases[name] = database
        if not self._draining and self._statuses.get(name) != status:
            self._statuses[name] = status
            self._wake()

    def drain(self) -> None:
        """Set all to NOT_SERVING, and end all watchers."""
        self._draining = True
        for name in self._statuses:
            self._statuses[name] = Response.NOT_SERVING
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _status(self, name: str, context: Context) -> int | None:
        """Return the status of a service; None: there is none that the caller may know of."""
        database = self._databases.get(name)
        if database is not None and not self._sees(context.identity, database):
            return None
        return self._statuses.get(name)

    async def Check(self, request: Any, context: Context) -> Any:
        status = self._status(request.service, context)
        if status is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"expected a known service, found {request.service!r}"
            )
        return Response(status=status)

    async def List(self, request: Any, context: Context) -> Any:
        seen = {name: self._status(name, context) for name in self._statuses}
        statuses = {name: Response(status=status) for name, status in seen.items() if status is not None}
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
