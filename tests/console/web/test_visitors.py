"""Visitors before they sign in: their addresses behind proxies, failures, and forms that wait."""

from __future__ import annotations

import contextlib
import re
import resource
import socket
import time

import pytest

from everlog.console.web import listener
from everlog.console.web.setup import Setup
from everlog.console.web.visitors import (
    FAILURES,
    FAILURES_ALL,
    KEPT_CHARS_MAX,
    KEPT_EACH,
    KEPT_EACH_CHARS,
    KEPT_MAX,
    KEPT_S,
    Browsers,
    Failures,
    Forms,
    Proxies,
)
from everlog.console.web.visitors import Visitor as Caller
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.errors import LimitError, OpenError
from tests.console.web.conftest import ROLES, TOKENS
from tests.console.web.visitor import Visitor, console_of

NAMED = ("10.1.0.9", "192.168.0.0/16", "fd00::/8")


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.7", (), "203.0.113.7"),
        ("203.0.113.7", ("198.51.100.1",), "203.0.113.7"),  # not a proxy: it may write anything
        ("10.1.0.9", (), "10.1.0.9"),
        ("10.1.0.9", ("198.51.100.1",), "198.51.100.1"),
        ("10.1.0.9", ("127.0.0.1, 198.51.100.1",), "198.51.100.1"),  # the client wrote the first
        ("10.1.0.9", ("127.0.0.1", "198.51.100.1"), "198.51.100.1"),
        ("10.1.0.9", ("198.51.100.1, 192.168.7.7",), "198.51.100.1"),
        ("10.1.0.9", ("192.168.7.8, 192.168.7.7",), "192.168.7.8"),
        ("10.1.0.9", ("198.51.100.1:5123",), "198.51.100.1"),
        ("10.1.0.9", ("[2001:db8::7]:5123",), "2001:db8::/64"),
        ("10.1.0.9", ("2001:db8::7",), "2001:db8::/64"),
        ("::ffff:10.1.0.9", ("::ffff:198.51.100.1",), "198.51.100.1"),
        ("fd00::1", ("198.51.100.1",), "198.51.100.1"),
        ("10.1.0.9", ("unknown",), "10.1.0.9"),
        ("10.1.0.9", ("198.51.100.1, <script>",), "10.1.0.9"),
        ("10.1.0.9", (",,",), "10.1.0.9"),
        ("10.1.0.9", (", ".join(["10.1.0.9"] * 1000),), "10.1.0.9"),
        ("", ("198.51.100.1",), ""),
    ],
)
def test_only_named_proxies_tell_the_address_of_a_client(
    peer: str, forwarded: tuple[str, ...], client: str
) -> None:
    assert Proxies(NAMED).client(peer, forwarded) == client
    assert Proxies().client(peer, forwarded) == Proxies().client(peer, ())


@pytest.mark.parametrize("word", ["", "proxy", "10.1.0.9:80", "10.1.0.0/40", "*"])
def test_a_proxy_is_an_address_or_a_network(word: str) -> None:
    with pytest.raises(OpenError, match="expected the address or network of a proxy"):
        Proxies([word])


def test_a_cookie_of_a_browser_is_made_by_this_console_alone() -> None:
    browsers = Browsers()
    cookie = browsers.cookie("ann")
    account = browsers.of(cookie)
    assert account
    assert "ann" not in cookie
    assert browsers.of(browsers.cookie("bob")) not in {"", account}
    for other in (
        "",
        ".",
        cookie[:-1],
        cookie + "0",
        "0" * 32 + cookie[32:],
        Browsers().cookie("ann"),
        "ä.ä",
    ):
        assert browsers.of(other) == ""


def test_failures_are_forgotten_after_a_minute() -> None:
    now = [0.0]
    failures, ann, bob = Failures(lambda: now[0]), Caller("a"), Caller("b")
    for _ in range(FAILURES):
        failures.note(ann)
    failures.check(bob)
    with pytest.raises(LimitError, match="try again in 60 s") as refused:
        failures.check(ann)
    assert refused.value.retry_s == 60.0
    now[0] = 60.0
    failures.check(ann)


