"""Rules of RFC 9113 that h2spec has no case for, and what gRPC adds."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator

import pytest

from everlog.rpc.http2 import frames as http2
from everlog.rpc.http2.frames import Code
from everlog.rpc.http2.headers import header_block
from everlog.rpc.http2.stream import MESSAGE_BYTES_MAX
from tests.rpc.http2.plain_server import COLLECT, ECHO, OPEN, STALL, PlainServer
from tests.rpc.raw_client import RawClient

END = http2.END_STREAM | http2.END_HEADERS


@pytest.fixture(scope="module")
def server() -> Iterator[PlainServer]:
    with PlainServer() as server:
        yield server


@pytest.fixture
def client(server: PlainServer) -> Iterator[RawClient]:
    with RawClient(server.address) as client:
        yield client


def data(stream: int, body: bytes, flags: int = http2.END_STREAM) -> bytes:
    return http2.frame(http2.DATA, flags, stream, body)


def compressed(body: bytes) -> bytes:
    return b"\x01" + len(body).to_bytes(4, "big") + body


def serves(client: RawClient, stream: int) -> None:
    """Check that the connection still serves, on a new stream."""
    client.call(stream, ECHO, b"still here")
    assert client.trailers()["grpc-status"] == "0"


def reset(client: RawClient, stream: int) -> Code:
    """Return why the server reset a stream."""
    _, _, found, payload = client.next(http2.RST_STREAM)
    assert found == stream
    return Code(int.from_bytes(payload, "big"))


# one stream is reset, and the connection stays


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (lambda c: c.headers(1, STALL, END) + data(1, b"x"), Code.STREAM_CLOSED),
        (lambda c: c.headers(1, STALL, END) + c.headers(1, STALL), Code.STREAM_CLOSED),
        (lambda c: c.headers(1, STALL) + c.headers(1, STALL), Code.PROTOCOL_ERROR),
        (lambda c: c.headers(1, STALL) + c.headers(1, STALL, END), Code.PROTOCOL_ERROR),
        (lambda c: c.headers(1, STALL) + http2.window_update(1, 0), Code.PROTOCOL_ERROR),
        (lambda c: c.headers(1, STALL) + http2.window_update(1, http2.WINDOW_MAX), Code.FLOW_CONTROL_ERROR),
        (lambda c: c.headers(1, STALL) + http2.frame(http2.PRIORITY, 0, 1, bytes(4)), Code.FRAME_SIZE_ERROR),
        (
            lambda c: c.headers(1, STALL) + http2.frame(http2.PRIORITY, 0, 1, b"\0\0\0\1\0"),
            Code.PROTOCOL_ERROR,
        ),
        (lambda c: c.headers(1, ECHO, content_length="3") + data(1, b"four"), Code.PROTOCOL_ERROR),
        (lambda c: c.headers(1, ECHO, END, content_length="3"), Code.PROTOCOL_ERROR),
        (lambda c: c.headers(1, ECHO, Upper="x"), Code.PROTOCOL_ERROR),
        (lambda c: c.headers(1, ECHO, te="gzip"), Code.PROTOCOL_ERROR),
    ],
)
def test_a_rule_of_a_stream_ends_that_stream(client: RawClient, frames: object, code: Code) -> None:
    assert callable(frames)
    client.send(frames(client))
    assert reset(client, 1) is code
    serves(client, 3)


def test_data_after_a_call_that_the_server_ended_is_passed_over(client: RawClient) -> None:
    client.send(client.headers(1, "/no.Such/Method"))
    assert client.trailers()["grpc-status"] == "12"
    client.send(data(1, bytes(16_000), 0) * 70 + data(1, b""))
    serves(client, 3)


# the connection ends


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (http2.frame(http2.PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
        (http2.frame(http2.PING, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
        (http2.frame(http2.SETTINGS, 0, 1), Code.PROTOCOL_ERROR),
        (http2.frame(http2.SETTINGS, http2.ACK, 0, bytes(6)), Code.FRAME_SIZE_ERROR),
        (http2.settings({http2.SETTINGS_ENABLE_PUSH: 2}), Code.PROTOCOL_ERROR),
        (http2.settings(dict.fromkeys(range(100, 140), 0)), Code.ENHANCE_YOUR_CALM),
        (http2.frame(http2.RST_STREAM, 0, 1, bytes(4)), Code.PROTOCOL_ERROR),
        (http2.frame(http2.RST_STREAM, 0, 0, bytes(4)), Code.PROTOCOL_ERROR),
        (http2.frame(http2.RST_STREAM, 0, 1, bytes(3)), Code.FRAME_SIZE_ERROR),
        (http2.frame(http2.WINDOW_UPDATE, 0, 1, bytes(4)), Code.PROTOCOL_ERROR),
        (http2.frame(http2.WINDOW_UPDATE, 0, 0, bytes(5)), Code.FRAME_SIZE_ERROR),
        (http2.frame(http2.GOAWAY, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
        (http2.frame(http2.GOAWAY, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
        (http2.frame(http2.DATA, 0, 0, b"x"), Code.PROTOCOL_ERROR),
        (http2.frame(http2.HEADERS, END, 0, b"\x82"), Code.PROTOCOL_ERROR),
        (http2.frame(http2.PRIORITY, 0, 9, b"\0\0\0\x09\0"), Code.PROTOCOL_ERROR),
    ],
)
def test_a_rule_of_the_connection_ends_it(client: RawClient, frames: bytes, code: Code) -> None:
    client.send(frames)
    assert client.goaway()[0] is code


def test_data_on_a_call_that_the_peer_ended_ends_the_connection(client: RawClient) -> None:
    client.call(1, ECHO, b"x")
    assert client.trailers()["grpc-status"] == "0"
    client.send(data(1, b"more"))
    assert client.goaway()[0] is Code.STREAM_CLOSED


def test_a_stream_with_a_smaller_id_ends_the_connection(client: RawClient) -> None:
    client.send(client.headers(5, STALL) + client.headers(3, STALL))
    assert client.goaway()[0] is Code.PROTOCOL_ERROR


def test_the_first_frame_has_to_be_settings(server: PlainServer) -> None:
    with RawClient(server.address, greet=False) as client:
        client.send(http2.PREFACE + http2.frame(http2.PING, 0, 0, bytes(8)))
        assert client.goaway()[0] is Code.PROTOCOL_ERROR


# gRPC


@pytest.mark.parametrize(
    "timeout", ["1" * 400 + "S", "123456789S", "S", "1", "-1S", "1.5S", "\u0661S", "1S ", "1 S", "1s"]
)
def test_an_invalid_timeout_is_an_invalid_argument_of_that_call(client: RawClient, timeout: str) -> None:
    client.call(1, ECHO, b"x", grpc_timeout=timeout)
    if timeout.endswith(" "):
        assert reset(client, 1) is Code.PROTOCOL_ERROR
    else:
        assert client.trailers()["grpc-status"] == "3"
    serves(client, 3)


@pytest.mark.parametrize("timeout", ["99999999H", "99999999n", "00000001M"])
def test_a_valid_timeout_is_none_of_them(client: RawClient, timeout: str) -> None:
    client.call(1, ECHO, b"x", grpc_timeout=timeout)
    assert client.trailers()["grpc-status"] == "0"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_messages_are_inflated(client: RawClient, encoding: str) -> None:
    def compress(body: bytes) -> bytes:
        return gzip.compress(body) if encoding == "gzip" else zlib.compress(body)

    bodies = [compress(b"x" * 1000), compress(b""), compress(bytes(3 << 20))]
    client.send(client.headers(1, COLLECT, grpc_encoding=encoding))
    client.send(b"".join(data(1, compressed(body), 0) for body in bodies))
    client.send(data(1, http2.message(b"plain")))
    assert client.next(http2.DATA)[3][5:] == b"1000,0,3145728,5"
    assert client.trailers()["grpc-status"] == "0"


def test_the_encodings_are_told(client: RawClient) -> None:
    client.call(1, ECHO, b"x", grpc_encoding="snappy")
    found = client.trailers()
    assert found["grpc-status"] == "12"
    assert found["grpc-accept-encoding"] == "identity,gzip,deflate"
    serves(client, 3)


def test_a_bomb_is_refused_and_its_call_alone(client: RawClient) -> None:
    bomb = gzip.compress(bytes(MESSAGE_BYTES_MAX + 1))
    assert len(bomb) < 20_000
    client.send(client.headers(1, ECHO, grpc_encoding="gzip"))
    client.send(data(1, compressed(bomb)[:16_000], 0) + data(1, compressed(bomb)[16_000:]))
    assert client.trailers()["grpc-status"] == "8"
    serves(client, 3)


@pytest.mark.parametrize(
    "body",
    [
        b"nonsense",
        gzip.compress(b"x", mtime=0)[:-4],
        gzip.compress(b"x", mtime=0) + b"more",
        gzip.compress(b"x", mtime=0)[:-5] + b"wrong",
        b"",
    ],
)
def test_an_invalid_compressed_message_ends_its_call_alone(client: RawClient, body: bytes) -> None:
    client.send(client.headers(1, ECHO, grpc_encoding="gzip") + data(1, compressed(body)))
    assert client.trailers()["grpc-status"] == "3"
    serves(client, 3)


def test_a_compressed_message_needs_an_encoding(client: RawClient) -> None:
    client.send(client.headers(1, ECHO) + data(1, compressed(gzip.compress(b"x", mtime=0))))
    assert client.trailers()["grpc-status"] == "3"
    serves(client, 3)


def test_metadata_that_is_no_text_ends_its_call_alone(client: RawClient) -> None:
    known = [(":method", "POST"), (":scheme", "http"), (":path", ECHO), ("content-type", "application/grpc")]
    for stream in (1, 3):  # the second time, the request is known
        block = header_block([*known, ("name", b"\xff\xfe")])
        client.send(http2.frame(http2.HEADERS, http2.END_HEADERS, stream, block))
        found = client.trailers()
        assert found["grpc-status"] == "3"
        assert "name" in found["grpc-message"]
    serves(client, 5)


def test_too_much_metadata_ends_its_call_alone(client: RawClient) -> None:
    entry = b"\x40\x03big\x7f\xb9\x16" + b"x" * 3000  # enters the table
    bomb = entry + b"\xbe" * 1000
    client.send(http2.frame(http2.HEADERS, END, 1, bomb))
    assert client.trailers()["grpc-status"] == "8"
    serves(client, 3)


@pytest.mark.parametrize(
    ("headers", "status", "word"),
    [
        ({"content_type": "application/grpc-web+proto"}, "415", "Envoy"),
        ({"content_type": "text/html"}, "415", "application/grpc"),
        ({"content_type": "application/grpcx"}, "415", "application/grpc"),
    ],
)
def test_what_is_no_grpc_is_told_so(
    client: RawClient, headers: dict[str, str], status: str, word: str
) -> None:
    client.call(1, ECHO, b"x", **headers)
    assert status.encode() in client.next(http2.HEADERS)[3]
    assert word in client.next(http2.DATA)[3].decode()
    assert word in client.trailers()["grpc-message"]
    serves(client, 3)


def test_another_method_of_http_is_told_so(client: RawClient) -> None:
    known = [(":method", "GET"), (":scheme", "http"), (":path", "/")]
    client.send(http2.frame(http2.HEADERS, END, 1, header_block(known)))
    assert b"405" in client.next(http2.HEADERS)[3]
    assert "POST" in client.trailers()["grpc-message"]
    serves(client, 3)


def test_a_part_of_a_message_is_no_message(client: RawClient) -> None:
    client.send(client.headers(1, COLLECT) + data(1, http2.message(b"whole")[:-1]))
    assert client.trailers()["grpc-status"] == "3"
    serves(client, 3)


def test_a_second_message_where_one_is_expected_is_refused(client: RawClient) -> None:
    client.send(client.headers(1, ECHO) + data(1, http2.message(b"one") * 2))
    assert client.trailers()["grpc-status"] == "3"
    serves(client, 3)


def test_an_open_method_takes_only_small_messages(client: RawClient) -> None:
    client.call(1, OPEN, bytes(5000))
    assert client.trailers()["grpc-status"] == "8"
    serves(client, 3)


def test_large_messages_that_arrive_in_turns_are_all_received(client: RawClient) -> None:
    """Four of 16 MiB at once: more than the server takes together, so that some wait for others."""
    streams, size, chunk = (1, 3, 5, 7), MESSAGE_BYTES_MAX, 16_000
    windows = dict.fromkeys((0, *streams), 0)
    windows |= {0: 65_535} | dict.fromkeys(streams, 1 << 20)
    left = {stream: http2.message(bytes(size)) for stream in streams}
    at = dict.fromkeys(streams, 0)
    for stream in streams:
        client.send(client.headers(stream, COLLECT))
    done: set[int] = set()
    while len(done) < len(streams):
        sent = False
        for stream in streams:
            if at[stream] < len(left[stream]) and min(windows[0], windows[stream]) >= chunk:
                part = left[stream][at[stream] : at[stream] + chunk]
                at[stream] += len(part)
                windows[0] -= len(part)
                windows[stream] -= len(part)
                client.send(data(stream, part, http2.END_STREAM if at[stream] == len(left[stream]) else 0))
                sent = True
        if not sent:
            kind, flags, stream, payload = client.frames(http2.WINDOW_UPDATE, http2.HEADERS)[-1]
            if kind == http2.WINDOW_UPDATE:
                windows[stream] += int.from_bytes(payload, "big")
            elif flags & http2.END_STREAM:
                assert b"grpc-status\x010" in payload
                done.add(stream)
