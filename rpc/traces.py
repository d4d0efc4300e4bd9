"""Traces: spans of calls, commits and followers, by OpenTelemetry.

    client call ─ traceparent ─▶ server call ─▶ commit ─┬ wait    for its group
                                                 │      ├ group   validated and appended
                                                 │      ├ sync    the disk confirms it
                                                 │      └ project
                                                 ▼
                               correlation_id of the record ─ feed ─▶ follower apply, linked to the commit

A commit without a correlation id gets one: the `traceparent` (W3C Trace Context) of its span. So the log
leads from a row to its trace, and a follower's span is linked to the spans of the commits that it applies.

Off until `start` or `use`. Then `tracing` is set, which calls, commits and followers compare with None.

Invariants
  (1) spans have names, sizes, times and classes of errors: never keys or values of rows, nor messages;
  (2) an exporter that is slow or away delays nothing: spans wait in a bounded queue, and are dropped beyond.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor

from everlog.proto import log_pb2
from everlog.store import VERSION
from everlog.store.errors import OpenError
from everlog.store.tx.committer import PendingCommit
from everlog.store.tx.transaction import Transaction

HEADER = "traceparent"
LINKS_MAX = 128
FILE = "file:"

T = TypeVar("T")

# https://www.w3.org/TR/trace-context/#traceparent-header
_PARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


class Tracing:
    """Makes spans with the tracers of an OpenTelemetry provider."""

    def __init__(self, provider: Any) -> None:
        from opentelemetry import context, trace

        self._trace, self._context = trace, context
        self._provider = provider
        self._tracer = provider.get_tracer("everlog", VERSION)

    # calls

    @contextmanager
    def client(self, name: str, server: str) -> Iterator[None]:
        """The span of a client's call, for a block. The call's metadata carries it (`headers`)."""
        attributes = {"rpc.system": "grpc", "rpc.method": name, "server.address": server}
        with self._span(name, self._trace.SpanKind.CLIENT, attributes):
            yield

    def stream(self, name: str, server: str, start: Callable[[], T]) -> T:
        """Return the call of a client that `start` begins, a stream of responses. Its span ends with it."""
        attributes = {"rpc.system": "grpc", "rpc.method": name, "server.address": server}
        span = self._tracer.start_span(name, None, self._trace.SpanKind.CLIENT, attributes)
        token = self._context.attach(self._trace.set_span_in_context(span))
        try:
            call: Any = start()
        except BaseException as error:
            self._fail(span, error)
            span.end()
            raise
        finally:
            self._context.detach(token)
        if not call.add_callback(span.end):
            span.end()  # it has ended already
        return call  # type: ignore[no-any-return]

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata that carries the current span to a server."""
        parent = _traceparent(self._trace.get_current_span().get_span_context())
        return ((HEADER, parent),) if parent else ()

    @contextmanager
    def server(self, name: str, headers: Mapping[str, str], identity: str) -> Iterator[Any]:
        """The span of a server's call, for a block; its parent is the client's."""
        context = self._parent(headers.get(HEADER, ""))
        attributes = {"rpc.system": "grpc", "rpc.method": name, "everlog.identity": identity}
        with self._span(name, self._trace.SpanKind.SERVER, attributes, context) as span:
            yield span

    # commits

    def begin(self, transaction: Transaction) -> Any:
        """Begin the span of a commit, and give the commit a correlation id if it has none."""
        span = self._tracer.start_span("commit")
        parent = _traceparent(span.get_span_context())
        if parent and not transaction.metadata.correlation_id:
            transaction.metadata = transaction.metadata._replace(correlation_id=parent)
        return span

    def end(self, span: Any, pending: PendingCommit) -> None:
        """End the span of a commit, with its steps as children."""
        span.set_attribute("everlog.correlation_id", pending.transaction.metadata.correlation_id)
        if pending.error is not None:
            self._fail(span, pending.error)
        elif pending.result is not None:
            span.set_attribute("everlog.seq", pending.result.seq)
        if pending.steps is not None:
            span.set_attribute("everlog.group_size", pending.steps.size)
            context = self._trace.set_span_in_context(span)
            for name, start_ns, end_ns in pending.steps.spans(pending.called_ns):
                self._tracer.start_span(f"commit {name}", context, start_time=start_ns).end(end_ns)
        span.end()

    # followers

    @contextmanager
    def apply(self, sink: str, commits: Sequence[log_pb2.Commit]) -> Iterator[None]:
        """The span of a follower that gives commits to its sink, linked to their spans, for a block."""
        ids = list(dict.fromkeys(one.correlation_id for one in commits if one.correlation_id))[:LINKS_MAX]
        links = [self._trace.Link(found) for one in ids if (found := self._remote(one)) is not None]
        attributes: dict[str, Any] = {
            "everlog.sink": sink,
            "everlog.commits": len(commits),
            "everlog.seq": commits[-1].seq,
            "everlog.correlation_id": ids,
        }
        with self._span("follower apply", self._trace.SpanKind.CONSUMER, attributes, links=links):
            yield

    def stop(self) -> None:
        """Send what is queued."""
        stop = getattr(self._provider, "shutdown", None)
        if stop is not None:
            stop()

    @contextmanager
    def _span(
        self,
        name: str,
        kind: Any,
        attributes: Mapping[str, Any],
        context: Any = None,
        links: Sequence[Any] = (),
    ) -> Iterator[Any]:
        span = self._tracer.start_span(name, context, kind, attributes, links)
        token = self._context.attach(self._trace.set_span_in_context(span))
        try:
            yield span
        except BaseException as error:
            self._fail(span, error)
            raise
        finally:
            self._context.detach(token)
            span.end()

    def _fail(self, span: Any, error: BaseException) -> None:
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR))

    def _remote(self, parent: str) -> Any:
        """Return the span context in a `traceparent`; None for any other text."""
        found = _PARENT.fullmatch(parent)
        if found is None:
            return None
        trace_id, span_id, flags = (int(part, 16) for part in found.groups())
        return self._trace.SpanContext(trace_id, span_id, True, self._trace.TraceFlags(flags))

    def _parent(self, header: str) -> Any:
        remote = self._remote(header)
        empty = self._context.Context()
        if remote is None:
            return empty
        return self._trace.set_span_in_context(self._trace.NonRecordingSpan(remote), empty)


