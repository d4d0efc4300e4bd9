"""Connection: one peer, its streams, and the rules of HTTP/2 that hold between them (RFC 9113).

    bytes ─▶ frames ─▶ streams ─▶ answer(stream)          answers are gathered, and written once
                                                          for each turn of the event loop

Invariants
  (1) nothing is sent that the peer's windows do not allow, and nothing more is kept for it than
      one message a stream;
  (2) a peer that breaks a rule, or that keeps us busy with what is no call, is told and dropped;
  (3) header blocks are always decoded: the decoder's table is shared by all streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import hpack

from everlog.rpc import http2
from everlog.rpc.http2 import Code, ProtocolError
from everlog.rpc.stream import WINDOW, Stream, TooLargeError

STREAMS_MAX = 2000
HEADER_BYTES_MAX = 16 << 10
CONNECTION_WINDOW = 16 << 20
WRITE_BYTES_HIGH = 1 << 20
HANDSHAKE_S = 10.0
KEEPALIVE_S = 20.0
CALM_MAX, CALM_PER_S = 4000.0, 2000.0  # frames that are no call: so many at once, so many a second

_SETTINGS = http2.settings(
    {
        http2.SETTINGS_MAX_CONCURRENT_STREAMS: STREAMS_MAX,
        http2.SETTINGS_INITIAL_WINDOW_SIZE: WINDOW,
        http2.SETTINGS_MAX_HEADER_LIST_SIZE: HEADER_BYTES_MAX,
    }
) + http2.window_update(0, CONNECTION_WINDOW - http2.WINDOW_START)

Answer = Callable[[Stream], None]


class Connection(asyncio.Protocol):
    """The server's end of one connection. `answer` is called for each call that begins."""

    def __init__(self, answer: Answer, connections: set[Connection]) -> None:
        self._answer = answer
        self._all = connections
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._greeted = False
        self._decoder = hpack.Decoder(max_header_list_size=HEADER_BYTES_MAX)
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags, what CONTINUATION adds to
        self.streams: dict[int, Stream] = {}
        self._last = 0  # the newest stream
        self._draining = False
        self._uncredited = 0
        self._out: list[bytes] = []
        self._waiting: dict[int, Stream] = {}  # for a window
        self._stream_window = http2.WINDOW_START  # of the peer's new streams
        self._calm, self._calm_at = CALM_MAX, self._loop.time()
        self._heard = False  # since the last look
        self.window = http2.WINDOW_START
        self.frame_bytes_max = http2.FRAME_BYTES_MAX
        self.paused = False
        self.closed = asyncio.Event()
        self.transport: Any = None
        self._timer: asyncio.TimerHandle | None = None

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        ssl = transport.get_extra_info("ssl_object")
        if ssl is not None and ssl.selected_alpn_protocol() != "h2":
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(high=WRITE_BYTES_HIGH)
        self._all.add(self)
        self._timer = self._loop.call_later(HANDSHAKE_S, self._look)
        self.write(_SETTINGS)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        buffer = self._buffer
        buffer += data
        try:
            if not self._greeted:
                if not http2.PREFACE.startswith(buffer[: len(http2.PREFACE)]):
                    raise ProtocolError("this is a gRPC server: it speaks HTTP/2 alone")
                if len(buffer) < len(http2.PREFACE):
                    return
                del buffer[: len(http2.PREFACE)]
                self._greeted = True
            for kind, flags, stream, payload in http2.frames(buffer):
                self._take(kind, flags, stream, payload)
        except ProtocolError as error:
            self._fail(error)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._pump()

    def connection_lost(self, error: Exception | None) -> None:
        self._all.discard(self)
        self.closed.set()
        if self._timer is not None:
            self._timer.cancel()
        for stream in self.streams.values():
            stream.close()
        self.streams.clear()
        self._waiting.clear()

    # out

    def write(self, data: bytes) -> None:
        """Sends bytes with whatever else is sent in this turn of the loop."""
        if not self._out:
            self._loop.call_soon(self.flush)
        self._out.append(data)

    def flush(self) -> None:
        out, self._out = self._out, []
        if out and not self.transport.is_closing():
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))

    def send_to_all(self, streams: Iterable[Stream], body: bytes) -> list[Stream]:
        """Sends one message to many streams, in one write; returns those that it was too much for."""
        whole = http2.message(body)
        size = len(whole)
        if size > self.frame_bytes_max:
            return self._send_in_parts(streams, body)
        head = http2.frame(http2.DATA, 0, 0, whole)[:5]
        left: list[Stream] = []
        parts: list[bytes] = []
        window = 0 if self.paused else self.window
        for stream in streams:
            if stream.window < size or window < size or stream.blocked:
                left.append(stream)
                continue
            stream.window -= size
            window -= size
            parts += (head, stream.id_bytes, whole)
        if not self.paused:
            self.window = window
        if parts:
            self.write(b"".join(parts))
        return left

    def _send_in_parts(self, streams: Iterable[Stream], body: bytes) -> list[Stream]:
        left = []
        for stream in streams:
            if stream.blocked:
                left.append(stream)
            else:
                stream.send(body)
        return left

    def wait_for_window(self, stream: Stream) -> None:
        self._waiting[stream.id] = stream

    def forget(self, stream: Stream, *, whole: bool) -> None:
        """The stream's last frame was written; if the peer is not at its end, it is told to stop."""
        if self.streams.pop(stream.id, None) is not None:
            stream.closed = True
            self._waiting.pop(stream.id, None)
            if not whole:
                self.write(http2.rst_stream(stream.id, Code.NO_ERROR))
            if self._draining and not self.streams:
                self._close()

    def drain(self) -> None:
        """Takes no more calls, and closes once those that run have ended."""
        self._draining = True
        self.write(http2.goaway(self._last, Code.NO_ERROR, "the server is stopping"))
        if not self.streams:
            self._close()

    def _close(self) -> None:
        self.flush()
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    def _fail(self, error: ProtocolError) -> None:
        self.write(http2.goaway(self._last, error.code, str(error)))
        self._close()

    def _pump(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for stream in waiting.values():
            stream.pump()

    def _look(self) -> None:
        """Now and then: a peer that is silent is asked, and dropped if it stays so."""
        if not self._greeted:
            self.abort()
            return
        if self._heard:
            self._heard = False
            self._timer = self._loop.call_later(KEEPALIVE_S, self._look)
            return
        self.write(http2.frame(http2.PING, 0, 0, b"everlog!"))
        self._timer = self._loop.call_later(HANDSHAKE_S, self._drop_if_silent)

    def _drop_if_silent(self) -> None:
        if self._heard:
            self._look()
        else:
            self.abort()

    # in

    def _take(self, kind: int, flags: int, id: int, payload: bytes) -> None:
        if self._block is not None and (kind != http2.CONTINUATION or id != self._block[0]):
            raise ProtocolError("a frame in the middle of a header block")
        take = self._TAKES.get(kind)
        if take is not None:  # frames of other kinds are passed over
            take(self, flags, id, payload)

    def _data(self, flags: int, id: int, payload: bytes) -> None:
        size = len(payload)
        self._uncredited += size
        if self._uncredited > CONNECTION_WINDOW // 2:
            self.write(http2.window_update(0, self._uncredited))
            self._uncredited = 0
        stream = self.streams.get(id)
        if stream is None:
            if id > self._last or not id:
                raise ProtocolError(f"data of stream {id}, which was never opened")
            return  # of a call that has ended
        if not size and not flags & http2.END_STREAM:
            self._be_calm()
        try:
            stream.receive(http2.unpadded(flags, payload), size, end=bool(flags & http2.END_STREAM))
        except TooLargeError:
            self._reset(stream, Code.ENHANCE_YOUR_CALM)

    def _headers(self, flags: int, id: int, payload: bytes) -> None:
        content = http2.unpadded(flags, payload)
        if flags & http2.HAS_PRIORITY:
            content = content[5:]
        if not flags & http2.END_HEADERS:
            self._block = (id, flags, bytearray(content))
            return
        self._open(flags, id, content)

    def _continuation(self, flags: int, id: int, payload: bytes) -> None:
        if self._block is None:
            raise ProtocolError("a continuation of nothing")
        _, first, block = self._block
        block += payload
        if len(block) > HEADER_BYTES_MAX or not payload:
            raise ProtocolError("headers that do not end", Code.ENHANCE_YOUR_CALM)
        if flags & http2.END_HEADERS:
            self._block = None
            self._open(first, id, bytes(block))

    def _open(self, flags: int, id: int, block: bytes) -> None:
        try:
            headers = {str(name): str(value) for name, value in self._decoder.decode(block)}
        except (hpack.HPACKError, UnicodeError) as error:
            raise ProtocolError(f"headers that cannot be read: {error}", Code.COMPRESSION_ERROR) from None
        known = self.streams.get(id)
        if known is not None:  # trailers of a request: gRPC has none, but they end it
            known.receive(b"", 0, end=True)
            return
        if not id & 1 or id <= self._last:
            if id and id <= self._last:
                return  # of a call that has ended
            raise ProtocolError(f"a client cannot open stream {id}")
        self._last = id
        if self._draining or len(self.streams) >= STREAMS_MAX:
            self._be_calm()
            self.write(http2.rst_stream(id, Code.REFUSED_STREAM))
            return
        stream = self.streams[id] = Stream(self, id, headers, self._stream_window)
        if flags & http2.END_STREAM:
            stream.receive(b"", 0, end=True)
        self._answer(stream)

    def _rst_stream(self, flags: int, id: int, payload: bytes) -> None:
        self._be_calm()
        stream = self.streams.pop(id, None)
        if stream is not None:
            self._waiting.pop(id, None)
            stream.close()
            if self._draining and not self.streams:
                self._close()

    def _settings(self, flags: int, id: int, payload: bytes) -> None:
        if flags & http2.ACK:
            return
        self._be_calm()
        for name, value in http2.read_settings(payload):
            if name == http2.SETTINGS_INITIAL_WINDOW_SIZE:
                if value > http2.WINDOW_MAX:
                    raise ProtocolError("a window over the limit", Code.FLOW_CONTROL_ERROR)
                for stream in self.streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value
            elif name == http2.SETTINGS_MAX_FRAME_SIZE:
                if not http2.FRAME_BYTES_MAX <= value < 1 << 24:
                    raise ProtocolError(f"frames of {value} bytes")
                self.frame_bytes_max = value
        self.write(http2.frame(http2.SETTINGS, http2.ACK, 0))
        self._pump()

    def _ping(self, flags: int, id: int, payload: bytes) -> None:
        if not flags & http2.ACK:
            self._be_calm()
            self.write(http2.frame(http2.PING, http2.ACK, 0, payload))

    def _window_update(self, flags: int, id: int, payload: bytes) -> None:
        size = http2.read_u32(payload) & http2.WINDOW_MAX
        if not id:
            self.window += size
            if self.window > http2.WINDOW_MAX or not size:
                raise ProtocolError("a window over the limit", Code.FLOW_CONTROL_ERROR)
            if self._waiting:
                self._pump()
            return
        stream = self.streams.get(id)
        if stream is not None:
            stream.window += size
            if stream.window > http2.WINDOW_MAX or not size:
                self._reset(stream, Code.FLOW_CONTROL_ERROR)
            elif id in self._waiting:
                del self._waiting[id]
                stream.pump()

    def _goaway(self, flags: int, id: int, payload: bytes) -> None:
        self._draining = True
        if not self.streams:
            self._close()

    def _push_promise(self, flags: int, id: int, payload: bytes) -> None:
        raise ProtocolError("a client does not push")

    def _reset(self, stream: Stream, code: Code) -> None:
        self.streams.pop(stream.id, None)
        self._waiting.pop(stream.id, None)
        self.write(http2.rst_stream(stream.id, code))
        stream.close()

    def _be_calm(self) -> None:
        """Counts what a peer can send for ever without asking for anything."""
        now = self._loop.time()
        self._calm = min(CALM_MAX, self._calm + (now - self._calm_at) * CALM_PER_S) - 1
        self._calm_at = now
        if self._calm < 0:
            raise ProtocolError("too many frames that are no call", Code.ENHANCE_YOUR_CALM)

    _TAKES: ClassVar = {
        http2.DATA: _data,
        http2.HEADERS: _headers,
        http2.RST_STREAM: _rst_stream,
        http2.SETTINGS: _settings,
        http2.PUSH_PROMISE: _push_promise,
        http2.PING: _ping,
        http2.GOAWAY: _goaway,
        http2.WINDOW_UPDATE: _window_update,
        http2.CONTINUATION: _continuation,
    }
