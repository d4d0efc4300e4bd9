"""Health: of databases and of the whole server, over gRPC and HTTP, and for whom. A watcher that does not
read delays nobody, nor the end of the server.
"""

from __future__ import annotations

import asyncio
import http.client
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.http2 import frames
from everlog.rpc.http2.grpc import Aborted
from everlog.rpc.server import health
from everlog.rpc.server.endpoint import Endpoint
from everlog.rpc.server.health import LIVENESS, HealthService, Readiness
from everlog.rpc.server.metrics import Metrics
from everlog.rpc.server.server import SERVICES, Server
from everlog.store.errors import OpenError
from everlog.store.upkeep.status import Health, HealthState
from tests.rpc.raw_client import RawClient
from tests.rpc.refusing import refuse

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


def status_of(server: Server, name: str = "", token: str = "") -> int | str:
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(server.address) as channel:
        try:
            found: int = (
                health_pb2_grpc.HealthStub(channel).Check(Request(service=name), metadata=metadata).status
            )
        except grpc.RpcError as error:
            return str(error.code().name)
    return found


def get(endpoint: Endpoint, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", int(endpoint.address.rpartition(":")[2]), timeout=30)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_each_database_has_its_health(db: EmbeddedDatabase, tmp_path: Path) -> None:
    with (
        EmbeddedDatabase(tmp_path / "other") as other,
        Server({"x": db, "y": other}) as server,
        Endpoint("127.0.0.1:0", server.readiness) as endpoint,
        RemoteDatabase(server.url("x")) as remote,
        grpc.insecure_channel(server.address) as channel,
    ):
        assert db.admin.health() == remote.admin.health() == remote.admin.status().health == Health()
        names = ("", "x", "y", "x/migrations", LIVENESS)
        assert [status_of(server, name) for name in names] == [1] * 5
        assert (get(endpoint, "/readyz"), get(endpoint, "/healthz")) == ((200, "ready\n"), (200, "alive\n"))
        stub = health_pb2_grpc.HealthStub(channel)
        watches: dict[str, Any] = {name: stub.Watch(Request(service=name)) for name in ("", "x", "y")}
        assert [next(watch).status for watch in watches.values()] == [Response.SERVING] * 3
        refuse(db)
        assert next(watches["x"]).status == next(watches[""]).status == Response.NOT_SERVING
        assert [status_of(server, name) for name in ("", "x", "y", "x/migrations", LIVENESS)] == [
            2,
            2,
            1,
            1,
            1,
        ]
        for found in (db.admin.health(), remote.admin.health(), remote.admin.status().health):
            assert (found.ready, found.state, found.reason) == (False, "writes refused", "the files moved")
            assert found.since_ns == db.engine.refusal.since_ns
        code, text = get(endpoint, "/readyz")
        assert code == 503
        assert re.fullmatch(r"not ready: writes refused since 20\d\d-.*Z\n", text)  # without name and reason
        assert get(endpoint, "/readyz/y") == (200, "ready\n")
        assert get(endpoint, "/readyz/x")[1].endswith("Z: the files moved\n")
        assert (get(endpoint, "/readyz/z")[0], get(endpoint, "/metrics")[0]) == (404, 404)
        assert get(endpoint, "/readyz", "HEAD") == (503, "")
        assert get(endpoint, "/healthz")[0] == 200
        db.engine.refusal.end()
        assert next(watches["x"]).status == next(watches[""]).status == Response.SERVING
        assert get(endpoint, "/readyz") == (200, "ready\n")


def test_a_migration_that_builds_is_said_and_takes_calls(server: Server, db: EmbeddedDatabase) -> None:
    readiness = server.readiness
    building = Health(state="migrating", reason="5 of 10 rows are built")
    assert readiness.of("x", building) == building
    refused = Health(ready=False, state="writes refused")
    assert readiness.of("x", refused) == refused


def test_whoever_has_no_right_in_a_database_learns_nothing_of_it(
    db: EmbeddedDatabase, tmp_path: Path
) -> None:
    with (
        EmbeddedDatabase(tmp_path / "other") as other,
        Server({"x": db, "secret": other}, tokens={"ann": "sesame", "bob": "thyme"}) as server,
        Endpoint("127.0.0.1:0", server.readiness, Metrics(server), token="m") as guarded,
        grpc.insecure_channel(server.address) as channel,
    ):
        db.access.grant("ann", "reader")
        everyone = {"", LIVENESS, *SERVICES}
        stub = health_pb2_grpc.HealthStub(channel)
        for token, names in (
            ("", set()),
            ("wrong", set()),
            ("thyme", set()),
            ("sesame", {"x", "x/migrations"}),
        ):
            assert status_of(server, "", token) == Response.SERVING
            for name in ("x", "x/migrations", "secret", "secret/migrations", "nothing"):
                assert status_of(server, name, token) == (Response.SERVING if name in names else "NOT_FOUND")
            metadata = [("authorization", f"Bearer {token}")] if token else []
            found = stub.List(health_pb2.HealthListRequest(), metadata=metadata)
            assert set(found.statuses) == everyone | names
        watch = stub.Watch(Request(service="secret"))
        assert next(watch).status == Response.SERVICE_UNKNOWN
        refuse(other)
        assert status_of(server) == Response.NOT_SERVING
        assert get(guarded, "/readyz")[1].startswith("not ready: writes refused since ")
        for path in ("/readyz/x", "/readyz/secret", "/readyz/nothing"):
            assert get(guarded, path) == (401, "expected the token of the metrics\n")
        assert get(guarded, "/readyz/x", Authorization="Bearer m") == (200, "ready\n")
        with RemoteDatabase(f"{server.url('x')}?token=sesame") as limited:
            assert limited.admin.health() == Health()
        other.engine.refusal.end()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OpenError, match="choose another --health"):
            Endpoint(address, server.readiness)


