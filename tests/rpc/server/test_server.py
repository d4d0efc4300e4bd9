from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]

import everlog
from everlog.proto import store_pb2, store_pb2_grpc
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.security import Tls
from everlog.rpc.server.server import SERVICES, Server
from tests.conformance.database_case import AIRPORTS, airport
from tests.ports import reserved_port
from tests.rpc.conftest import TLS
from tests.store.models import ITEMS, Item, declare

ANYWHERE = "0.0.0.0:0"


def test_a_server_hosts_several_databases(db: EmbeddedDatabase, tmp_path: Path) -> None:
    with (
        EmbeddedDatabase(tmp_path / "other") as other,
        Server({"a": db, "b": other}) as server,
        RemoteDatabase(server.url("a")) as one,
        RemoteDatabase(server.url("b")) as two,
    ):
        assert (one.uuid, two.uuid) == (db.uuid, other.uuid)
        assert one.admin.databases() == ["a", "b"]


def test_the_requests_of_ended_calls_are_not_kept(db: EmbeddedDatabase) -> None:
    """The event loop keeps the cancelled timer of a deadline, and the context of its call."""
    declare(db, ITEMS)
    with Server({"x": db}) as server, RemoteDatabase(server.url("x")) as remote:
        before = {id(one): one for one in requests()}  # of other tests
        for number in range(20):
            remote.put(ITEMS, Item(id=number, text="x" * 10_000))
        kept = [one for one in requests() if id(one) not in before]
    assert len(kept) <= 2, "of the newest calls"


def requests() -> list[store_pb2.CommitRequest]:
    """The large requests that are still referenced in this process."""
    return [
        one
        for one in gc.get_objects()
        if isinstance(one, store_pb2.CommitRequest) and one.ByteSize() > 10_000
    ]


def test_a_database_that_is_not_hosted_is_named_with_those_that_are(db: EmbeddedDatabase) -> None:
    sentence = "hosts no database 'fligts'; it hosts: flights"
    with Server({"flights": db}) as server, pytest.raises(everlog.OpenError, match=sentence):
        RemoteDatabase(server.url("fligts"))


def test_localhost_with_another_address_is_not_this_machine_alone(
    db: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 0)),
    ]
    with monkeypatch.context() as patch:  # a file of hosts is of the whole machine
        patch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with pytest.raises(everlog.OpenError, match="localhost can be reached from other machines"):
            Server({"x": db}, "localhost:0")
    with Server({"x": db}, "localhost:0") as server:
        assert server.port


def test_a_server_without_identities_says_so(db: EmbeddedDatabase, caplog: pytest.LogCaptureFixture) -> None:
    with Server({"x": db}, token="t"):
        pass
    assert "is owner" not in caplog.text
    with Server({"x": db}):
        pass
    assert caplog.text.count("every program on this machine is owner") == 1


def test_a_port_that_is_taken_is_refused(db: EmbeddedDatabase) -> None:
    with Server({"x": db}) as server:
        second = Server({"x": db}, server.address)
        with pytest.raises(everlog.OpenError, match=f"cannot serve on {server.address}"):
            second.start()


def test_a_server_that_others_can_reach_needs_tls_and_a_token(db: EmbeddedDatabase) -> None:
    with pytest.raises(everlog.OpenError, match=r"needs TLS .* and a token"):
        Server({"x": db}, ANYWHERE)
    with pytest.raises(everlog.OpenError, match="needs a token"):
        Server({"x": db}, "[::]:0", tls=TLS)
    with pytest.raises(everlog.OpenError, match="needs TLS"):
        Server({"x": db}, "10.0.0.1:0", token="t")
    for host in ("::", "::ffff:0.0.0.0", "::ffff:10.0.0.1", "127.1", "localhost.", "0", "*"):
        with pytest.raises(everlog.OpenError, match="can be reached from other machines"):
            Server({"x": db}, f"[{host}]:0")
    with Server({"x": db}, ANYWHERE, tls=TLS, token="t") as server:
        url = f"everlog://localhost:{server.port}/x?token=t&ca={TLS.certificate}"
        with RemoteDatabase(url) as remote:
            assert remote.uuid == db.uuid


