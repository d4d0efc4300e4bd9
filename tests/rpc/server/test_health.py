"""Health: a watcher that does not read delays nobody, nor the end of the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.http2 import frames
from everlog.rpc.http2.grpc import Aborted
from everlog.rpc.server.health import HealthService
from everlog.rpc.server.server import SERVICES, Server
from tests.rpc.raw_client import RawClient

WATCH = "/grpc.health.v1.Health/Watch"
Response, Request = health_pb2.HealthCheckResponse, health_pb2.HealthCheckRequest


@pytest.fixture
def server(db: EmbeddedDatabase) -> Iterator[Server]:
    with Server({"x": db}) as server:
        yield server


def test_watchers_that_do_not_read_hold_up_nobody(server: Server) -> None:
    window = {frames.SETTINGS_INITIAL_WINDOW_SIZE: 0}
    with (
        RawClient(server.address, settings=window) as silent,
        grpc.insecure_channel(server.address) as channel,
    ):
        for stream in range(1, 200, 2):
            silent.call(stream, WATCH, Request(service="news").SerializeToString())
        silent.send(frames.frame(frames.PING, 0, 0, bytes(8)))
        silent.next(frames.PING)
        stub = health_pb2_grpc.HealthStub(channel)
        watch: Any = stub.Watch(Request(service=SERVICES[0]))
        assert next(watch).status == Response.SERVING
        assert stub.Check(Request()).status == Response.SERVING
        assert stub.List(health_pb2.HealthListRequest()).statuses[SERVICES[0]].status == Response.SERVING
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            stub.Check(Request(service="no.Such"))
        began = time.monotonic()
        server.stop(grace_s=0.5)
        assert time.monotonic() - began < 30
        assert next(watch).status == Response.NOT_SERVING
        assert not list(watch)


def test_a_watcher_receives_the_newest_status_alone() -> None:
    async def run() -> list[int]:
        service, context = HealthService(), Any
        found = []
        watch = service.Watch(Request(service="a"), context)  # type: ignore[arg-type]
        found.append((await anext(watch)).status)
        for status in (Response.SERVING, Response.NOT_SERVING, Response.SERVING):
            service.set("a", status)
        found.append((await anext(watch)).status)
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        service.set("a", Response.SERVING)  # which it is
        service.set("b", Response.NOT_SERVING)
        await asyncio.sleep(0)
        assert not waiting.done()
        service.drain()
        service.set("a", Response.SERVING)
        found.append((await waiting).status)
        with pytest.raises(StopAsyncIteration):
            await anext(watch)
        return found

    assert asyncio.run(run()) == [Response.SERVICE_UNKNOWN, Response.SERVING, Response.NOT_SERVING]


def test_a_request_of_an_unknown_service_is_refused() -> None:
    class Refusing:
        async def abort(self, code: grpc.StatusCode, details: str) -> None:
            raise Aborted(code, details)

    context: Any = Refusing()
    with pytest.raises(Aborted, match="'b'"):
        asyncio.run(HealthService().Check(Request(service="b"), context))
