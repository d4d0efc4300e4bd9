"""App: the console as an ASGI application: middleware, sign-in, error pages, and the pages of the others.

    request ─▶ Guard: Host, session or sign-in, headers ─▶ page.py: form and CSRF ─▶ page ─▶ handles ─▶ gRPC

The console is a client of the server: a page calls the handles of `everlog.rpc.client` with the token of its
session, and the server decides.

Invariants
  (1) requests with a foreign Host header are refused (DNS rebinding);
  (2) without a session nothing is shown but the page to sign in, except on this machine at a server that
      gives rights to callers without a token, which a banner states;
  (3) a form is accepted only from a page of the console: Origin, SameSite cookie and CSRF token.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from everlog.console.web import (
    access,
    account,
    admin,
    api,
    backups,
    commit,
    consumers,
    edit,
    fleet,
    fleet_plans,
    load,
    log,
    migrations,
    overview,
    people,
    proposal,
    row,
    tables,
)
from everlog.console.web.files import Files
from everlog.console.web.format import with_query
from everlog.console.web.jobs import Jobs
from everlog.console.web.navigation import Navigation
from everlog.console.web.oidc import CALLBACK, Oidc, Provider
from everlog.console.web.page import (
    STATIC,
    NotFoundError,
    Page,
    View,
    fragment,
    local,
    redirect,
    render,
    wants_json,
)
from everlog.console.web.plots import Known
from everlog.console.web.session import Session, Sessions, SignInError, refused
from everlog.console.web.setup import Backups, Setup
from everlog.console.web.visitors import Browsers, Forms, Proxies, Visitor
from everlog.console.web.work import Work
from everlog.rpc.address import Address, host_of, is_loopback
from everlog.store.errors import (
    AccessError,
    ConflictError,
    CursorError,
    Error,
    LimitError,
    OpenError,
    PreconditionError,
    RowError,
    SchemaError,
    UnavailableError,
)
from everlog.store.program_log import about

BODY_BYTES_MAX, FIELDS_MAX = 16 << 20, 10_000
FORM_BYTES_MAX = 64 << 10  # of what surrounds a file
STRANGER_BYTES_MAX = 512 << 10  # of the form of a visitor without a session

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers send no Origin with forms
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
OPEN_PATHS = frozenset({"/sign-in", "/sign-in/oidc", CALLBACK})
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

logger = logging.getLogger("everlog")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class TooLargeError(MultiPartException):
    """Raised while a form is read, whose file is too large."""


class Console:
    """The console of one server. `app` is the application; `url` is where browsers reach it."""

    def __init__(
        self,
        server: Address,
        *,
        url: str = "",
        sessions: Sessions | None = None,
        setup: Setup | None = None,
        oidc: Oidc | None = None,
    ) -> None:
        self.url = url
        self.setup = setup or Setup()
        self.backups = Backups(self.setup.backups)
        self.sessions = sessions or Sessions(server)
        self.provider = Provider(oidc, url) if oidc is not None else None
        self.forms, self.files = Forms(), Files()
        self.proxies, self.browsers = Proxies(self.setup.proxies), Browsers()
        self.stopping, self.known = False, Known()
        self.jobs, self.work, self.navigation = Jobs(), Work(), Navigation()
        handlers: dict[Any, Any] = dict.fromkeys((Error, HTTPException, Exception), self._failed)
        self.app = Starlette(
            routes=[*ROUTES, Mount("/static", StaticFiles(directory=STATIC))],
            exception_handlers=handlers,
        )
        self.app.state.console = self
        self.app.add_middleware(Guard, console=self)

    def close(self) -> None:
        self.sessions.close()
        self.jobs.close()
        self.files.close()

    @property
    def server(self) -> Address:
        return self.sessions.server

    @property
    def cookie(self) -> str:
        """The name of the session's cookie. Cookies do not belong to a port: consoles on one host have
        different names."""
        parts = urlsplit(self.url)
        return f"everlog-{parts.port or parts.scheme}"

    @property
    def secure(self) -> bool:
        return self.url.startswith("https:")

    def may_ask(self, host: str) -> bool:
        """Return whether a request with this Host header is allowed."""
        name = host_of(host)
        return is_loopback(name) or (bool(name) and name == urlsplit(self.url).hostname)

    def may_post(self, origin: str, host: str) -> bool:
        """Return whether a form may come from a page of this origin; empty: unknown, as without a browser."""
        if not origin:
            return True
        parts, own = urlsplit(origin), urlsplit(self.url)
        return parts.netloc == host or (parts.scheme, parts.netloc) == (own.scheme, own.netloc)

    # requests

    async def form(self, request: Request) -> FormData:
        """Return the form of a request. Raises HTTPException if it is too large, or not from a page of the
        console."""
        self.navigation.clear()
        body, most = bytearray(), BODY_BYTES_MAX
        if getattr(request.state, "session", None) is None:
            most = STRANGER_BYTES_MAX
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                self.limited("console_form_bytes", self.client(request).address)
                raise HTTPException(413, f"expected a form of at most {most >> 10:,} KiB")
        request._body = bytes(body)  # noqa: SLF001  as Request.body() keeps it
        form = await request.form(max_files=10, max_fields=FIELDS_MAX, max_part_size=BODY_BYTES_MAX)
        request.state.form = form
        await self._check_csrf(request, form)
        return form

    async def upload(self, request: Request) -> FormData:
        """Return the form of a request with a file, which is written to the disk as it arrives. Raises
        HTTPException as `form`."""
        limit = self.setup.upload_bytes
        words = f"expected a file of at most {limit >> 20:,} MiB; load a larger one with `everlog import`"

        async def bounded() -> AsyncIterator[bytes]:
            left = limit + FORM_BYTES_MAX
            async for chunk in request.stream():
                left -= len(chunk)
                if left < 0:
                    raise TooLargeError(words)
                yield chunk

        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise HTTPException(415, "expected multipart/form-data, found another type")
        parser = MultiPartParser(request.headers, cast(Any, bounded()), max_files=1, max_fields=50)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            if isinstance(error, TooLargeError):
                self.limited("console_upload_bytes", self.client(request).address)
            raise HTTPException(413 if isinstance(error, TooLargeError) else 400, error.message) from None
        await self._check_csrf(request, form)
        return form

    async def _check_csrf(self, request: Request, form: FormData) -> None:
        """Raise HTTPException, and close the form, unless it is from a page of the console."""
        sent = request.headers.get("x-csrf-token") or form.get("csrf")
        expected = self.sessions.csrf(self.visitor(request))
        if not isinstance(sent, str) or not secrets.compare_digest(sent.encode(), expected.encode()):
            await form.close()
            self.denied("form", self.client(request).address, "a form is not from a page of the console")
            raise HTTPException(
                403,
                "this form is not from a page of this console, or older than its session; go back, load the"
                " page again, and send it again",
            )

    def follow(self, request: Request) -> Response:
        """Return a page that leads to the one that was requested. When somebody follows a link of another
        site, such as a web mail, browsers do not send a SameSite=Strict cookie; from this page they do."""
        if not self.may_ask(request.headers.get("host", "")):
            return self.unknown_host(request)
        url = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return HTMLResponse(fragment("followed.html", url=with_query("/sign-in", {"next": local(url)})))

    def unknown_host(self, request: Request) -> Response:
        """Return the answer to a request whose Host header is not of the console."""
        self.denied("host", self.client(request).address, "a request names a host that is not the console's")
        return PlainTextResponse("unknown host: use the URL of the console\n", 421)

    def visitor(self, connection: HTTPConnection) -> str:
        """Return the id in the visitor's cookie."""
        found: str = connection.cookies.get(self.cookie, "") or connection.scope.get("everlog.visitor", "")
        return found

    def client(self, connection: HTTPConnection) -> Visitor:
        """Return who makes a request, before it has signed in."""
        peer = connection.client.host if connection.client else ""
        address = self.proxies.client(peer, connection.headers.getlist("x-forwarded-for"))
        return Visitor(address, self.browsers.of(connection.cookies.get(self.browser_cookie, "")))

    @property
    def browser_cookie(self) -> str:
        """The name of the cookie of a browser with which an account has signed in."""
        return f"{self.cookie}-known"

    @property
    def form_cookie(self) -> str:
        """The name of the cookie of a browser whose form is kept."""
        return f"{self.cookie}-form"

    def limited(self, limit: str, address: str = "", sentence: str = "") -> None:
        """Count, and log, that a limit of the console was reached."""
        self.setup.on_limit(limit)
        words = sentence or f"the console has reached its limit {limit}"
        logger.warning("%s", words, extra=about("limit.reached", same=limit, limit=limit, peer=address))

    def denied(self, what: str, address: str, sentence: str) -> None:
        """Count, and log, that the console did not let something through."""
        self.setup.on_denied(f"console/{what}")
        extra = about("call.denied", same=f"console/{what}", method=f"console/{what}", peer=address)
        logger.warning("%s", sentence, extra=extra)

    def note(self, error: Exception, connection: HTTPConnection) -> None:
        """Count an error about a limit of the console; the server counts its own."""
        limit = error.facts.get("limit", "") if isinstance(error, LimitError) else ""
        if limit.startswith("console_"):
            self.limited(limit, self.client(connection).address, str(error))

    def session_of(self, connection: HTTPConnection) -> Session | None:
        """Return the session of a request. None: the visitor has to sign in. Raises UnavailableError."""
        found = self.sessions.of(self.visitor(connection))
        if found is not None:
            return found
        if not (self._local() and is_loopback(host_of(connection.headers.get("host", "")))):
            return None
        with suppress(SignInError):
            if self.sessions.anonymous.databases():
                return self.sessions.anonymous
        return None

    def _local(self) -> bool:
        """Whether only this machine reaches the console."""
        return is_loopback(urlsplit(self.url).hostname or "")

    def shell(self, view: View) -> dict[str, Any]:
        """Return what every page shows: navigation, identity, and the token of forms."""
        session: Session | None = getattr(view.request.state, "session", None)
        names, reached = list[str](), True
        if session is not None:
            try:
                names = session.databases()
            except Error:
                reached = False
        database = view.database or (names[0] if names else "")
        path = view.request.url.path
        return {
            "sections": self.navigation.sections(view, session, database)
            if session is not None and database
            else [],
            "databases": names,
            "database": database,
            "on_overview": path in {"/", "/overview"},
            "session": session,
            "reached": reached,
            "csrf": self.sessions.csrf(self.visitor(view.request)),
            "theme": theme(view.request),
            "server": self.server.target,
        }

    # errors

    async def _failed(self, request: Request, error: Exception) -> Response:
        return await run_in_threadpool(self.error_page, request, error)

    def error_page(self, request: Request, error: Exception) -> Response:
        """Return the page of an error, in HTML or JSON."""
        view = View(request, self)
        if isinstance(error, SignInError) or (isinstance(error, Error) and refused(error)):
            session = getattr(request.state, "session", None)
            if session is not None and session.signed_in:
                self.sessions.sign_out(session)
            return self.ask_to_sign_in(request, "Your token is not accepted any more. Sign in again.")
        self.note(error, request)
        status, title, words = _told(error)
        headers = {}
        if isinstance(error, UnavailableError) and "not trusted" in str(error):
            self.sessions.drop()  # its certificate was replaced; the next call trusts the new one
        if isinstance(error, LimitError):
            headers["Retry-After"] = str(round(error.facts.get("retry_s", 1.0)) or 1)
        values = {"error": words, "kind": type(error).__name__, "status": status}
        template = "error.html" if hasattr(request.state, "session") else "bare_error.html"
        try:
            answer = render(view, Page(template, values, status, {"title": title}))
        except Exception as fault:  # noqa: BLE001  of the page that shows the first one
            _log_fault(fault)
            answer = PlainTextResponse(f"{title}: {words}\n", status)
        answer.headers.update(headers)
        return answer

    def ask_to_sign_in(self, request: Request, words: str = "") -> Response:
        """Return the redirect to the page to sign in; for a program, the status 401."""
        if wants_json(request) or request.method not in SAFE:
            values = {"error": words or "sign in first", "kind": "SignInError", "status": 401}
            if wants_json(request):
                return render(View(request, self), Page("bare_error.html", values, 401, {"title": "Sign in"}))
        url = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        browser, safe = request.cookies.get(self.form_cookie, ""), request.method in SAFE
        if not safe and len(browser) != len(secrets.token_urlsafe(32)):
            browser = secrets.token_urlsafe(32)
        back = url if safe and url != "/" else self._kept(request, url, browser)
        target = with_query("/sign-in", {"next": back, "ended": "1" if words else ""})
        answer: Response = redirect(target)
        if "hx-request" in request.headers:
            answer = Response(status_code=204, headers={"HX-Redirect": target})
        if not safe and back:
            answer.set_cookie(self.form_cookie, browser, httponly=True, samesite="strict", secure=self.secure)
        return answer

    def _kept(self, request: Request, url: str, browser: str) -> str:
        """Keep the form of a request until its person has signed in with this browser, and return the page
        that shows it."""
        form: FormData | None = getattr(request.state, "form", None)
        if form is None:
            return ""
        fields = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
        lost = sorted({name for name, value in form.multi_items() if not isinstance(value, str)})
        page = urlsplit(request.headers.get("referer", ""))
        back = f"{page.path}{'?' if page.query else ''}{page.query}" if page.netloc else "/"
        address, ended = self.client(request).address, self.sessions.ended(self.visitor(request))
        key = self.forms.keep(browser, address, url, local(back), fields, lost=lost, ended=ended)
        if not key:
            self.limited("console_forms", address, "a form is not kept: it is large, or there are many")
        return f"/continue/{key}" if key else ""


