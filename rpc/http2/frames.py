"""Frames: HTTP/2 frames as far as a gRPC server needs them (RFC 9113, sections 4 and 6).

    frame   := length:u24be type:u8 flags:u8 stream:u32be payload
    message := compressed:u8 length:u32be bytes     gRPC's own frame, in DATA frames

This module handles bytes, and the rules that a frame keeps or breaks by itself; connection.py has the rules
of a connection.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Generator
from enum import IntEnum

from everlog.rpc.http2 import proxy

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_SIZE = 9
FRAME_BYTES_MAX = 16_384  # ours and, by default, the peer's
PRIORITY_SIZE = 5
SETTINGS_MAX = 32  # entries of one frame
WINDOW_START = 65_535
WINDOW_MAX = 2**31 - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, ACK, END_HEADERS, PADDED, HAS_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20

SETTINGS_ENABLE_PUSH = 2
SETTINGS_MAX_CONCURRENT_STREAMS = 3
SETTINGS_INITIAL_WINDOW_SIZE = 4
SETTINGS_MAX_FRAME_SIZE = 5
SETTINGS_MAX_HEADER_LIST_SIZE = 6

_SIZES = {PRIORITY: PRIORITY_SIZE, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}  # of payloads, in bytes
_OF_STREAMS = frozenset((DATA, HEADERS, PRIORITY, RST_STREAM, CONTINUATION))
_OF_CONNECTIONS = frozenset((SETTINGS, PING, GOAWAY))
_GOAWAY_SIZE_MIN = 8

_HTTP1 = re.compile(rb"[A-Z]{3,10} ")

_FRAME = struct.Struct(">HBBBI")
_U32 = struct.Struct(">I")
_SETTING = struct.Struct(">HI")
_MESSAGE = struct.Struct(">BI")
MESSAGE_HEADER_SIZE = _MESSAGE.size


class Code(IntEnum):
    """Error codes of a connection or a stream (RFC 9113, section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class ProtocolError(Exception):
    """Raised when the peer breaks a rule: the connection ends with `code`."""

    def __init__(self, text: str, code: Code = Code.PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.code = code


class StreamError(Exception):
    """Raised when the peer breaks a rule within one stream: the stream is reset with `code`."""

    def __init__(self, text: str, code: Code = Code.PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.code = code


def greeted(buffer: bytearray) -> bool:
    """Consume the client's preface; return False if it is incomplete. Raises ProtocolError."""
    if not PREFACE.startswith(buffer[: len(PREFACE)]):
        raise ProtocolError(
            proxy.UNNAMED if proxy.begins(buffer) else "expected HTTP/2: this is a gRPC server"
        )
    if len(buffer) < len(PREFACE):
        return False
    del buffer[: len(PREFACE)]
    return True


def refusal(received: bytes | bytearray, why: str) -> bytes:
    """Return the response to a peer that does not begin with the preface, such that it can read why: of
    HTTP/1, if it speaks that."""
    if not _HTTP1.match(received) or PREFACE.startswith(received[: len(PREFACE)]):
        return frame(SETTINGS, 0, 0) + goaway(0, Code.PROTOCOL_ERROR, why)
    body = f"{why}\n".encode()
    return (
        b"HTTP/1.1 505 HTTP Version Not Supported\r\nConnection: close\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return _FRAME.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def frames(buffer: bytearray) -> Generator[tuple[int, int, int, bytes], None, None]:
    """Consume whole frames of the received bytes: yield kind, flags, stream, payload."""
    at, size = 0, len(buffer)
    try:
        while size - at >= HEADER_SIZE:
            high, low, kind, flags, stream = _FRAME.unpack_from(buffer, at)
            length = high << 8 | low
            if length > FRAME_BYTES_MAX:
                raise ProtocolError(f"a frame of {length} bytes", Code.FRAME_SIZE_ERROR)
            end = at + HEADER_SIZE + length
            if end > size:
                break
            payload = bytes(buffer[at + HEADER_SIZE : end])
            at = end
            yield kind, flags, stream & 0x7FFF_FFFF, payload
    finally:
        del buffer[:at]


def check(kind: int, flags: int, stream: int, size: int) -> None:
    """Check the stream and the payload's size of a frame. Raises ProtocolError, StreamError."""
    if kind in _OF_STREAMS and not stream:
        raise ProtocolError(f"a frame of type {kind} without a stream")
    if kind in _OF_CONNECTIONS and stream:
        raise ProtocolError(f"a frame of type {kind} on stream {stream}")
    if size != _SIZES.get(kind, size) or (kind == GOAWAY and size < _GOAWAY_SIZE_MIN):
        if kind == PRIORITY:
            raise StreamError("a priority of an invalid length", Code.FRAME_SIZE_ERROR)
        raise ProtocolError(f"a frame of type {kind} with {size} bytes", Code.FRAME_SIZE_ERROR)
    if kind == SETTINGS and flags & ACK and size:
        raise ProtocolError("settings in an acknowledgement", Code.FRAME_SIZE_ERROR)


def unpadded(flags: int, payload: bytes) -> bytes:
    """Return the content of a DATA or HEADERS frame, without padding."""
    if flags & PADDED:
        if not payload or payload[0] >= len(payload):
            raise ProtocolError("padding as long as its frame")
        payload = payload[1 : len(payload) - payload[0]]
    return payload


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*one) for one in values.items()))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Return names and values of a SETTINGS frame. Raises ProtocolError for an invalid value."""
    if len(payload) % _SETTING.size:
        raise ProtocolError("settings of an invalid length", Code.FRAME_SIZE_ERROR)
    found = list(_SETTING.iter_unpack(payload))
    if len(found) > SETTINGS_MAX:
        raise ProtocolError(f"{len(found)} settings in a frame", Code.ENHANCE_YOUR_CALM)
    for name, value in found:
        if name == SETTINGS_ENABLE_PUSH and value > 1:
            raise ProtocolError(f"an invalid setting of push: {value}")
        if name == SETTINGS_INITIAL_WINDOW_SIZE and value > WINDOW_MAX:
            raise ProtocolError("a window above the limit", Code.FLOW_CONTROL_ERROR)
        if name == SETTINGS_MAX_FRAME_SIZE and not FRAME_BYTES_MAX <= value < 1 << 24:
            raise ProtocolError(f"an invalid maximum frame size: {value} bytes")
    return found


def window_update(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, _U32.pack(size))


def rst_stream(stream: int, code: Code) -> bytes:
    return frame(RST_STREAM, 0, stream, _U32.pack(code))


def goaway(last_stream: int, code: Code, text: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, _U32.pack(last_stream) + _U32.pack(code) + text.encode()[:256])


def read_u32(payload: bytes) -> int:
    if len(payload) < 4:
        raise ProtocolError("a frame that is too short", Code.FRAME_SIZE_ERROR)
    value: int = _U32.unpack_from(payload)[0]
    return value


def message(body: bytes) -> bytes:
    """Return a gRPC message, uncompressed."""
    return _MESSAGE.pack(0, len(body)) + body


def read_message_header(data: bytes | bytearray) -> tuple[int, int]:
    """Return whether the message that starts here is compressed, and its length."""
    found: tuple[int, int] = _MESSAGE.unpack_from(data)
    return found
