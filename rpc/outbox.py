"""Outbox: what is sent to one peer: gathered, bounded by its windows, written once a turn.

    streams ─ write ─▶ gathered ─ end of the loop's turn ─▶ one write to the socket
    streams that the windows hold back ─▶ waiting ─ WINDOW_UPDATE, or the socket is free ─▶ pump

Invariants
  (1) nothing is sent that the peer's windows do not allow;
  (2) while the socket takes no more, nothing of a stream is written;
  (3) what is gathered, or in the socket's buffer, is some MiB: a message larger than that waits with its
      stream, and streams that are sent the same share it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from everlog.rpc import http2

if TYPE_CHECKING:
    from everlog.rpc.stream import Stream

FRAME_BYTES_MAX = 64 << 10  # of a frame that is sent, though a peer takes more: gRPC's takes 16 MiB
BYTES_HIGH = 1 << 20  # more than this in the socket's buffer: wait
BYTES_MAX = 4 * BYTES_HIGH  # more than this: the peer asks and asks, and does not read


class Outbox:
    """Frames to one peer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: Any) -> None:
        self._loop = loop
        self._transport = transport
        self._gathered: list[bytes] = []
        self._size = 0  # bytes gathered
        self._waiting: dict[int, Stream] = {}
        self.window = http2.WINDOW_START  # of the connection
        self.frame_bytes_max = http2.FRAME_BYTES_MAX
        self.paused = False
        transport.set_write_buffer_limits(high=BYTES_HIGH)

    @property
    def overfull(self) -> bool:
        """Whether the peer has left too much unread."""
        return self.paused and self._transport.get_write_buffer_size() > BYTES_MAX

    def write(self, data: bytes) -> None:
        """Sends bytes with whatever else is sent in this turn of the loop."""
        if not self._gathered:
            self._loop.call_soon(self.flush)
        self._gathered.append(data)
        self._size += len(data)
        if self._size > BYTES_HIGH:  # so that it is seen whether the socket takes more
            self.flush()

    def flush(self) -> None:
        """Writes what was gathered."""
        gathered, self._gathered, self._size = self._gathered, [], 0
        if gathered and not self._transport.is_closing():
            self._transport.write(gathered[0] if len(gathered) == 1 else b"".join(gathered))

    def send_to_all(self, streams: Iterable[Stream], body: bytes) -> list[Stream]:
        """Sends one message to many streams, in one write; returns those that it was too much for."""
        whole = http2.message(body)
        size = len(whole)
        left: list[Stream] = []
        parts: list[bytes] = []
        if size > self.frame_bytes_max:
            for stream in streams:
                left.append(stream) if stream.blocked else stream.send_whole(whole)
            return left
        head = http2.frame(http2.DATA, 0, 0, whole)[:5]
        window = self.window
        for stream in streams:
            if stream.window < size or window < size or stream.blocked:
                left.append(stream)
                continue
            stream.window -= size
            window -= size
            parts += (head, stream.id_bytes, whole)
            if len(parts) * size > 3 * BYTES_HIGH:
                self.write(b"".join(parts))  # and those that follow are held back if the socket is full
                parts.clear()
        self.window = window
        if parts:
            self.write(b"".join(parts))
        return left

    def wait(self, stream: Stream) -> None:
        """The stream is pumped when more can be sent."""
        self._waiting[stream.id] = stream

    def forget(self, stream: Stream) -> None:
        self._waiting.pop(stream.id, None)

    def opened(self, stream: Stream) -> None:
        """The stream's own window was opened."""
        if self._waiting.pop(stream.id, None) is not None:
            stream.pump()

    def pump(self) -> None:
        """Lets all streams that wait try again."""
        waiting, self._waiting = self._waiting, {}
        for stream in waiting.values():
            stream.pump()