# What the page of an error says: the first line whose class it has.
_TITLES: tuple[tuple[type[Error], int, str], ...] = (
    (NotFoundError, 404, "Not found"),
    (LimitError, 429, "Too many requests"),
    (AccessError, 403, "Not allowed"),
    (UnavailableError, 503, "The server does not answer"),
    (CursorError, 404, "Not in the log"),
    (SchemaError, 404, "Not found"),
    (OpenError, 404, "Not found"),  # a database that the server has not, or has no more
    (RowError, 400, "Invalid request"),
    (ConflictError, 409, "Somebody was faster"),
    (PreconditionError, 409, "Somebody was faster"),
    (Error, 500, "The request failed"),
)


def _told(error: Exception) -> tuple[int, str, str]:
    """Return status, title and words of an error's page."""
    if isinstance(error, HTTPException):
        phrase = HTTPStatus(error.status_code).phrase
        words = error.detail if error.detail != phrase else ""
        if error.status_code == 404:
            words = words or "There is no page at this address. The navigation leads to all pages."
        return error.status_code, phrase.capitalize(), words or phrase
    for kind, status, title in _TITLES:
        if isinstance(error, kind):
            return status, title, str(error)
    return 500, "A fault in the console", "The log of the server says where it happened."


def theme(request: HTTPConnection) -> str:
    found = request.cookies.get("everlog-theme", "")
    return found if found in {"light", "dark"} else ""


