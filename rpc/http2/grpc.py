"""Calls: dispatch a stream to a servicer's method, and send its messages and status.

    stream ─▶ path, token, deadline ─▶ task: messages in ─▶ method ─▶ messages out, status

Methods are registered by gRPC's generated code, through the interface of a grpc server. A `Raw` method gets
the stream itself.

Protobuf accepts enum numbers that the enum does not have. What is written to the log stays, so requests with
unknown numbers are refused here, for all services at once.

A `Gate` decides who a caller is, by the headers, and what it may do, by the parsed request; a `Limiter`, how
much it may have.

Invariants
  (1) no method is looked up and no message is kept before the gate has identified the caller, and no method
      runs that it did not admit;
  (2) every call ends with a status, and the status of an error carries the error (errors.py);
  (3) a method never sees a request with an unknown enum number;
  (4) an observer and a limiter see the beginning and the end of each call, however it ends.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from functools import partial
from itertools import count
from typing import Any, NamedTuple, Protocol

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from everlog.rpc import errors, traces
from everlog.rpc.http2.headers import escaped, header_block
from everlog.rpc.http2.stream import ENCODINGS, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, RefusedError, Stream
from everlog.store.errors import Error, LimitError, RowError

OPEN_METHODS = "/grpc.health.v1.Health/"  # load balancers call these without a token
NAME_MAX = 100  # characters of a name in a span
PACKAGE = "everlog.v1."
LEFT = "the client left"
OPEN_BYTES_MAX = 4096  # of a message to them
OK = header_block([("grpc-status", "0")])
CONTENT_TYPE = "application/grpc"

_REFUSALS = {
    INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    RESOURCE_EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_TIMEOUT = re.compile(r"[0-9]{1,8}[HMSmun]", re.ASCII)
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

Raw = Callable[[Stream, Any], Awaitable[None]]


class Aborted(Exception):  # noqa: N818  gRPC's term for ending a call from within a method
    """Raised in a method to end its call with a status."""

    def __init__(self, code: grpc.StatusCode, details: str = "") -> None:
        super().__init__(details)
        self.code = code


class Call:
    """A call, for observers."""

    __slots__ = (
        "accounts",
        "before",
        "began",
        "ended_as",
        "ends_with",
        "id",
        "identity",
        "method",
        "progress",
        "request",
        "rows",
        "rows_max",
        "scope",
        "stream",
        "waited_s",
        "waits",
        "work",
    )

    def __init__(self, stream: Stream, method: str) -> None:
        self.id = next(_ids)
        self.stream = stream
        self.method = method  # as Store/Get; "unknown" if the server has no such method
        self.began = time.perf_counter()
        self.request: Message | None = None  # the first one
        self.rows = 0  # in the responses
        self.rows_max = float("inf")
        self.accounts: tuple[Any, ...] = ()  # that a limiter counts it in
        self.ends_with: Error | None = None  # why somebody ends it
        self.ended_as = ""  # the sentence with which it was ended from outside
        self.work: Any = None  # what a thread does for it
        self.waits: Any = None  # what else it waits for
        self.progress: Any = None  # of long work
        self.waited_s = 0.0  # for the peer to read
        self.identity: Any = None  # of the caller, and what it may do: as the gate has them
        self.scope: Any = None
        self.before: Callable[[], None] | None = None  # has to run before its method, in a thread

    @property
    def caller(self) -> str:
        """Who takes turns with others: the caller's name, else its connection."""
        return str(self.stream.who) or self.stream.connection.peer

    @property
    def bytes(self) -> int:
        """Bytes of its messages so far, in both directions."""
        return self.stream.got + self.stream.sent


_ids = count(random.SystemRandom().randrange(1, 1000) * 1_000_000)  # unlikely the same after a restart

running: ContextVar[Call | None] = ContextVar("everlog_call", default=None)  # the call of this task


class Gate(Protocol):
    """Decides about calls, in the thread of the event loop. Its methods raise Aborted, or an Error."""

    def identify(self, call: Call, path: str) -> None:
        """Authenticate the caller by the headers."""

    def admit(self, call: Call, path: str, request: Any) -> None:
        """Check that the caller may make this request, the first of its stream."""

    def refusal(self, call: Call, error: Exception) -> Exception:
        """Return the error that the caller receives for an error of the method."""

    def ended(self, call: Call) -> None: ...


class Limiter(Protocol):
    """Counts what callers have, in the thread of the event loop. Its methods return quickly."""

    def arrived(self, call: Call) -> None:
        """Count a call, before its caller is known. Raises LimitError."""

    def identified(self, call: Call) -> None:
        """Count the call of a known caller. Raises LimitError."""

    def admitted(self, call: Call) -> None:
        """Count a call that the gate has admitted, by what its caller has there. Raises LimitError."""

    def check_rows(self, call: Call) -> None:
        """Raise LimitError for a call that has more rows than it may."""

    def pause_s(self, call: Call) -> float:
        """Return how long to wait before more is received for a call."""

    def ended(self, call: Call) -> None: ...


