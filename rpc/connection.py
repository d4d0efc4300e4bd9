"""Connection: one peer, its streams, and the rules of HTTP/2 that hold between them (RFC 9113).

    bytes ─▶ frames ─┬─ HEADERS ─▶ headers.py ─▶ a stream, and `answer(stream)`
                     ├─ DATA ────▶ stream.py
                     └─ windows, settings, pings ─▶ outbox.py

Invariants
  (1) a peer that breaks a rule, or that keeps us busy with what is no call, is told and dropped;
  (2) what is kept for a peer is bounded: one message out and a few in for each of its streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

from everlog.rpc import headers, http2, security
from everlog.rpc.headers import Block, Headers
from everlog.rpc.http2 import Code, ProtocolError
from everlog.rpc.outbox import FRAME_BYTES_MAX, Outbox
from everlog.rpc.stream import WINDOW, Stream, TooLargeError
from everlog.rpc.watch import Watch

STREAMS_MAX = 2000
CONNECTION_WINDOW = 16 << 20

_SETTINGS = http2.settings(
    {
        http2.SETTINGS_MAX_CONCURRENT_STREAMS: STREAMS_MAX,
        http2.SETTINGS_INITIAL_WINDOW_SIZE: WINDOW,
        http2.SETTINGS_MAX_HEADER_LIST_SIZE: headers.BYTES_MAX,
    }
) + http2.window_update(0, CONNECTION_WINDOW - http2.WINDOW_START)

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
        self._stream_window = http2.WINDOW_START  # of the peer's new streams
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
                self._greeted = http2.greeted(buffer)
                if not self._greeted:
                    return
            for kind, flags, stream, payload in http2.frames(buffer):
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
                self.out.write(http2.rst_stream(stream.id, Code.NO_ERROR))
            stream.closed = True
            self._remove(stream)

    def drain(self) -> None:
        """Takes no more calls, and closes once those that run have ended."""
        self._draining = True
        self.out.write(http2.goaway(self._last, Code.NO_ERROR, "the server is stopping"))
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
        self.out.write(http2.rst_stream(stream.id, code))
        self._remove(stream)
        stream.close()

    def _close(self) -> None:
        self.out.flush()
        self._transport.close()

    def _fail(self, error: ProtocolError) -> None:
        self.out.write(http2.goaway(self._last, error.code, str(error)))
        self._close()

    # in

    def _take(self, kind: int, flags: int, id: int, payload: bytes) -> None:
        self._headers.check(kind, id)
        if self.out.overfull:
            raise ProtocolError("too much is left unread", Code.ENHANCE_YOUR_CALM)
        if kind in (http2.HEADERS, http2.CONTINUATION):
            block = self._headers.take(kind, flags, id, payload)
            if block is not None:
                self._open(block)
            return
        if kind == http2.PUSH_PROMISE:
            raise ProtocolError("a client does not push")
        take = self._TAKES.get(kind)
        if take is not None:  # frames of other kinds are passed over
            take(self, flags, id, payload)

    def _data(self, flags: int, id: int, payload: bytes) -> None:
        size = len(payload)
        self._uncredited += size
        if self._uncredited > CONNECTION_WINDOW // 2:
            self.out.write(http2.window_update(0, self._uncredited))
            self._uncredited = 0
        stream = self.streams.get(id)
        if stream is None:
            if id > self._last or not id:
                raise ProtocolError(f"data of stream {id}, which was never opened")
            return  # of a call that has ended
        if not size and not flags & http2.END_STREAM:
            self._watch.count()
        try:
            stream.receive(http2.unpadded(flags, payload), size, end=bool(flags & http2.END_STREAM))
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
            self.out.write(http2.rst_stream(id, Code.REFUSED_STREAM))
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
        if flags & http2.ACK:
            return
        self._watch.count()
        for name, value in http2.read_settings(payload):
            if name == http2.SETTINGS_INITIAL_WINDOW_SIZE:
                for stream in self.streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value
            elif name == http2.SETTINGS_MAX_FRAME_SIZE:
                self.out.frame_bytes_max = min(value, FRAME_BYTES_MAX)
        self.out.write(http2.frame(http2.SETTINGS, http2.ACK, 0))
        self.out.pump()

    def _ping(self, flags: int, id: int, payload: bytes) -> None:
        if not flags & http2.ACK:
            self._watch.count()
            self.out.write(http2.frame(http2.PING, http2.ACK, 0, payload))

    def _window_update(self, flags: int, id: int, payload: bytes) -> None:
        size = http2.read_u32(payload) & http2.WINDOW_MAX
        if not id:
            self.out.window += size
            if self.out.window > http2.WINDOW_MAX or not size:
                raise ProtocolError("a window over the limit", Code.FLOW_CONTROL_ERROR)
            self.out.pump()
            return
        stream = self.streams.get(id)
        if stream is not None:
            stream.window += size
            if stream.window > http2.WINDOW_MAX or not size:
                self._reset(stream, Code.FLOW_CONTROL_ERROR)
            else:
                self.out.opened(stream)

    def _goaway(self, flags: int, id: int, payload: bytes) -> None:
        self._draining = True
        if not self.streams:
            self._close()

    _TAKES: ClassVar = {
        http2.DATA: _data,
        http2.RST_STREAM: _rst_stream,
        http2.SETTINGS: _settings,
        http2.PING: _ping,
        http2.GOAWAY: _goaway,
        http2.WINDOW_UPDATE: _window_update,
    }
