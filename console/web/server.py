"""Server: read-only web pages of the proposals of the served databases.

    GET /migrations             all proposals
    GET /migrations/<digest>    one proposal; operators are sent this link

HTML, or JSON where the Accept header prefers it.

Invariants
  (1) it listens on this machine only; other machines connect through an authenticating proxy;
  (2) requests with a foreign Host header are refused (DNS rebinding).
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from everlog.console.web import proposal
from everlog.migrations.proposal import Proposal, pick
from everlog.rpc.address import host_of, host_port, is_loopback, listening
from everlog.store.errors import Error, MigrationError, OpenError
from everlog.store.program_log import about

PORT = 7421
HTML, JSON = "text/html; charset=utf-8", "application/json"

logger = logging.getLogger("everlog")

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
    "X-Content-Type-Options": "nosniff",
}


class Pages:
    """Serves pages on its own thread, at `listen` (HOST:PORT; port 0 is any free port), while it is entered.

    `proposals` returns the proposals, `problems` why migrations cannot be applied, by database. `url` is the
    public URL, if it differs from the address. Raises OpenError for an address that is not a loopback
    address, or is not available.
    """

    def __init__(
        self,
        listen: str,
        proposals: Callable[[], Iterable[Proposal]],
        problems: Callable[[], Mapping[str, str]] = dict,
        *,
        url: str = "",
    ) -> None:
        host, port = listening(listen)
        if not is_loopback(host):
            raise OpenError(
                f"the console on {host} could be read from other machines without authentication; listen on"
                " 127.0.0.1, put an authenticating proxy in front of it, and pass its address as"
                " --console-url",
                host=host,
            )
        self.proposals, self.problems = proposals, problems
        try:
            self._server = _Http(host, port, self)
        except OSError as error:
            raise OpenError(
                f"cannot serve pages on {listen}: {error.strerror or error}; choose another --console-listen",
                address=listen,
            ) from None
        self.url = url.rstrip("/") or f"http://{host_port(host, self._server.server_address[1])}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="everlog-pages", daemon=True)

    def link(self, digest: bytes) -> str:
        """Return the URL of a proposal's page, by digest. The form of these URLs never changes."""
        return f"{self.url}/migrations/{digest.hex()}"

    def answer(self, path: str, *, as_json: bool) -> tuple[HTTPStatus, str]:
        """Return status and body of the response to a GET of this path."""
        words = [word for word in path.split("/") if word]
        if not words or words[0] != "migrations" or len(words) > 2:
            return _missing("expected /migrations, or /migrations/<digest>", as_json=as_json)
        found = list(self.proposals())
        if len(words) == 1:
            found.sort(key=lambda one: one.proposed.time_ns, reverse=True)
            return HTTPStatus.OK, _dump(map(proposal.told, found)) if as_json else proposal.overview(
                found, self.problems()
            )
        try:
            one = pick(found, words[1])
        except MigrationError as error:
            return _missing(str(error), as_json=as_json)
        return HTTPStatus.OK, json.dumps(proposal.told(one, sources=True)) if as_json else proposal.page(one)

    def may_ask(self, host: str) -> bool:
        """Return whether a request with this Host header is allowed."""
        name = host_of(host)
        return is_loopback(name) or name == urlsplit(self.url).hostname

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, pages: Pages) -> None:
        self.address_family = AF_INET6 if ":" in host else AF_INET
        self.pages = pages
        super().__init__((host, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log errors, except a client that closed its connection."""
        error = sys.exception()
        if not isinstance(error, (ConnectionError, TimeoutError)):
            name = type(error).__name__
            logger.error(
                "a page could not be shown: %s",
                name,
                exc_info=(Exception, Exception(name), error.__traceback__ if error is not None else None),
                extra=about("page.fault"),
            )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "everlog", ""
    timeout = 10
    server: _Http

    def do_GET(self) -> None:
        as_json = _prefers_json(self.headers.get("Accept", ""))
        if not self.server.pages.may_ask(self.headers.get("Host", "")):
            status, body = HTTPStatus.MISDIRECTED_REQUEST, "unknown host: use the URL of the console\n"
        else:
            try:
                status, body = self.server.pages.answer(urlsplit(self.path).path, as_json=as_json)
            except Error as error:
                status, body = HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n"
        raw = body.encode()
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", JSON if as_json else HTML)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    do_HEAD = do_GET  # noqa: N815  the name is http.server's

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name is http.server's
        """Do nothing: requests are not logged."""


def _prefers_json(accept: str) -> bool:
    """Return whether a request prefers JSON to HTML (RFC 9110, 12.5.1); without a preference, HTML."""
    weights = {"application/json": 0.0, "text/html": 0.0}
    for part in accept.split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        if kind in weights:
            weights[kind] = weight
    return weights["application/json"] > weights["text/html"]


def _missing(words: str, *, as_json: bool) -> tuple[HTTPStatus, str]:
    return HTTPStatus.NOT_FOUND, json.dumps({"error": words}) if as_json else proposal.missing(words)


def _dump(values: Iterable[Any]) -> str:
    return json.dumps(list(values))
