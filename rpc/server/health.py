"""Health: the health service of gRPC (grpc.health.v1), for load balancers and supervisors.

    set(name, status) ─▶ statuses ─┬─ Check: the status
                                   └─ wakes ─▶ each Watch sends the newest, if it differs

Invariants
  (1) a watcher that does not read delays nobody: each sends for itself, and misses what is outdated;
  (2) after `drain` all is NOT_SERVING, permanently, and every watcher ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]

from everlog.rpc.http2.grpc import Context

Response = health_pb2.HealthCheckResponse


class HealthService:
    """Use it in the thread of the event loop."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {"": Response.SERVING}
        self._changed = asyncio.Event()
        self._draining = False

    def set(self, name: str, status: int) -> None:
        """Set the status of a service."""
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

    async def Check(self, request: Any, context: Context) -> Any:
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"expected a known service, found {request.service!r}"
            )
        return Response(status=status)

    async def List(self, request: Any, context: Context) -> Any:
        statuses = {name: Response(status=status) for name, status in self._statuses.items()}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
        sent = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, Response.SERVICE_UNKNOWN)
            if status != sent:
                sent = status
                yield Response(status=status)
            elif self._draining:
                return
            else:
                await changed.wait()
