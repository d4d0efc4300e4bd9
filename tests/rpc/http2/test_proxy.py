"""The header of the PROXY protocol: a proxy that is named tells the address of its client, others cannot."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import struct
from pathlib import Path

import pytest

from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.http2 import frames as http2
from everlog.rpc.http2 import listener, proxy
from everlog.rpc.server.server import Server
from everlog.store.errors import OpenError
from tests.rpc.conftest import TLS
from tests.rpc.raw_client import RawClient
from tests.store.models import ITEMS, declare

TOKEN = "sesame"


def binary(source: str, port: int = 4321, *, command: int = 0x21, more: bytes = b"") -> bytes:
    address = ipaddress.ip_address(source)
    family = 0x11 if address.version == 4 else 0x21
    body = address.packed * 2 + struct.pack(">HH", port, 7420) + more
    return proxy.SIGNATURE + bytes((command, family)) + struct.pack(">H", len(body)) + body


LOCAL = proxy.SIGNATURE + b"\x20\x00\x00\x00"
LINE_4 = b"PROXY TCP4 203.0.113.7 10.0.0.1 4321 7420\r\n"
LINE_6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 4321 7420\r\n"
EXTENDED = b"\x04\x00\x05bytes"  # an extension that is to be ignored


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (LINE_4, "203.0.113.7:4321"),
        (LINE_6, "2001:db8::7:4321"),
        (b"PROXY UNKNOWN\r\n", ""),
        (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", ""),
        (binary("203.0.113.7"), "203.0.113.7:4321"),
        (binary("2001:db8::7"), "2001:db8::7:4321"),
        (binary("203.0.113.7", more=EXTENDED), "203.0.113.7:4321"),
        (LOCAL, ""),
        (proxy.SIGNATURE + b"\x21\x31\x00\xd8" + bytes(216), ""),  # a UNIX socket
    ],
)
def test_a_header_is_read_whole_and_no_further(header: bytes, client: str) -> None:
    for size in range(len(header)):
        assert size < proxy.wanted(header[:size]) <= len(header)
    assert proxy.wanted(header + b"PRI * HTTP/2.0") == len(header)
    assert proxy.client_of(header) == client


@pytest.mark.parametrize(
    "begins", [http2.PREFACE, listener.HANDSHAKE + b"\x03\x01", b"GET / HTTP/1.1\r\n", b"P\0"]
)
def test_no_other_protocol_begins_like_a_header(begins: bytes) -> None:
    assert proxy.wanted(begins) == 0


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 " + b"1" * 120,
        b"PROXY TCP4 203.0.113.7 10.0.0.1 4321\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::1 4321 7420\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 99999 7420\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 -1 7420\r\n",
        b"PROXY TCP4 \xff 10.0.0.1 1 7420\r\n",
        b"PROXY SCTP 203.0.113.7 10.0.0.1 1 7420\r\n",
        b"PROXY \r\n",
        binary("203.0.113.7", command=0x11),
        binary("203.0.113.7", command=0x2F),
        proxy.SIGNATURE + b"\x21\x11\x00\x04" + bytes(4),
        proxy.SIGNATURE + b"\x21\x11\xff\xff",
    ],
)
def test_an_invalid_header_is_refused(header: bytes) -> None:
    def read() -> None:
        assert proxy.wanted(header)
        proxy.client_of(header)

    with pytest.raises(proxy.ProxyError, match="expected"):
        read()


def peers(database: Path, proxies: tuple[str, ...], *greetings: bytes, tls: bool = False) -> list[str]:
    """Return the addresses that a server sees of connections which begin with these bytes."""
    with (
        EmbeddedDatabase(database) as db,
        Server({"x": db}, token=TOKEN, tls=TLS if tls else None, proxies=proxies) as server,
    ):
        found = []
        for greeting in greetings:
            client = RawClient(server.address, greet=False)
            with client:
                client.socket.sendall(greeting)
                if tls:
                    context = ssl.create_default_context(cafile=TLS.certificate)
                    context.set_alpn_protocols(["h2"])
                    client.socket = context.wrap_socket(client.socket, server_hostname="localhost")
                client.send(http2.PREFACE + http2.settings({}))
                client.next(http2.SETTINGS)
                mine = "{}:{}".format(*client.socket.getsockname())
                [seen] = [one.peer for one in server.connections]
                found.append("itself" if seen == mine else seen)
            while server.connections:
                pass
        return found


@pytest.mark.parametrize("tls", [False, True])
def test_a_named_proxy_tells_the_address_of_its_client(tmp_path: Path, tls: bool) -> None:
    greetings = (LINE_4, LINE_6, binary("203.0.113.9", more=EXTENDED), LOCAL, b"PROXY UNKNOWN\r\n", b"")
    assert peers(tmp_path / "db", ("127.0.0.0/8",), *greetings, tls=tls) == [
        "203.0.113.7:4321",
        "2001:db8::7:4321",
        "203.0.113.9:4321",
        "itself",
        "itself",
        "itself",
    ]


def refusal(server: Server, sent: bytes) -> bytes:
    with socket.create_connection((server.host, server.port), timeout=20) as one:
        one.sendall(sent)
        answer = b""
        while part := one.recv(1 << 16):
            answer += part
        return answer


def test_a_client_cannot_state_an_address(tmp_path: Path) -> None:
    with (
        EmbeddedDatabase(tmp_path / "db") as db,
        Server({"x": db}, token=TOKEN, proxies=["192.0.2.1"]) as server,
    ):
        for header in (LINE_4, binary("203.0.113.7")):
            assert b"serve --proxy ADDRESS" in refusal(server, header + http2.PREFACE)
        assert not any("203.0.113.7" in one.peer for one in server.connections)


def test_a_server_with_tls_says_that_it_does_not_know_the_proxy(tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "db") as db, Server({"x": db}, token=TOKEN, tls=TLS) as server:
        assert b"serve --proxy ADDRESS" in refusal(server, binary("203.0.113.7"))


def test_an_invalid_header_is_answered_with_the_reason_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        EmbeddedDatabase(tmp_path / "db") as db,
        Server({"x": db}, token=TOKEN, proxies=["127.0.0.1"]) as server,
    ):
        for _ in range(3):
            assert b"expected" in refusal(server, b"PROXY TCP9 1 2 3 4\r\n")
        assert sum("was refused: expected `PROXY TCP4" in one for one in caplog.messages) == 1
        with socket.create_connection((server.host, server.port)) as one:  # leaves within its header
            one.sendall(LINE_4[:20])
        with RemoteDatabase(f"everlog+insecure://{server.address}/x?token={TOKEN}") as remote:
            assert remote.admin.health().ready


def test_limits_by_address_are_those_of_the_client(tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "db") as db:
        declare(db, ITEMS)
        with Server({"x": db}, token=TOKEN, proxies=["127.0.0.1"]) as server:
            many = [RawClient(server.address, greet=False) for _ in range(3)]
            for number, client in enumerate(many):
                client.socket.sendall(binary(f"203.0.113.{number % 2}"))
                client.send(http2.PREFACE + http2.settings({}))
                client.next(http2.SETTINGS)
            accounts = [one.account.address.address for one in server.connections]
            for client in many:
                client.socket.close()
    assert sorted(accounts) == ["203.0.113.0", "203.0.113.0", "203.0.113.1"]


def test_a_server_behind_a_proxy_needs_a_token(tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "db") as db:
        with pytest.raises(OpenError, match="clients of a proxy are on other machines"):
            Server({"x": db}, proxies=["127.0.0.1"])
        with pytest.raises(OpenError, match="address or network of a proxy"):
            Server({"x": db}, token=TOKEN, proxies=["example.com"])