def test_guesses_of_strangers_do_not_lock_out_accounts_that_have_signed_in() -> None:
    failures = Failures(lambda: 0.0)
    for number in range(FAILURES_ALL):
        failures.note(Caller(f"10.0.{number // 100}.{number % 100}"))
    with pytest.raises(LimitError):
        failures.check(Caller("192.0.2.1"))
    failures.check(Caller("10.0.0.0", "account of ann"))
    for _ in range(FAILURES):
        failures.note(Caller("10.0.0.0", "account of ann"))
    with pytest.raises(LimitError):
        failures.check(Caller("192.0.2.1", "account of ann"))  # from wherever
    failures.check(Caller("10.0.0.0", "account of bob"))


def test_one_person_behind_a_proxy_does_not_lock_out_the_others(flights: EmbeddedDatabase) -> None:
    limits, denied = list[str](), list[str]()
    setup = Setup(proxies=("127.0.0.1",), on_limit=limits.append, on_denied=denied.append)
    with console_of({"flights": flights}, tokens=TOKENS, roles=ROLES, setup=setup) as web:
        guesses, other, known = (Visitor(web.url) for _ in range(3))
        mine, others = {"X-Forwarded-For": "203.0.113.7"}, {"X-Forwarded-For": "1.1.1.1, 203.0.113.8"}
        known.get("/sign-in")
        assert known.post("/sign-in", mine, token=TOKENS["bob"]).status == 303
        known.get("/account")
        assert known.post("/sign-out", mine).status == 303
        guesses.get("/sign-in")
        for _ in range(FAILURES):
            assert guesses.post("/sign-in", mine, token="wrong").status == 403
        assert guesses.post("/sign-in", mine, token=TOKENS["ann"]).status == 429
        other.get("/sign-in")
        assert other.post("/sign-in", others, token=TOKENS["ann"]).status == 303
        known.get("/sign-in")
        assert known.post("/sign-in", mine, token=TOKENS["bob"]).status == 303, "his browser is known"
        other.csrf = "0"
        assert other.post("/sign-out", others).status == 403
        assert other.ask("GET", "/", None, {"Host": "evil.example"}).status == 421
    assert denied == ["console/sign-in"] * FAILURES + ["console/form", "console/host"]
    assert limits == ["console_sign_in"]


def test_without_named_proxies_a_header_changes_no_address(flights: EmbeddedDatabase) -> None:
    with console_of({"flights": flights}, tokens=TOKENS, roles=ROLES) as web:
        visitor = Visitor(web.url)
        visitor.get("/sign-in")
        for number in range(FAILURES):
            forged = {"X-Forwarded-For": f"203.0.113.{number}"}
            assert visitor.post("/sign-in", forged, token="wrong").status == 403
        assert visitor.post("/sign-in", {"X-Forwarded-For": "203.0.113.99"}, token="wrong").status == 429


def test_a_form_is_shown_to_the_browser_and_the_person_that_sent_it() -> None:
    now = [0.0]
    forms = Forms(lambda: now[0])
    fields = [("csrf", "x" * KEPT_CHARS_MAX), ("n", "1")]
    key = forms.keep("mine", "a", "/x", "/", fields, lost=["file"], ended=("id", "ann"))
    found = forms.of(key, "mine", "ann")
    assert found is not None
    assert (found.fields, found.lost) == ([("n", "1")], ["file"])
    for other in ((key, "other", "ann"), (key, "", "ann"), (key, "mine", "bob"), ("another", "mine", "ann")):
        assert forms.of(*other) is None
    free = forms.keep("mine", "a", "/x", "/", fields)  # of a session that is unknown
    assert forms.of(free, "mine", "bob") is not None
    now[0] = KEPT_S
    assert forms.of(key, "mine", "ann") is None


