"""Account: signing in and out, and who is signed in.

    /sign-in                  with a token, or through a provider (oidc.py)
    /account                  the identity, with its rights in each database
    /continue/{key}           a form that was sent after its session had ended, to send it again

A cookie that is SameSite=Strict is not sent with the redirect of a provider. A sign-in there has a cookie of
its own, for its ten minutes, and ends with a page that leads to the next one.

Invariants
  (1) a form that was kept is shown before it is sent again, from a page of the console, and to nobody else
      than the person with the browser that sent it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import RedirectResponse, Response

from everlog.console.web.format import with_query
from everlog.console.web.oidc import CALLBACK, PENDING_S, Provider, ProviderError, Renewing
from everlog.console.web.page import NotFoundError, Page, View, local, redirect, render, route
from everlog.console.web.session import Session, SignInError
from everlog.console.web.visitors import Visitor
from everlog.store.errors import Error, LimitError

KNOWN_S = 90 * 86_400  # of the cookie of a browser


def _visitor(view: View) -> Visitor:
    return view.console.client(view.request)


def sign_in_page(view: View) -> Page | Response:
    """Show the form; a code of `Sessions.once` signs in at once, and a visitor with a session continues."""
    if code := view.query("once"):
        return _begin(view, lambda: view.console.sessions.sign_in_once(code))
    if view.query("next") and view.console.sessions.of(view.console.visitor(view.request)) is not None:
        return redirect(local(view.query("next")))
    words = "Your session has ended. Sign in again." if view.query("ended") else ""
    return _ask(view, words, 200)


def sign_in(view: View) -> Page | Response:
    return _begin(view, lambda: view.console.sessions.sign_in(view.field("token"), _visitor(view)))


def _begin(view: View, signed_in: Callable[[], Session]) -> Page | Response:
    try:
        session = signed_in()
    except LimitError as error:
        view.console.note(error, view.request)
        return _ask(view, str(error), 429)
    except ProviderError as error:
        return _ask(view, str(error), 502)
    except SignInError as error:
        view.console.denied("sign-in", _visitor(view).address, f"a sign-in was refused: {error}")
        words = "This token is not accepted." if "server refuses" in str(error) else str(error)
        return _ask(view, words, 403)
    return _signed_in(view, session, redirect(local(view.field("next") or view.query("next"))))


def _signed_in(view: View, session: Session, answer: Response) -> Response:
    old = view.console.sessions.of(view.console.visitor(view.request))
    if old is not None:
        view.console.sessions.sign_out(old)
    answer.set_cookie(
        view.console.cookie, session.id, httponly=True, samesite="strict", secure=view.console.secure
    )
    known = view.console.browsers.cookie(repr(session.whose) if session.name else session.server.token)
    answer.set_cookie(
        view.console.browser_cookie, known, KNOWN_S, path="/sign-in", httponly=True, samesite="lax",
        secure=view.console.secure,
    )  # fmt: skip
    return answer


def _ask(view: View, words: str, status: int) -> Page:
    back, provider = local(view.field("next") or view.query("next")), view.console.provider
    shown = {
        "next": back if back != "/" else "",
        "provider": provider.name if provider is not None else "",
        "provider_href": with_query("/sign-in/oidc", {"next": back if back != "/" else ""}),
        "end_href": provider.end_url() if provider is not None and view.query("out") else "",
    }
    return Page("sign_in.html", {"error": words[:1].upper() + words[1:]}, status, shown)


# through a provider


def oidc(view: View) -> Page | Response:
    """Lead to the page of the provider."""
    provider, console = _provider(view), view.console
    here, own = view.request.headers.get("host", ""), urlsplit(console.url).netloc
    if here != own:  # its cookie would not be sent to the URL that the provider leads to
        return RedirectResponse(f"{console.url}{view.href()}", 303)
    browser = view.request.cookies.get(_cookie(view), "")
    if len(browser) != len(secrets.token_urlsafe(32)):
        browser = secrets.token_urlsafe(32)
    try:
        console.sessions.check(_visitor(view))
        answer = RedirectResponse(provider.begin(browser, local(view.query("next"))), 303)
    except LimitError as error:
        console.note(error, view.request)
        return _ask(view, str(error), 429)
    except ProviderError as error:
        return _ask(view, str(error), 502)
    answer.set_cookie(
        _cookie(view), browser, int(PENDING_S), path="/sign-in", httponly=True, samesite="lax",
        secure=console.secure,
    )  # fmt: skip
    return answer


def callback(view: View) -> Page | Response:
    """Sign in with what the provider answered."""
    provider, sessions, visitor = _provider(view), view.console.sessions, _visitor(view)
    answer = {name: view.query(name) for name in view.request.query_params}
    back = "/"

    def signed_in() -> Session:
        nonlocal back
        sessions.check(visitor)
        try:
            grant, back = provider.finish(view.request.cookies.get(_cookie(view), ""), answer)
        except ProviderError:
            raise
        except SignInError:
            sessions.failed(visitor)
            raise
        try:
            return sessions.begin(grant.token, Renewing(provider, grant))
        except SignInError as error:
            sessions.failed(visitor)
            if "server refuses" not in str(error):
                raise
            raise SignInError(
                f"the server does not accept the {provider.settings.kind} token of {provider.name}; its"
                " operator compares --jwt-issuer and --jwt-audience with --console-oidc-token"
            ) from None

    found = _begin(view, signed_in)
    if isinstance(found, Page):
        return found
    page = render(view, Page("signed_in.html", {"next": back}))
    for cookie in found.headers.getlist("set-cookie"):
        page.headers.append("set-cookie", cookie)
    return page


def _provider(view: View) -> Provider:
    if view.console.provider is None:
        raise NotFoundError("this console has no provider; sign in with a token")
    return view.console.provider


def _cookie(view: View) -> str:
    return f"{view.console.cookie}-oidc"


# signed in


def sign_out(view: View) -> Response:
    """End this session, or with `everywhere` all of the identity."""
    renewed = view.session.renewal is not None
    view.console.sessions.sign_out(view.session, everywhere=view.field("everywhere") == "1")
    answer = redirect(with_query("/sign-in", {"out": "1" if renewed else ""}))
    answer.delete_cookie(view.console.cookie, httponly=True, samesite="strict", secure=view.console.secure)
    return answer


def resume(view: View) -> Page:
    """Show a form that was sent after its session had ended."""
    browser = view.request.cookies.get(view.console.form_cookie, "")
    kept = view.console.forms.of(view.path("key"), browser, repr(view.session.whose))
    if kept is None:
        raise NotFoundError(
            "this form is kept no longer, or another browser or person sent it: forms are kept for an hour,"
            " until the console restarts"
        )
    values = {"path": kept.path, "fields": [{"name": name, "value": value} for name, value in kept.fields]}
    return Page("continue.html", values, 200, {"lost": kept.lost, "page": kept.page})


def account(view: View) -> Page:
    """Show who is signed in, with the rights and limits in each database."""
    found = []
    for name in view.session.databases():
        try:
            caller = view.session.database(name).access.whoami()
        except Error as error:
            found.append({"database": name, "error": str(error), "roles": [], "rights": [], "limits": []})
        else:
            lists: dict[str, Any] = {"roles": list(caller.roles), "rights": list(caller.rights)}
            lists["limits"] = [one.told() for one in caller.limits]
            found.append({"database": name, "error": "", **lists})
    values = {"name": view.session.name, "signed_in": view.session.signed_in, "databases_of": found}
    return Page("account.html", values)


ROUTES = [
    *route("/sign-in", sign_in_page, "GET", twin=False),
    *route("/sign-in", sign_in, "POST", twin=False),
    *route("/sign-in/oidc", oidc, twin=False),
    *route(CALLBACK, callback, twin=False),
    *route("/sign-out", sign_out, "POST", twin=False),
    *route("/continue/{key}", resume, twin=False),
    *route("/account", account),
]
