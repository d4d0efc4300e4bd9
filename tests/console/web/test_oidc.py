"""Signing in at a real OpenID Connect provider on this machine, and a server that verifies its tokens."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from everlog.console.web import oidc
from everlog.console.web.oidc import CALLBACK, Oidc
from everlog.console.web.session import SignInError
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.issuer import Jwt
from everlog.store.errors import OpenError
from tests.console.web.browser import Tab, browser, chromium
from tests.console.web.provider import CLIENT, SECRET, TestProvider
from tests.console.web.visitor import Answer, Visitor, console_of
from tests.rpc.issuing import AUDIENCE


@pytest.fixture
def provider() -> Iterator[TestProvider]:
    with TestProvider() as found:
        yield found


@contextmanager
def served(flights: EmbeddedDatabase, provider: TestProvider, **how: Any) -> Iterator[Visitor]:
    flights.access.grant("ann", "writer")
    audience = CLIENT if how.get("kind") == "id" else AUDIENCE
    settings = Oidc(provider.url, CLIENT, SECRET, **how)
    jwt = Jwt(provider.url, audience, leeway_s=0.0)
    with console_of({"flights": flights}, oidc=settings, jwt=jwt) as web:
        yield Visitor(web.url)


@pytest.fixture
def visitor(flights: EmbeddedDatabase, provider: TestProvider) -> Iterator[Visitor]:
    with served(flights, provider) as found:
        yield found


def asked(visitor: Visitor, back: str = "") -> str:
    """Begin a sign-in, and return where the provider leads to, without the host."""
    begun = visitor.get(f"/sign-in/oidc?{urlencode({'next': back})}", follow=False)
    assert begun.status == 303, begun.words
    provider = urlsplit(begun.headers["location"])
    with closing(http.client.HTTPConnection(provider.netloc, timeout=30)) as connection:
        connection.request("GET", f"{provider.path}?{provider.query}")
        parts = urlsplit(connection.getresponse().headers["location"])
    return f"{parts.path}?{parts.query}"


def signed_in(visitor: Visitor, back: str = "") -> Answer:
    return visitor.get(asked(visitor, back), follow=False)


@pytest.mark.parametrize("kind", ["access", "id"])
def test_a_person_signs_in_at_the_provider(
    flights: EmbeddedDatabase, provider: TestProvider, kind: str
) -> None:
    with served(flights, provider, kind=kind) as visitor:
        page = visitor.get("/db/flights/tables")
        assert f"Sign in at {urlsplit(provider.url).netloc}" in page.words
        answer = signed_in(visitor, "/db/flights/tables")
        assert answer.status == 200
        assert 'content="0;url=/db/flights/tables"' in answer.text
        assert "airports" in visitor.get("/db/flights/tables").words
        account = visitor.json("/account")
        assert (account["name"], account["databases_of"][0]["roles"]) == ("ann", ["writer"])
        session = next(one for one in answer.cookies if "-oidc=" not in one)
        assert "HttpOnly" in session
        assert "SameSite=strict" in session
        assert "eyJ" not in answer.text + str(answer.headers) + str(visitor.cookies)


@pytest.mark.long
@pytest.mark.skipif(not chromium(), reason="no Chromium on this machine (Debian: apt install chromium)")
def test_a_browser_signs_in_at_the_provider_and_returns_to_its_page(
    flights: EmbeddedDatabase, provider: TestProvider
) -> None:
    provider.url = provider.url.replace("127.0.0.1", "localhost")  # another site
    with served(flights, provider) as visitor, browser() as found, Tab(found, visitor.url) as tab:
        page = tab.go("/db/flights/tables/airports")
        page.click(f"text=Sign in at {urlsplit(provider.url).netloc}")
        page.wait_for_url(f"{visitor.url}/db/flights/tables/airports")
        assert page.inner_text("h1") == "airports"
        page.goto(f"{visitor.url}/account")
        page.click("text=Sign out everywhere")
        page.wait_for_selector("text=Sign out there")
        assert len(provider.revoked) == 1


def test_the_cookie_of_a_sign_in_outlives_only_its_own_redirect(visitor: Visitor) -> None:
    begun = visitor.get("/sign-in/oidc", follow=False)
    cookie = next(one for one in begun.cookies if "-oidc=" in one)
    assert "Max-Age=600" in cookie
    assert "SameSite=lax" in cookie
    query = dict(parse_qsl(urlsplit(begun.headers["location"]).query))
    assert query["code_challenge_method"] == "S256"
    assert {"state", "nonce", "code_challenge"} <= query.keys()


def test_a_state_is_used_once(visitor: Visitor) -> None:
    url = asked(visitor)
    assert visitor.get(url).status == 200
    assert "This sign-in was used already" in visitor.get(url).words


def test_another_browser_cannot_end_a_sign_in(visitor: Visitor) -> None:
    url, other = asked(visitor), Visitor(visitor.url)
    answer = other.get(url)
    assert (answer.status, "Another browser began this sign-in" in answer.words) == (403, True)
    assert "was used already" in visitor.get(url).words  # its state has been seen elsewhere


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"nonce": "of-yesterday"}, "is of another sign-in; sign in again"),
        ({"iss": "https://evil.example"}, "is of another issuer"),
        ({"aud": "another"}, "is for another client"),
        ({"aud": [CLIENT, "another"]}, "is for another client"),
        ({"exp": 1000}, "has expired; sign in again, and compare the clocks"),
        ({"sub": None}, "has no sub"),
    ],
)
def test_an_id_token_that_is_not_for_this_sign_in_is_refused(
    visitor: Visitor, provider: TestProvider, claims: dict[str, Any], words: str
) -> None:
    provider.claims = claims
    answer = signed_in(visitor)
    assert answer.status == 403
    assert words in answer.words
    assert visitor.get("/account", follow=False).status == 303


def test_a_signature_of_an_unknown_key_is_refused_and_a_new_key_is_read(
    visitor: Visitor, provider: TestProvider
) -> None:
    assert signed_in(visitor).status == 200
    old = provider.keys["one"]
    provider.add("one", publish=False)
    assert "cannot be verified" in signed_in(visitor).words
    provider.keys["one"] = old
    provider.published["one"] = provider.keys["one"]
    assert signed_in(visitor).status == 200


def test_what_the_provider_refuses_is_told_without_its_text(visitor: Visitor, provider: TestProvider) -> None:
    provider.refuse = "access_denied<script>"
    answer = signed_in(visitor)
    assert answer.status == 403
    assert "refused the sign-in: access_denied" in answer.words
    assert "<script>" not in answer.text
    provider.refuse = ""
    url = asked(visitor)
    provider.codes.clear()
    assert "refused the sign-in: invalid_grant" in visitor.get(url).words


def test_another_issuer_in_the_answer_or_the_metadata_is_refused(
    visitor: Visitor, provider: TestProvider
) -> None:
    query = dict(parse_qsl(urlsplit(asked(visitor)).query)) | {"iss": "https://evil.example"}
    assert "Another provider than" in visitor.get(f"{CALLBACK}?{urlencode(query)}").words
    with TestProvider() as other:
        other.name = "https://evil.example"
        found = oidc.Provider(Oidc(other.url, CLIENT), visitor.url)
        with pytest.raises(oidc.ProviderError, match="found those of another issuer"):
            found.begin("browser", "/")


def test_a_provider_that_is_down_is_told(flights: EmbeddedDatabase, provider: TestProvider) -> None:
    with served(flights, provider) as visitor:
        provider.status = 503
        answer = visitor.get("/sign-in/oidc")
        assert answer.status == 502
        assert "does not answer as expected (status 503); try again later" in answer.words
        provider.status = 200
        assert signed_in(visitor).status == 200


def test_a_token_that_the_server_does_not_accept_names_the_settings(
    flights: EmbeddedDatabase, provider: TestProvider
) -> None:
    with served(flights, provider, kind="id") as visitor:
        provider.claims = {"nbf": int(time.time()) + 25}  # within the leeway of the console only
        answer = signed_in(visitor)
        assert answer.status == 403
        assert "compares --jwt-issuer and --jwt-audience" in answer.words


def test_a_person_without_rights_learns_who_gives_them(visitor: Visitor, provider: TestProvider) -> None:
    provider.person = "bob"
    assert "everlog access grant" in signed_in(visitor).words


class Once:
    """A renewal that is due once."""

    def __init__(self, token: str) -> None:
        self.tokens = [token]

    def due(self) -> bool:
        return bool(self.tokens)

    def renew(self) -> str:
        return self.tokens.pop()

    def revoke(self) -> None: ...


def test_open_databases_present_the_renewed_token(flights: EmbeddedDatabase, provider: TestProvider) -> None:
    for name in ("ann", "bob"):
        flights.access.grant(name, "reader")
    with console_of({"flights": flights}, jwt=Jwt(provider.url, AUDIENCE)) as web:
        renewal = Once(provider.token("bob"))
        session = web.console.sessions.begin(provider.token("ann"), renewal)
        opened = session.database("flights")
        assert opened.access.whoami().name == "ann"
        session.renew()
        assert opened.access.whoami().name == "bob"
        assert session.databases() == ["flights"]
        session.renew()
        assert opened.access.whoami().name == "bob"


@pytest.mark.long
def test_a_token_is_renewed_before_it_ends(flights: EmbeddedDatabase, provider: TestProvider) -> None:
    provider.life_s = 4.0
    with served(flights, provider) as visitor:
        assert signed_in(visitor).status == 200
        until = time.monotonic() + 6
        while time.monotonic() < until or provider.refreshed < 2:
            assert visitor.get("/db/flights/tables", follow=False).status == 200
            time.sleep(0.05)
        provider.refreshes.clear()
        until = time.monotonic() + 30
        while (answer := visitor.get("/db/flights/tables", follow=False)).status == 200:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert "Your session has ended. Sign in again." in visitor.get(answer.headers["location"]).words


def test_a_refreshed_token_of_another_person_is_refused(provider: TestProvider) -> None:
    found = oidc.Provider(Oidc(provider.url, CLIENT, SECRET), "http://127.0.0.1:1")
    provider.refreshes["r"] = "bob"
    with pytest.raises(SignInError, match="answered for another person"):
        found.refresh(oidc.Grant("", 0.0, "r", "ann"))


def test_signing_out_revokes_and_leads_to_the_provider(visitor: Visitor, provider: TestProvider) -> None:
    signed_in(visitor)
    visitor.get("/account")
    (refresh,) = provider.refreshes
    left = visitor.post("/sign-out")
    assert provider.revoked == [refresh]
    page = visitor.get(left.headers["location"])
    assert f'href="{provider.url}/bye?client_id={CLIENT}' in page.text
    assert visitor.get("/account", follow=False).status == 303


def test_an_access_token_that_nobody_can_verify_is_told(visitor: Visitor, provider: TestProvider) -> None:
    provider.without = {"access_token"}
    assert "set --console-oidc-token id" in signed_in(visitor).words.replace("\u00a0", " ")
    provider.without = {"id_token"}
    assert "returned no ID token" in signed_in(visitor).words


@pytest.mark.parametrize("issuer", ["http://login.example.com", "https://user:pw@login.example.com", "login"])
def test_an_issuer_that_others_could_answer_for_is_refused(issuer: str) -> None:
    with pytest.raises(OpenError, match="--console-oidc-issuer: expected a URL with https://"):
        oidc.Provider(Oidc(issuer, CLIENT), "http://127.0.0.1:1")


def test_a_console_without_a_provider_has_no_such_page(console: Visitor) -> None:
    assert console.get("/sign-in/oidc").status == 404