def test_tls_is_checked_against_the_authority(db: EmbeddedDatabase) -> None:
    with Server({"x": db}, tls=TLS) as server:
        url = f"everlog://127.0.0.1:{server.port}/x"
        with RemoteDatabase(f"{url}?ca={TLS.certificate}") as remote:
            remote.put(AIRPORTS, airport("JFK"))
            assert [commit.seq for commit in remote.feed(after=2, bounded=True)] == [3]
        with pytest.raises(everlog.UnavailableError, match=r"not trusted; pass its authority as \?ca=FILE"):
            RemoteDatabase(url, connect_s=0.2)
        with pytest.raises(everlog.UnavailableError):
            RemoteDatabase(f"everlog+insecure://localhost:{server.port}/x", connect_s=0.2)


def test_a_client_shows_its_certificate_where_the_server_wants_one(db: EmbeddedDatabase) -> None:
    mutual = Tls(TLS.certificate, TLS.key, client_ca=TLS.certificate)
    with Server({"x": db}, tls=mutual) as server, pytest.raises(everlog.UnavailableError):
        RemoteDatabase(f"everlog://localhost:{server.port}/x?ca={TLS.certificate}", connect_s=0.2)


def test_a_file_of_tls_that_is_not_there_is_named(db: EmbeddedDatabase) -> None:
    with pytest.raises(everlog.OpenError, match=r"none\.pem: the (PEM file|key in PEM) cannot be read"):
        Server({"x": db}, tls=Tls("none.pem", TLS.key))
    with pytest.raises(everlog.OpenError, match=r"none\.pem: the (PEM file|key in PEM) cannot be read"):
        RemoteDatabase("everlog://localhost:1/x?ca=none.pem")


