"""Connection: the server's end of one HTTP/2 connection, its streams and its limits (RFC 9113).

    bytes ─▶ frames ─┬─ HEADERS ─▶ a Stream, and `answer(stream)`
                     ├─ DATA ────▶ its inbox ─ await message() ─▶ handler
                     └─ windows, settings, pings ─▶ Outbox, PeerLimits

    handler ─ send() ─▶ pending ─ windows ─▶ Outbox: gathered ─ end of the loop's turn ─▶ one write

Data that the peer's windows do not allow stays pending; `writable` waits until nothing is. Received data
that the handler has not taken is not credited to the peer, which stops sending.

PeerLimits restricts frames that belong to no call, and silence: without it a peer could keep a server busy
with pings, settings and cancelled calls (CVE-2019-9512, CVE-2019-9515, CVE-2023-44487), and a vanished peer
would never be noticed.

Invariants
  (1) a peer that breaks a rule of the protocol, or exceeds its limits, gets an error and is disconnected;
  (2) memory for a peer is bounded. Each stream has at most one message out; in, `INBOX_MAX` messages for the
      handler, one that is being received, and WINDOW bytes: more than its window ends the connection;
  (3) headers go out before the first message, trailers after the last, each once;
  (4) nothing is sent that the peer's windows do not allow, and nothing of a stream is written while the
      socket is full;
  (5) gathered data and the socket's buffer hold a few MiB: a larger message waits with its stream, and
      streams that are sent the same message share it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeAlias

from everlog.rpc import security
from everlog.rpc.http2 import frames
from everlog.rpc.http2.frames import Block, Code, Headers, ProtocolError

MESSAGE_BYTES_MAX = 16 << 20
WINDOW = 1 << 20  # bytes that a peer may send on one stream before it is credited
INBOX_MAX = 4

_EXHAUSTED = "8"  # RESOURCE_EXHAUSTED
_RESPONSE = b"\x88" + frames.header_block([("content-type", "application/grpc")])
STREAMS_MAX = 2000
CONNECTION_WINDOW = 16 << 20

FRAME_BYTES_MAX = 64 << 10  # of sent frames; a peer may accept more: gRPC's accepts 16 MiB
BYTES_HIGH = 1 << 20  # above this many bytes in the socket's buffer, wait
BYTES_MAX = 4 * BYTES_HIGH  # above this, disconnect: the peer sends requests and does not read

HANDSHAKE_S = 10.0  # for the preface, and for the answer to a ping
SILENCE_S = 20.0
BUCKET, PER_S = 4000.0, 2000.0  # frames in a burst, and per second

_SETTINGS = frames.settings(
    {
        frames.SETTINGS_MAX_CONCURRENT_STREAMS: STREAMS_MAX,
        frames.SETTINGS_INITIAL_WINDOW_SIZE: WINDOW,
        frames.SETTINGS_MAX_HEADER_LIST_SIZE: frames.HEADER_BYTES_MAX,
    }
) + frames.window_update(0, CONNECTION_WINDOW - frames.WINDOW_START)

Answer: TypeAlias = "Callable[[Stream], None]"


class TooLargeError(Exception):
    """Raised when a peer sends a message over the limit."""

    def __init__(self, size: int) -> None:
        super().__init__(
            f"expected a message of at most {MESSAGE_BYTES_MAX:,} bytes, found {size:,}; request less at once"
        )


class Connection(asyncio.Protocol):
    """The server's end of one connection. `answer` is called for each call that begins."""

    out: Outbox
    _limits: PeerLimits

    def __init__(self, answer: Answer, connections: set[Connection]) -> None:
        self._answer = answer
        self._all = connections
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._greeted = False
        self._headers = Headers()
        self.streams: dict[int, Stream] = {}
        self._last = 0  # id of the newest stream
        self._draining = False
        self._uncredited = 0
        self._stream_window = frames.WINDOW_START  # initial window of the peer's new streams
        self._transport: Any = None
        self.closed = asyncio.Event()
        self.peer = ""  # its address
        self.certified = ""  # common name of the client certificate, if one was required

    # asyncio

    def connection_made(self, transport: Any) -> None:
        ssl, peer = transport.get_extra_info("ssl_object"), transport.get_extra_info("peername")
        self.peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else ""
        self._transport = transport
        self.out = Outbox(self._loop, transport)
        self._limits = PeerLimits(self._loop, transport, self.out)
        if ssl is not None and ssl.selected_alpn_protocol() != "h2":
            transport.abort()
            return
        if ssl is not None:
            self.certified = security.common_name(ssl.getpeercert())
        self._all.add(self)
        self.out.write(_SETTINGS)

    def data_received(self, data: bytes) -> None:
        self._limits.heard = True
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
        self._limits.end()
        for stream in self.streams.values():
            stream.close()
        self.streams.clear()

    # for streams, and for the server

    def forget(self, stream: Stream, *, whole: bool) -> None:
        """Remove a stream whose last frame was written; reset it if the peer has not ended its side."""
        if self.streams.get(stream.id) is stream:
            if not whole:
                self.out.write(frames.rst_stream(stream.id, Code.NO_ERROR))
            stream.closed = True
            self._remove(stream)

    def drain(self) -> None:
        """Accept no more calls, and close once the running ones have ended."""
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
            raise ProtocolError("too many unread bytes", Code.ENHANCE_YOUR_CALM)
        if kind in (frames.HEADERS, frames.CONTINUATION):
            block = self._headers.take(kind, flags, id, payload)
            if block is not None:
                self._open(block)
            return
        if kind == frames.PUSH_PROMISE:
            raise ProtocolError("expected no PUSH_PROMISE from a client")
        take = self._TAKES.get(kind)
        if take is not None:  # frames of unknown kinds are ignored
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
                raise ProtocolError(f"data on stream {id}, which was never opened")
            return  # of a call that has ended
        if not size and not flags & frames.END_STREAM:
            self._limits.count()
        try:
            stream.receive(frames.unpadded(flags, payload), size, end=bool(flags & frames.END_STREAM))
        except TooLargeError as error:
            stream.refuse(str(error))

    def _open(self, block: Block) -> None:
        id = block.stream
        known = self.streams.get(id)
        if known is not None:  # trailers of a request: gRPC has none, but they end the stream
            known.receive(b"", 0, end=True)
            return
        if not id & 1:
            raise ProtocolError(f"a client cannot open stream {id}")
        if id <= self._last:
            return  # of a call that has ended
        self._last = id
        if self._draining or len(self.streams) >= STREAMS_MAX:
            self._limits.count()
            self.out.write(frames.rst_stream(id, Code.REFUSED_STREAM))
            return
        stream = self.streams[id] = Stream(self, id, block.headers, self._stream_window)
        if block.ends:
            stream.receive(b"", 0, end=True)
        self._answer(stream)

    def _rst_stream(self, flags: int, id: int, payload: bytes) -> None:
        self._limits.count()
        stream = self.streams.get(id)
        if stream is not None:
            self._remove(stream)
            stream.close()

    def _settings(self, flags: int, id: int, payload: bytes) -> None:
        if flags & frames.ACK:
            return
        self._limits.count()
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
            self._limits.count()
            self.out.write(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _window_update(self, flags: int, id: int, payload: bytes) -> None:
        size = frames.read_u32(payload) & frames.WINDOW_MAX
        if not id:
            self.out.window += size
            if self.out.window > frames.WINDOW_MAX or not size:
                raise ProtocolError("a window above the limit", Code.FLOW_CONTROL_ERROR)
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


class Stream:
    """One call. Use it in the thread of the event loop."""

    def __init__(self, connection: Connection, id: int, headers: dict[str, str], window: int) -> None:
        self.connection = connection
        self.out = connection.out
        self.id = id
        self.id_bytes = id.to_bytes(4, "big")
        self.headers = headers
        self.who = ""  # name of the call's token
        self.call: Any = None  # what its observers know of it (grpc.py)
        self.window = window  # bytes that the peer accepts
        self.task: asyncio.Task[None] | None = None
        self.closed = False
        self._begun = False
        self.pending: deque[memoryview] = deque()
        self._trailers: bytes | None = None  # sent once nothing is pending
        self._drained: asyncio.Future[None] | None = None
        self._received = bytearray()
        self._inbox: deque[bytes] = deque()
        self._arrived: asyncio.Future[None] | None = None
        self._uncredited = 0
        self.ended = False  # the peer has ended its side

    # in

    def receive(self, data: bytes, size: int, *, end: bool) -> None:
        """Receive the content of a DATA frame that used `size` bytes of the window. Raises ProtocolError,
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
                raise frames.ProtocolError("expected an uncompressed message, found a compressed one")
            if length > MESSAGE_BYTES_MAX:
                raise TooLargeError(length)
            whole = frames.MESSAGE_HEADER_SIZE + length
            if len(received) < whole:
                break
            inbox.append(bytes(received[frames.MESSAGE_HEADER_SIZE : whole]))
            del received[:whole]

    async def message(self) -> bytes | None:
        """Return the next message; None at the end, or after an invalid one."""
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
        """Whether something is pending: send nothing more until `writable` returns."""
        return bool(self.pending) or self.out.paused

    def begin(self) -> None:
        """Send the headers, unless they were sent."""
        if not self._begun:
            self._begun = True
            self.out.write(frames.frame(frames.HEADERS, frames.END_HEADERS, self.id, _RESPONSE))

    def send(self, body: bytes) -> None:
        """Send a message; the part that the windows do not allow stays pending."""
        self.send_whole(frames.message(body))

    def send_whole(self, message: bytes) -> None:
        """Send a message with its header; its bytes are shared with other streams, not copied."""
        self.begin()
        self.pending.append(memoryview(message))
        self.pump()

    def finish(self, trailers: bytes) -> None:
        """End the call with a header block, once all messages are sent."""
        if self._trailers is None and not self.closed:
            self._trailers = trailers if self._begun else _RESPONSE + trailers
            self.pump()

    def pump(self) -> None:
        """Send as much of the pending data as the windows allow."""
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
        """Wait until nothing is pending."""
        while self.blocked:
            self.out.wait(self)
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def refuse(self, why: str) -> None:
        """End the call with RESOURCE_EXHAUSTED, and cancel its task."""
        if self.task is not None:
            self.task.cancel()
        self.finish(frames.header_block([("grpc-status", _EXHAUSTED), ("grpc-message", frames.escaped(why))]))

    def close(self) -> None:
        """Stop the call's task: the peer, or the connection, is gone."""
        self.closed = True
        self.pending.clear()
        if self.task is not None:
            self.task.cancel()


class Outbox:
    """Gathers the frames to one peer, and writes them once a turn of the event loop."""

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
        """Whether the peer has left too many bytes unread."""
        return self.paused and self._transport.get_write_buffer_size() > BYTES_MAX

    def write(self, data: bytes) -> None:
        """Add bytes to those that are written in this turn of the loop."""
        if not self._gathered:
            self._loop.call_soon(self.flush)
        self._gathered.append(data)
        self._size += len(data)
        if self._size > BYTES_HIGH:  # flush now, to notice whether the socket is full
            self.flush()

    def flush(self) -> None:
        """Write the gathered bytes."""
        gathered, self._gathered, self._size = self._gathered, [], 0
        if gathered and not self._transport.is_closing():
            self._transport.write(gathered[0] if len(gathered) == 1 else b"".join(gathered))

    def send_to_all(self, streams: Iterable[Stream], body: bytes) -> list[Stream]:
        """Send one message to many streams, in one write; return the streams that could not take it."""
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
                self.write(b"".join(parts))  # later streams are held back if the socket is full
                parts.clear()
        self.window = window
        if parts:
            self.write(b"".join(parts))
        return left

    def wait(self, stream: Stream) -> None:
        """Pump the stream when more can be sent."""
        self._waiting[stream.id] = stream

    def forget(self, stream: Stream) -> None:
        self._waiting.pop(stream.id, None)

    def opened(self, stream: Stream) -> None:
        """Pump the stream: its own window was opened."""
        if self._waiting.pop(stream.id, None) is not None:
            stream.pump()

    def pump(self) -> None:
        """Pump all waiting streams."""
        waiting, self._waiting = self._waiting, {}
        for stream in waiting.values():
            stream.pump()


class PeerLimits:
    """Limits the frames of one connection that belong to no call, and its silence: a token bucket, and a PING
    after SILENCE_S without data."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: Any, out: Outbox) -> None:
        self._loop = loop
        self._transport = transport
        self._out = out
        self._left, self._at = BUCKET, loop.time()
        self._timer = loop.call_later(HANDSHAKE_S, self._drop_if_silent)
        self.heard = False  # something was received since the last check

    def count(self) -> None:
        """Count a frame that belongs to no call. Raises ProtocolError if there are too many."""
        now = self._loop.time()
        self._left = min(BUCKET, self._left + (now - self._at) * PER_S) - 1
        self._at = now
        if self._left < 0:
            raise ProtocolError("too many frames that belong to no call", Code.ENHANCE_YOUR_CALM)

    def end(self) -> None:
        self._timer.cancel()

    def _check_silence(self) -> None:
        if self.heard:
            self.heard = False
            self._timer = self._loop.call_later(SILENCE_S, self._check_silence)
        else:
            self._out.write(frames.frame(frames.PING, 0, 0, b"everlog!"))
            self._timer = self._loop.call_later(HANDSHAKE_S, self._drop_if_silent)

    def _drop_if_silent(self) -> None:
        if self.heard:
            self._check_silence()
        else:
            self._transport.abort()
