"""Stream: one call on a connection, and the flow of bytes in both directions (RFC 9113, sections 5 and 6.9).

    DATA ─▶ received ─▶ inbox ─ await message() ─▶ handler
    handler ─ send() ─▶ pending ─ windows ─▶ Outbox: gathered ─ end of the loop's turn ─▶ one write

Data that the peer's windows do not allow stays pending; `writable` waits until nothing is. Received data that
the handler has not taken is not credited to the peer, which stops sending.

Invariants
  (1) memory for a peer is bounded: each stream has at most one message out. In, all streams of a connection
      together keep a bounded number of bytes (inflow.py);
  (2) a compressed message is inflated when the handler takes it, in slices, up to the limit of its size; of
      large ones, handlers of a connection have INFLATED_MAX at once;
  (3) headers go out before the first message, trailers after the last, each once;
  (4) nothing is sent that the peer's windows do not allow, and no message while the socket is full;
  (5) gathered data and the socket's buffer hold a few MiB: a larger message waits with its stream, and
      streams that are sent the same message share it;
  (6) a frame of the peer's windows costs constant time, and the time of what it lets the server send.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from everlog.rpc.http2 import frames, limits
from everlog.rpc.http2.frames import Code, ProtocolError, StreamError
from everlog.rpc.http2.headers import escaped, header_block
from everlog.rpc.http2.inflow import PARTIAL_MAX, WINDOW, Inflow
from everlog.rpc.http2.limits import Bucket, Meter, Meters

MESSAGE_BYTES_MAX = 16 << 20
INBOX_MAX = 4  # messages
INBOX_BYTES_MAX = 1 << 20  # the peer is credited below this

FRAME_BYTES_MAX = 64 << 10  # of sent frames, though a peer may accept more: gRPC's accepts 16 MiB
BYTES_HIGH = 1 << 20  # above this many bytes in the socket's buffer, wait
BYTES_MAX = 4 * BYTES_HIGH  # above this, disconnect: the peer sends requests and does not read

SMALL_BYTES = 256  # of a frame; a smaller one that completes no message is counted
INFLATED_SLICE = 128 << 10  # bytes that are inflated before other tasks run
INFLATED_FIRST = 16 << 10  # bytes of a message that is inflated at once
ENCODINGS = {"identity": 0, "gzip": 31, "deflate": 15}  # to zlib's window bits

INVALID_ARGUMENT, RESOURCE_EXHAUSTED = "3", "8"
RESPONSE = b"\x88" + header_block(
    [("content-type", "application/grpc"), ("grpc-accept-encoding", ",".join(ENCODINGS))]
)


class RefusedError(Exception):
    """Raised when a call is ended because of its messages: `code` is its status."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Peer(Protocol):
    """A connection, as its streams use it."""

    out: Outbox
    inflow: Inflow
    certified: str
    certified_until_ns: int
    peer: str
    account: Any

    def forget(self, stream: Stream, *, whole: bool) -> None: ...

    def count(self, cost: int) -> None: ...

    def reset(self, stream: Stream, code: Code) -> None: ...