class Observer(Protocol):
    """Sees the calls of a server, in the thread of the event loop. Its methods return quickly."""

    def began(self, call: Call) -> None: ...

    def answered(self, call: Call, answer: Message) -> None: ...

    def ended(self, call: Call, code: grpc.StatusCode, text: str) -> None: ...


class Context:
    """The call as a servicer's method sees it."""

    def __init__(self, stream: Stream, serialize: Callable[[Any], bytes]) -> None:
        self._stream = stream
        self._serialize = serialize  # of the call: it counts what is sent

    def header(self, name: str) -> str | None:
        """Return a value of the request's metadata."""
        return self._stream.headers.get(name)

    @property
    def who(self) -> str:
        """The name of the call's token; empty if it has none."""
        return self._stream.who

    @property
    def peer(self) -> str:
        """The caller's address, HOST:PORT."""
        return self._stream.connection.peer

    @property
    def identity(self) -> Any:
        """The caller, as the server's gate knows it."""
        return self._stream.call.identity

    @property
    def scope(self) -> Any:
        """What the caller may do and see in the database of the request; None without a gate."""
        return self._stream.call.scope

    async def write(self, answer: Any) -> None:
        """Send one message of a response stream."""
        await _writable(self._stream)
        self._stream.send(self._serialize(answer))

    async def taken(self, seconds: float | None) -> bool:
        """Wait until the peer has taken what was sent; return False after `seconds`; None: wait without
        limit."""
        try:
            async with asyncio.timeout(seconds):
                await _writable(self._stream)
        except TimeoutError:
            return False
        return True

    async def abort(self, code: grpc.StatusCode, details: str = "") -> None:
        raise Aborted(code, details)