def test_without_the_token_nothing_is_told(db: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server({"x": db}, token="s3cret") as server:
        for url in (server.url("x"), server.url("x") + "?token=wrong"):
            with pytest.raises(everlog.UnavailableError, match=r"refuses the call.*EVERLOG_TOKEN") as caught:
                RemoteDatabase(url)
            assert "s3cret" not in str(caught.value)
        monkeypatch.setenv("EVERLOG_TOKEN", "s3cret")
        with RemoteDatabase(server.url("x")) as remote:
            remote.put(AIRPORTS, airport("JFK"))
            assert list(remote.scan(AIRPORTS)) == [airport("JFK")]
            assert remote.load(AIRPORTS, [airport("LGA")]).rows == 1
            assert len(list(remote.feed(bounded=True))) == 4
            assert "s3cret" not in repr(remote) + remote.url


def test_health_and_reflection_answer(db: EmbeddedDatabase) -> None:
    with Server({"x": db}) as server, grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", *SERVICES):
            answer = health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = reflection.ServerReflectionInfo(iter([asked]))
        names = {service.name for service in answer.list_services_response.service}
        assert names >= set(SERVICES)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_both_versions_of_reflection_describe_the_services(db: EmbeddedDatabase, version: str) -> None:
    service = f"grpc.reflection.{version}.ServerReflection"
    with Server({"x": db}) as server, grpc.insecure_channel(server.address) as channel:
        call = channel.stream_stream(
            f"/{service}/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        for symbol in (*SERVICES, service):
            asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
            (answer,) = call(iter([asked]))
            files = map(
                descriptor_pb2.FileDescriptorProto.FromString,
                answer.file_descriptor_response.file_descriptor_proto,
            )
            assert symbol in {f"{file.package}.{one.name}" for file in files for one in file.service}


def test_subscribers_are_counted(db: EmbeddedDatabase) -> None:
    with Server({"x": db}) as server, RemoteDatabase(server.url("x")) as remote:
        feeds = [remote.feed(now=True) for _ in range(3)]
        assert server.hosting.subscribers["x"] == 3
        for feed in feeds:
            feed.close()
        del feeds, feed


def test_a_thing_that_is_no_everlog_server_is_a_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        answering = subprocess.Popen(
            [sys.executable, "-c", HTTP_SERVER], stdout=subprocess.PIPE, cwd=tmp_path, text=True
        )
        assert answering.stdout is not None
        http_port = answering.stdout.readline().strip()
        try:
            for where in (port, http_port):
                url = f"everlog+insecure://127.0.0.1:{where}/x"
                with pytest.raises(everlog.UnavailableError) as caught:
                    RemoteDatabase(url, connect_s=0.3)
                assert url in str(caught.value)
        finally:
            answering.kill()
            answering.wait()
            answering.stdout.close()


HTTP_SERVER = """
import http.server
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
print(server.server_port, flush=True)
server.serve_forever()
"""


def test_a_grpc_server_of_another_kind_is_a_sentence() -> None:
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(everlog.UnavailableError, match="expected an everlog server"):
            RemoteDatabase(f"everlog+insecure://127.0.0.1:{port}/x")
    finally:
        server.stop(None).wait()


def test_a_server_that_is_not_there_is_named_without_secrets() -> None:
    with (
        reserved_port() as port,
        pytest.raises(everlog.UnavailableError, match=f"127.0.0.1:{port}/x: .*cannot be reached") as caught,
    ):
        RemoteDatabase(f"everlog+insecure://127.0.0.1:{port}/x?token=s3cret", connect_s=0.2)
    assert "s3cret" not in str(caught.value)


def test_garbage_is_refused_and_the_server_goes_on(db: EmbeddedDatabase) -> None:
    with Server({"x": db}) as server:
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", bytes(1000), os.urandom(1000)):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(garbage)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
        with grpc.insecure_channel(server.address) as channel:
            for method in ("/everlog.v1.Feed/Subscribe", "/everlog.v1.Store/Scan"):
                stream: Any = channel.unary_stream(method)
                with pytest.raises(grpc.RpcError) as caught:
                    list(stream(b"\xff\xff\xff"))
                assert "Traceback" not in str(caught.value)
            for method in ("/everlog.v1.Store/Get", "/everlog.v1.Store/Nothing", "/no.Such/Thing"):
                unary: Any = channel.unary_unary(method)
                with pytest.raises(grpc.RpcError):
                    unary(b"\xff\xff\xff")
        with RemoteDatabase(server.url("x")) as remote:
            assert remote.uuid == db.uuid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_the_server(tmp_path: Path, number: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.rpc.serving", str(tmp_path / "x")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        with RemoteDatabase(f"everlog+insecure://127.0.0.1:{port}/x", retry_s=0.1) as remote:
            feed = iter(remote.feed(now=True))
            process.send_signal(number)
            with pytest.raises(everlog.Error, match=r"stopping|cannot be reached"):
                next(feed)
        assert process.wait(60) == 0
        assert process.stdout.read() == "closed\n"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_request_that_is_too_large_is_told_how_large_it_may_be(db: EmbeddedDatabase) -> None:
    with Server({"x": db}) as server, RemoteDatabase(server.url("x")) as remote:
        stub = store_pb2_grpc.StoreStub(remote.channel.grpc)
        request = store_pb2.GetRequest(database="x", table="airports", key=bytes(17 << 20))
        with pytest.raises(
            everlog.UnavailableError,
            match=r"too large: expected .* at most 16,777,216 bytes, found 17,8",
        ):
            remote.channel.call(stub.Get, request)
        assert remote.get(AIRPORTS, "JFK") is None


def test_a_server_whose_database_was_moved_says_so(tmp_path: Path) -> None:
    path = tmp_path / "db"
    with EmbeddedDatabase(path) as db, Server({"x": db}) as server, RemoteDatabase(server.url("x")) as client:
        declare(db, ITEMS)
        client.put(ITEMS, Item(id=1))
        with grpc.insecure_channel(server.address) as channel:
            answers = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
            assert next(answers).status == health_pb2.HealthCheckResponse.SERVING
            path.rename(tmp_path / "elsewhere")
            assert next(answers).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert f"moved to {tmp_path / 'elsewhere'}" in client.admin.status().writes.error
        with pytest.raises(everlog.DiskError, match="was moved to") as caught:
            client.put(ITEMS, Item(id=2))
        assert caught.value.outcome == "nothing written"
        assert client.get(ITEMS, 1) == Item(id=1)


def test_a_signal_in_the_moment_in_which_the_server_begins_to_wait_stops_it(db: EmbeddedDatabase) -> None:
    with Server({"x": db}) as server, server.on_signals():
        stop = server._stop  # noqa: SLF001  what the main thread waits for
        with stop._cond:  # type: ignore[attr-defined]  # noqa: SLF001  as `wait` holds it for a moment
            signal.raise_signal(signal.SIGTERM)
        assert stop.wait(60)
