"""Inflow: the bytes that one peer has sent, and that are kept until handlers take them (RFC 9113, 6.9).

    DATA ─▶ window of the connection ─▶ kept: complete messages, and parts of others ─▶ taken ─▶ credited

Invariants
  (1) all streams of a connection together keep at most HELD_MAX + CONNECTION_WINDOW bytes, of which those of
      incomplete messages are at most PARTIAL_MAX, so that complete ones are always taken and make room;
  (2) what is taken is credited to the peer in constant time.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from everlog.rpc.http2 import frames
from everlog.rpc.http2.frames import Code, ProtocolError

WINDOW = 1 << 20  # bytes that a peer may send on one stream before it is credited
CONNECTION_WINDOW = 16 << 20
HELD_MAX = 48 << 20  # bytes of a connection's messages; above this, it is not credited
PARTIAL_MAX = 48 << 20  # bytes of incomplete messages; above this, calls are refused
RESERVED_MAX = 32 << 20  # bytes of incomplete messages that are larger than half a window
INFLATED_MAX = 2  # larger inflated messages that handlers of a connection have at once


class Writer(Protocol):
    """What sends frames to the peer."""

    def write(self, data: bytes) -> None: ...


class Receiver(Protocol):
    """A stream, as far as room is reserved for it."""

    @property
    def reserved(self) -> bool: ...

    def reserve(self, size: int) -> None: ...


class Inflow:
    """What one peer sends: the window of its connection, and the bytes that are kept for it."""

    def __init__(self, out: Writer) -> None:
        self._out = out
        self._window = CONNECTION_WINDOW
        self._held = self._partial = self._reserved = 0
        self.peak = 0  # bytes that were kept at most
        self.inflated = asyncio.Semaphore(INFLATED_MAX)
        self._waiting: dict[Receiver, int] = {}  # with the size of a message for which there is no room yet

    def receive(self, size: int) -> None:
        """Receive a DATA frame of `size` bytes. Raises ProtocolError."""
        self._window -= size
        if self._window < 0:
            raise ProtocolError("more data than the connection's window", Code.FLOW_CONTROL_ERROR)
        self._credit()

    def keep(self, held: int, partial: int) -> None:
        """Add to the bytes that are kept, and to those of incomplete messages."""
        self._held += held
        self._partial += partial
        self.peak = max(self.peak, self._held)
        if held < 0:
            self._credit()

    def forget(self, stream: Receiver, held: int, partial: int) -> None:
        """Remove the bytes of a stream."""
        self._waiting.pop(stream, None)
        self.keep(-held, -partial)

    def reserve(self, stream: Receiver, size: int) -> bool:
        """Reserve room for a message that needs more than the stream's window, now or as soon as others are
        complete. Return False if there is too much already."""
        if self._partial > PARTIAL_MAX:
            return False
        if size > WINDOW // 2 and not stream.reserved and stream not in self._waiting:
            if self._waiting or self._reserved + size > RESERVED_MAX:
                self._waiting[stream] = size
            else:
                self._reserved += size
                stream.reserve(size)
        return True

    def waits(self, stream: Receiver) -> bool:
        """Whether the stream waits for room."""
        return stream in self._waiting

    def release(self, size: int) -> None:
        """Give back reserved room, to the streams that wait for it."""
        self._reserved -= size
        while self._waiting:
            stream, wanted = next(iter(self._waiting.items()))
            if self._reserved + wanted > RESERVED_MAX:
                break
            del self._waiting[stream]
            self._reserved += wanted
            stream.reserve(wanted)

    def _credit(self) -> None:
        if self._window <= CONNECTION_WINDOW // 2 and self._held < HELD_MAX:
            self._out.write(frames.window_update(0, CONNECTION_WINDOW - self._window))
            self._window = CONNECTION_WINDOW