class Calls:
    """The methods of a server by path, and their dispatch."""

    def __init__(
        self, observer: Observer | None = None, gate: Gate | None = None, limiter: Limiter | None = None
    ) -> None:
        """Without a `gate`, every caller may make every call."""
        self._observer = observer
        self._gate = gate
        self._limiter = limiter
        self._methods: dict[str, Any] = {}
        self._raw: dict[str, tuple[Raw, Callable[[bytes], Any]]] = {}
        self._names: dict[str, str] = {}  # of methods, by path, as Store/Get

    # called by generated code to register a servicer

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        for name, handler in handlers.items():
            self._methods[f"/{service}/{name}"] = handler
            self._names[f"/{service}/{name}"] = f"{service.removeprefix(PACKAGE)}/{name}"

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Do nothing: generated code also registers the same methods in an older form."""

    def add_raw(self, path: str, method: Raw, parse: Callable[[bytes], Any]) -> None:
        """Add a method with one request, which sends its responses itself, as bytes."""
        self._raw[path] = method, _parser(parse, path)
        self._names[path] = path.removeprefix("/").removeprefix(PACKAGE)

    def answer(self, stream: Stream) -> None:
        """Start the call of a new stream."""
        if not _is_grpc(stream):
            return
        path = stream.headers.get(":path", "")
        call = stream.call = Call(stream, self._names.get(path, "unknown"))
        if self._observer is not None:
            self._observer.began(call)
        try:
            if self._limiter is not None:
                self._limiter.arrived(call)
            self._check(stream)
            if self._limiter is not None:
                self._limiter.identified(call)
            seconds = _timeout(stream.headers.get("grpc-timeout"))
        except Aborted as refusal:
            self._refuse(call, refusal.code, str(refusal))
            return
        except LimitError as refusal:
            self._refuse(call, *errors.of(refusal))
            return
        if self._observer is not None or self._limiter is not None:
            stream.unstarted = partial(self._ended, call, grpc.StatusCode.CANCELLED, LEFT)
        stream.task = asyncio.get_running_loop().create_task(self._run(stream, seconds))

    def _refuse(
        self, call: Call, code: grpc.StatusCode, text: str, metadata: tuple[tuple[str, bytes], ...] = ()
    ) -> None:
        call.stream.finish(_status(code, text, metadata))
        self._ended(call, code, text)
        call.stream.call = None

    def _ended(self, call: Call, code: grpc.StatusCode, text: str) -> None:
        if self._limiter is not None:
            self._limiter.ended(call)
        if self._gate is not None:
            self._gate.ended(call)
        if self._observer is not None:
            self._observer.ended(call, code, text)

    def _check(self, stream: Stream) -> None:
        headers = stream.headers
        path = headers.get(":path", "")
        if self._gate is not None:
            self._gate.identify(stream.call, path)
        if path.startswith(OPEN_METHODS):
            stream.message_bytes_max = OPEN_BYTES_MAX
        encoding = headers.get("grpc-encoding", "identity")
        if encoding not in ENCODINGS:
            raise Aborted(
                grpc.StatusCode.UNIMPLEMENTED,
                f"expected a grpc-encoding of {', '.join(ENCODINGS)}, found {encoding}",
            )
        if path not in self._methods and path not in self._raw:
            raise Aborted(grpc.StatusCode.UNIMPLEMENTED, f"there is no method {path}")

    async def _run(self, stream: Stream, seconds: float | None) -> None:
        call: Call = stream.call
        stream.unstarted = None
        code, text = grpc.StatusCode.CANCELLED, LEFT
        metadata: tuple[tuple[str, bytes], ...] = ()
        running.set(call)
        try:
            async with asyncio.timeout(seconds):
                if traces.tracing is None:
                    await self._call(stream)
                else:
                    await self._traced(traces.tracing, stream)
            code, text = grpc.StatusCode.OK, ""
        except Aborted as error:
            code, text = error.code, str(error)
        except RefusedError as refusal:
            stream.refuse(refusal.code, str(refusal))
            code, text = _REFUSALS[refusal.code], str(refusal)
        except TimeoutError:
            code, text = grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline of the call has passed"
        except asyncio.CancelledError:
            if call.ends_with is not None:
                text = str(call.ends_with)
            # Not raised further: a task that keeps it is garbage in a cycle, as is a call of its stream.
        except Exception as error:  # noqa: BLE001  it is reported to the caller
            told = error if self._gate is None else self._gate.refusal(stream.call, error)
            code, text, metadata = errors.of(told)
        finally:
            self._ended(call, code, text)
            stream.call = None
            if call.work is None:  # otherwise it is listed until its work has ended
                call.request = None  # asyncio keeps the timer of its deadline, with its context
            running.set(None)
        stream.finish(OK if code is grpc.StatusCode.OK else _status(code, text, metadata))

    async def _traced(self, tracing: traces.Tracing, stream: Stream) -> None:
        call = stream.call
        with tracing.server(call.method, stream.headers, str(stream.who)) as span:
            try:
                await self._call(stream)
            finally:
                span.set_attribute("everlog.database", getattr(call.request, "database", "")[:NAME_MAX])

    async def _call(self, stream: Stream) -> None:
        path = stream.headers[":path"]
        raw = self._raw.get(path)
        if raw is not None:
            run, parse = raw
            request = parse(await stream.only())
            self._admit(stream.call, path, request)
            await run(stream, request)
            return
        method = self._methods[path]
        parse, serialize = _parser(method.request_deserializer, path), self._counted(stream.call, method)
        context = Context(stream, serialize)
        if method.request_streaming:
            request = self._parsed(stream, parse, path)
        else:
            request = parse(await stream.only())
            self._admit(stream.call, path, request)
        if not method.response_streaming:
            run = method.stream_unary if method.request_streaming else method.unary_unary
            answer = serialize(await run(request, context))
            await _writable(stream)
            stream.send(answer)
            return
        answers = (method.stream_stream if method.request_streaming else method.unary_stream)(
            request, context
        )
        if not hasattr(answers, "__aiter__"):  # the method writes its responses itself
            await answers
            return
        try:
            async for answer in answers:
                stream.send(serialize(answer))
                await _writable(stream)
        finally:
            await answers.aclose()

    def _admit(self, call: Call, path: str, request: Any) -> None:
        call.request = request
        if self._gate is not None:
            self._gate.admit(call, path, request)
        if self._limiter is not None:
            self._limiter.admitted(call)

    async def _parsed(self, stream: Stream, parse: Callable[[bytes], Any], path: str) -> AsyncIterator[Any]:
        """Yield the messages of a request stream. The first says what the call is about."""
        first = True
        async for message in stream:
            if self._limiter is not None and (pause_s := self._limiter.pause_s(stream.call)):
                await asyncio.sleep(pause_s)
            request = parse(message)
            if first:
                self._admit(stream.call, path, request)
                first = False
            yield request

    def _counted(self, call: Call, method: Any) -> Callable[[Any], bytes]:
        """Return the function that serializes the call's responses, and shows them to the observer."""
        serialize: Callable[[Any], bytes] = method.response_serializer
        observer, limiter = self._observer, self._limiter
        if observer is None:
            return serialize

        def counted(answer: Any) -> bytes:
            observer.answered(call, answer)
            if limiter is not None and call.rows > call.rows_max:
                limiter.check_rows(call)
            return serialize(answer)

        return counted


