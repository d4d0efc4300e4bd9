"""Headers: the header blocks of one peer, put together and decoded (RFC 9113, section 4.3).

    HEADERS ─┬─ END_HEADERS ──────────────────────────▶ decode ─▶ {name: value}
             └─ CONTINUATION … END_HEADERS ────────────▶

Invariants
  (1) every block is decoded, in order, whatever comes of it: all share one table;
  (2) a block, and what it decodes to, is bounded.
"""

from __future__ import annotations

from typing import NamedTuple

import hpack

from everlog.rpc import http2
from everlog.rpc.http2 import Code, ProtocolError

BYTES_MAX = 16 << 10


class Block(NamedTuple):
    """The headers that a stream begins or ends with."""

    stream: int
    ends: bool  # the stream, too
    headers: dict[str, str]


class Headers:
    """Reads the blocks of one connection."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=BYTES_MAX)
        self._open: tuple[int, int, bytearray] | None = None  # stream, first flags, content so far

    def check(self, kind: int, stream: int) -> None:
        """Raises ProtocolError for a frame that comes between those of a block."""
        if self._open is not None and (kind != http2.CONTINUATION or stream != self._open[0]):
            raise ProtocolError("a frame in the middle of a header block")

    def take(self, kind: int, flags: int, stream: int, payload: bytes) -> Block | None:
        """Takes a frame of headers; the block, if it is whole with it."""
        if kind == http2.CONTINUATION:
            return self._go_on(flags, payload)
        return self._begin(flags, stream, payload)

    def _begin(self, flags: int, stream: int, payload: bytes) -> Block | None:
        content = http2.unpadded(flags, payload)
        if flags & http2.HAS_PRIORITY:
            content = content[5:]
        if flags & http2.END_HEADERS:
            return self._decode(stream, flags, content)
        self._open = (stream, flags, bytearray(content))
        return None

    def _go_on(self, flags: int, payload: bytes) -> Block | None:
        if self._open is None:
            raise ProtocolError("a continuation of nothing")
        stream, first, content = self._open
        content += payload
        if len(content) > BYTES_MAX or not payload:
            raise ProtocolError("headers that do not end", Code.ENHANCE_YOUR_CALM)
        if not flags & http2.END_HEADERS:
            return None
        self._open = None
        return self._decode(stream, first, bytes(content))

    def _decode(self, stream: int, flags: int, content: bytes) -> Block:
        try:
            headers = {str(name): str(value) for name, value in self._decoder.decode(content)}
        except (hpack.HPACKError, UnicodeError) as error:
            raise ProtocolError(f"headers that cannot be read: {error}", Code.COMPRESSION_ERROR) from None
        return Block(stream, bool(flags & http2.END_STREAM), headers)
