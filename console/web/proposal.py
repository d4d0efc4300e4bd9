"""Proposal: read-only web pages of the proposals of the served databases, without the console's libraries.

    GET /migrations             all proposals
    GET /migrations/<digest>    one proposal; operators are sent this link

HTML, or JSON where the Accept header prefers it: Proposal ─▶ told: JSON values ─▶ page: self-contained HTML.

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
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from everlog.console import output
from everlog.migrations.proposal import (
    Event,
    MigrationEntry,
    Plan,
    Proposal,
    ProposalState,
    Sources,
    folder_of,
    pick,
)
from everlog.rpc.address import host_of, host_port, is_loopback, listening
from everlog.store.errors import Error, MigrationError, OpenError, quantity
from everlog.store.program_log import about

HTML, JSON = "text/html; charset=utf-8", "application/json"

logger = logging.getLogger("everlog")

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
    "X-Content-Type-Options": "nosniff",
}

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;"
    "padding:.25rem .75rem .25rem 0;border-bottom:1px solid #ddd}td.n{text-align:right}"
    "code,pre{font-family:ui-monospace,monospace;font-size:.9em}pre{background:#f4f4f4;padding:.75rem;"
    "overflow-x:auto}.waiting{color:#a60}.failed,.rejected,.error{color:#b00}.finished{color:#070}"
)

HELD = " Where rows are rewritten, the previous version is served as well until `everlog complete`."


def told(proposal: Proposal, *, sources: bool = False) -> dict[str, Any]:
    """Return a proposal as JSON values, for the page and `everlog migrations proposals --json`.

    `sources`: include the content of files by folder and path, as text; null for a file that is not text.
    """
    if sources:
        files = {
            folder: {path: _text(content) for path, content in found.items()}
            for folder, found in proposal.sources.items()
        }
        return {**told(proposal), "sources": files}
    return {
        "digest": proposal.digest.hex(),
        "state": str(proposal.state),
        "url": proposal.url,
        "plan": msgspec.to_builtins(proposal.plan),
        "events": [event(one) for one in proposal.events],
    }


def named(one: Event) -> str:
    """Return the actor of an event, and how the actor is authenticated."""
    return f"{one.actor} ({one.proof})" if one.actor else ""


def event(one: Event) -> dict[str, Any]:
    """Return an event as JSON values."""
    found: dict[str, Any] = msgspec.to_builtins(one)
    return found


def page(proposal: Proposal) -> str:
    """Return the page of one proposal."""
    plan, sources = proposal.plan, proposal.sources
    name = escape(plan.name or plan.database)
    return _whole(
        f"{name}: migration to {plan.to_version}",
        [
            f"<h1>{name}: migration to {plan.to_version}</h1>",
            f'<p>It <b class="{proposal.state}">is {proposal.state}</b>.</p>',
            _facts(proposal, plan),
            *_decide(proposal),
            "<h2>Plan</h2>",
            *(_migration(one, sources) for one in plan.migrations),
            f"<p>Rows are those of commit {plan.at:,}.{HELD if plan.hold else ''}</p>",
            "<h2>Findings of lint</h2>",
            _findings(plan),
            "<h2>Events</h2>",
            _events(proposal.events),
            '<p><a href="../migrations">All proposals</a></p>',
        ],
    )


def overview(found: Iterable[Proposal], problems: Mapping[str, str]) -> str:
    """Return the page of these proposals, in their order, and of `problems` by database."""
    wrong = [
        f'<p class="error">{escape(name)}: pending migrations cannot be applied: {escape(problem)}</p>'
        for name, problem in problems.items()
    ]
    rows = [
        (
            f'<a href="migrations/{one.digest.hex()}"><code>{one.short}</code></a>',
            escape(one.plan.name or one.plan.database),
            str(one.plan.to_version),
            f'<span class="{one.state}">{one.state}</span>',
            output.moment(one.proposed.time_ns),
            escape(named(one.proposed)),
        )
        for one in found
    ]
    table = _table(("digest", "database", "to version", "state", "proposed", "by"), rows)
    return _whole("Proposals", ["<h1>Proposals</h1>", *wrong, table if rows else "<p>No proposals.</p>"])


def missing(words: str) -> str:
    return _whole("Not found", [f"<h1>Not found</h1><p>{escape(words)}</p>"])


def _facts(proposal: Proposal, plan: Plan) -> str:
    rows = [
        ("digest", f"<code>{proposal.digest.hex()}</code>"),
        ("database", f"<code>{escape(plan.database)}</code>"),
        ("from, to", f"{plan.from_version or 'nothing'} → {plan.to_version}"),
        ("proposed", f"{output.moment(proposal.proposed.time_ns)} {_by(proposal.proposed)}"),
    ]
    return _table((), rows)


def _decide(proposal: Proposal) -> list[str]:
    if proposal.state is not ProposalState.WAITING:
        return []
    words, errors = proposal.short, proposal.plan.errors
    despite = " --despite-errors" if errors else ""
    reject = f"everlog -u URL reject {words} --reason …"
    return [
        "<h2>Decide</h2>",
        *(f'<p class="error">{escape(error)}</p>' for error in errors),
        f"<pre>everlog -u URL approve {words}{despite} --reason …\n{reject}</pre>",
    ]


def _migration(one: MigrationEntry, sources: Sources) -> str:
    rows = [
        (
            f'<b class="error">{escape(step.text)}</b>' if step.problem else escape(step.text),
            f"{step.rows:,}" if step.rows else "",
            "instant" if step.instant else "built",
        )
        for step in one.steps
    ]
    found = sources.get(folder_of(one), {})
    files = "".join(_file(path, digest, found.get(path)) for path, digest in one.files.items())
    return (
        f"<h3>{escape(one.title)}</h3>{_table(('step', 'rows', 'how'), rows)}"
        f"<h4>Files, digest {escape(one.digest[:12])}</h4>{files}"
    )


def _file(path: str, digest: str, content: bytes | None) -> str:
    """Return a file of a folder as HTML, collapsed."""
    shown = "<p>Too large to be stored with the proposal.</p>"
    if content is not None:
        words = _text(content)
        shown = f"<p>{quantity(len(content), 'byte')}, not text.</p>" if words is None else _lines(words)
    return (
        f"<details><summary>{escape(path)}</summary><p>SHA-256 <code>{escape(digest)}</code></p>"
        f"{shown}</details>"
    )


def _lines(words: str) -> str:
    return f"<pre>{escape(words)}</pre>"


def _text(content: bytes) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def _findings(plan: Plan) -> str:
    if not plan.findings:
        return "<p>None.</p>"
    rows = [
        (
            f'<span class="{escape(one.severity)}">{escape(one.severity)}</span>',
            f"{escape(one.file)}:{one.line}",
            escape(one.id),
            escape(one.text) + (f"<br>{escape(one.fix)}" if one.fix else ""),
        )
        for one in plan.findings
    ]
    return _table(("", "where", "id", "what"), rows)


def _events(events: Iterable[Event]) -> str:
    rows = [
        (
            str(one.seq),
            output.moment(one.time_ns),
            escape(one.step),
            _by(one) + (f'<br><span class="failed">{escape(one.error)}</span>' if one.error else ""),
        )
        for one in events
    ]
    return _table(("commit", "when", "what", "who and why"), rows)


def _by(one: Event) -> str:
    return (
        f"{'by ' + escape(named(one)) if one.actor else ''}{': ' + escape(one.reason) if one.reason else ''}"
        f"{' (despite errors)' if one.despite_errors else ''}"
    )


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    first = "".join(f"<th>{head}" for head in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}" for cell in row) for row in rows)
    return f"<table>{f'<tr>{first}' if first else ''}{body}</table>"


def _whole(title: str, parts: Iterable[str]) -> str:
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    return f"{head}<style>{STYLE}</style>{''.join(parts)}</html>\n"


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
            return HTTPStatus.OK, _dump(map(told, found)) if as_json else overview(found, self.problems())
        try:
            one = pick(found, words[1])
        except MigrationError as error:
            return _missing(str(error), as_json=as_json)
        return HTTPStatus.OK, json.dumps(told(one, sources=True)) if as_json else page(one)

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
    return HTTPStatus.NOT_FOUND, json.dumps({"error": words}) if as_json else missing(words)


def _dump(values: Iterable[Any]) -> str:
    return json.dumps(list(values))