async def _writable(stream: Stream) -> None:
    """Wait until nothing of a stream is pending."""
    if stream.blocked:
        call, began = stream.call, time.perf_counter()
        try:
            await stream.writable()
        finally:
            call.waited_s += time.perf_counter() - began


def _is_grpc(stream: Stream) -> bool:
    """Return whether a request is gRPC; answer it if it is not."""
    method, kind = stream.headers.get(":method"), stream.headers.get("content-type", "")
    if method != "POST":
        stream.refuse_http("405", INVALID_ARGUMENT, f"expected gRPC, which is POST, found {method}")
        return False
    if kind == CONTENT_TYPE or kind.startswith((f"{CONTENT_TYPE}+", f"{CONTENT_TYPE};")):
        return True
    text = f"expected content-type {CONTENT_TYPE}, found {kind or 'none'}"
    if kind.startswith(f"{CONTENT_TYPE}-web"):
        text += "; this server has no grpc-web: call it through a proxy that translates, such as Envoy"
    stream.refuse_http("415", INVALID_ARGUMENT, text)
    return False


def _parser(deserialize: Callable[[bytes], Any], path: str) -> Callable[[bytes], Any]:
    def parse(message: bytes) -> Any:
        try:
            request = deserialize(message)
        except DecodeError as error:
            raise Aborted(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"expected a request of {path}, found invalid bytes: {error}",
            ) from None
        check(request)
        return request

    return parse


def end(call: Call, code: grpc.StatusCode, error: Exception | str) -> None:
    """End a running call with a status, from outside of it; an Error of everlog is sent with its facts."""
    stream, metadata = call.stream, tuple[tuple[str, bytes], ...]()
    call.ended_as = str(error)
    if isinstance(error, Error):
        call.ends_with = error
        metadata = errors.trailing(error)
    stream.finish(_status(code, str(error), metadata))
    if stream.task is not None:
        stream.task.cancel()


def _timeout(text: str | None) -> float | None:
    """Return a `grpc-timeout` in seconds."""
    if text is None:
        return None
    if not _TIMEOUT.fullmatch(text):
        found = text if len(text) <= 20 else f"{text[:20]}…"
        raise Aborted(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"expected a grpc-timeout of at most 8 digits and a unit, such as 500m, found {found!r}",
        )
    return int(text[:-1]) * _UNITS_S[text[-1]]


def _status(code: grpc.StatusCode, text: str, metadata: tuple[tuple[str, bytes], ...] = ()) -> bytes:
    number: int = code.value[0]
    return header_block([("grpc-status", str(number)), ("grpc-message", escaped(text)), *metadata])


class _Fields(NamedTuple):
    """The fields of a message type that can contain an enum."""

    enums: list[tuple[FieldDescriptor, bool, frozenset[int]]]  # repeated?, the known numbers
    messages: list[tuple[FieldDescriptor, bool]]


_known: dict[str, _Fields] = {}


def check(message: Message) -> None:
    """Raise RowError if an enum in the message has an unknown number. Read-only."""
    descriptor: Any = message.DESCRIPTOR
    fields = _fields(descriptor)
    for field, repeated, numbers in fields.enums:
        value: Any = getattr(message, field.name)
        for number in value if repeated else (value,):
            if number not in numbers:
                raise _unknown(field, number)
    for field, repeated in fields.messages:
        if repeated:
            for inner in getattr(message, field.name):
                check(inner)
        elif message.HasField(field.name):
            check(getattr(message, field.name))


def _fields(descriptor: Descriptor) -> _Fields:
    found = _known.get(descriptor.full_name)
    if found is None:
        enums, messages = [], []
        for field in descriptor.fields:
            if field.enum_type is not None:
                enums.append((field, field.is_repeated, frozenset(field.enum_type.values_by_number)))
            elif field.message_type is not None and _has_enums(field.message_type, set()):
                messages.append((field, field.is_repeated))
        found = _known[descriptor.full_name] = _Fields(enums, messages)
    return found


def _has_enums(descriptor: Descriptor, seen: set[str]) -> bool:
    if descriptor.full_name in seen:
        return False
    seen.add(descriptor.full_name)
    return any(
        field.enum_type is not None
        or (field.message_type is not None and _has_enums(field.message_type, seen))
        for field in descriptor.fields
    )


def _unknown(field: Any, number: int) -> RowError:
    values = field.enum_type.values
    known = ", ".join(f"{value.name} ({value.number})" for value in values)
    where = f"{field.containing_type.name}.{field.name}"
    return RowError(
        f"expected {where} to be one of {known}, found {number}; the caller is newer than this server,"
        " or wrong",
        field=where,
        found=number,
    )
