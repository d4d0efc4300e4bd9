"""Channel: one connection to a server, calls that are repeated while it is unavailable, and deadlines.

    call ─▶ response
         ─▶ UNAVAILABLE ─▶ wait 50 ms, 100 ms … 2 s ─▶ the same call again ─▶ …
                           for `retry_s` seconds, then UnavailableError
         ─▶ LimitError  ─▶ wait as long as the server says ─▶ the same call again ─▶ …
                           for `retry_s` seconds, then LimitError; at once if that would be too late

After a server has been unavailable for `retry_s`, later calls do not wait that long again: each gets the half
second that gRPC needs to notice that the server is back.

Every call may be sent twice: reads change nothing, and commits carry an id by which the server recognises
them.

A deadline limits all calls of a block, to any server. A context variable carries it, so it applies to this
thread or task only. Of nested deadlines the earlier one applies. Embedded databases ignore it.

    with everlog.deadline(2.0):
        db.get(AIRPORTS, "JFK")         # a row, or UnavailableError, within two seconds

Invariants
  (1) errors leave this module as everlog's, with the URL and without its secrets.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

import grpc

from everlog.rpc import errors, security, traces
from everlog.rpc.address import Address
from everlog.store.errors import ClosedError, Error, LimitError
from everlog.store.process import close_at_end, keep_in_child, notify_in_child
from everlog.store.rocks.errors import check_descriptors
from everlog.store.schema import arguments

CALL_S = 30.0
COMMIT_S = 60.0
CONNECT_S = 5.0  # for an unavailable server
ANSWER_S = 10.0  # in all, for the first response of one that is connected
RETRY_S = 30.0
RECONNECT_S = 0.5  # more than gRPC's longest wait between connections
MESSAGE_BYTES_MAX = 64 << 20

OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own wait between connections; this module decides which calls are repeated.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 250),
    # Despite its name, how long an attempt to connect may take, with the handshake of TLS.
    ("grpc.min_reconnect_backoff_ms", round(ANSWER_S * 1000)),
    ("grpc.enable_retries", 0),
    # Room for whole batches of the feed, in whole frames.
    ("grpc.http2.lookahead_bytes", 4 << 20),
    ("grpc.http2.max_frame_size", 1 << 20),
]

Q_contra = TypeVar("Q_contra", contravariant=True)
A_co = TypeVar("A_co", covariant=True)
A = TypeVar("A")
Q = TypeVar("Q")

_deadline: ContextVar[float | None] = ContextVar("everlog_deadline", default=None)


class Unary(Protocol[Q_contra, A_co]):
    """A method of a stub with a single response."""

    def __call__(self, request: Q_contra, /, *, timeout: float, metadata: Any) -> A_co: ...


class Channel:
    """A connection to the server at `address`. Thread-safe."""

    def __init__(self, address: Address, *, retry_s: float = RETRY_S, timeout_s: float | None = None) -> None:
        """`timeout_s`, in seconds, limits each short call, including its attempts and waits.

        Raises DiskError if no file descriptors are left.
        """
        self.address = address
        self.url = str(address)
        self.retry_s = retry_s if timeout_s is None else min(retry_s, timeout_s)
        self._timeout_s = timeout_s
        self._outage = Outage()
        self._metadata = security.bearer(address.token)
        self._closed = threading.Event()
        self._forked = False
        keep_in_child(self)
        notify_in_child(self)
        check_descriptors(f"connecting to {self.url}")
        if address.secure:
            credentials = security.channel_credentials(address)
            named = [("grpc.ssl_target_name_override", address.name)] if address.name else []
            self.grpc = grpc.secure_channel(address.target, credentials, options=OPTIONS + named)
        else:
            self.grpc = grpc.insecure_channel(address.target, options=OPTIONS)
        close_at_end(self)

    def use_token(self, token: str) -> None:
        """Send another token with calls that begin from now on."""
        self._metadata = security.bearer(token)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of a call that begins now: the token, and the current span if calls are traced."""
        return self._metadata if traces.tracing is None else self._metadata + traces.tracing.headers()

    def call(
        self,
        method: Unary[Q, A],
        request: Q,
        *,
        timeout_s: float = CALL_S,
        retry_s: float | None = None,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> A:
        """Call a method and return its response. Raises the server's error, and UnavailableError."""
        self.check_open()
        if traces.tracing is None:
            return self._call(method, request, timeout_s, retry_s, metadata)
        with traces.tracing.client(traces.method_of(request), self.address.target):
            return self._call(method, request, timeout_s, retry_s, metadata)

    def _call(
        self,
        method: Unary[Q, A],
        request: Q,
        timeout_s: float,
        retry_s: float | None,
        metadata: tuple[tuple[str, str], ...],
    ) -> A:
        until = deadline_at()
        if self._timeout_s is not None and timeout_s in (CALL_S, COMMIT_S):  # other calls are long
            ours = time.monotonic() + self._timeout_s
            until = ours if until is None else min(until, ours)
        patience = self.patience(retry_s, until)
        while True:
            if until is not None:
                timeout_s = min(timeout_s, max(0.0, until - time.monotonic()))
            try:
                answer = method(request, timeout=timeout_s, metadata=self.metadata + metadata)
                patience.succeeded()
                return answer
            except grpc.RpcError as error:
                patience.after(errors.translate(error, self.url))
            except ValueError:  # raised by gRPC for a channel that was closed meanwhile
                self.check_open()
                raise

    def stream(
        self,
        method: Callable[..., Iterator[A]],
        request: Any,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> Iterator[A]:
        """Yield the responses of one call, which is repeated only until its first response."""
        self.check_open()

        def start() -> Iterator[A]:
            if traces.tracing is None:
                return method(request, metadata=self._metadata + metadata)
            name = traces.method_of(request)
            return traces.tracing.stream(
                name, self.address.target, lambda: method(request, metadata=self.metadata + metadata)
            )

        patience = self.patience()
        while True:
            call, begun = self.started(start), False
            try:
                for answer in call:
                    begun = True
                    self._outage.ended()
                    yield answer
                return
            except grpc.RpcError as error:
                translated = errors.translate(error, self.url)
                if begun:
                    self.check_open()
                    raise translated from None
                patience.after(translated)
            finally:
                call.cancel()

    def started(self, start: Callable[[], Any]) -> Any:
        """Return the call that `start` makes; it is cancelled at the deadline of the block.
        Raises ClosedError if the channel was closed meanwhile."""
        try:
            call = start()
        except ValueError:  # raised by gRPC for a closed channel
            self.check_open()
            raise
        if (until := deadline_at()) is not None:
            timer = threading.Timer(max(0.0, until - time.monotonic()), call.cancel)
            timer.daemon = True
            timer.start()
            call.add_callback(timer.cancel)
        return call

    def patience(self, retry_s: float | None = None, until: float | None = None) -> Patience:
        """Return the rule for repeating a failed call; never after `until`, a monotonic time."""
        retry_s = self.retry_s if retry_s is None else retry_s
        until = deadline_at() if until is None else until
        return Patience(retry_s, self._closed, self.url, self._outage, until)

    def forked(self) -> None:
        """Close the channel in a forked child, which has the parent's connection and none of gRPC's
        threads."""
        self._forked = True

    def check_open(self) -> None:
        if self._forked:
            raise ClosedError(
                f"{self.url} was opened before this process was forked; open it in the child, after"
            )
        if self._closed.is_set():
            raise ClosedError(f"{self.url} is closed; open it again")

    @property
    def closed(self) -> bool:
        return self._forked or self._closed.is_set()

    def close(self) -> None:
        if self._forked:
            return
        self._closed.set()
        self.grpc.close()


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Limit all calls of the block to `seconds` in total. Raises Error unless `seconds` is positive.

    A call without a response by then raises UnavailableError; the server may still complete it.
    """
    arguments.seconds(seconds, "a deadline", zero=False, error=Error)
    end, before = time.monotonic() + seconds, _deadline.get()
    token = _deadline.set(end if before is None else min(end, before))
    try:
        yield
    finally:
        _deadline.reset(token)


def deadline_at() -> float | None:
    """Return the deadline of the running block, on the monotonic clock; None if there is none."""
    return _deadline.get()


class Outage:
    """How long a server has not responded, shared by all calls of a channel."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._last = 0.0
        self.has_ended = False  # whether the server has ever responded

    def failed(self, now: float, retry_s: float) -> float:
        """Note a failed attempt; return when the failures began. A pause of `retry_s` starts a new series."""
        if self._since is None or now - self._last > retry_s:
            self._since = now
        self._last = now
        return self._since

    def ended(self) -> None:
        """Note a response of the server."""
        self._since, self.has_ended = None, True


class Patience:
    """Waits between attempts, each time a little longer, until the time is used up."""

    def __init__(
        self, retry_s: float, closed: threading.Event, url: str, outage: Outage, until: float | None
    ) -> None:
        self._retry_s = retry_s
        self._closed = closed
        self._url = url
        self._outage = outage
        self._until = until
        self._wait_s = 0.05
        self._began: float | None = None

    def after(self, error: Error) -> None:
        """Return when another attempt is due, or raise the error."""
        if isinstance(error, LimitError):
            self._after_limit(error)
            return
        # Both ends must agree on TLS: if they never did, another attempt fails like the first.
        disagree = "tls" in error.facts and not self._outage.has_ended
        left_s = self._left_s() if errors.is_transient(error) and not disagree else 0.0
        again = left_s > 0
        if again:  # the last attempt is at the end of the time, because gRPC connects at its own intervals
            spread = random.uniform(0.5, 1.0)  # noqa: S311  so that clients do not all reconnect at once
            self._closed.wait(min(left_s, self._wait_s * spread))
        if self._closed.is_set():
            raise ClosedError(f"{self._url} was closed while waiting for its server") from None
        if not again:
            raise error from None
        self._wait_s = min(2.0, 2 * self._wait_s)

    def _after_limit(self, error: LimitError) -> None:
        """As `after`, for a server that says when to try again."""
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        until = self._began + self._retry_s
        until = until if self._until is None else min(until, self._until)
        if not (retry_s := float(error.facts.get("retry_s", 1.0))):
            raise error from None
        wait_s = retry_s * random.uniform(1.0, 1.25)  # noqa: S311  as in `after`
        if now + wait_s >= until:
            raise error from None
        self._closed.wait(wait_s)
        if self._closed.is_set():
            raise ClosedError(f"{self._url} was closed while waiting for its server") from None

    def _left_s(self) -> float:
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        # Its own failures are one series, however long each attempt takes.
        until = min(self._outage.failed(now, self._retry_s), self._began) + self._retry_s
        until = max(until, self._began + min(self._retry_s, RECONNECT_S))
        return (until if self._until is None else min(until, self._until)) - now

    def succeeded(self) -> None:
        """Note a response: the next failure begins a new series."""
        self._outage.ended()
        self._wait_s, self._began = 0.05, None
