"""Endpoint: what a server answers over HTTP, for Prometheus, load balancers and Kubernetes.

    GET /metrics       the metrics, in the text format of Prometheus
    GET /healthz       200 while the event loop runs, else 503
    GET /readyz        200 while every database takes calls, else 503 and why, without names
    GET /readyz/NAME   the same for one database, with the reason

Invariants
  (1) callers that may not read the metrics receive no name of a database;
  (2) a fixed number of requests is answered at once, and each has TIMEOUT_S.
"""

from __future__ import annotations

import contextlib
import hmac
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6, MSG_PEEK, SHUT_WR
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote, urlsplit

from everlog.rpc.address import host_of, host_port, is_loopback, listening
from everlog.rpc.http2.limits import LINGER_BYTES, LINGER_S
from everlog.rpc.http2.listener import HANDSHAKE
from everlog.rpc.server.health import Readiness
from everlog.store.errors import OpenError
from everlog.store.schema.arguments import time_text
from everlog.store.upkeep.status import Health

if TYPE_CHECKING:
    from everlog.rpc.server.metrics import Metrics

CACHED_S = 1.0
REQUESTS_MAX = 16  # answered at once
TIMEOUT_S = 10.0
TEXT = "text/plain; charset=utf-8"
BUSY = (
    b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    b"too many requests are being answered; try again later\n"
)


class Endpoint:
    """Serves health, and metrics if it has them, over HTTP at `listen` (HOST:PORT; port 0 is any free port),
    while it is entered.

    `measured`: it has metrics, from `measure` on. Requests for them, and for single databases, must have the
    `token`, as `Authorization: Bearer TOKEN`; empty: none is needed. `public`: other machines may read them
    without a token.

    Raises OpenError for an address that is not available; with metrics also without prometheus_client, and
    for an address that other machines can reach, unless there is a token or it is `public`.
    """

    def __init__(
        self,
        listen: str,
        readiness: Readiness,
        metrics: Metrics | None = None,
        *,
        measured: bool = False,
        token: str = "",
        public: bool = False,
    ) -> None:
        host, port = listening(listen)
        local, self._measured = is_loopback(host), measured or metrics is not None
        if self._measured and not (local or token or public):
            raise OpenError(
                f"metrics on {host} could be read from other machines without authentication, and they name"
                " tables, consumers and their sizes. Require a token (--metrics-token-file FILE), allow it"
                " (--metrics-public), or listen on 127.0.0.1",
                host=host,
            )
        self._readiness = readiness
        self._registry: Any = _registry() if self._measured else None
        self._expected = f"Bearer {token}".encode() if token else b""
        self._only_local = local and not token and not public
        self._names_shown = bool(local or token or public)
        self.on_limit: Callable[[str], None] = lambda _: None  # called for each connection that is refused
        self._lock, self._cached = threading.Lock(), dict[str, tuple[float, bytes, str]]()
        self._ready = metrics is not None
        if metrics is not None:
            self.measure(metrics)
        try:
            self._http = _Http(host, port, self)
        except OSError as error:
            what, option = ("metrics", "--metrics") if self._measured else ("health", "--health")
            raise OpenError(
                f"cannot serve {what} on {listen}: {error.strerror or error}; choose another {option}",
                address=listen,
            ) from None
        self.address = host_port(host, self._http.server_address[1])
        self.url = f"http://{self.address}/{'metrics' if self._measured else 'readyz'}"
        self._thread = threading.Thread(target=self._http.serve_forever, name="everlog-http", daemon=True)

    def measure(self, metrics: Metrics) -> None:
        """Serve these metrics from now on."""
        self._registry.register(metrics)
        self._ready = True

    def answer(self, path: str, host: str, authorization: str, accept: str) -> tuple[HTTPStatus, bytes, str]:
        """Return status, body and content type of the response to a GET."""
        if path == "/healthz":
            alive = self._readiness.alive
            return _said("alive") if alive else _said("the event loop does not answer", failed=True)
        if path == "/readyz":
            return _told(self._readiness.whole)
        if path.startswith("/readyz/") and self._names_shown:
            return self._refusal(host, authorization) or self._one(unquote(path.removeprefix("/readyz/")))
        if path != "/metrics" or not self._measured:
            paths = "/metrics, /healthz or /readyz" if self._measured else "/healthz or /readyz"
            return HTTPStatus.NOT_FOUND, f"expected {paths}\n".encode(), TEXT
        return self._refusal(host, authorization) or self._metrics(accept)

    def _refusal(self, host: str, authorization: str) -> tuple[HTTPStatus, bytes, str] | None:
        if self._only_local and not is_loopback(host_of(host)):
            return HTTPStatus.MISDIRECTED_REQUEST, b"expected a Host header of this machine\n", TEXT
        if self._expected and not hmac.compare_digest(authorization.encode(), self._expected):
            return HTTPStatus.UNAUTHORIZED, b"expected the token of the metrics\n", TEXT
        return None

    def _one(self, name: str) -> tuple[HTTPStatus, bytes, str]:
        try:
            return _told(self._readiness.of(name))
        except KeyError:
            return HTTPStatus.NOT_FOUND, b"expected the name of a database of this server\n", TEXT

    def _metrics(self, accept: str) -> tuple[HTTPStatus, bytes, str]:
        if not self._ready:
            return _told(self._readiness.whole)
        return HTTPStatus.OK, *self.scrape(accept)

    def scrape(self, accept: str = "") -> tuple[bytes, str]:
        """Return the metrics, and their content type."""
        from prometheus_client.exposition import choose_encoder

        encode, kind = choose_encoder(accept)
        with self._lock:
            at, body, _ = self._cached.get(kind, (0.0, b"", ""))
            if not body or time.monotonic() - at > CACHED_S:
                body = encode(self._registry)
                self._cached = {kind: (time.monotonic(), body, kind)}
            return body, kind

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def _registry() -> Any:
    """Return a registry with the metrics of the process. Raises OpenError without prometheus_client."""
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector
    except ModuleNotFoundError:
        raise OpenError(
            "prometheus_client is needed for metrics; install it with `pip install 'everlog[metrics]'`"
        ) from None
    found: Any = CollectorRegistry()
    ProcessCollector(registry=found)
    return found