def test_the_forms_of_strangers_displace_no_others_and_are_bounded() -> None:
    forms = Forms()
    assert forms.keep("b", "a", "/x", "/", [("text", "x" * KEPT_CHARS_MAX)]) == ""
    ann = forms.keep("ann", "a", "/x", "/", [("n", "1")], ended=("id", "ann"))
    first = forms.keep("stranger", "10.0.0.1", "/x", "/", [("n", "1")])
    for number in range(KEPT_EACH):
        forms.keep("evil", "10.0.0.2", "/x", "/", [("n", str(number))])
    for _ in range(2 * KEPT_EACH_CHARS // 200_000):
        assert forms.keep("evil", "10.0.0.2", "/x", "/", [("n", "x" * 200_000)])
    kept = [forms.keep("evil", f"10.0.1.{number}", "/x", "/", [("n", "1")]) for number in range(KEPT_MAX)]
    assert kept[0]
    assert not kept[-1], "there is no room for more strangers"
    assert forms.of(ann, "ann", "ann") is not None
    assert forms.of(first, "stranger", "") is not None
    own = [
        forms.keep("x", "a", "/x", "/", [("n", "1")], ended=(str(n), f"person {n}")) for n in range(KEPT_MAX)
    ]
    assert all(own[: KEPT_MAX // 2])
    assert not own[-1]
    assert len(forms) == KEPT_MAX


def test_a_form_of_another_browser_is_not_shown(console: Visitor) -> None:
    console.sign_in(TOKENS["ann"])
    console.get("/account")
    old = dict(console.cookies)
    console.post("/sign-out")
    console.cookies = old
    answer = console.post("/api/Store/Get", None, database="flights", reason="secret")
    page = console.get(answer.headers["location"])
    back = re.search(r'name="next" value="([^"]+)"', page.text)
    assert back is not None
    thief = Visitor(console.url)
    thief.sign_in(TOKENS["ann"])
    assert "secret" not in thief.get(back[1]).text
    console.post("/sign-in", token=TOKENS["bob"])
    assert "secret" not in console.get(back[1]).text, "another person with the same browser"
    console.sign_in(TOKENS["ann"])
    assert "secret" in console.get(back[1]).text


def read(connection: socket.socket) -> bytes:
    """Return what a peer reads until the end."""
    found = b""
    while part := connection.recv(1 << 16):
        found += part
    return found


@pytest.mark.parametrize("proxied", [False, True])
def test_an_address_does_not_hold_all_connections_but_a_named_proxy_may(
    flights: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch, proxied: bool
) -> None:
    monkeypatch.setattr(listener, "CONNECTIONS_EACH", 3)
    monkeypatch.setattr(listener, "CONNECTIONS_MAX", 5)
    limits = list[str]()
    setup = Setup(on_limit=limits.append, proxies=("127.0.0.1",) if proxied else ())
    with console_of({"flights": flights}, tokens=TOKENS, roles=ROLES, setup=setup) as web:
        with contextlib.ExitStack() as stack:

            def connected(host: str = "127.0.0.1") -> socket.socket:
                made = socket.create_connection(("127.0.0.1", web.port), timeout=30, source_address=(host, 0))
                return stack.enter_context(made)

            held = [connected() for _ in range(5 if proxied else 3)][-1]
            refused = connected()
            refused.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            answer = read(refused)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nConnection: close\r\n" in answer
            assert b"\r\n\r\ntoo many connections" in answer
            assert limits == ["console_connections"]
            for one in (held, *(connected("127.0.0.2") for _ in range(0 if proxied else 2))):
                one.sendall(b"GET /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                assert read(one).startswith(b"HTTP/1.1 200 ")
        until = time.monotonic() + 60
        while Visitor(web.url).get("/sign-in").status != 200:  # until the server knows that they have left
            assert time.monotonic() < until


def test_few_connections_are_taken_where_few_files_may_be_open() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (800, hard))
    try:
        places = listener.Places(Proxies(), lambda *_: None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    taken = [places.take(f"10.0.0.{number % 4}") for number in range(200)]
    assert sum(one is not None for one in taken) == 100


def test_refused_connections_are_few(flights: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, most in (("CONNECTIONS_MAX", 0), ("REFUSED_MAX", 2), ("LINGER_S", 600.0)):
        monkeypatch.setattr(listener, name, most)
    with console_of({"flights": flights}) as web, contextlib.ExitStack() as stack:
        ends = list[bytes]()
        for _ in range(4):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", web.port), timeout=30))
            try:
                ends.append(read(one)[:12])
            except ConnectionError:
                ends.append(b"")
        assert ends == [b"HTTP/1.1 503", b"HTTP/1.1 503", b"", b""]