class Stream:
    """One call. Use it in the thread of the event loop."""

    __slots__ = (
        "_arrived",
        "_begun",
        "_drained",
        "_inbox",
        "_kept",
        "_large",
        "_length",
        "_received",
        "_refused",
        "_reserved",
        "_room",
        "_trailers",
        "call",
        "closed",
        "connection",
        "cost",
        "ended",
        "got",
        "headers",
        "id",
        "id_bytes",
        "message_bytes_max",
        "meter",
        "out",
        "pending",
        "received",
        "sent",
        "single",
        "task",
        "unstarted",
        "who",
        "window",
    )

    def __init__(self, connection: Peer, id: int, headers: dict[str, str]) -> None:
        self.connection = connection
        self.out = connection.out
        self.id = id
        self.id_bytes = id.to_bytes(4, "big")
        self.headers = headers
        self.who = ""  # name of the call's token
        self.call: Any = None  # what its observers know of it (grpc.py)
        self.meter: Meter | Meters | None = None  # limits what its caller is sent
        self.received: tuple[Bucket, ...] = ()  # limit what is received from its caller
        self.got = self.sent = 0  # bytes
        self.window = 0  # bytes that the peer accepts, in addition to its initial window
        self.task: asyncio.Task[None] | None = None
        self.unstarted: Callable[[], None] | None = None  # called if the task ends before it begins
        self.closed = False
        self.single = False  # whether the request is one message
        self.message_bytes_max = MESSAGE_BYTES_MAX
        self._begun = False
        self.cost = 0  # of its headers
        self.pending: list[memoryview] = []
        self._trailers: bytes | None = None  # sent once nothing is pending
        self._drained: asyncio.Future[None] | None = None
        self._received = bytearray()
        self._inbox: list[tuple[int, bytes]] = []  # compressed?, message
        self._kept = 0  # bytes in the inbox
        self._reserved = 0  # see Inflow.reserve
        self._arrived: asyncio.Future[None] | None = None
        self._room = WINDOW  # bytes that the peer may send
        length = headers.get("content-length")
        self._length = -1 if length is None else int(length[:20])  # bytes of the body; -1: unknown
        self._refused = False
        self._large = False  # the handler has an inflated message of more than INFLATED_FIRST
        self.ended = False  # the peer has ended its side

    # in

    def receive(self, data: bytes, size: int, *, end: bool) -> None:
        """Receive the content of a DATA frame that used `size` bytes of the window. Raises ProtocolError,
        StreamError, RefusedError."""
        self._room -= size
        if self._room < 0:
            raise ProtocolError("more data than the stream's window", Code.FLOW_CONTROL_ERROR)
        self.got += size
        for bucket in self.received:
            bucket.left -= size
        if self._length >= 0:
            self._length -= len(data)
            if self._length < 0 or (end and self._length):
                raise StreamError("a body that is not as long as its content-length")
        self.ended = end
        if self._refused:
            return
        if self.single and data:
            raise _second()
        waiting = len(self._inbox)
        self._received += data
        self.connection.inflow.keep(len(data), len(data))
        self._read_messages()
        if len(self._inbox) == waiting and len(data) < SMALL_BYTES and not end:
            self.connection.count(1)
        self._credit()
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def _read_messages(self) -> None:
        """Move received messages into the inbox, as far as there is room."""
        received, inbox = self._received, self._inbox
        while len(received) >= frames.MESSAGE_HEADER_SIZE and len(inbox) < INBOX_MAX:
            compressed, length = frames.read_message_header(received)
            if length > self.message_bytes_max:
                raise self._too_large(length)
            whole = frames.MESSAGE_HEADER_SIZE + length
            inflow = self.connection.inflow
            if len(received) < whole:
                if not inflow.reserve(self, length):
                    raise RefusedError(
                        RESOURCE_EXHAUSTED,
                        f"expected at most {PARTIAL_MAX:,} bytes of incomplete messages on a connection;"
                        " send less at once, or use another connection",
                    )
                break
            self._release()
            inbox.append((compressed, bytes(received[frames.MESSAGE_HEADER_SIZE : whole])))
            self._kept += whole
            inflow.keep(0, -whole)
            del received[:whole]

    def _too_large(self, size: int) -> RefusedError:
        return RefusedError(
            RESOURCE_EXHAUSTED,
            f"expected a message of at most {self.message_bytes_max:,} bytes, found {size:,};"
            " request less at once",
        )

    def _release(self) -> None:
        if self._reserved:
            self.connection.inflow.release(self._reserved)
            self._reserved = 0

    def reserve(self, size: int) -> None:
        """Accept a message of `size` bytes, for which there was no room before."""
        self._reserved = size
        self._credit()

    @property
    def reserved(self) -> bool:
        return bool(self._reserved)

    async def message(self) -> bytes | None:
        """Return the next message; None at the end. Raises RefusedError."""
        self.drop_inflated()
        self._read_messages()
        while not self._inbox:
            if self.ended:
                if self._received:
                    raise RefusedError(INVALID_ARGUMENT, "expected a whole message, found a part of one")
                return None
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        compressed, found = self._inbox.pop(0)
        size = frames.MESSAGE_HEADER_SIZE + len(found)
        try:
            return await self._inflated(found) if compressed else found
        finally:
            if self._kept >= size:  # not dropped meanwhile
                self._kept -= size
                self.connection.inflow.keep(-size, 0)
                self._credit()

    async def only(self) -> bytes:
        """Return the single message of a request. Raises RefusedError if there is none, or another one
        already; a later one ends the call."""
        found = await self.message()
        if found is None:
            raise RefusedError(INVALID_ARGUMENT, "expected a request, found none")
        if self._inbox or self._received:
            raise _second()
        self.single = True
        return found

    async def _inflated(self, raw: bytes) -> bytes:
        encoding = self.headers.get("grpc-encoding", "identity")
        bits = ENCODINGS.get(encoding, 0)
        if not bits:
            raise RefusedError(
                INVALID_ARGUMENT, f"expected a compressed message to have a grpc-encoding, found {encoding}"
            )
        try:
            inflater = zlib.decompressobj(bits)
            found = inflater.decompress(raw, INFLATED_FIRST)
            if not inflater.eof:
                del found
                await self.connection.inflow.inflated.acquire()
                self._large = True
                self.connection.inflow.peak = max(self.connection.inflow.peak, self.message_bytes_max)
                inflater = zlib.decompressobj(bits)
                found = await self._inflated_slices(inflater, raw)
        except zlib.error as error:
            raise RefusedError(INVALID_ARGUMENT, f"expected a {encoding} message: {error}") from None
        if not inflater.eof or inflater.unused_data:
            raise RefusedError(INVALID_ARGUMENT, f"expected one whole {encoding} message, found less or more")
        return found

    async def _inflated_slices(self, inflater: Any, raw: bytes) -> bytes:
        found = bytearray()
        while not inflater.eof:
            part = inflater.decompress(raw, INFLATED_SLICE)
            raw = inflater.unconsumed_tail
            found += part
            if len(found) > self.message_bytes_max:
                self.connection.count(limits.BOMB_COST)
                raise self._too_large(len(found))
            if not part:
                break
            await asyncio.sleep(0)
        return bytes(found)

    def drop_inflated(self) -> None:
        """Make room for another large message that was inflated: the handler is done with this one."""
        if self._large:
            self._large = False
            self.connection.inflow.inflated.release()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        found = await self.message()
        if found is None:
            raise StopAsyncIteration
        return found

    def _credit(self) -> None:
        if (
            self._room <= WINDOW // 2
            and len(self._inbox) < INBOX_MAX
            and self._kept < INBOX_BYTES_MAX
            and not self.ended
            and not self.connection.inflow.waits(self)
        ):
            self.out.write(frames.window_update(self.id, WINDOW - self._room))
            self._room = WINDOW

    # out

    @property
    def blocked(self) -> bool:
        """Whether something is pending: send nothing more until `writable` returns."""
        return bool(self.pending) or self.out.paused or (self.meter is not None and self.meter.held)

    def begin(self, block: bytes = RESPONSE) -> None:
        """Send the headers, unless they were sent."""
        if not self._begun:
            self._begun = True
            self.out.write(frames.frame(frames.HEADERS, frames.END_HEADERS, self.id, block))

    @property
    def begun(self) -> bool:
        """Whether the response has begun."""
        return self._begun

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
            self._trailers = trailers if self._begun else RESPONSE + trailers
            self.pump()

    def refuse_http(self, http_status: str, code: str, text: str) -> None:
        """Answer a request that is not gRPC: with a status of HTTP, and the text as its body."""
        self.begin(header_block([(":status", http_status), ("content-type", "text/plain; charset=utf-8")]))
        self.pending.append(memoryview(f"{text}\n".encode()))
        self.finish(header_block([("grpc-status", code), ("grpc-message", escaped(text))]))

    def pump(self) -> None:
        """Send as much of the pending data as the windows allow."""
        pending, out, meter = self.pending, self.out, self.meter
        while pending and not out.paused:
            if meter is not None and meter.held:
                meter.wait(self, self.pump)
                return
            first = pending[0]
            window = self.window + out.base
            if window > frames.WINDOW_MAX:  # by a change of the initial window
                self.connection.reset(self, Code.FLOW_CONTROL_ERROR)
                return
            size = min(len(first), window, out.window, out.frame_bytes_max)
            if size <= 0:
                out.wait(self, own=window <= 0)
                return
            out.write(frames.frame(frames.DATA, 0, self.id, bytes(first[:size])))
            if size == len(first):
                pending.pop(0)
                out.earned += 2
            else:
                pending[0] = first[size:]
            out.earned += size >> 10
            self.window -= size
            out.window -= size
            self.sent += size
            if meter is not None:
                meter.take(size)
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
            if not self.pending:
                if self.meter is not None and self.meter.held:
                    self.meter.wait(self, self.pump)
                else:
                    self.out.wait(self)
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def refuse(self, code: str, why: str) -> None:
        """End the call with a status, and cancel its task, unless that is what runs."""
        self._refused = True
        self._drop_received()
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()
        self.finish(header_block([("grpc-status", code), ("grpc-message", escaped(why))]))

    def close(self) -> None:
        """Stop the call's task: the peer, or the connection, is gone."""
        self.closed = True
        self.pending.clear()
        if self.meter is not None:
            self.meter.forget(self)
        self.drop_inflated()
        self._drop_received()
        if self.task is not None:
            self.task.cancel()
            self.task = None
        if self.unstarted is not None:  # a task that is cancelled before its first step runs nothing
            self.unstarted()
            self.unstarted = None
        self.call = None

    def _drop_received(self) -> None:
        received = len(self._received)
        self.connection.inflow.forget(self, received + self._kept, received)
        self._release()
        self._received, self._inbox, self._kept = bytearray(), [], 0


