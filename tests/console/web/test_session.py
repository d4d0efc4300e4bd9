"""Signing in and out, over real HTTP and a real server."""

from __future__ import annotations

import re
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from everlog.console.web.server import WebServer, own_server
from everlog.console.web.session import POLLS_MAX, Session, Sessions, SignInError
from everlog.console.web.visitors import FAILURES
from everlog.console.web.visitors import Visitor as Caller
from everlog.rpc.address import Address
from everlog.rpc.certificates import create
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.security import Tls
from everlog.rpc.server.server import Server
from everlog.store.errors import LimitError, OpenError
from tests.console.web.conftest import ROLES, TOKENS
from tests.console.web.visitor import Visitor, console_of


def test_without_a_session_every_page_leads_to_the_sign_in(console: Visitor) -> None:
    answer = console.get("/account?x=1", follow=False)
    assert (answer.status, answer.headers["location"]) == (303, "/sign-in?next=%2Faccount%3Fx%3D1")
    assert "Sign in" in console.get("/").words
    refused = console.ask("GET", "/account.json")
    assert refused.status == 401
    assert refused.json["kind"] == "SignInError"


def test_a_token_signs_in_and_the_page_that_was_asked_for_follows(console: Visitor) -> None:
    assert "Sign in" in console.get("/account").words
    answer = console.post("/sign-in", token=TOKENS["ann"], next="/account")
    assert (answer.status, answer.headers["location"]) == (303, "/account")
    cookie, known = answer.cookies
    assert "HttpOnly" in known
    assert re.search(r"; HttpOnly", cookie)
    assert "samesite=strict" in cookie.lower()
    page = console.get("/account")
    assert "ann" in page.words
    assert console.json("/account")["databases_of"][0]["roles"] == ["owner"]
    assert TOKENS["ann"] not in page.text + str(page.headers) + str(console.cookies)


def test_a_wrong_token_is_refused_with_a_sentence(console: Visitor) -> None:
    answer = console.sign_in("wrong")
    assert answer.status == 403
    assert "This token is not accepted." in answer.words
    assert console.get("/account", follow=False).status == 303


@pytest.mark.parametrize("token", ["", " ", "ä", "a b", "x" * 20_000])
def test_what_is_no_token_is_refused(console: Visitor, token: str) -> None:
    assert "Expected a token" in console.sign_in(token).words


def test_a_token_without_rights_is_refused(console: Visitor) -> None:
    assert "no rights in any database" in console.sign_in(TOKENS["carl"]).words


@pytest.mark.parametrize(
    "url",
    ["//evil.example", "https://evil.example/", "/\\evil.example", "javascript:alert(1)", "\\x", "/a\nb"],
)
def test_the_page_after_the_sign_in_is_one_of_the_console(console: Visitor, url: str) -> None:
    assert console.sign_in(TOKENS["ann"], next=url).headers["location"] == "/"


def test_sign_out_ends_this_session_and_everywhere_ends_all(console: Visitor) -> None:
    first, second, other = console, Visitor(console.url), Visitor(console.url)
    for visitor, name in ((first, "ann"), (second, "ann"), (other, "bob")):
        assert visitor.sign_in(TOKENS[name]).status == 303
        visitor.get("/account")
    old = dict(first.cookies)
    assert first.post("/sign-out").status == 303
    first.cookies = old  # a copy of the cookie is worth nothing
    assert first.get("/account", follow=False).status == 303
    assert second.get("/account", follow=False).status == 200
    first.sign_in(TOKENS["ann"])
    first.get("/account")
    first.post("/sign-out", everywhere="1")
    assert second.get("/account", follow=False).status == 303
    assert other.get("/account", follow=False).status == 200


def test_a_sign_in_replaces_the_id_of_the_visitor(console: Visitor) -> None:
    console.get("/sign-in")
    before = dict(console.cookies)
    console.post("/sign-in", token=TOKENS["ann"])
    assert console.cookies != before


def test_too_many_failures_are_refused_also_with_the_right_token(console: Visitor) -> None:
    for _ in range(FAILURES):
        assert console.sign_in("wrong").status == 403
    answer = console.sign_in(TOKENS["ann"])
    assert answer.status == 429
    assert "Too many sign-ins" in answer.words


