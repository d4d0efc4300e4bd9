"""Headers: header blocks, decoded and checked, encoded (RFC 7541; RFC 9113, sections 4.3 and 8).

    HEADERS ─┬─ END_HEADERS ──────────────────────────▶ Decoder ─▶ fields ─▶ request, or trailers
             └─ CONTINUATION … END_HEADERS ────────────▶

Blocks are written without a table: a literal is always a valid header, and constant blocks are made once.
A client repeats its blocks, so a decoded request is kept until the table changes.

Invariants
  (1) every block is decoded, in order, even of a refused call: all share one table;
  (2) a block, and what it decodes to, is bounded. One that decodes to more bytes ends its call, not the
      connection;
  (3) a request has each pseudo-header once, before all others, and nothing that belongs to a connection.
"""

from __future__ import annotations

import base64
import re
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote_from_bytes

from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from everlog.rpc.http2 import frames, limits
from everlog.rpc.http2.frames import Code, ProtocolError, StreamError

BLOCK_BYTES_MAX = 16 << 10  # of a header block, encoded, and of its list, decoded
TABLE_BYTES_MAX = 4096  # of the dynamic table: the default of HTTP/2
ENTRY_OVERHEAD = 32  # bytes that each field counts in addition to its text (RFC 7541, section 4.1)
SIZE_UPDATES_MAX = 2  # at the start of a block (RFC 7541, section 4.2)
INTEGER_BYTES_MAX = 4  # after the prefix: enough for any length that fits into a block
KNOWN_MAX, KNOWN_BYTES_MAX = 64, 512  # requests that are kept, and their blocks
FIELDS_MAX = 1024  # of a block; half as many exceed BLOCK_BYTES_MAX
FRAGMENTS_MAX = 64  # CONTINUATION frames of a block

REQUIRED = frozenset((":method", ":scheme", ":path"))
PSEUDO = REQUIRED | {":authority"}
OF_CONNECTIONS = frozenset(("connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"))

_NAME = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+")
_INVALID = re.compile(rb"[\0\r\n]")


class Field(NamedTuple):
    """A header as it is in the table."""

    name: str
    value: str
    size: int
    fault: str  # what is malformed; empty if nothing
    text: bool  # whether the value is text


def field(name: bytes, value: bytes) -> Field:
    """Return a header, checked as far as it can be checked alone."""
    size = len(name) + len(value) + ENTRY_OVERHEAD
    fault = ""
    named = name.decode("latin-1")
    if not _NAME.fullmatch(name):
        fault = f"an invalid header name: {named!r}"
    elif named in OF_CONNECTIONS or (named == "te" and value != b"trailers"):
        fault = f"a header of a connection: {named}"
    elif _INVALID.search(value) or value != value.strip(b" \t"):
        fault = f"an invalid value of header {named}"
    elif named == ":path" and not value:
        fault = "an empty :path"
    try:
        return Field(named, value.decode(), size, fault, True)
    except UnicodeDecodeError:
        return Field(named, "", size, fault, False)


_STATIC = tuple(
    Field(name.decode(), value.decode(), len(name) + len(value) + ENTRY_OVERHEAD, "", True)
    for name, value in HeaderTable.STATIC_TABLE
)


class Decoder:
    """Decodes the header blocks of one connection, with their dynamic table."""

    def __init__(self) -> None:
        self._table: deque[Field] = deque()
        self._size, self._max = 0, TABLE_BYTES_MAX
        self.changes = 0  # of the table

    def decode(self, block: bytes) -> tuple[list[Field], bool]:
        """Return the fields of a block, and whether they are more than BLOCK_BYTES_MAX, in which case some
        are missing. Raises ProtocolError."""
        try:
            return self._decode(block)
        except (IndexError, HPACKError) as error:
            raise _undecodable(str(error) or type(error).__name__) from None

    def _decode(self, block: bytes) -> tuple[list[Field], bool]:
        found: list[Field] = []
        size, at, end, updates, count = 0, 0, len(block), 0, 0
        while at < end:
            first = block[at]
            if first & 0x80:  # an entry of a table
                index, at = _integer(block, at, 0x7F)
                one = self._entry(index)
            elif first & 0xE0 == 0x20:  # a size of the dynamic table
                updates += 1
                size_max, at = _integer(block, at, 0x1F)
                if found or updates > SIZE_UPDATES_MAX or size_max > TABLE_BYTES_MAX:
                    raise _undecodable("an invalid size of the table")
                self._resize(size_max)
                continue
            else:
                indexed = first & 0x40
                index, at = _integer(block, at, 0x3F if indexed else 0x0F)
                if index:
                    name = self._entry(index).name.encode("latin-1")
                else:
                    name, at = _string(block, at)
                value, at = _string(block, at)
                one = field(name, value)
                if indexed:
                    self._insert(one)
            count += 1
            if count > FIELDS_MAX:
                raise ProtocolError(f"more than {FIELDS_MAX} headers", Code.ENHANCE_YOUR_CALM)
            size += one.size
            if size <= BLOCK_BYTES_MAX:
                found.append(one)
        return found, size > BLOCK_BYTES_MAX

    def _entry(self, index: int) -> Field:
        if not index:
            raise _undecodable("an index of 0")
        return _STATIC[index - 1] if index <= len(_STATIC) else self._table[index - 1 - len(_STATIC)]

    def _insert(self, one: Field) -> None:
        self.changes += 1
        self._table.appendleft(one)
        self._size += one.size
        self._evict()

    def _resize(self, size_max: int) -> None:
        self.changes += 1
        self._max = size_max
        self._evict()

    def _evict(self) -> None:
        while self._size > self._max:
            self._size -= self._table.pop().size