def _second() -> RefusedError:
    return RefusedError(INVALID_ARGUMENT, "expected one message as the request, found more")


class Outbox:
    """Gathers the frames to one peer, and writes them once a turn of the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: Any) -> None:
        self._loop = loop
        self._transport = transport
        self._gathered: list[bytes] = []
        self._size = 0  # bytes gathered
        # Streams that wait for the connection's window, for the socket alone, and for their own window.
        self._waiting: OrderedDict[int, Stream] = OrderedDict()
        self._idle: OrderedDict[int, Stream] = OrderedDict()
        self._shut: dict[int, Stream] = {}
        self._opened: deque[Stream] = deque()  # their own windows were
        self._pumping = False
        self.window = frames.WINDOW_START  # of the connection
        self.base = frames.WINDOW_START  # initial window of the peer's streams
        self.frame_bytes_max = frames.FRAME_BYTES_MAX
        self.paused = False
        self._full = False  # the socket is
        self.meter: Meter | None = None  # limits what its address is sent
        self.earned = 0  # see PeerLimits
        self.sent = 0  # bytes
        self._ended = False
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
        gathered, size = self._gathered, self._size
        self._gathered, self._size = [], 0
        if gathered and not self._ended and not self._transport.is_closing():
            self._transport.write(gathered[0] if len(gathered) == 1 else b"".join(gathered))
            self.sent += size
            if self.meter is not None:
                self._take(self.meter, size)

    def fill(self, *, full: bool) -> None:
        """Note whether the socket is full."""
        self._full = full
        self._resume()

    def _take(self, meter: Meter, size: int) -> None:
        meter.take(size)
        if meter.held:
            self.paused = True
            meter.wait(self, self._resume)

    def _resume(self) -> None:
        meter = self.meter
        self.paused = self._full or (meter is not None and meter.held)
        if not self.paused:
            self.pump()

    def end(self) -> None:
        """Write the gathered bytes, and nothing after them."""
        self.flush()
        self._ended = True
        if self._transport.can_write_eof() and not self._transport.is_closing():
            with contextlib.suppress(OSError):  # the peer is gone
                self._transport.write_eof()

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
        header = frames.frame(frames.DATA, 0, 0, whole)[:5]
        window, needed, sent = self.window, size - self.base, 0
        for stream in streams:
            if stream.window < needed or window < size or stream.blocked:
                left.append(stream)
                continue
            stream.window -= size
            window -= size
            stream.sent += size
            sent += 1
            if stream.meter is not None:
                stream.meter.take(size)
            parts += (header, stream.id_bytes, whole)
            if len(parts) * size > 3 * BYTES_HIGH:
                self.write(b"".join(parts))  # later streams are held back if the socket is full
                parts.clear()
        self.window = window
        self.earned += sent * (2 + (size >> 10))
        if parts:
            self.write(b"".join(parts))
        return left

    def wait(self, stream: Stream, *, own: bool = False) -> None:
        """Pump the stream when more can be sent; `own`: when its own window is opened."""
        if own:
            self._shut[stream.id] = stream
        else:
            (self._waiting if stream.pending else self._idle)[stream.id] = stream

    def forget(self, stream: Stream) -> None:
        self._waiting.pop(stream.id, None)
        self._idle.pop(stream.id, None)
        self._shut.pop(stream.id, None)

    def opened(self, stream: Stream) -> None:
        """Pump the stream: its own window was opened."""
        if self._shut.pop(stream.id, None) is not None:
            stream.pump()

    @property
    def shut(self) -> int:
        """How many streams wait for their own windows."""
        return len(self._shut)

    def rebase(self, base: int) -> None:
        """Change the initial window of all streams, and pump those that it opens."""
        grown, self.base = base > self.base, base
        if grown:
            self._opened.extend(self._shut.values())
            self._shut.clear()
            self.pump()

    def pump(self) -> None:
        """Pump waiting streams, as long as more can be sent, some in each turn of the loop: their tasks take
        time."""
        left = limits.TURN_STREAMS
        while left and (stream := self._next()) is not None:
            stream.pump()
            left -= 1
        if not left and not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump_again)

    def _pump_again(self) -> None:
        self._pumping = False
        self.pump()

    def _next(self) -> Stream | None:
        """Return a stream that can send more; None if there is none."""
        if self._idle and not self.paused:
            return self._idle.popitem(last=False)[1]
        while self._opened:
            stream = self._opened.popleft()
            if not stream.closed:
                return stream
        if self._waiting and self.window > 0 and not self.paused:
            return self._waiting.popitem(last=False)[1]
        return None