def test_what_cannot_be_guessed_signs_in_whatever_failed_at_its_address(flights: EmbeddedDatabase) -> None:
    created = flights.access.create_token("eve", roles=("reader",)).text
    other = "evl_" + "x" * 43
    with Server({"flights": flights}, tokens=TOKENS, roles=ROLES) as server:
        sessions = Sessions(Address(server.host, server.port, "", secure=False), lambda: 0.0)
        visitor = Caller("peer")
        for _ in range(FAILURES):
            with pytest.raises(SignInError):
                sessions.sign_in("a guess", visitor)
        for _ in range(3):
            with pytest.raises(SignInError):
                sessions.sign_in(other, visitor)
            with pytest.raises(SignInError):
                sessions.sign_in_once("another link")
            for guess in (TOKENS["ann"], f"{other}y", other[:-1]):
                with pytest.raises(LimitError, match="try again in 60 s"):
                    sessions.sign_in(guess, visitor)
        sessions.check(visitor)  # a sign-in at a provider
        assert sessions.sign_in(f" {created} ", visitor).name == "eve"
        assert sessions.sign_in_once(sessions.once(TOKENS["bob"])).name == "bob"
        sessions.close()


def test_a_form_needs_the_token_of_its_visitor_and_an_origin_of_the_console(console: Visitor) -> None:
    console.sign_in(TOKENS["ann"])
    console.get("/account")
    mine, console.csrf = console.csrf, ""
    assert console.post("/sign-out").status == 403
    other = Visitor(console.url)
    other.get("/sign-in")
    console.csrf = other.csrf
    assert console.post("/sign-out").status == 403
    console.csrf = mine
    refused = console.post("/sign-out", headers={"Origin": "https://evil.example"})
    assert refused.status == 403
    assert "another origin" in refused.words
    assert console.post("/sign-out", headers={"Origin": "null"}).status == 403
    assert console.get("/account", follow=False).status == 200
    assert console.post("/sign-out").status == 303


def test_a_session_ends_when_its_token_does(flights: EmbeddedDatabase) -> None:
    with Server({"flights": flights}, tokens=TOKENS, roles=ROLES) as server:
        web = WebServer("127.0.0.1:0")
        web.server = own_server(server.host, server.port, None)
        with web:
            visitor = Visitor(web.url)
            visitor.sign_in(TOKENS["ann"])
            assert visitor.get("/account", follow=False).status == 200
            server.reload(tokens={"bob": TOKENS["bob"]}, roles=ROLES)
            answer = visitor.get("/account")
            assert "Your session has ended" in answer.words


def test_idle_and_old_sessions_end(flights: EmbeddedDatabase) -> None:
    now = [0.0]
    with Server({"flights": flights}, tokens=TOKENS, roles=ROLES) as server:
        sessions = Sessions(Address(server.host, server.port, "", secure=False), lambda: now[0])
        first = sessions.sign_in(TOKENS["ann"], Caller("peer"))
        now[0] = 8 * 3600.0
        assert sessions.of(first.id) is first
        now[0] = 16 * 3600.0 + 1
        assert sessions.of(first.id) is None
        second = sessions.sign_in(TOKENS["ann"], Caller("peer"))
        for _ in range(4):
            now[0] += 6 * 3600.0
            assert sessions.of(second.id) is second
        now[0] += 1.0
        assert sessions.of(second.id) is None
        code = sessions.once(TOKENS["bob"])
        assert sessions.sign_in_once(code).name == "bob"
        with pytest.raises(SignInError, match="used already"):
            sessions.sign_in_once(code)
        late = sessions.once(TOKENS["bob"])
        now[0] += 601.0
        with pytest.raises(SignInError, match="older than ten minutes"):
            sessions.sign_in_once(late)
        sessions.close()


def test_without_tokens_this_machine_needs_no_sign_in_and_a_banner_says_so(open_console: Visitor) -> None:
    page = open_console.get("/")
    assert "No sign-in. This server has no tokens" in page.words
    assert open_console.json("/account")["signed_in"] is False


def test_behind_a_proxy_a_server_without_tokens_shows_nothing(flights: EmbeddedDatabase) -> None:
    with Server({"flights": flights}) as server:
        web = WebServer("127.0.0.1:0", url="https://console.example.com")
        web.server = own_server(server.host, server.port, None)
        with web:
            visitor = Visitor(f"http://127.0.0.1:{web.port}")
            assert visitor.get("/", follow=False, Host="console.example.com").status == 303
            assert visitor.get("/", follow=False).status == 303  # a proxy may send its own name of the host
            page = Visitor(visitor.url).get("/sign-in", Host="console.example.com")
            assert "; Secure" in page.cookies[0]


