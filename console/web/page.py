"""Page: what a page module is made of: a view of the request, the page that it returns, and its routes.

    ROUTES = [*route("/db/{database}/tables", tables)]

    def tables(view: View) -> Page:
        return Page("tables.html", {"tables": [...]})

`values` of a page are JSON values: they are its JSON twin (`.json`, or an Accept header that prefers JSON),
and the template gets them too; `shown` is for the template alone. A function of a page runs in a thread, and
may raise everlog's errors: the answer is an error page.

Invariants
  (1) a function for a method other than GET runs only with the CSRF token of its visitor;
  (2) templates escape every value.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import urlencode, urlsplit

import jinja2
import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from everlog.console.web.format import FILTERS, GLOBALS, with_query
from everlog.store.errors import (
    AccessError,
    ConflictError,
    CursorError,
    Error,
    LimitError,
    OpenError,
    ReadOnlyError,
    RowError,
    SchemaError,
    SealedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from everlog.console.web.files import Files
    from everlog.console.web.jobs import Jobs
    from everlog.console.web.oidc import Provider
    from everlog.console.web.plots import Known
    from everlog.console.web.session import Session, Sessions
    from everlog.console.web.setup import Backups, Setup
    from everlog.console.web.visitors import Browsers, Forms, Visitor
    from everlog.console.web.work import Work
    from everlog.rpc.client.database import RemoteDatabase

HERE = Path(__file__).parent
STATIC = HERE / "static"
JSON_TYPE = "application/json"
SMALL_MAX = 64 << 10  # characters of a query's value


class Page(NamedTuple):
    """A page: its template, its JSON values, the status, and what only the template needs."""

    template: str
    values: Mapping[str, Any]
    status: int = 200
    shown: Mapping[str, Any] = {}


class Site(Protocol):
    """The console that a page belongs to; see app.py."""

    url: str
    sessions: Sessions
    provider: Provider | None  # where people sign in; None: with a token only
    forms: Forms
    browsers: Browsers
    stopping: bool  # streams end
    known: Known
    jobs: Jobs
    work: Work
    setup: Setup
    backups: Backups
    files: Files

    @property
    def cookie(self) -> str: ...
    @property
    def browser_cookie(self) -> str: ...
    @property
    def form_cookie(self) -> str: ...
    @property
    def secure(self) -> bool: ...
    def visitor(self, connection: HTTPConnection) -> str: ...
    def client(self, connection: HTTPConnection) -> Visitor: ...
    def limited(self, limit: str, address: str = "", sentence: str = "") -> None: ...
    def denied(self, what: str, address: str, sentence: str) -> None: ...
    def note(self, error: Exception, connection: HTTPConnection) -> None: ...

    async def form(self, request: Request) -> FormData: ...
    async def upload(self, request: Request) -> FormData: ...
    def shell(self, view: View) -> dict[str, Any]: ...


class NotFoundError(RowError):
    """Raised when a page names something that does not exist."""


_STATUS: tuple[tuple[type[Error], int], ...] = (
    (AccessError, 403),
    (LimitError, 429),
    (UnavailableError, 503),
    (RowError, 400),
    (SchemaError, 404),
    (Error, 409),
)


def status_of(error: Error) -> int:
    """Return the status of a page with a form whose call was refused."""
    return next(code for kind, code in _STATUS if isinstance(error, kind))


class View:
    """A request, as a page sees it."""

    def __init__(self, request: Request, console: Site, form: FormData | None = None) -> None:
        self.request, self.console = request, console
        self.form = form or FormData()

    @property
    def session(self) -> Session:
        """The session of the request: the credentials of all calls."""
        found: Session = self.request.state.session
        return found

    @property
    def database(self) -> str:
        """The name of the database in the path; empty: the page is of no database."""
        return str(self.request.path_params.get("database", ""))

    @cached_property
    def db(self) -> RemoteDatabase:
        """The database in the path, with the credentials of the session. Raises AccessError."""
        return self.session.database(self.database)

    def path(self, name: str) -> str:
        """Return a part of the path."""
        return str(self.request.path_params[name])

    def query(self, name: str, default: str = "") -> str:
        """Return a value of the query. Raises RowError if it is too long."""
        return _short(name, self.request.query_params.get(name, default))

    def queries(self, name: str) -> list[str]:
        """Return all values of a name in the query."""
        return [_short(name, value) for value in self.request.query_params.getlist(name)]

    def queries_of(self, *names: str) -> list[tuple[str, str]]:
        """Return these names of the query with all of their values, for the hidden fields of a form."""
        return [(name, value) for name in names for value in self.queries(name)]

    def whole(self, name: str, default: int = 0, *, low: int = 0, high: int = (1 << 63) - 1) -> int:
        """Return an integer of the query. Raises RowError for another value."""
        word = self.query(name).replace(",", "").strip()
        if not word:
            return default
        if not (word.isascii() and word.isdecimal() and len(word) < 20 and low <= int(word) <= high):
            raise RowError(f"expected {name} as an integer from {low:,} to {high:,}, found {word[:40]!r}")
        return int(word)

    def field(self, name: str) -> str:
        """Return a field of the form; empty: it has none."""
        value = self.form.get(name, "")
        return value if isinstance(value, str) else ""

    def reason(self) -> str:
        """Return the reason in the form. Raises RowError if there is none."""
        found = self.field("reason").strip()
        if not found:
            raise RowError("expected a reason for this change, found none; the log keeps it")
        return found

    def check_typed(self, expected: str) -> None:
        """Check that the form has this word, which confirms what cannot be undone. Raises RowError."""
        found = self.field("typed").strip()
        if found != expected.strip():
            raise RowError(f"expected {expected!r} to confirm this, found {found[:80]!r}; type it exactly")

    @cached_property
    def rights(self) -> frozenset[str]:
        """The rights of the identity in the database, as words; some may be limited to tables."""
        return frozenset(self.db.access.whoami().rights)

    def need(self, right: str) -> None:
        """Check that the identity has a right in the database. Raises AccessError, as the server would."""
        if right not in self.rights:
            who = self.session.name or "this identity"
            raise AccessError(f"{who} lacks the right {right} in database {self.database}", right=right)

    def done(self, url: str, words: str) -> Response:
        """Return the redirect after a change. The next page shows the words, once."""
        said = urlencode({"said": self.session.leave(words)})
        return redirect(f"{url}{'&' if '?' in url else '?'}{said}")

    @cached_property
    def said(self) -> str:
        """What the previous page has left for this one; empty: nothing."""
        key = self.query("said")
        return self.session.take(key) if key else ""

    @property
    def wants_json(self) -> bool:
        """Whether the answer is JSON."""
        return wants_json(self.request)

    def href(self, **changes: Any) -> str:
        """Return the URL of this page with some values of its query changed; None removes one."""
        query: dict[str, Any] = {
            name: self.request.query_params.getlist(name) for name in self.request.query_params
        }
        return with_query(self.request.url.path.removesuffix(".json"), {**query, **changes})


Handler = Callable[[View], Page | Response]


def answered(
    view: View, work: Callable[[], Response], again: Callable[[View], Page | Response]
) -> Page | Response:
    """Return what a form does; if its input is refused, the page `again`, with the problem and the fields."""
    try:
        return work()
    except (
        RowError,
        SchemaError,
        CursorError,
        OpenError,
        LimitError,
        ConflictError,
        SealedError,
        ReadOnlyError,
    ) as error:
        view.console.note(error, view.request)
        found = again(view)
        if isinstance(found, Response):
            return found
        status = 409 if isinstance(error, ConflictError) else 400
        return found._replace(
            status=status,
            values={**found.values, "error": str(error)},
            shown={**found.shown, "refused": str(error)},
        )


def _short(name: str, value: str) -> str:
    if len(value) > SMALL_MAX:
        raise RowError(f"expected {name} of at most {SMALL_MAX:,} characters, found {len(value):,}")
    return value


def route(
    path: str,
    handler: Handler,
    *methods: str,
    twin: bool = True,
    name: str | None = None,
    upload: bool = False,
) -> list[Route]:
    """Return the routes of a page: of its path, and of its JSON twin. Without methods: GET. `upload`: its
    form has a large file."""

    async def endpoint(request: Request) -> Response:
        console: Site = request.app.state.console
        read = console.upload if upload else console.form
        form = await read(request) if request.method not in {"GET", "HEAD"} else None
        view = View(request, console, form)
        try:
            answer = await run_in_threadpool(handler, view)
        finally:
            if form is not None:
                await form.close()
        if isinstance(answer, Response):
            return answer
        return await run_in_threadpool(render, view, answer)

    found = [Route(f"{path}.json", endpoint, methods=list(methods) or None)] if twin and path != "/" else []
    return [*found, Route(path, endpoint, methods=list(methods) or None, name=name)]


def render(view: View, page: Page) -> Response:
    """Return the response of a page: JSON or HTML, as the request prefers."""
    if view.wants_json:
        return Response(dump(page.values), page.status, media_type=JSON_TYPE)
    shell = view.console.shell(view)
    html = (
        templates().get_template(page.template).render({**shell, **page.values, **page.shown, "view": view})
    )
    return HTMLResponse(html, page.status)


def fragment(template: str, **values: Any) -> str:
    """Return a template without the shell, for events and parts of pages."""
    return templates().get_template(template).render(values)


def dump(values: Any) -> bytes:
    """Return JSON values as text. Other values become text."""
    return msgspec.json.encode(values, enc_hook=str)


def redirect(url: str) -> Response:
    """Return a redirect after a form, to a page of this console."""
    return RedirectResponse(url, 303)


def event_stream(events: AsyncIterator[str]) -> Response:
    """Return a response of server-sent events, which no proxy collects."""
    return StreamingResponse(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def live(console: Site, session: Session, events: AsyncIterator[str]) -> Response:
    """Return the events of a page that is kept up to date, as one of those of its session."""
    return event_stream(session.live(events, lambda: console.limited("console_streams")))


def thing(kind: str, badge: str, title: str, words: str, **link: str) -> dict[str, str]:
    """Return something that needs attention. `kind`: its urgency; `href` and `action`: where to act."""
    return {
        "kind": kind,
        "badge": badge,
        "title": title,
        "words": words,
        "href": "",
        "action": "Look",
        **link,
    }


def local(url: str) -> str:
    """Return a path of this console; the first page for anything else."""
    parts = urlsplit(url)
    fits = url.startswith("/") and not url.startswith(("//", "/\\")) and not parts.scheme and not parts.netloc
    return url if fits and "\\" not in url and url.isprintable() else "/"


def missing(words: str) -> HTTPException:
    """Return the error of a page that does not exist."""
    return HTTPException(404, words)


def wants_json(request: Request) -> bool:
    """Return whether a request is of the JSON twin, by its path or because it prefers JSON to HTML
    (RFC 9110, 12.5.1); without a preference it gets HTML."""
    if request.url.path.endswith(".json"):
        return True
    weights = {JSON_TYPE: 0.0, "text/html": 0.0}
    for part in request.headers.get("accept", "").split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        if kind in weights:
            weights[kind] = min((_weight(one) for one in parameters if one.startswith("q=")), default=1.0)
    return weights[JSON_TYPE] > weights["text/html"]


def _weight(parameter: str) -> float:
    try:
        return float(parameter[2:])
    except ValueError:
        return 0.0


@cache
def templates() -> jinja2.Environment:
    """Return the templates, compiled once."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(FILTERS)
    found.globals.update(GLOBALS, static=static)
    return found


@cache
def static(name: str) -> str:
    """Return the URL of a static file, which changes with its content."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()
    return f"/static/{name}?v={digest[:12]}"