def test_before_it_serves_and_afterwards_it_is_alive_and_not_ready(db: EmbeddedDatabase) -> None:
    readiness, seen = Readiness(), list[str]()
    readiness.on_change = lambda found: seen.append(found.state)
    with Endpoint("127.0.0.1:0", readiness, measured=True) as endpoint:
        assert get(endpoint, "/readyz") == get(endpoint, "/metrics") == (503, "not ready: opening\n")
        readiness.starting(HealthState.CATCHING_UP, "x: 5 of 10 records")
        assert get(endpoint, "/readyz") == (503, "not ready: catching up: x: 5 of 10 records\n")
        assert get(endpoint, "/healthz") == (200, "alive\n")
        with Server({"x": db}, readiness=readiness) as server:
            endpoint.measure(Metrics(server))
            assert get(endpoint, "/readyz") == (200, "ready\n")
            assert 'everlog_database_ready{database="x"} 1.0' in get(endpoint, "/metrics")[1]
        assert get(endpoint, "/readyz") == (503, "not ready: stopping\n")
        assert get(endpoint, "/healthz") == (200, "alive\n")
    assert seen == ["catching up", "ready", "stopping"]


def test_an_event_loop_that_hangs_is_not_alive(db: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "STALLED_S", 1.0)
    let = threading.Event()
    with Server({"x": db}) as server, Endpoint("127.0.0.1:0", server.readiness) as endpoint:
        assert server.loop is not None
        server.loop.call_soon_threadsafe(let.wait)
        try:
            while get(endpoint, "/healthz")[0] == 200:
                pass
            assert get(endpoint, "/healthz") == (503, "the event loop does not answer\n")
        finally:
            let.set()
        while get(endpoint, "/healthz")[0] != 200:
            pass


def test_a_database_with_the_name_of_a_service_does_not_hide_it(db: EmbeddedDatabase) -> None:
    with Server({"liveness": db, SERVICES[1]: db}) as server:
        refuse(db)
        while status_of(server) == Response.SERVING:
            pass
        assert status_of(server, "liveness") == status_of(server, SERVICES[1]) == Response.SERVING
        db.engine.refusal.end()
