"""Stream: one call on a connection, as messages in and messages out.

    peer ─ DATA ─▶ inbox ─ await message() ─▶ handler ─ send() ─▶ pending ─ windows ─▶ DATA ─▶ peer

What the peer's windows do not take stays pending; whoever sends waits in `writable` until nothing
is. What the handler has not taken yet is not credited to the peer, which stops sending.

Invariants
  (1) headers go out before the first message, trailers after the last, each once;
  (2) at most `INBOX_MAX` messages wait for the handler, one that is being received, and WINDOW bytes: what
      a peer sends beyond its window ends the connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from everlog.rpc import http2

if TYPE_CHECKING:
    from everlog.rpc.connection import Connection

MESSAGE_BYTES_MAX = 16 << 20
WINDOW = 1 << 20  # what a peer may send of one stream before it is credited
INBOX_MAX = 4

_EXHAUSTED = "8"  # RESOURCE_EXHAUSTED
_RESPONSE = b"\x88" + http2.header_block([("content-type", "application/grpc")])


class TooLargeError(Exception):
    """Raised when a peer sends a message over the limit."""

    def __init__(self, size: int) -> None:
        super().__init__(
            f"a message of {size:,} bytes, expected at most {MESSAGE_BYTES_MAX:,}; ask for less at once"
        )


class Stream:
    """One call. Everything here happens in the loop's thread."""

    def __init__(self, connection: Connection, id: int, headers: dict[str, str], window: int) -> None:
        self.connection = connection
        self.out = connection.out
        self.id = id
        self.id_bytes = id.to_bytes(4, "big")
        self.headers = headers
        self.who = ""  # name of the token that the call came with
        self.window = window  # what the peer takes
        self.task: asyncio.Task[None] | None = None
        self.closed = False
        self._begun = False
        self.pending: deque[memoryview] = deque()
        self._trailers: bytes | None = None  # to be sent once nothing is pending
        self._drained: asyncio.Future[None] | None = None
        self._received = bytearray()
        self._inbox: deque[bytes] = deque()
        self._arrived: asyncio.Future[None] | None = None
        self._uncredited = 0
        self.ended = False  # the peer sends no more

    # in

    def receive(self, data: bytes, size: int, *, end: bool) -> None:
        """Takes the content of a DATA frame that took `size` bytes of the window. Raises ProtocolError,
        TooLargeError."""
        self._uncredited += size
        if self._uncredited > WINDOW:
            raise http2.ProtocolError("more data than the stream's window", http2.Code.FLOW_CONTROL_ERROR)
        self._received += data
        self._read_messages()
        if end:
            self.ended = True
        self._credit()
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def _read_messages(self) -> None:
        """Move received messages into the inbox, as far as there is room."""
        received, inbox = self._received, self._inbox
        while len(received) >= http2.MESSAGE_HEADER_SIZE and len(inbox) < INBOX_MAX:
            compressed, length = http2.read_message_header(received)
            if compressed:
                raise http2.ProtocolError("a compressed message, though only identity is accepted")
            if length > MESSAGE_BYTES_MAX:
                raise TooLargeError(length)
            whole = http2.MESSAGE_HEADER_SIZE + length
            if len(received) < whole:
                break
            inbox.append(bytes(received[http2.MESSAGE_HEADER_SIZE : whole]))
            del received[:whole]

    async def message(self) -> bytes | None:
        """Return the next message; None at the end, or for bytes that are no message."""
        try:
            self._read_messages()
        except (TooLargeError, http2.ProtocolError) as error:
            self.refuse(str(error))
            return None
        while not self._inbox:
            if self.ended:
                return None
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        found = self._inbox.popleft()
        self._credit()
        return found

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        found = await self.message()
        if found is None:
            raise StopAsyncIteration
        return found

    def _credit(self) -> None:
        if self._uncredited >= WINDOW // 2 and len(self._inbox) < INBOX_MAX and not self.ended:
            self.out.write(http2.window_update(self.id, self._uncredited))
            self._uncredited = 0

    # out

    @property
    def blocked(self) -> bool:
        """Whether something is pending: then nothing more should be sent yet."""
        return bool(self.pending) or self.out.paused

    def begin(self) -> None:
        """Sends the headers, if they were not sent yet."""
        if not self._begun:
            self._begun = True
            self.out.write(http2.frame(http2.HEADERS, http2.END_HEADERS, self.id, _RESPONSE))

    def send(self, body: bytes) -> None:
        """Sends a message, or as much of it as the peer takes for now."""
        self.send_whole(http2.message(body))

    def send_whole(self, message: bytes) -> None:
        """The same of a message with its header, which is shared with other streams, not copied."""
        self.begin()
        self.pending.append(memoryview(message))
        self.pump()

    def finish(self, trailers: bytes) -> None:
        """Ends the call, once all messages are sent, with a block of headers."""
        if self._trailers is None and not self.closed:
            self._trailers = trailers if self._begun else _RESPONSE + trailers
            self.pump()

    def pump(self) -> None:
        """Sends of what is pending whatever the windows take."""
        pending, out = self.pending, self.out
        while pending and not out.paused:
            first = pending[0]
            size = min(len(first), self.window, out.window, out.frame_bytes_max)
            if size <= 0:
                out.wait(self)
                return
            out.write(http2.frame(http2.DATA, 0, self.id, bytes(first[:size])))
            if size == len(first):
                pending.popleft()
            else:
                pending[0] = first[size:]
            self.window -= size
            out.window -= size
        if pending:
            out.wait(self)
            return
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._trailers is not None:
            flags = http2.END_HEADERS | http2.END_STREAM
            out.write(http2.frame(http2.HEADERS, flags, self.id, self._trailers))
            self.connection.forget(self, whole=self.ended)

    async def writable(self) -> None:
        """Waits until nothing is pending."""
        while self.blocked:
            self.out.wait(self)
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def refuse(self, why: str) -> None:
        """Ends the call, whatever it is doing, as one that asks for too much."""
        if self.task is not None:
            self.task.cancel()
        self.finish(http2.header_block([("grpc-status", _EXHAUSTED), ("grpc-message", http2.escaped(why))]))

    def close(self) -> None:
        """The peer, or the connection, is gone: whoever works for this call stops."""
        self.closed = True
        self.pending.clear()
        if self.task is not None:
            self.task.cancel()
