"""Connection: one peer, its streams, and the rules of HTTP/2 that hold between them (RFC 9113).

    bytes ─▶ frames ─┬─ HEADERS ─▶ http2/frames.py ─▶ a stream, and `answer(stream)`
                     ├─ DATA ────▶ http2/connection.py
                     └─ windows, settings, pings ─▶ http2/connection.py

Invariants
  (1) a peer that breaks a rule, or that keeps us busy with what is no call, is told and dropped;
  (2) what is kept for a peer is bounded: one message out and a few in for each of its streams.

Stream: one call on a connection, as messages in and messages out.

    peer ─ DATA ─▶ inbox ─ await message() ─▶ handler ─ send() ─▶ pending ─ windows ─▶ DATA ─▶ peer

What the peer's windows do not take stays pending; whoever sends waits in `writable` until nothing
is. What the handler has not taken yet is not credited to the peer, which stops sending.

Invariants
  (1) headers go out before the first message, trailers after the last, each once;
  (2) at most `INBOX_MAX` messages wait for the handler, one that is being received, and WINDOW bytes: what
      a peer sends beyond its window ends the connection.

Outbox: what is sent to one peer: gathered, bounded by its windows, written once a turn.

    streams ─ write ─▶ gathered ─ end of the loop's turn ─▶ one write to the socket
    streams that the windows hold back ─▶ waiting ─ WINDOW_UPDATE, or the socket is free ─▶ pump

Invariants
  (1) nothing is sent that the peer's windows do not allow;
  (2) while the socket takes no more, nothing of a stream is written;
  (3) what is gathered, or in the socket's buffer, is some MiB: a message larger than that waits with its
      stream, and streams that are sent the same share it.

Watch: how much a peer may ask without a call, and for how long it may be silent.

    frames that are no call ─▶ a bucket, which fills again with time ─▶ empty: ENHANCE_YOUR_CALM
    silence ─▶ PING ─▶ silence ─▶ dropped

Without it a peer could keep a server busy with pings, settings and calls that it takes back
(CVE-2019-9512, CVE-2019-9515, CVE-2023-44487), and one that is gone would never be noticed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from everlog.rpc import security
from everlog.rpc.http2 import frames
from everlog.rpc.http2.frames import Block, Code, Headers, ProtocolError

MESSAGE_BYTES_MAX = 16 << 20
WINDOW = 1 << 20  # what a peer may send of one stream before it is credited
INBOX_MAX = 4

_EXHAUSTED = "8"  # RESOURCE_EXHAUSTED
_RESPONSE = b"\x88" + frames.header_block([("content-type", "application/grpc")])


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
            raise frames.ProtocolError("more data than the stream's window", frames.Code.FLOW_CONTROL_ERROR)
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
        while len(received) >= frames.MESSAGE_HEADER_SIZE and len(inbox) < INBOX_MAX:
            compressed, length = frames.read_message_header(received)
            if compressed:
                raise frames.ProtocolError("a compressed message, though only identity is accepted")
            if length > MESSAGE_BYTES_MAX:
                raise TooLargeError(length)
            whole = frames.MESSAGE_HEADER_SIZE + length
            if len(received) < whole:
                break
            inbox.append(bytes(received[frames.MESSAGE_HEADER_SIZE : whole]))
            del received[:whole]

    async def message(self) -> bytes | None:
        """Return the next message; None at the end, or for bytes that are no message."""
        try:
            self._read_messages()
        except (TooLargeError, frames.ProtocolError) as error:
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
            self.out.write(frames.window_update(self.id, self._uncredited))
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
            self.out.write(frames.frame(frames.HEADERS, frames.END_HEADERS, self.id, _RESPONSE))

    def send(self, body: bytes) -> None:
        """Sends a message, or as much of it as the peer takes for now."""
        self.send_whole(frames.message(body))

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
            out.write(frames.frame(frames.DATA, 0, self.id, bytes(first[:size])))
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
            flags = frames.END_HEADERS | frames.END_STREAM
            out.write(frames.frame(frames.HEADERS, flags, self.id, self._trailers))
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
        self.finish(frames.header_block([("grpc-status", _EXHAUSTED), ("grpc-message", frames.escaped(why))]))

    def close(self) -> None:
        """The peer, or the connection, is gone: whoever works for this call stops."""
        self.closed = True
        self.pending.clear()
        if self.task is not None:
            self.task.cancel()


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
        self.window = frames.WINDOW_START  # of the connection
        self.frame_bytes_max = frames.FRAME_BYTES_MAX
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
        whole = frames.message(body)
        size = len(whole)
        left: list[Stream] = []
        parts: list[bytes] = []
        if size > self.frame_bytes_max:
            for stream in streams:
                left.append(stream) if stream.blocked else stream.send_whole(whole)
            return left
        head = frames.frame(frames.DATA, 0, 0, whole)[:5]
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


HANDSHAKE_S = 10.0  # to greet, and to answer a ping
SILENCE_S = 20.0
BUCKET, PER_S = 4000.0, 2000.0  # frames: so many at once, so many a second


class Watch:
    """Watches one connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: Any, out: Outbox) -> None:
        self._loop = loop
        self._transport = transport
        self._out = out
        self._left, self._at = BUCKET, loop.time()
        self._timer = loop.call_later(HANDSHAKE_S, self._drop_if_silent)
        self.heard = False  # something, since the last look

    def count(self) -> None:
        """Counts a frame that is no call. Raises ProtocolError if they are too many."""
        now = self._loop.time()
        self._left = min(BUCKET, self._left + (now - self._at) * PER_S) - 1
        self._at = now
        if self._left < 0:
            raise ProtocolError("too many frames that are no call", Code.ENHANCE_YOUR_CALM)

    def end(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        if self.heard:
            self.heard = False
            self._timer = self._loop.call_later(SILENCE_S, self._look)
        else:
            self._out.write(frames.frame(frames.PING, 0, 0, b"everlog!"))
            self._timer = self._loop.call_later(HANDSHAKE_S, self._drop_if_silent)

    def _drop_if_silent(self) -> None:
        if self.heard:
            self._look()
        else:
            self._transport.abort()


STREAMS_MAX = 2000
CONNECTION_WINDOW = 16 << 20

_SETTINGS = frames.settings(
    {
        frames.SETTINGS_MAX_CONCURRENT_STREAMS: STREAMS_MAX,
        frames.SETTINGS_INITIAL_WINDOW_SIZE: WINDOW,
        frames.SETTINGS_MAX_HEADER_LIST_SIZE: frames.BYTES_MAX,
    }
) + frames.window_update(0, CONNECTION_WINDOW - frames.WINDOW_START)

Answer = Callable[[Stream], None]


class Connection(asyncio.Protocol):
    """The server's end of one connection. `answer` is called for each call that begins."""

    out: Outbox
    _watch: Watch

    def __init__(self, answer: Answer, connections: set[Connection]) -> None:
        self._answer = answer
        self._all = connections
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._greeted = False
        self._headers = Headers()
        self.streams: dict[int, Stream] = {}
        self._last = 0  # the newest stream
        self._draining = False
        self._uncredited = 0
        self._stream_window = frames.WINDOW_START  # of the peer's new streams
        self._transport: Any = None
        self.closed = asyncio.Event()
        self.certified = ""  # the common name of the certificate that the peer showed, if that was asked for

    # asyncio

    def connection_made(self, transport: Any) -> None:
        ssl = transport.get_extra_info("ssl_object")
        self._transport = transport
        self.out = Outbox(self._loop, transport)
        self._watch = Watch(self._loop, transport, self.out)
        if ssl is not None and ssl.selected_alpn_protocol() != "h2":
            transport.abort()
            return
        if ssl is not None:
            self.certified = security.common_name(ssl.getpeercert())
        self._all.add(self)
        self.out.write(_SETTINGS)

    def data_received(self, data: bytes) -> None:
        self._watch.heard = True
        buffer = self._buffer
        buffer += data
        try:
            if not self._greeted:
                self._greeted = frames.greeted(buffer)
                if not self._greeted:
                    return
            for kind, flags, stream, payload in frames.frames(buffer):
                self._take(kind, flags, stream, payload)
        except ProtocolError as error:
            self._fail(error)

    def pause_writing(self) -> None:
        self.out.paused = True

    def resume_writing(self) -> None:
        self.out.paused = False
        self.out.pump()

    def connection_lost(self, error: Exception | None) -> None:
        self._all.discard(self)
        self.closed.set()
        self._watch.end()
        for stream in self.streams.values():
            stream.close()
        self.streams.clear()

    # for streams, and for the server

    def forget(self, stream: Stream, *, whole: bool) -> None:
        """The stream's last frame was written; if the peer is not at its end, it is told to stop."""
        if self.streams.get(stream.id) is stream:
            if not whole:
                self.out.write(frames.rst_stream(stream.id, Code.NO_ERROR))
            stream.closed = True
            self._remove(stream)

    def drain(self) -> None:
        """Takes no more calls, and closes once those that run have ended."""
        self._draining = True
        self.out.write(frames.goaway(self._last, Code.NO_ERROR, "the server is stopping"))
        if not self.streams:
            self._close()

    def abort(self) -> None:
        self._transport.abort()

    def _remove(self, stream: Stream) -> None:
        del self.streams[stream.id]
        self.out.forget(stream)
        if self._draining and not self.streams:
            self._close()

    def _reset(self, stream: Stream, code: Code) -> None:
        self.out.write(frames.rst_stream(stream.id, code))
        self._remove(stream)
        stream.close()

    def _close(self) -> None:
        self.out.flush()
        self._transport.close()

    def _fail(self, error: ProtocolError) -> None:
        self.out.write(frames.goaway(self._last, error.code, str(error)))
        self._close()

    # in

    def _take(self, kind: int, flags: int, id: int, payload: bytes) -> None:
        self._headers.check(kind, id)
        if self.out.overfull:
            raise ProtocolError("too much is left unread", Code.ENHANCE_YOUR_CALM)
        if kind in (frames.HEADERS, frames.CONTINUATION):
            block = self._headers.take(kind, flags, id, payload)
            if block is not None:
                self._open(block)
            return
        if kind == frames.PUSH_PROMISE:
            raise ProtocolError("a client does not push")
        take = self._TAKES.get(kind)
        if take is not None:  # frames of other kinds are passed over
            take(self, flags, id, payload)

    def _data(self, flags: int, id: int, payload: bytes) -> None:
        size = len(payload)
        self._uncredited += size
        if self._uncredited > CONNECTION_WINDOW // 2:
            self.out.write(frames.window_update(0, self._uncredited))
            self._uncredited = 0
        stream = self.streams.get(id)
        if stream is None:
            if id > self._last or not id:
                raise ProtocolError(f"data of stream {id}, which was never opened")
            return  # of a call that has ended
        if not size and not flags & frames.END_STREAM:
            self._watch.count()
        try:
            stream.receive(frames.unpadded(flags, payload), size, end=bool(flags & frames.END_STREAM))
        except TooLargeError as error:
            stream.refuse(str(error))

    def _open(self, block: Block) -> None:
        id = block.stream
        known = self.streams.get(id)
        if known is not None:  # trailers of a request: gRPC has none, but they end it
            known.receive(b"", 0, end=True)
            return
        if not id & 1:
            raise ProtocolError(f"a client cannot open stream {id}")
        if id <= self._last:
            return  # of a call that has ended
        self._last = id
        if self._draining or len(self.streams) >= STREAMS_MAX:
            self._watch.count()
            self.out.write(frames.rst_stream(id, Code.REFUSED_STREAM))
            return
        stream = self.streams[id] = Stream(self, id, block.headers, self._stream_window)
        if block.ends:
            stream.receive(b"", 0, end=True)
        self._answer(stream)

    def _rst_stream(self, flags: int, id: int, payload: bytes) -> None:
        self._watch.count()
        stream = self.streams.get(id)
        if stream is not None:
            self._remove(stream)
            stream.close()

    def _settings(self, flags: int, id: int, payload: bytes) -> None:
        if flags & frames.ACK:
            return
        self._watch.count()
        for name, value in frames.read_settings(payload):
            if name == frames.SETTINGS_INITIAL_WINDOW_SIZE:
                for stream in self.streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value
            elif name == frames.SETTINGS_MAX_FRAME_SIZE:
                self.out.frame_bytes_max = min(value, FRAME_BYTES_MAX)
        self.out.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self.out.pump()

    def _ping(self, flags: int, id: int, payload: bytes) -> None:
        if not flags & frames.ACK:
            self._watch.count()
            self.out.write(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _window_update(self, flags: int, id: int, payload: bytes) -> None:
        size = frames.read_u32(payload) & frames.WINDOW_MAX
        if not id:
            self.out.window += size
            if self.out.window > frames.WINDOW_MAX or not size:
                raise ProtocolError("a window over the limit", Code.FLOW_CONTROL_ERROR)
            self.out.pump()
            return
        stream = self.streams.get(id)
        if stream is not None:
            stream.window += size
            if stream.window > frames.WINDOW_MAX or not size:
                self._reset(stream, Code.FLOW_CONTROL_ERROR)
            else:
                self.out.opened(stream)

    def _goaway(self, flags: int, id: int, payload: bytes) -> None:
        self._draining = True
        if not self.streams:
            self._close()

    _TAKES: ClassVar = {
        frames.DATA: _data,
        frames.RST_STREAM: _rst_stream,
        frames.SETTINGS: _settings,
        frames.PING: _ping,
        frames.GOAWAY: _goaway,
        frames.WINDOW_UPDATE: _window_update,
    }
