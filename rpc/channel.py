"""Channel: one connection to a server, and calls that outlive a moment without it.

    call ─▶ answer
         ─▶ UNAVAILABLE ─▶ wait 50 ms, 100 ms … 2 s ─▶ the same call again ─▶ …
                           for `retry_s` seconds, then UnavailableError

Every call may be sent twice: reads because they change nothing, commits because they carry an id
under which the server knows them.

Invariants
  (1) errors leave this module as everlog's, with the URL and without its secrets.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import grpc

from everlog.rpc import security, status
from everlog.rpc.address import Address
from everlog.store.errors import ClosedError, Error

CALL_S = 30.0
COMMIT_S = 60.0
CONNECT_S = 5.0
RETRY_S = 30.0
MESSAGE_BYTES_MAX = 64 << 20

OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own wait between connections; what is to be called again is decided here.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 250),
    ("grpc.enable_retries", 0),
    # Room for whole batches of the feed, in whole frames.
    ("grpc.http2.lookahead_bytes", 4 << 20),
    ("grpc.http2.max_frame_size", 1 << 20),
]

Q_contra = TypeVar("Q_contra", contravariant=True)
A_co = TypeVar("A_co", covariant=True)
A = TypeVar("A")
Q = TypeVar("Q")


class Unary(Protocol[Q_contra, A_co]):
    """A method of a stub that answers once."""

    def __call__(self, request: Q_contra, /, *, timeout: float, metadata: Any) -> A_co: ...


class Channel:
    """A connection to the server at `address`. Safe to use from many threads."""

    def __init__(self, address: Address, *, retry_s: float = RETRY_S) -> None:
        self.address = address
        self.url = str(address)
        self.retry_s = retry_s
        self.metadata = security.bearer(address.token)
        self._closed = threading.Event()
        if address.secure:
            credentials = security.channel_credentials(address)
            self.grpc = grpc.secure_channel(address.target, credentials, options=OPTIONS)
        else:
            self.grpc = grpc.insecure_channel(address.target, options=OPTIONS)

    def call(
        self,
        method: Unary[Q, A],
        request: Q,
        *,
        timeout_s: float = CALL_S,
        retry_s: float | None = None,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> A:
        """One answer. Raises what the server says, and UnavailableError."""
        self.check_open()
        patience = self.patience(retry_s)
        while True:
            try:
                return method(request, timeout=timeout_s, metadata=self.metadata + metadata)
            except grpc.RpcError as error:
                patience.after(status.translate(error, self.url))
            except ValueError:  # gRPC's word for a channel that was closed meanwhile
                self.check_open()
                raise

    def stream(self, start: Callable[[], Iterator[A]]) -> Iterator[A]:
        """The answers of one call, which is made again only as long as none of them has come."""
        self.check_open()
        patience = self.patience()
        while True:
            call, begun = self.started(start), False
            try:
                for answer in call:
                    begun = True
                    yield answer
                return
            except grpc.RpcError as error:
                translated = status.translate(error, self.url)
                if begun:
                    self.check_open()
                    raise translated from None
                patience.after(translated)
            finally:
                call.cancel()

    def started(self, start: Callable[[], Any]) -> Any:
        """The call that `start` makes. Raises ClosedError if the channel was closed meanwhile."""
        try:
            return start()
        except ValueError:  # gRPC's word for it
            self.check_open()
            raise

    def patience(self, retry_s: float | None = None) -> Patience:
        """What decides whether a call that failed is made again."""
        return Patience(self.retry_s if retry_s is None else retry_s, self._closed, self.url)

    def check_open(self) -> None:
        if self._closed.is_set():
            raise ClosedError(f"{self.url} is closed; open it again")

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def close(self) -> None:
        self._closed.set()
        self.grpc.close()


class Patience:
    """Waits between attempts, a little longer each time, as long as there is time left."""

    def __init__(self, retry_s: float, closed: threading.Event, url: str) -> None:
        self._retry_s = retry_s
        self._closed = closed
        self._url = url
        self._until: float | None = None
        self._wait_s = 0.05

    def after(self, error: Error) -> None:
        """Returns when it is time for another attempt, or raises the error."""
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._retry_s
        left_s = self._until - now
        again = status.is_transient(error) and left_s > 0
        if again:  # the last attempt is made when all the time is over: gRPC connects in its own rhythm
            spread = random.uniform(0.5, 1.0)  # noqa: S311  so that not all come back at once
            self._closed.wait(min(left_s, self._wait_s * spread))
        if self._closed.is_set():
            raise ClosedError(f"{self._url} was closed while it waited for its server") from None
        if not again:
            raise error from None
        self._wait_s = min(2.0, 2 * self._wait_s)

    def succeeded(self) -> None:
        """Something came: the next failure is a first one."""
        self._until, self._wait_s = None, 0.05