def _undecodable(what: str) -> ProtocolError:
    return ProtocolError(f"headers that cannot be decoded: {what}", Code.COMPRESSION_ERROR)


def _integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """Return an integer with a prefix (RFC 7541, section 5.1), and where it ends."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    for shift in range(0, 7 * INTEGER_BYTES_MAX, 7):
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _undecodable("an integer above the limit")


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    """Return a string (RFC 7541, section 5.2), and where it ends."""
    huffman = block[at] & 0x80
    size, at = _integer(block, at, 0x7F)
    end = at + size
    if end > len(block):
        raise _undecodable("a string longer than its block")
    raw = block[at:end]
    return (decode_huffman(raw) if huffman else raw), end


def request(fields: list[Field]) -> dict[str, str]:
    """Return the headers of a request. Raises StreamError if it is malformed."""
    headers: dict[str, str] = {}
    regular = False
    for name, value, _, fault, _ in fields:
        if fault:
            raise StreamError(fault)
        if name[0] != ":":
            regular = True
            headers[name] = _joined(headers[name], name, value) if name in headers else value
            continue
        if regular or name in headers or name not in PSEUDO:
            raise StreamError(f"a pseudo-header that is unknown, repeated, or after others: {name}")
        headers[name] = value
    if not headers.keys() >= REQUIRED:
        raise StreamError("a request without :method, :scheme or :path")
    if headers.get("host", "") not in ("", headers.get(":authority", "")) and ":authority" in headers:
        raise StreamError("a host that is not the :authority")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()):
        raise StreamError("an invalid content-length")
    return headers


def _joined(before: str, name: str, value: str) -> str:
    return f"{before}{'; ' if name == 'cookie' else ','}{value}"


def check_trailers(fields: list[Field]) -> None:
    """Raise StreamError if the trailers of a request are malformed."""
    for one in fields:
        if one.fault or one.name.startswith(":"):
            raise StreamError(one.fault or "a pseudo-header in trailers")


class Block(NamedTuple):
    """The header block that begins or ends a stream."""

    stream: int
    ends: bool  # whether it also ends the stream
    cost: int  # see PeerLimits
    fields: list[Field]
    oversized: bool
    known: dict[str, str] | None  # the request, if an equal block was decoded before
    raw: bytes
    depends: int  # the stream that it depends on

    @property
    def unreadable(self) -> str:
        """The name of a header whose value is not text; empty if there is none."""
        return next((one.name for one in self.fields if not one.text), "")


class HeaderBlocks:
    """Assembles and decodes the header blocks of one connection."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._open: tuple[int, int, bytearray, int] | None = None  # stream, flags, content, dependency
        self._fragments = 0
        self._known: dict[bytes, dict[str, str]] = {}
        self._known_at = 0  # changes of the table

    @property
    def open(self) -> bool:
        """Whether a block has begun and not ended."""
        return self._open is not None

    def check(self, kind: int, stream: int) -> None:
        """Raise ProtocolError for a frame between those of a header block."""
        if self._open is not None and (kind != frames.CONTINUATION or stream != self._open[0]):
            raise ProtocolError("a frame in the middle of a header block")

    def take(self, kind: int, flags: int, stream: int, payload: bytes) -> Block | None:
        """Receive a frame of headers; return the block if it is complete."""
        if kind == frames.CONTINUATION:
            return self._continue(flags, payload)
        content, depends = frames.unpadded(flags, payload), 0
        if flags & frames.HAS_PRIORITY:
            depends = frames.read_u32(content) & frames.WINDOW_MAX
            if len(content) < frames.PRIORITY_SIZE:
                raise ProtocolError("a priority that is too short", Code.FRAME_SIZE_ERROR)
            content = content[frames.PRIORITY_SIZE :]
        if flags & frames.END_HEADERS:
            return self._decode(stream, flags, content, depends)
        self._open, self._fragments = (stream, flags, bytearray(content), depends), 0
        return None

    def keep(self, block: Block, headers: dict[str, str]) -> None:
        """Keep the request of a block until the table changes."""
        if 0 < len(block.raw) <= KNOWN_BYTES_MAX and len(self._known) < KNOWN_MAX:
            self._known[block.raw] = headers

    def _continue(self, flags: int, payload: bytes) -> Block | None:
        if self._open is None:
            raise ProtocolError("a CONTINUATION without HEADERS")
        stream, first, content, depends = self._open
        content += payload
        self._fragments += 1
        if len(content) > BLOCK_BYTES_MAX or self._fragments > FRAGMENTS_MAX:
            raise ProtocolError("a header block above the limit", Code.ENHANCE_YOUR_CALM)
        if not flags & frames.END_HEADERS:
            return None
        self._open = None
        return self._decode(stream, first, bytes(content), depends)

    def _decode(self, stream: int, flags: int, content: bytes, depends: int) -> Block:
        ends = bool(flags & frames.END_STREAM)
        known = self._known.get(content)
        if known is not None:
            return Block(stream, ends, 0, [], False, known, content, depends)
        found, oversized = self._decoder.decode(content)
        cost = limits.block_cost(len(content), len(found))
        if self._decoder.changes != self._known_at:
            self._known.clear()
            self._known_at = self._decoder.changes
            content = b""
        return Block(stream, ends, cost, found, oversized, None, content, depends)


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