@pytest.fixture
def certificates(tmp_path: Path) -> Tls:
    create(tmp_path, ["db.example.com", "127.0.0.1"], ["dev"])
    return Tls(tmp_path / "server.pem", tmp_path / "server.key")


def test_with_tls_the_console_has_the_certificate_of_the_server(
    flights: EmbeddedDatabase, certificates: Tls, tmp_path: Path
) -> None:
    with console_of({"flights": flights}, tls=certificates, tokens=TOKENS, roles=ROLES) as web:
        assert web.url.startswith("https://127.0.0.1:")
        visitor = Visitor(web.url, tls=ssl.create_default_context(cafile=str(tmp_path / "ca.pem")))
        assert "; Secure" in visitor.get("/sign-in").cookies[0]
        assert visitor.sign_in(TOKENS["ann"]).status == 303
        assert visitor.json("/account")["name"] == "ann"


def test_without_tls_other_machines_do_not_reach_the_console() -> None:
    with pytest.raises(OpenError, match="without TLS"):
        WebServer("0.0.0.0:0")


def test_a_link_of_another_site_leads_to_the_page_and_keeps_the_session(console: Visitor) -> None:
    link = "/db/flights/tables?at=2"
    sent = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    console.sign_in("token-of-ann")
    cookies, console.cookies = console.cookies, {}  # as a browser does, which sends none
    answer = console.ask("GET", link, headers=sent)
    assert (answer.status, answer.cookies) == (200, [])
    assert 'content="0; url=/sign-in?next=%2Fdb%2Fflights%2Ftables%3Fat%3D2"' in answer.text
    assert "airports" not in answer.text
    to = "/sign-in?next=%2Fdb%2Fflights%2Ftables%3Fat%3D2"
    assert "Sign in" in console.get(to).words
    console.cookies = cookies
    assert console.get(to, follow=False).headers["location"] == link
    assert console.ask("GET", link, headers={**sent, "Host": "evil.example"}).status == 421


def test_a_form_that_was_sent_after_the_session_ended_is_not_lost(
    console: Visitor, flights: EmbeddedDatabase
) -> None:
    console.sign_in(TOKENS["ann"])
    console.get("/account")
    old = dict(console.cookies)
    console.post("/sign-out")
    console.cookies = old
    words = 'because <b>"it"</b> was wrong'
    headers = {"Referer": f"{console.url}/api/Store/Get?database=flights"}
    answer = console.post("/api/Store/Get?x=1", headers, database="flights", reason=words, empty="")
    assert answer.status == 303
    assert "/sign-in?next=%2Fcontinue%2F" in answer.headers["location"]
    page = console.get(answer.headers["location"])
    back = re.search(r'name="next" value="([^"]+)"', page.text)
    assert back is not None
    assert console.get(back[1], follow=False).status == 303  # nobody reads it without a session
    answer = console.post("/sign-in", token=TOKENS["ann"], next=back[1])
    page = console.get(answer.headers["location"])
    assert "Send this form again?" in page.words
    assert f"reason {words}" in page.words
    assert 'action="/api/Store/Get?x=1"' in page.text
    assert 'href="/api/Store/Get?database=flights"' in page.text
    assert "<b>" not in page.text
    assert console.post("/api/Store/Get", None, database="flights", table="airports").status != 403


def test_live_pages_of_a_session_share_a_call() -> None:
    session, calls = Session(Address("127.0.0.1", 1, "", secure=False), ""), list[str]()

    def call(name: str) -> str:
        calls.append(name)
        if name == "bad":
            raise OpenError("no")
        return name

    with ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda _: session.polled("a", lambda: call("a"), 60), range(50))
        assert set(found) == {"a"}
    assert calls == ["a"]
    assert session.polled("b", lambda: call("b"), 60) == "b"
    assert session.polled("b", lambda: call("c"), 0) == "c"
    for _ in range(2):
        with pytest.raises(OpenError):
            session.polled("bad", lambda: call("bad"), 60)
    assert calls == ["a", "b", "c", "bad", "bad"]
    for number in range(POLLS_MAX + 1):
        session.polled(number, lambda: call("x"), 60)
    assert session.polled("a", lambda: call("again"), 60) == "again"
