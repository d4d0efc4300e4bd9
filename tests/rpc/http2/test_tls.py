"""Stalled TLS handshakes: they cost little, end after a while, and delay nobody."""

from __future__ import annotations

import contextlib
import gc
import http.client
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from everlog.rpc import security
from everlog.rpc.http2 import frames as http2
from everlog.rpc.http2 import limits, listener
from tests.rpc.conftest import TLS
from tests.rpc.http2.plain_server import ECHO, PlainServer
from tests.rpc.raw_client import RawClient


@pytest.fixture
def server() -> Iterator[PlainServer]:
    with PlainServer(tls=security.ServerTls(TLS).context) as server:
        yield server


def client_hello() -> bytes:
    context = ssl.create_default_context(cafile=TLS.certificate)
    context.set_alpn_protocols(["h2"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def echoes(server: PlainServer) -> None:
    context = ssl.create_default_context(cafile=TLS.certificate)
    context.set_alpn_protocols(["h2"])
    client = RawClient(server.address, greet=False)
    with client:
        client.socket = context.wrap_socket(client.socket, server_hostname="localhost")
        client.send(http2.PREFACE + http2.settings({}))
        body = bytes(200_000)
        client.send(client.headers(1, ECHO))
        message = http2.message(body)
        for at in range(0, len(message), 16_000):
            part = message[at : at + 16_000]
            client.send(http2.frame(http2.DATA, at + 16_000 >= len(message), 1, part))
        client.send(http2.window_update(0, 1 << 20) + http2.window_update(1, 1 << 20))
        received = b""
        while len(received) < len(message):
            received += client.next(http2.DATA)[3]
        assert received == message
        assert client.trailers()["grpc-status"] == "0"


def rss_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def test_what_is_no_tls_is_told_so_at_once(server: PlainServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINGER_S", 600.0)
    for sent, says in (
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 505 "),
        (http2.PREFACE + http2.settings({}), http2.frame(http2.SETTINGS, 0, 0)),
        (b"SSH-2.0-OpenSSH_9.2\r\n", http2.frame(http2.SETTINGS, 0, 0)),
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as one:
            one.sendall(sent)
            answer = one.recv(1 << 16)
            one.sendall(bytes(500_000))  # before it has read the answer
            while part := one.recv(1 << 16):
                answer += part
        assert answer.startswith(says)
        assert answer.rstrip().endswith(b"expected TLS: this server accepts no connections without it")
    echoes(server)


def test_a_record_that_is_no_handshake_is_dropped_at_once(server: PlainServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as one:
        one.sendall(b"\x16\x03\x01\xff\xff")
        one.shutdown(socket.SHUT_WR)
        while one.recv(1000):
            pass
    echoes(server)


@pytest.mark.parametrize("protocols", [[], ["http/1.1"]])
def test_a_client_without_alpn_of_http2_reads_what_this_is(server: PlainServer, protocols: list[str]) -> None:
    context = ssl.create_default_context(cafile=TLS.certificate)
    if protocols:
        context.set_alpn_protocols(protocols)
    connection = http.client.HTTPSConnection("localhost", server.port, timeout=60, context=context)
    with contextlib.closing(connection):
        connection.sock = context.wrap_socket(
            socket.create_connection(("127.0.0.1", server.port), timeout=60), server_hostname="localhost"
        )
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert (answer.status, answer.read()[:15]) == (505, b"expected HTTP/2")


def test_a_hello_in_pieces_is_answered(server: PlainServer) -> None:
    hello = client_hello()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as one:
        for at in range(0, len(hello), 50):
            one.sendall(hello[at : at + 50])
        assert one.recv(1) == b"\x16"
    echoes(server)


@pytest.mark.parametrize("sent", ["nothing", "half", "whole"])
def test_stalled_handshakes_cost_little_and_delay_nobody(server: PlainServer, sent: str) -> None:
    hello = client_hello()
    first = {"nothing": b"", "half": hello[:100], "whole": hello}[sent]
    echoes(server)
    before = rss_mb()
    stalled = []
    try:
        for _ in range(300):
            one = socket.create_connection(("127.0.0.1", server.port), timeout=60)
            stalled.append(one)
            one.sendall(first)
        echoes(server)
        assert rss_mb() - before < 300 * 0.1
    finally:
        for one in stalled:
            one.close()


@pytest.mark.parametrize("places", [1, 20])
def test_stalled_handshakes_give_way(
    server: PlainServer, monkeypatch: pytest.MonkeyPatch, places: int
) -> None:
    monkeypatch.setattr(listener, "HANDSHAKES_MAX", places)
    monkeypatch.setattr(listener, "GIVES_WAY_S", 0.05)
    with contextlib.ExitStack() as stack:
        stalled = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
            for _ in range(3 * places)
        ]
        for one in stalled:
            with contextlib.suppress(ConnectionError):  # dropped before it was read
                one.sendall(client_hello())
        for one in stalled[: 2 * places]:  # dropped, after the server's hello
            with contextlib.suppress(ConnectionError):
                while one.recv(1 << 16):
                    pass
        echoes(server)


def test_many_handshakes_at_once_all_end(server: PlainServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HANDSHAKES_MAX", 3)
    monkeypatch.setattr(listener, "GIVES_WAY_S", 60)
    with ThreadPoolExecutor(20) as pool:
        for one in [pool.submit(echoes, server) for _ in range(20)]:
            one.result()


def test_a_server_that_stops_closes_stalled_connections() -> None:
    with PlainServer(tls=security.ServerTls(TLS).context) as server:
        stalled = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(2)]
        stalled[0].sendall(client_hello())
        echoes(server)
    for one in stalled:
        with one, contextlib.suppress(ConnectionResetError):
            while one.recv(1000):
                pass
    gc.collect()  # a socket that is left open is a warning, and so a failure


@pytest.mark.long
def test_stalled_handshakes_are_dropped(server: PlainServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as one:
        one.sendall(client_hello()[:100])
        with contextlib.suppress(ConnectionResetError):  # what it sent was never read
            assert one.recv(1000) == b""
