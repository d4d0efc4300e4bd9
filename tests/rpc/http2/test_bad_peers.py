"""Bad peers: how a server handles peers that violate HTTP/2."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Callable, Iterator

import pytest

from everlog.proto import feed_pb2, store_pb2
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.http2 import frames as http2
from everlog.rpc.http2.frames import Code
from everlog.rpc.http2.headers import header_block
from everlog.rpc.http2.limits import LINGER_BYTES
from everlog.rpc.server.server import Server
from tests.rpc.raw_client import RawClient

DESCRIBE = store_pb2.DescribeRequest(database="x").SerializeToString()
SUBSCRIBE = feed_pb2.SubscribeRequest(database="x", now=True).SerializeToString()
PATH = "/everlog.v1.Store/Describe"
FEED = "/everlog.v1.Feed/Subscribe"


@pytest.fixture
def server(db: EmbeddedDatabase) -> Iterator[Server]:
    with Server({"x": db}) as server:
        yield server
        with RemoteDatabase(server.url("x")) as remote:  # in every case, it still serves
            assert remote.uuid == db.uuid


def bad(*frames: bytes) -> Callable[[RawClient], None]:
    def send(client: RawClient) -> None:
        for one in frames:
            client.send(one)

    return send


def headers(stream: int, flags: int = http2.END_HEADERS) -> bytes:
    return http2.frame(http2.HEADERS, flags, stream, header_block([(":path", PATH)]))


def never_ending(client: RawClient) -> None:
    client.send(headers(1, flags=0))
    for _ in range(3):
        client.send(http2.frame(http2.CONTINUATION, 0, 1, bytes(16_000)))


@pytest.mark.parametrize(
    ("send", "code"),
    [
        (bad(http2.frame(http2.DATA, 0, 7, b"x")), Code.PROTOCOL_ERROR),
        (bad(http2.frame(http2.HEADERS, http2.END_HEADERS, 2, b"")), Code.PROTOCOL_ERROR),
        (bad(http2.frame(http2.HEADERS, http2.END_HEADERS, 1, b"\xff\xff\xff")), Code.COMPRESSION_ERROR),
        (bad(http2.frame(http2.HEADERS, http2.END_HEADERS | http2.PADDED, 1, b"\xff")), Code.PROTOCOL_ERROR),
        (bad(headers(1, flags=0), http2.frame(http2.PING, 0, 0, bytes(8))), Code.PROTOCOL_ERROR),
        (bad(headers(1, flags=0), http2.frame(http2.CONTINUATION, 0, 3, b"x")), Code.PROTOCOL_ERROR),
        (bad(http2.frame(http2.CONTINUATION, 0, 1, b"x")), Code.PROTOCOL_ERROR),
        (never_ending, Code.ENHANCE_YOUR_CALM),
        (bad(http2.frame(http2.PUSH_PROMISE, 0, 1, b"")), Code.PROTOCOL_ERROR),
        (bad(http2.frame(http2.SETTINGS, 0, 0, b"abc")), Code.FRAME_SIZE_ERROR),
        (bad(http2.settings({http2.SETTINGS_INITIAL_WINDOW_SIZE: 1 << 31})), Code.FLOW_CONTROL_ERROR),
        (bad(http2.settings({http2.SETTINGS_MAX_FRAME_SIZE: 1})), Code.PROTOCOL_ERROR),
        (bad(http2.frame(http2.WINDOW_UPDATE, 0, 0, b"")), Code.FRAME_SIZE_ERROR),
        (bad(http2.window_update(0, 0)), Code.PROTOCOL_ERROR),
        (bad(http2.window_update(0, http2.WINDOW_MAX)), Code.FLOW_CONTROL_ERROR),
        (bad(http2.frame(http2.DATA, 0, 0, bytes(20_000))), Code.FRAME_SIZE_ERROR),
        (bad(http2.frame(http2.PING, 0, 0, bytes(8)) * 10_000), Code.ENHANCE_YOUR_CALM),
        (bad(http2.settings({}) * 10_000), Code.ENHANCE_YOUR_CALM),
    ],
)
def test_a_peer_that_breaks_a_rule_is_told_which_and_dropped(
    server: Server, send: Callable[[RawClient], None], code: Code
) -> None:
    with RawClient(server.address) as client:
        try:
            send(client)
            assert client.goaway()[0] is code
        except ConnectionError:  # it was dropped while it was still sending
            assert code is Code.ENHANCE_YOUR_CALM


def test_opening_and_resetting_calls_for_ever_is_stopped(server: Server) -> None:
    with RawClient(server.address) as client:
        try:
            for stream in range(1, 40_001, 2):
                client.send(client.headers(stream, FEED) + http2.rst_stream(stream, Code.CANCEL))
            assert client.goaway()[0] is Code.ENHANCE_YOUR_CALM
        except ConnectionError:  # it was dropped while it was still sending
            pass


def test_a_message_over_the_limit_ends_its_call_alone(server: Server) -> None:
    with RawClient(server.address) as client:
        client.send(client.headers(1, PATH))
        client.send(http2.frame(http2.DATA, 0, 1, b"\x00\x7f\xff\xff\xff"))
        assert client.next(http2.RST_STREAM)[2] == 1
        client.call(3, PATH, DESCRIBE)
        assert client.trailers()["grpc-status"] == "0"


def test_a_peer_that_sends_on_after_its_call_was_refused_is_dropped(server: Server) -> None:
    """A subscription has one request. tests/rpc/http2/attacks.py sends more than the window of a call."""
    with RawClient(server.address) as client:
        client.send(client.headers(1, FEED) + http2.frame(http2.DATA, 0, 1, http2.message(SUBSCRIBE)))
        empty = http2.frame(http2.DATA, 0, 1, http2.message(b"") * 30)
        try:
            for _ in range(20_000):
                client.send(empty)
            assert client.goaway()[0] is Code.ENHANCE_YOUR_CALM
        except ConnectionError:  # it was dropped while it was still sending
            pass


def test_what_is_no_http2_is_told_what_this_is(server: Server) -> None:
    with RawClient(server.address, greet=False) as client:
        client.send(b"SSH-2.0-OpenSSH_9.2\r\n")
        assert client.goaway() == (Code.PROTOCOL_ERROR, "expected HTTP/2: this is a gRPC server")


def test_a_client_of_http1_reads_what_this_is_although_it_still_sends(server: Server) -> None:
    for body in (b"", bytes(600_000)):
        host, _, port = server.address.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        with contextlib.closing(connection):
            connection.request("POST", "/everlog.v1.Store/Get", body)
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (505, b"expected HTTP/2: this is a gRPC server\n")


def test_a_peer_reads_why_it_is_dropped_although_it_still_sends(server: Server) -> None:
    with RawClient(server.address) as client:
        client.send(http2.frame(http2.DATA, 0, 5, b"x"))
        payload = client.next(http2.GOAWAY)[3]
        for _ in range(30):  # it has not read it yet
            client.send(http2.frame(http2.DATA, 0, 5, bytes(16_000)))
        while client.socket.recv(1 << 16):
            pass
    assert payload[8:] == b"data on stream 5, which was never opened"


def test_a_peer_that_sends_without_end_is_not_read_without_end(server: Server) -> None:
    sent = 0
    with RawClient(server.address) as client, contextlib.suppress(ConnectionError):
        client.send(http2.frame(http2.DATA, 0, 5, b"x"))
        while sent < 100 * LINGER_BYTES:
            sent += client.socket.send(bytes(1 << 16))
    assert sent < 100 * LINGER_BYTES