tracing: Tracing | None = None  # None: off


def use(provider: Any) -> Tracing:
    """Trace this process with an OpenTelemetry `TracerProvider`: calls to servers, followers, and servers and
    databases that are opened from now on. Raises OpenError without OpenTelemetry."""
    global tracing  # noqa: PLW0603  one for the process, as OpenTelemetry has it
    _check_installed()
    tracing = Tracing(provider)
    return tracing


def start(target: str, service: str = "everlog") -> Tracing:
    """Trace this process, and send the spans to `target`: the URL of a collector (OTLP over HTTP), as
    http://127.0.0.1:4318, or file:PATH, a file of JSON lines. They are sent until the process ends.

    Raises OpenError for another target, and without OpenTelemetry.
    """
    _check_installed()
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    names = {"service.version": VERSION}
    if "OTEL_SERVICE_NAME" not in os.environ:
        names["service.name"] = service
    provider = TracerProvider(resource=Resource.create(names))  # ends when the process does
    provider.add_span_processor(BatchSpanProcessor(_exporter(target)))
    return use(provider)


def stop() -> None:
    """End tracing, and send what is queued. Open databases keep their tracer until they are closed."""
    global tracing
    made, tracing = tracing, None
    if made is not None:
        made.stop()


def in_context(fn: Callable[[], T]) -> Callable[[], T]:
    """Return `fn` for another thread, where it has the current span if calls are traced."""
    if tracing is None:
        return fn
    context = copy_context()
    return lambda: context.run(fn)


def method_of(request: Any) -> str:
    """Return the method whose request this is, as Store/Get."""
    descriptor: Descriptor = request.DESCRIPTOR
    return _methods(descriptor.file).get(descriptor.full_name, descriptor.name)


@cache
def _methods(file: Any) -> dict[str, str]:
    return {
        method.input_type.full_name: f"{name}/{method.name}"
        for name, service in file.services_by_name.items()
        for method in service.methods
    }


def _traceparent(context: Any) -> str:
    """Return a span's `traceparent`; empty if nobody records it."""
    if not context.is_valid or not context.trace_flags.sampled:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def _exporter(target: str) -> Any:
    if target.startswith(FILE) and len(target) > len(FILE):
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        try:
            out = open(target.removeprefix(FILE), "a", encoding="utf-8", opener=_private)  # noqa: SIM115  until the end
        except OSError as error:
            raise OpenError(f"cannot write spans to {target}: {error.strerror}") from None
        return ConsoleSpanExporter(out=out, formatter=lambda span: f"{span.to_json(indent=None)}\n")
    if not target.startswith(("http://", "https://")):
        raise OpenError(
            f"expected where to send traces as http://HOST:4318, https://… or file:PATH, found {target!r}"
        )
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    base = target.rstrip("/")
    return OTLPSpanExporter(endpoint=base if base.endswith("/v1/traces") else f"{base}/v1/traces")


def _private(path: str, flags: int) -> int:
    """Opener for `open`: spans have names of callers and tables. A FIFO without a reader is refused."""
    return os.open(path, flags | os.O_NONBLOCK, 0o600)


def _check_installed() -> None:
    try:
        import opentelemetry.sdk.trace  # noqa: F401
    except ModuleNotFoundError:
        raise OpenError(
            "opentelemetry is needed for traces; install it with `pip install 'everlog[otel]'`"
        ) from None