def _said(text: str, *, failed: bool = False) -> tuple[HTTPStatus, bytes, str]:
    status = HTTPStatus.SERVICE_UNAVAILABLE if failed else HTTPStatus.OK
    return status, f"{text}\n".encode(), TEXT


def _told(found: Health) -> tuple[HTTPStatus, bytes, str]:
    """Return the response about the health of a database, or of the whole."""
    since = f" since {time_text(found.since_ns)}" if found.since_ns else ""
    reason = f": {found.reason}" if found.reason else ""
    return _said(
        f"{'' if found.ready else 'not ready: '}{found.state}{since}{reason}", failed=not found.ready
    )


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, endpoint: Endpoint) -> None:
        self.address_family = AF_INET6 if ":" in host else AF_INET
        self.endpoint = endpoint
        self._free = threading.BoundedSemaphore(REQUESTS_MAX)
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread; refuse a connection beyond REQUESTS_MAX."""
        if not self._free.acquire(blocking=False):
            self.endpoint.on_limit("http")
            request.setblocking(False)
            with contextlib.suppress(OSError):
                request.send(BUSY)
                request.shutdown(SHUT_WR)
                request.recv(LINGER_BYTES)  # otherwise closing resets the connection
            self.close_request(request)
            return
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection when its client has read the response, and closed: what it still sends would
        reset the connection (RFC 9112, section 9.6)."""
        with contextlib.suppress(OSError):
            request.shutdown(SHUT_WR)
            until, left = time.monotonic() + LINGER_S, LINGER_BYTES
            while left > 0 and (left_s := until - time.monotonic()) > 0:
                request.settimeout(left_s)
                if not (part := request.recv(1 << 16)):
                    break
                left -= len(part)
        self.close_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do nothing: the client is gone, or receives its error from `do_GET`."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"  # one request per connection
    server_version, sys_version = "everlog", ""
    timeout = TIMEOUT_S
    server: _Http

    def handle_one_request(self) -> None:
        """Answer a request, and TLS at once: its client does not send the end of a line."""
        if self.connection.recv(1, MSG_PEEK) == HANDSHAKE:
            self.requestline, self.request_version, self.command = "", self.protocol_version, ""
            self.send_error(HTTPStatus.BAD_REQUEST, "expected HTTP without TLS")
        else:
            super().handle_one_request()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        get = self.headers.get
        status, body, kind = self.server.endpoint.answer(
            urlsplit(self.path).path, get("Host", ""), get("Authorization", ""), get("Accept", "")
        )
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name is http.server's
        """Do nothing: requests are not logged."""
