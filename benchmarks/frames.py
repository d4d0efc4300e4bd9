"""Frames: many gRPC subscriptions over a few connections at almost no cost, by reading HTTP/2 frames (RFC
9113) from the socket, without a client library.

    frame   := length:u24 type:u8 flags:u8 stream:u32 payload
    payload of DATA, joined by stream := (0x00 length:u32 message)*

For one stream in `SAMPLE`, the time of receipt of every commit is recorded. For the others, only the last
message is kept, to check that they are complete. Flow-control windows have their maximum size.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from types import TracebackType
from typing import Self

from everlog.store.record import read_varint, seq_of

SAMPLE = 20
NAP_S = 0.001  # between two reads, so that frames that arrive together are read together
PATIENCE_S = 60

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM = _ACK = 1
_END_HEADERS = 4
_MOST = 2**31 - 1
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_U32 = struct.Struct(">I")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return _U32.pack(len(payload))[1:] + bytes((kind, flags)) + _U32.pack(stream) + payload


def header(name: bytes, value: bytes) -> bytes:
    """Return a literal header field without indexing (RFC 7541, 6.2.2)."""
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


def seqs(message: bytes) -> list[int]:
    """Return the seqs of the commits in a message: its fields with number 1, which come first."""
    found, at = [], 0
    while at < len(message) and message[at] == 0x0A:
        size, start = read_varint(message, at + 1)
        found.append(seq_of(message[at : start + size]))
        at = start + size
    return found


class Subscribers:
    """Many subscribers. All are subscribed when the constructor returns.

    `receipts`: for each sampled subscriber, the time of receipt of each seq, in order of arrival.
    """

    def __init__(self, port: int, method: str, request: bytes, count: int, connections: int) -> None:
        self.receipts: dict[int, dict[int, int]] = {}
        self._connections = [
            Connection(port, method, request, range(number, count, connections), self.receipts)
            for number in range(connections)
        ]
        deadline = time.monotonic() + PATIENCE_S
        while not all(connection.subscribed for connection in self._connections):
            self._look(deadline)

    def read_until(self, last: int) -> float:
        """Read until every subscriber has received the seq `last`. Return the seconds that it took."""
        begin = time.perf_counter()
        deadline = time.monotonic() + PATIENCE_S
        while not all(connection.has_seen(last) for connection in self._connections):
            self._look(deadline)
        return time.perf_counter() - begin

    def _look(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise TimeoutError("expected every subscriber to have all commits within the time limit")
        time.sleep(NAP_S)
        for connection in select.select(self._connections, (), (), 0.1)[0]:
            connection.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._connections:
            connection.close()


class Connection:
    """One connection with the subscriptions `numbers`."""

    def __init__(
        self, port: int, method: str, request: bytes, numbers: range, receipts: dict[int, dict[int, int]]
    ) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._streams = {2 * at + 1: number for at, number in enumerate(numbers)}
        self._sampled = {
            stream: receipts.setdefault(number, {})
            for stream, number in self._streams.items()
            if number % SAMPLE == 0
        }
        self._latest: dict[int, bytes] = {}
        self._parts: dict[int, bytes] = {}
        self._unread = b""
        self._consumed = 0
        headers = b"".join(
            (
                header(b":method", b"POST"),
                header(b":scheme", b"http"),
                header(b":path", method.encode()),
                header(b":authority", b"localhost"),
                header(b"te", b"trailers"),
                header(b"content-type", b"application/grpc"),
            )
        )
        body = b"\x00" + _U32.pack(len(request)) + request
        opening = [_PREFACE, frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, _MOST))]
        opening.append(frame(_WINDOW, 0, 0, _U32.pack(_MOST - 65_535)))
        for stream in self._streams:
            opening.append(frame(_HEADERS, _END_HEADERS, stream, headers))
            opening.append(frame(_DATA, _END_STREAM, stream, body))
        self._socket.sendall(b"".join(opening))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    @property
    def subscribed(self) -> bool:
        """Whether every subscription has received its first message, with its position."""
        return len(self._latest) == len(self._streams)

    def has_seen(self, last: int) -> bool:
        if any(last not in receipts for receipts in self._sampled.values()):
            return False
        return all(last in seqs(message) for message in self._latest.values())

    def read(self) -> None:
        """Read the received frames. Raises ConnectionError if a subscription ended."""
        data = self._socket.recv(1 << 20)
        now = time.time_ns()
        if not data:
            raise ConnectionError("the server closed the connection")
        buffer = self._unread + data
        at, end = 0, len(buffer)
        while end - at >= 9:
            size = int.from_bytes(buffer[at : at + 3], "big")
            if end - at < 9 + size:
                break
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big")
            self._take(buffer[at + 3], buffer[at + 4], stream, buffer[at + 9 : at + 9 + size], now)
            at += 9 + size
        self._unread = buffer[at:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes, now: int) -> None:
        if kind == _DATA:
            self._consumed += len(payload)
            self._messages(stream, payload, now)
            if self._consumed > 1 << 24:
                self._socket.sendall(frame(_WINDOW, 0, 0, _U32.pack(self._consumed)))
                self._consumed = 0
        elif kind in {_SETTINGS, _PING} and not flags & _ACK:
            self._socket.sendall(frame(kind, _ACK, 0, payload if kind == _PING else b""))
        if kind in {_RESET, _GOAWAY} or (kind in {_DATA, _HEADERS} and flags & _END_STREAM):
            raise ConnectionError(f"the server ended stream {stream} by frame {kind}: {payload!r}")

    def _messages(self, stream: int, payload: bytes, now: int) -> None:
        data = self._parts.pop(stream, b"") + payload
        while len(data) >= 5:
            end = 5 + _U32.unpack_from(data, 1)[0]
            if len(data) < end:
                break
            message, data = data[5:end], data[end:]
            if message[:1] == b"\x0a" or stream not in self._latest:
                self._latest[stream] = message
            if stream in self._sampled:
                for seq in seqs(message):
                    self._sampled[stream][seq] = now
        if data:
            self._parts[stream] = data