def is_followed(request: Request) -> bool:
    """Return whether a browser follows a link of another site."""
    headers = request.headers
    return (
        request.method == "GET"
        and headers.get("sec-fetch-site") == "cross-site"
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )


class Guard:
    """The outermost middleware: Host, session, origin of forms, headers, and faults."""

    def __init__(self, app: Any, console: Console) -> None:
        self._app, self._console = app, console

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request, started, visitor = Request(scope, receive), False, ""
        static = request.url.path.startswith("/static/")
        alone = not static and not self._console.visitor(request)
        followed = alone and is_followed(request) and request.url.path != CALLBACK
        if alone and not followed:
            visitor = scope["everlog.visitor"] = secrets.token_urlsafe(32)

        async def guarded(message: Any) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                cached = static and message["status"] in {200, 304}
                message = {**message, "headers": self._headers(message, visitor, cached=cached)}
            await send(message)

        try:
            answer = self._console.follow(request) if followed else await self._refusal(request)
            await (answer or self._app)(scope, receive, guarded)
        except Exception as error:  # noqa: BLE001  it is answered and logged
            if not isinstance(error, Error | HTTPException):
                _log_fault(error)
            if not started:
                answer = await run_in_threadpool(self._console.error_page, request, error)
                await answer(scope, receive, guarded)

    def _headers(self, message: Any, visitor: str, *, cached: bool) -> list[tuple[bytes, bytes]]:
        """Return the headers of a response, with those of every response."""
        found = list(message.get("headers", ()))
        known = {name for name, _ in found}
        for name, value in HEADERS.items():
            lower = name.lower().encode()
            if lower == b"cache-control" and cached:  # the URL of a static file changes with its content
                found.append((lower, b"public, max-age=31536000, immutable"))
            elif lower not in known:
                found.append((lower, value.encode()))
        own = f"{self._console.cookie}=".encode()
        signed_in = any(name == b"set-cookie" and value.startswith(own) for name, value in found)
        if visitor and not signed_in:
            found.append((b"set-cookie", self._cookie(visitor).encode()))
        return [*found, (b"vary", b"Accept, Cookie")]

    async def _refusal(self, request: Request) -> Response | None:
        """Return the answer to a request that is not let through."""
        console, headers = self._console, request.headers
        if not console.may_ask(headers.get("host", "")):
            return console.unknown_host(request)
        if request.method not in SAFE and not console.may_post(
            headers.get("origin", ""), headers.get("host", "")
        ):
            console.denied("form", console.client(request).address, "a page of another origin sent a form")
            raise HTTPException(403, "a page of another origin sent this form")
        if request.url.path in OPEN_PATHS or request.url.path.startswith("/static/"):
            return None
        session = await run_in_threadpool(console.session_of, request)
        if session is None:
            if request.method not in SAFE:
                with suppress(HTTPException):  # it is kept, whatever its token: it is only shown
                    await (await console.form(request)).close()
            return console.ask_to_sign_in(request)
        await run_in_threadpool(session.renew)
        request.state.session = session
        return None

    def _cookie(self, value: str) -> str:
        console = self._console
        words = [f"{console.cookie}={value}", "Path=/", "HttpOnly", "SameSite=Strict"]
        return "; ".join([*words, "Secure"] if console.secure else words)


def _log_fault(error: Exception) -> None:
    """Log a fault of the console without its text, which may contain values of rows."""
    name = type(error).__name__
    logger.error(
        "a page could not be shown: %s",
        name,
        exc_info=(Exception, Exception(name), error.__traceback__),
        extra=about("page.fault"),
    )


ROUTES = [
    *account.ROUTES,
    *overview.ROUTES,
    *proposal.ROUTES,
    *migrations.ROUTES,
    *api.ROUTES,
    *edit.ROUTES,
    *fleet.ROUTES,
    *fleet_plans.ROUTES,
    *load.ROUTES,
    *row.ROUTES,
    *tables.ROUTES,
    *log.ROUTES,
    *commit.ROUTES,
    *consumers.ROUTES,
    *admin.ROUTES,
    *access.ROUTES,
    *people.ROUTES,
    *backups.ROUTES,
]
