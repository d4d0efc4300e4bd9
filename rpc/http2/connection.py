"""Connection: the server's end of one HTTP/2 connection, and its streams (RFC 9113).

    bytes ─▶ slices of frames ─┬─ HEADERS ─▶ a Stream, and `answer(stream)`
                               ├─ DATA ────▶ the stream's inbox
                               └─ windows, settings, pings ─▶ Outbox, PeerLimits

stream.py has the flow of bytes, limits.py what a peer may cost, headers.py what a request is.
docs/http2.md tells why this exists, and what would replace it.

Invariants
  (1) a peer that breaks a rule of the protocol, or exceeds its limits, gets an error and is disconnected;
      where the rule is one of a stream, that stream alone is reset;
  (2) a frame costs constant time, and the time of what it lets the server send;
  (3) input is handled in slices: no peer keeps the loop from others.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, ClassVar, TypeAlias

from everlog.rpc import security
from everlog.rpc.http2 import frames, limits
from everlog.rpc.http2.frames import Code, ProtocolError, StreamError
from everlog.rpc.http2.headers import BLOCK_BYTES_MAX, Block, HeaderBlocks, check_trailers, request
from everlog.rpc.http2.inflow import CONNECTION_WINDOW, WINDOW, Inflow
from everlog.rpc.http2.limits import Bucket, PeerLimits, Turns
from everlog.rpc.http2.stream import (
    FRAME_BYTES_MAX,
    INVALID_ARGUMENT,
    RESOURCE_EXHAUSTED,
    Outbox,
    RefusedError,
    Stream,
)

STREAMS_MAX = 2000
END_S_MAX = 3600.0  # between two looks at the clock for the end of a certificate
PAST_MAX = 256  # ended streams that are remembered

_SETTINGS = frames.settings(
    {
        frames.SETTINGS_MAX_CONCURRENT_STREAMS: STREAMS_MAX,
        frames.SETTINGS_INITIAL_WINDOW_SIZE: WINDOW,
        frames.SETTINGS_MAX_HEADER_LIST_SIZE: BLOCK_BYTES_MAX,
    }
) + frames.window_update(0, CONNECTION_WINDOW - frames.WINDOW_START)

Answer: TypeAlias = "Callable[[Stream], None]"


class Connection(asyncio.Protocol):
    """The server's end of one connection. `answer` is called for each call that begins."""

    out: Outbox
    inflow: Inflow
    _limits: PeerLimits

    def __init__(self, answer: Answer, connections: set[Connection], turns: Turns, peer: str = "") -> None:
        self._answer = answer
        self._all = connections
        self._turns = turns
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._busy = False  # `turns` has it
        self._greeted = self._settled = False  # the preface, and the first SETTINGS, were received
        self._refusal = ""  # of a peer that negotiated another protocol
        self._discarded = 0  # bytes received after the connection has failed
        self._failed = False
        self._calls = 0  # that began in this slice
        self._headers = HeaderBlocks()
        self.streams: dict[int, Stream] = {}
        self._past: OrderedDict[int, bool] = OrderedDict()  # ended streams: may more frames come?
        self._last = 0  # id of the newest stream
        self._draining = False
        self._transport: Any = None
        self.closed = asyncio.Event()
        self.peer = peer  # its address; empty: that of the socket
        self.began = time.time()
        self.bytes_received = 0
        self.received: Bucket | None = None  # limits what is received from its address
        self.account: Any = None  # what a server that limits connections knows of it
        self.on_made: Callable[[Connection], None] = lambda _: None
        self.on_lost: Callable[[Connection], None] = lambda _: None
        self.on_failed: Callable[[Connection, ProtocolError], None] = lambda _, __: None
        self.certified = ""  # name of the client certificate, if one was required
        self.certified_until_ns = 0  # its end
        self._ending: asyncio.TimerHandle | None = None
        self.names: tuple[str, ...] = security.NAMES  # where its name is

    # asyncio

    def connection_made(self, transport: Any) -> None:
        ssl, peer = transport.get_extra_info("ssl_object"), transport.get_extra_info("peername")
        if not self.peer:
            self.peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else ""
        self._transport = transport
        self.out = Outbox(self._loop, transport)
        self.inflow = Inflow(self.out)
        self._limits = PeerLimits(self._loop, self.out, self.abort)
        if ssl is not None and ssl.selected_alpn_protocol() != "h2":
            self._refusal = "expected HTTP/2, negotiated by ALPN: this is a gRPC server"
        elif ssl is not None:
            self._certify(ssl.getpeercert())
        self._all.add(self)
        self.on_made(self)

    def _certify(self, certificate: Mapping[str, Any] | None) -> None:
        self.certified = security.name_of(certificate, self.names)
        self.certified_until_ns = security.end_of(certificate)
        if self.certified_until_ns:
            self._check_end()

    def _check_end(self) -> None:
        """Drain the connection once the client's certificate has ended."""
        left_s = self.certified_until_ns / 1e9 - time.time()
        if left_s > 0:
            self._ending = self._loop.call_later(min(left_s, END_S_MAX), self._check_end)
        elif not self._failed:
            self.drain("the certificate of the client has ended")

    def data_received(self, data: bytes) -> None:
        if self._failed:
            self._discard(len(data))
            return
        self.bytes_received += len(data)
        if self.received is not None:
            self.received.left -= len(data)
        self._buffer += data
        if not self._busy and self.read_slice():
            self._busy = True
            self._transport.pause_reading()
            self._turns.join(self)

    def read_slice(self) -> bool:
        """Handle a slice of the received bytes; return whether there are more."""
        more = False
        try:
            more = self._read_slice()
        except ProtocolError as error:
            self._fail(error)
        if self._failed or not more:
            if self._busy and not self._failed:
                self._transport.resume_reading()
            self._busy = False
            return False
        return True

    def _read_slice(self) -> bool:
        buffer, time, left = self._buffer, self._loop.time, limits.SLICE_FRAMES
        if not self._greeted:
            if self._refusal:
                raise ProtocolError(self._refusal)
            self._greeted = frames.greeted(buffer)
            if not self._greeted:
                return False
            self.out.write(_SETTINGS)
        end = time() + limits.SLICE_S
        self._calls = limits.SLICE_CALLS
        more, received = False, frames.frames(buffer)
        for kind, flags, stream, payload in received:
            self._limits.heard = True
            self._take(kind, flags, stream, payload)
            left -= 1
            if left <= 0 or self._calls <= 0 or self._failed or time() >= end:
                more = True
                break
        received.close()
        self._limits.partial = bool(buffer) or self._headers.open
        return more and bool(buffer)

    def pause_writing(self) -> None:
        self.out.fill(full=True)

    def resume_writing(self) -> None:
        self.out.fill(full=False)

    def connection_lost(self, error: Exception | None) -> None:
        self._failed = True
        if self in self._all:
            self._all.discard(self)
            self.on_lost(self)
        self.closed.set()
        self._limits.end()
        if self._ending is not None:
            self._ending.cancel()
        self._buffer.clear()
        self._end_streams()
        if self.inflow.peak >= limits.TRIM_BYTES:
            self._turns.trim()

    def _end_streams(self) -> None:
        """Stop the calls, some in each turn of the loop: their tasks take time."""
        for id in list(islice(self.streams, limits.TURN_STREAMS)):
            stream = self.streams.pop(id)
            self.out.forget(stream)
            stream.close()
        if self.streams:
            self._loop.call_soon(self._end_streams)

    # for streams, and for the server

    def forget(self, stream: Stream, *, whole: bool) -> None:
        """Remove a stream whose last frame was written; reset it if the peer has not ended its side."""
        if self.streams.get(stream.id) is stream:
            if not whole:
                self.out.write(frames.rst_stream(stream.id, Code.NO_ERROR))
            if stream.task is not None:
                self.out.earned += limits.ANSWERED + stream.cost
            stream.closed = True
            self._remove(stream)

    def reset(self, stream: Stream, code: Code) -> None:
        """End a stream whose peer broke a rule."""
        self._reset(stream.id, code)

    def count(self, cost: int) -> None:
        """Count what the peer costs; disconnect it if that is too much."""
        try:
            self._limits.count(cost)
        except ProtocolError as error:
            self._fail(error)

    def drain(self, why: str = "the server is stopping") -> None:
        """Accept no more calls, and close once the running ones have ended."""
        if self._failed:
            return
        self._draining = True
        if not self._greeted:
            self.out.write(_SETTINGS)
        self.out.write(frames.goaway(self._last, Code.NO_ERROR, why))
        if not self.streams:
            self._close()

    def abort(self) -> None:
        self._transport.abort()

    def _remove(self, stream: Stream) -> None:
        if self.streams.pop(stream.id, None) is None:
            return
        stream.drop_inflated()
        self._remember(stream.id, more=not stream.ended)
        self.out.forget(stream)
        if self._draining and not self.streams:
            self._close()

    def _remember(self, id: int, *, more: bool) -> None:
        self._past[id] = more
        if len(self._past) > PAST_MAX:
            self._past.popitem(last=False)

    def _reset(self, id: int, code: Code) -> None:
        """Reset a stream, open or not."""
        if id > self._last:
            raise ProtocolError(f"a frame with an error on stream {id}, which was never opened", code)
        self.out.write(frames.rst_stream(id, code))
        stream = self.streams.get(id)
        if stream is not None:
            self._remove(stream)
            stream.close()
        self.count(limits.FAULT_COST)

    def _close(self) -> None:
        self.out.flush()
        self._transport.close()

    def _fail(self, error: ProtocolError) -> None:
        if self._failed:
            return
        self._failed = True
        self.on_failed(self, error)
        if self._greeted:
            self.out.write(frames.goaway(self._last, error.code, str(error)))
        else:
            self.out.write(frames.refusal(self._buffer, str(error)))
        self.out.end()
        self._end_streams()
        self._buffer = bytearray()
        # Not at once: the peer would receive a reset instead of the reason, for what it has sent meanwhile.
        self._transport.resume_reading()
        self._loop.call_later(limits.LINGER_S, self.abort)

    def _discard(self, size: int) -> None:
        """Count bytes that nobody reads; receive no more if they are too many."""
        self._discarded += size
        if self._discarded > limits.LINGER_BYTES:
            self._transport.pause_reading()

    # in

    def _take(self, kind: int, flags: int, id: int, payload: bytes) -> None:
        self._headers.check(kind, id)
        if self.out.overfull:
            raise ProtocolError("too many unread bytes", Code.ENHANCE_YOUR_CALM)
        if not self._settled:
            if kind != frames.SETTINGS or flags & frames.ACK:
                raise ProtocolError("expected the preface to end with SETTINGS")
            self._settled = True
        try:
            frames.check(kind, flags, id, len(payload))
            take = self._TAKES.get(kind)
            if take is not None:
                take(self, flags, id, payload)
            else:  # of an unknown type: ignored
                self.count(1)
        except StreamError as error:
            self._reset(id, error.code)

    def _data(self, flags: int, id: int, payload: bytes) -> None:
        size = len(payload)
        self.inflow.receive(size)
        content = frames.unpadded(flags, payload)
        stream = self.streams.get(id)
        if stream is None or stream.ended:
            self._late_data(flags, id, stream)
            return
        if not size and not flags & frames.END_STREAM:
            self.count(1)
        try:
            stream.receive(content, size, end=bool(flags & frames.END_STREAM))
        except RefusedError as refusal:
            self._refuse(stream, refusal.code, str(refusal))

    def _late_data(self, flags: int, id: int, stream: Stream | None) -> None:
        """Data on a stream that has ended."""
        if id > self._last:
            raise ProtocolError(f"data on stream {id}, which was never opened")
        if stream is not None:
            raise StreamError("data after the end of the request", Code.STREAM_CLOSED)
        more = self._past.get(id, True)
        if not more:
            raise ProtocolError(f"data on stream {id}, which has ended", Code.STREAM_CLOSED)
        self.count(1)  # of a call that the server has ended: the peer may not know it yet
        if flags & frames.END_STREAM and id in self._past:
            self._past[id] = False

    def _refuse(self, stream: Stream, code: str, why: str) -> None:
        stream.refuse(code, why)
        self.count(limits.FAULT_COST)

    def _header_frame(self, kind: int, flags: int, id: int, payload: bytes) -> None:
        block = self._headers.take(kind, flags, id, payload)
        if kind == frames.CONTINUATION:
            self.count(1)
        if block is None:
            return
        self._calls -= 1
        if block.cost:
            self.count(block.cost)
        if id in self.streams or id <= self._last:
            self._trailers(block)
        else:
            self._open(block)

    def _trailers(self, block: Block) -> None:
        """A second header block of a stream: gRPC's clients send none, but they end a request."""
        id, stream = block.stream, self.streams.get(block.stream)
        self.count(1)
        if stream is None:
            more = self._past.get(id)
            if more is None:
                raise ProtocolError(f"stream {id} cannot be opened after stream {self._last}")
            if not more:
                raise ProtocolError(f"headers on stream {id}, which has ended", Code.STREAM_CLOSED)
            return
        if stream.ended:
            raise StreamError("headers after the end of the request", Code.STREAM_CLOSED)
        if not block.ends:
            raise StreamError("second headers that do not end the request")
        if block.known is not None:
            raise StreamError("a second request on a stream")
        check_trailers(block.fields)
        stream.receive(b"", 0, end=True)

    def _open(self, block: Block) -> None:
        id = block.stream
        if not id & 1:
            raise ProtocolError(f"a client cannot open stream {id}")
        self._last = id
        try:
            if self._draining or len(self.streams) >= STREAMS_MAX:
                raise StreamError("too many streams", Code.REFUSED_STREAM)
            if block.depends == id:
                raise StreamError("a stream that depends on itself")
            headers = block.known
            if headers is None and not block.oversized:
                headers = request(block.fields)
                if not block.unreadable:
                    self._headers.keep(block, headers)
        except StreamError:
            self._remember(id, more=not block.ends)
            raise
        stream = self.streams[id] = Stream(self, id, headers or {})
        stream.cost = block.cost
        if block.ends:
            stream.receive(b"", 0, end=True)
        if headers is None:
            why = f"expected headers of at most {BLOCK_BYTES_MAX:,} bytes, found more; send less metadata"
            self._refuse(stream, RESOURCE_EXHAUSTED, why)
        elif block.unreadable:
            why = "expected metadata to be text, or binary with a name that ends with -bin"
            self._refuse(stream, INVALID_ARGUMENT, f"{why}: {block.unreadable}")
        else:
            self._answer(stream)
            if stream.task is None:
                self.count(limits.REFUSED_COST)

    def _headers_frame(self, flags: int, id: int, payload: bytes) -> None:
        self._header_frame(frames.HEADERS, flags, id, payload)

    def _continuation(self, flags: int, id: int, payload: bytes) -> None:
        self._header_frame(frames.CONTINUATION, flags, id, payload)

    def _priority(self, flags: int, id: int, payload: bytes) -> None:
        self.count(1)
        if frames.read_u32(payload) & frames.WINDOW_MAX == id:
            raise StreamError("a stream that depends on itself")

    def _rst_stream(self, flags: int, id: int, payload: bytes) -> None:
        if id > self._last:
            raise ProtocolError(f"a reset of stream {id}, which was never opened")
        stream = self.streams.get(id)
        self.count(limits.RESET_COST if stream is not None and not stream.begun else 1)
        if stream is not None:
            self._remove(stream)
            stream.close()
        if id in self._past:
            self._past[id] = False

    def _settings(self, flags: int, id: int, payload: bytes) -> None:
        if flags & frames.ACK:
            self.count(1)
            return
        base = self.out.base
        for name, value in frames.read_settings(payload):
            if name == frames.SETTINGS_INITIAL_WINDOW_SIZE:
                base = value
            elif name == frames.SETTINGS_MAX_FRAME_SIZE:
                self.out.frame_bytes_max = min(value, FRAME_BYTES_MAX)
        self.count(limits.SETTINGS_COST + self.out.shut // limits.SHUT)
        self.out.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self.out.rebase(base)

    def _push_promise(self, flags: int, id: int, payload: bytes) -> None:
        raise ProtocolError("expected no PUSH_PROMISE from a client")

    def _ping(self, flags: int, id: int, payload: bytes) -> None:
        self.count(1)
        if not flags & frames.ACK:
            self.out.write(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _goaway(self, flags: int, id: int, payload: bytes) -> None:
        self.count(1)
        self._draining = True
        if not self.streams:
            self._loop.call_later(limits.LINGER_S, self._close)

    def _window_update(self, flags: int, id: int, payload: bytes) -> None:
        self.count(1)
        size = frames.read_u32(payload) & frames.WINDOW_MAX
        if not id:
            if not size:
                raise ProtocolError("a window that is opened by nothing")
            self.out.window += size
            if self.out.window > frames.WINDOW_MAX:
                raise ProtocolError("a window above the limit", Code.FLOW_CONTROL_ERROR)
            self.out.pump()
            return
        if id > self._last:
            raise ProtocolError(f"a window of stream {id}, which was never opened")
        if not size:
            raise StreamError("a window that is opened by nothing")
        stream = self.streams.get(id)
        if stream is not None:
            stream.window += size
            if stream.window + self.out.base > frames.WINDOW_MAX:
                raise StreamError("a window above the limit", Code.FLOW_CONTROL_ERROR)
            self.out.opened(stream)

    _TAKES: ClassVar = {
        frames.DATA: _data,
        frames.HEADERS: _headers_frame,
        frames.PRIORITY: _priority,
        frames.RST_STREAM: _rst_stream,
        frames.SETTINGS: _settings,
        frames.PUSH_PROMISE: _push_promise,
        frames.PING: _ping,
        frames.GOAWAY: _goaway,
        frames.WINDOW_UPDATE: _window_update,
        frames.CONTINUATION: _continuation,
    }
