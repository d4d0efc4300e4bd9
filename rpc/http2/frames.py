"""Frames: HTTP/2 frames and header blocks, as far as a gRPC server needs them (RFC 9113, RFC 7541).

    frame   := length:u24be type:u8 flags:u8 stream:u32be payload
    message := 0x00 length:u32be bytes          gRPC's own frame, in DATA frames

    HEADERS ─┬─ END_HEADERS ──────────────────────────▶ decode ─▶ {name: value}
             └─ CONTINUATION … END_HEADERS ────────────▶

Header blocks are read with a complete HPACK decoder and written without one: a literal is always a valid
header, and constant blocks are made once. This module handles bytes; http2/connection.py has the rules of a
connection.

Invariants
  (1) every header block is decoded, in order, even of a refused call: all share one table;
  (2) a block, and what it decodes to, is bounded.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple
from urllib.parse import quote_from_bytes

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_SIZE = 9
FRAME_BYTES_MAX = 16_384  # ours and, by default, the peer's
HEADER_BYTES_MAX = 16 << 10  # of a header block
WINDOW_START = 65_535
WINDOW_MAX = 2**31 - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, ACK, END_HEADERS, PADDED, HAS_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20

SETTINGS_MAX_CONCURRENT_STREAMS = 3
SETTINGS_INITIAL_WINDOW_SIZE = 4
SETTINGS_MAX_FRAME_SIZE = 5
SETTINGS_MAX_HEADER_LIST_SIZE = 6

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


def greeted(buffer: bytearray) -> bool:
    """Consume the client's preface; return False if it is incomplete. Raises ProtocolError."""
    if not PREFACE.startswith(buffer[: len(PREFACE)]):
        raise ProtocolError("expected HTTP/2: this is a gRPC server")
    if len(buffer) < len(PREFACE):
        return False
    del buffer[: len(PREFACE)]
    return True


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return _FRAME.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def frames(buffer: bytearray) -> Iterator[tuple[int, int, int, bytes]]:
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
    for name, value in found:
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


def header_block(headers: Iterable[tuple[str, str | bytes]]) -> bytes:
    """Return literal headers that enter no table; values of binary ones (`…-bin`) in base64."""
    parts = []
    for name, value in headers:
        raw = value.encode() if isinstance(value, str) else value
        if name.endswith("-bin"):
            raw = base64.b64encode(raw).rstrip(b"=")
        key = name.encode()
        parts += [b"\x00", _length(len(key)), key, _length(len(raw)), raw]
    return b"".join(parts)


def escaped(text: str) -> str:
    """Return a status message in which everything but printable ASCII is percent-encoded."""
    return quote_from_bytes(text.encode(), safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}")


def _length(size: int) -> bytes:
    """Return a length with a prefix of seven bits (RFC 7541, section 5.1)."""
    if size < 127:
        return bytes((size,))
    size -= 127
    out = bytearray(b"\x7f")
    while size >= 128:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)


class Block(NamedTuple):
    """The header block that begins or ends a stream."""

    stream: int
    ends: bool  # whether it also ends the stream
    headers: dict[str, str]


class Headers:
    """Assembles and decodes the header blocks of one connection (RFC 9113, section 4.3)."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=HEADER_BYTES_MAX)
        self._open: tuple[int, int, bytearray] | None = None  # stream, first flags, content so far

    def check(self, kind: int, stream: int) -> None:
        """Raise ProtocolError for a frame between those of a header block."""
        if self._open is not None and (kind != CONTINUATION or stream != self._open[0]):
            raise ProtocolError("a frame in the middle of a header block")

    def take(self, kind: int, flags: int, stream: int, payload: bytes) -> Block | None:
        """Receive a frame of headers; return the block if it is complete."""
        if kind == CONTINUATION:
            return self._continue(flags, payload)
        return self._begin(flags, stream, payload)

    def _begin(self, flags: int, stream: int, payload: bytes) -> Block | None:
        content = unpadded(flags, payload)
        if flags & HAS_PRIORITY:
            content = content[5:]
        if flags & END_HEADERS:
            return self._decode(stream, flags, content)
        self._open = (stream, flags, bytearray(content))
        return None

    def _continue(self, flags: int, payload: bytes) -> Block | None:
        if self._open is None:
            raise ProtocolError("a CONTINUATION without HEADERS")
        stream, first, content = self._open
        content += payload
        if len(content) > HEADER_BYTES_MAX or not payload:
            raise ProtocolError("a header block above the limit", Code.ENHANCE_YOUR_CALM)
        if not flags & END_HEADERS:
            return None
        self._open = None
        return self._decode(stream, first, bytes(content))

    def _decode(self, stream: int, flags: int, content: bytes) -> Block:
        try:
            headers = {str(name): str(value) for name, value in self._decoder.decode(content)}
        except (hpack.HPACKError, UnicodeError) as error:
            raise ProtocolError(f"headers that cannot be decoded: {error}", Code.COMPRESSION_ERROR) from None
        return Block(stream, bool(flags & END_STREAM), headers)
