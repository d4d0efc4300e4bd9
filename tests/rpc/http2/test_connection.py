"""Connection: how a server handles peers that are slow, unusual or hostile."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from everlog.feed import message
from everlog.proto import feed_pb2, store_pb2
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.http2 import frames
from everlog.rpc.http2.frames import Code
from everlog.rpc.http2.headers import header_block
from everlog.rpc.server.server import Server
from everlog.store import record
from tests.conformance.database_case import AIRPORTS, FLIGHTS, airport, flight
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


def test_a_request_in_the_smallest_pieces_is_answered(server: Server) -> None:
    with RawClient(server.address) as client:
        block = header_block(
            [(":method", "POST"), (":scheme", "http"), (":path", PATH), ("content-type", "application/grpc")]
        )
        pieces = [frames.frame(frames.HEADERS, frames.PADDED, 1, b"\x02" + block[:3] + b"\x00\x00")]
        pieces += [frames.frame(frames.CONTINUATION, 0, 1, block[3:9])]
        pieces += [frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[9:])]
        pieces += [frames.frame(frames.DATA, 0, 1, bytes((byte,))) for byte in frames.message(DESCRIBE)]
        pieces += [frames.frame(frames.DATA, frames.END_STREAM, 1)]
        for byte in b"".join(pieces):
            client.send(bytes((byte,)))
        assert client.trailers()["grpc-status"] == "0"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"path": "/no.Such/Method"}, "12"),
        ({"content_type": "text/html"}, "3"),
        ({"grpc_encoding": "br"}, "12"),
        ({"grpc_timeout": "soon"}, "3"),
        ({"grpc_timeout": "0n"}, "4"),
    ],
)
def test_a_call_that_cannot_be_is_refused_with_a_status(
    server: Server, headers: dict[str, str], code: str
) -> None:
    with RawClient(server.address) as client:
        client.call(1, headers.pop("path", PATH), DESCRIBE, **headers)
        assert client.trailers()["grpc-status"] == code


def test_a_request_without_a_message_is_refused(server: Server) -> None:
    with RawClient(server.address) as client:
        client.send(client.headers(1, PATH, frames.END_HEADERS | frames.END_STREAM))
        assert client.trailers()["grpc-status"] == "3"


def test_a_peer_with_the_smallest_windows_gets_everything(server: Server, db: EmbeddedDatabase) -> None:
    db.put(AIRPORTS, airport("JFK", name="x" * 100_000))
    request = feed_pb2.SubscribeRequest(database="x", until=db.head).SerializeToString()
    window = 1000
    with RawClient(server.address, settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: window}) as client:
        client.call(1, FEED, request)
        received = bytearray()
        while True:
            kind, flags, stream, payload = client.frames(frames.DATA, frames.HEADERS)[-1]
            if kind == frames.HEADERS:
                if flags & frames.END_STREAM:
                    break
                continue
            assert len(payload) <= window
            received += payload
            client.send(frames.window_update(0, len(payload)) + frames.window_update(stream, len(payload)))
    sizes = []
    while received:
        size = frames.read_message_header(received)[1]
        batch = message.read(bytes(received[5 : 5 + size]))
        sizes.append(len(batch.commits))
        del received[: 5 + size]
    assert sum(sizes) == db.head


def test_who_does_not_read_holds_back_nobody_and_is_kept_one_message_for(
    server: Server, db: EmbeddedDatabase
) -> None:
    with RawClient(server.address) as client, RemoteDatabase(server.url("x")) as remote:
        for stream in range(1, 200, 2):
            client.call(stream, FEED, SUBSCRIBE)
        for _ in range(100):
            client.next(frames.DATA)
        feed = iter(remote.feed(now=True))
        for number in range(300):  # about 60 MB to a hundred subscribers, which read 64 kB
            seq = db.put(AIRPORTS, airport("JFK", name=f"{number}" + "x" * 2000)).seq
            assert next(feed).seq == seq
        loop, (connection,) = server.loop, [one for one in server.connections if len(one.streams) == 100]
        assert loop is not None
        waiting = sum(len(part) for stream in connection.streams.values() for part in stream.pending)
        assert waiting < 100 * 300_000
        client.send(frames.window_update(0, 1 << 30))
        for stream in range(1, 200, 2):
            client.send(frames.window_update(stream, 1 << 24))
        ends = dict.fromkeys(range(1, 200, 2), b"")
        wanted = record.time_of(db.log.get(db.head))
        while ends:
            _, _, stream, payload = client.next(frames.DATA)
            if stream in ends:
                ends[stream] = (ends[stream] + payload)[-200:]
                if wanted.to_bytes(8, "little") in ends[stream]:
                    del ends[stream]


def test_a_subscriber_that_goes_is_forgotten(server: Server, db: EmbeddedDatabase) -> None:
    with RawClient(server.address) as client:
        for stream in (1, 3, 5):
            client.call(stream, FEED, SUBSCRIBE)
            client.next(frames.DATA)
        assert server.hosting.subscribers["x"] == 3
        client.send(frames.rst_stream(3, Code.CANCEL))
        client.send(frames.frame(frames.PING, 0, 0, b"12345678"))
        client.next(frames.PING)
        db.put(FLIGHTS, flight(1))
        streams = {client.next(frames.DATA)[2] for _ in range(2)}
        assert streams == {1, 5}
    with RemoteDatabase(server.url("x")) as remote:
        feed = remote.feed(now=True)  # by then the server has noticed the closed connection
        while server.hosting.subscribers["x"] > 1:
            db.put(FLIGHTS, flight(1))
            next(iter(feed))
            feed = remote.feed(now=True)


def test_frames_of_unknown_kinds_and_calls_that_have_ended_are_passed_over(server: Server) -> None:
    with RawClient(server.address) as client:
        client.send(frames.frame(99, 0xFF, 0, b"whatever"))
        client.send(client.headers(1, "/no.Such/Method"))
        assert client.trailers()["grpc-status"] == "12"
        client.send(frames.frame(frames.DATA, 0, 1, b"late"))
        client.send(frames.frame(frames.PRIORITY, 0, 1, bytes(5)))
        client.send(frames.window_update(1, 5) + frames.rst_stream(1, Code.CANCEL))
        client.call(3, PATH, DESCRIBE)
        assert client.trailers()["grpc-status"] == "0"


def test_a_server_that_stops_says_so_and_ends_what_runs(db: EmbeddedDatabase) -> None:
    server: Any = Server({"x": db}).start()
    with RawClient(server.address) as client:
        client.call(1, FEED, SUBSCRIBE)
        client.next(frames.DATA)
        server.stop()
        assert client.goaway()[0] is Code.NO_ERROR
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port))
