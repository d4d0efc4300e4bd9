"""Attacks: what an outsider, with at most a reader's token, tries at the console."""

from __future__ import annotations

import contextlib
import html
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from everlog.console.web import listener
from everlog.console.web.app import STRANGER_BYTES_MAX
from everlog.console.web.page import local
from everlog.console.web.session import SESSIONS_EACH, STREAMS_EACH
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.upkeep.roles import Role, Rule
from tests.conformance.database_case import AIRPORTS, Airport, open_case
from tests.console.web.visitor import Visitor, console_of

PATIENCE_S = 60.0
SCRIPT = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[EmbeddedDatabase]:
    """Yield a database of two tables, of which a tenant may read one."""
    with open_case("embedded", tmp_path) as case:
        db = case.embedded
        db.put(AIRPORTS, Airport(faa="JFK", name="Kennedy"))
        db.access.define(Role("some", (Rule(("read", "status"), ("airports",)),)))
        db.access.grant("tess", "some")
        yield db


@pytest.fixture
def visitor(shop: EmbeddedDatabase) -> Iterator[Visitor]:
    """A visitor, not signed in, of the console of `shop`."""
    tokens = {name: f"token-of-{name}" for name in ("root", "rita", "tess")}
    with console_of({"shop": shop}, tokens=tokens, roles={"root": ("owner",), "rita": ("reader",)}) as web:
        yield Visitor(web.url)


def connected(visitor: Visitor) -> socket.socket:
    parts = urlsplit(visitor.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE_S)


def ended(connection: socket.socket) -> bool:
    """Wait until the server closes a connection; return whether it did."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


# sessions and forms


def test_an_id_that_an_attacker_chose_is_no_session_after_the_sign_in(visitor: Visitor) -> None:
    visitor.get("/sign-in")
    (name,) = visitor.cookies
    visitor.cookies[name] = chosen = "a" * 43
    visitor.get("/sign-in")
    assert visitor.post("/sign-in", token="token-of-rita").status == 303
    assert visitor.cookies[name] != chosen
    thief = Visitor(visitor.url)
    thief.cookies[name] = chosen
    assert thief.get("/account", follow=False).status == 303


def test_the_cookie_is_for_the_console_alone(visitor: Visitor) -> None:
    cookie, known = visitor.sign_in("token-of-rita").cookies
    for one, scope in (
        (cookie, {"samesite=strict", "path=/"}),
        (known, {"samesite=lax", "path=/sign-in"}),
    ):
        words = {word.strip().lower() for word in one.split(";")[1:]}
        assert {"httponly", *scope} <= words
        assert not any(word.startswith("domain") for word in words)
        assert "rita" not in one


def test_one_identity_cannot_end_the_sessions_of_others(visitor: Visitor) -> None:
    others = Visitor(visitor.url)
    others.sign_in("token-of-root")
    first = Visitor(visitor.url)
    first.sign_in("token-of-rita")
    for _ in range(SESSIONS_EACH):
        assert Visitor(visitor.url).sign_in("token-of-rita").status == 303
    assert first.get("/account", follow=False).status == 303  # its own oldest one has ended
    assert others.get("/account", follow=False).status == 200


def test_a_name_of_one_database_is_not_the_same_name_of_another(tmp_path: Path) -> None:
    """Otherwise the owner of one database could end the sessions of people of another."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with open_case("embedded", tmp_path / "a") as one, open_case("embedded", tmp_path / "b") as other:
        tokens = [case.embedded.access.create_token("ann", ("owner",)).text for case in (one, other, one)]
        with console_of({"a": one.embedded, "b": other.embedded}) as web:
            ann, evil, again = (Visitor(web.url) for _ in tokens)
            for visitor, token in zip((ann, evil, again), tokens, strict=True):
                assert visitor.sign_in(token).status == 303
                visitor.get("/account")
            evil.post("/sign-out", everywhere="1")
            assert ann.get("/account", follow=False).status == 200
            again.post("/sign-out", everywhere="1")
            assert ann.get("/account", follow=False).status == 303


def test_no_form_takes_effect_without_its_token(visitor: Visitor, shop: EmbeddedDatabase) -> None:
    visitor.sign_in("token-of-root")
    head = shop.head
    paths = sorted(
        {
            action
            for page in ("/", "/db/shop/access", "/db/shop/admin", "/db/shop/consumers", "/account")
            for action in re.findall(r'<form[^>]*method="post"[^>]*action="([^"]+)"', visitor.get(page).text)
        }
    )
    for path in {*map(html.unescape, paths), "/sign-out"}:
        for fields in ({"csrf": ""}, {"csrf": "0" * 64}):
            assert visitor.post(path, None, **fields).status == 403, path
    assert visitor.get("/account", follow=False).status == 200
    assert shop.head == head


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "javascript:alert(1)",
        "http:evil.example",
        "/%0d%0aSet-Cookie:a=b\r\nx: y",
        "",
    ],
)
def test_the_page_after_a_sign_in_is_of_this_console(visitor: Visitor, url: str) -> None:
    assert local(url) in {"/", url}
    visitor.get("/sign-in?next=" + quote(url))
    answer = visitor.post("/sign-in", token="token-of-rita", next=url)
    assert answer.status == 303
    target = urlsplit(answer.headers["location"])
    assert (target.scheme, target.netloc) == ("", "")
    assert answer.headers["location"].startswith("/")
    assert "evil.example" not in answer.headers["location"]
    assert not [cookie for cookie in answer.cookies if cookie.startswith("a=b")]


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::1"]
)
def test_a_name_that_is_bound_to_this_machine_reaches_nothing(visitor: Visitor, host: str) -> None:
    for path in ("/", "/sign-in", "/db/shop/tables.json", "/static/console.css"):
        answer = visitor.ask("GET", path, headers={"Host": host})
        assert answer.status in {400, 421}
        assert "shop" not in answer.text


# what a reader may not see


def test_a_reader_learns_nothing_of_other_tables_and_pages_in_any_form(visitor: Visitor) -> None:
    visitor.sign_in("token-of-tess")
    pages = ("tables", "log", "log/1", "access", "admin", "consumers", "migrations")
    for path in ("/", "/api", *(f"/db/shop/{page}" for page in pages), "/db/shop/tables/airports"):
        for form in (path, f"{path}.json" if path != "/" else path):
            for kind in ("text/html", "application/json"):
                answer = visitor.ask("GET", form, headers={"Accept": kind})
                assert "flight" not in answer.text.lower(), (form, kind)
                assert answer.headers["cache-control"] == "no-store"
    for path in ("/db/shop/tables/NAME", "/db/shop/tables/NAME/export?format=csv", "/db/shop/tables/NAME/1"):
        said = set()
        for name in ("flights", "nothing"):  # one exists
            for kind in ("text/html", "application/json"):
                answer = visitor.ask("GET", path.replace("NAME", name), headers={"Accept": kind})
                assert answer.status in {403, 404}
                said.add(
                    (kind, answer.status, re.sub(r"[0-9a-f]{64}", "", answer.text).replace(name, "NAME"))
                )
        assert len(said) == 2, path


@pytest.mark.parametrize(
    "path",
    [
        "/db/..%2f..%2fetc/tables",
        "/db/shop/tables/..%2f..%2faccess",
        "/db/shop%00/tables",
        "/db/%ff%fe/tables",
        "/db/shop/tables/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "/db/shop/log/-1",
        "/db/shop/log/99999999999999999999999",
        "/static/..%2f..%2fapp.py",
        "/static/%2e%2e/%2e%2e/session.py",
        "//evil.example/",
        "/db/shop/tables/airports?" + "a=b&" * 20_000,
    ],
)
def test_tricks_in_paths_find_nothing_and_break_nothing(visitor: Visitor, path: str) -> None:
    visitor.sign_in("token-of-rita")
    for suffix in ("", ".json"):
        plain, mark, query = path.partition("?")
        answer = visitor.ask("GET", plain + suffix + mark + query)
        assert answer.status in {200, 303, 400, 403, 404, 414}, answer.words
        assert "<script>alert" not in answer.text
        assert "Fault" not in answer.words
        assert answer.headers.get("x-content-type-options") == "nosniff" or answer.status == 400


def test_keys_values_actors_and_reasons_are_text_on_every_page(
    visitor: Visitor, shop: EmbeddedDatabase
) -> None:
    shop.put(AIRPORTS, Airport(faa=SCRIPT, name=SCRIPT + "2", city=SCRIPT), actor=SCRIPT, reason=SCRIPT)
    seq = shop.head
    shop.access.grant(SCRIPT, "reader", reason=SCRIPT)
    shop.consumers.register(SCRIPT, actor=SCRIPT, reason=SCRIPT)
    visitor.sign_in("token-of-root")
    seen = 0
    for path in (
        "/",
        "/db/shop/tables/airports",
        f"/db/shop/tables/airports/{quote(SCRIPT, safe='')}",
        "/db/shop/log",
        f"/db/shop/log/{seq}",
        f"/db/shop/log?actor={quote(SCRIPT)}",
        "/db/shop/access",
        f"/db/shop/access/{quote(SCRIPT, safe='')}",
        "/db/shop/consumers",
        f"/db/shop/consumers/{quote(SCRIPT, safe='')}",
        f"/sign-in?next=/{quote(SCRIPT)}",
    ):
        page = visitor.get(path)
        seen += "&lt;script&gt;" in page.text
        assert "<script>alert" not in page.text, path
        assert "<img src=x" not in page.text, path
        twin = visitor.ask("GET", path.replace("?", ".json?") if "?" in path else f"{path}.json")
        if twin.headers["content-type"].startswith("text/html"):
            assert "<script>alert" not in twin.text, path
        else:
            assert twin.headers["x-content-type-options"] == "nosniff"
    assert seen >= 5


def test_a_stream_of_events_ends_with_its_token(visitor: Visitor, shop: EmbeddedDatabase) -> None:
    made = shop.access.create_token("mia", ("reader",))
    visitor.sign_in(made.text)
    cookie = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())
    with connected(visitor) as connection:
        words = ("GET /db/shop/log/events HTTP/1.1", "Host: 127.0.0.1", f"Cookie: {cookie}", "", "")
        connection.sendall("\r\n".join(words).encode())
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        shop.access.revoke_token(made.token.id)
        until, text = time.monotonic() + PATIENCE_S, b""
        while not text.endswith(b"0\r\n\r\n"):
            assert time.monotonic() < until
            text += connection.recv(1 << 16)
        shop.put(AIRPORTS, Airport(faa="EWR", name="secret"))
        assert b"secret" not in text
    assert visitor.get("/db/shop/log/events", follow=False).status != 200


# peers that are slow, or send much


@pytest.mark.parametrize(
    ("limit", "sent"),
    [
        ("HEAD_S", b""),
        ("HEAD_S", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: "),
        ("BODY_S", b"POST /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\ntoken="),
        ("HEAD_S", b"GET /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET / HT"),
    ],
)
def test_a_request_that_never_ends_is_dropped(
    visitor: Visitor, limit: str, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as soon:
        soon.setattr(listener, limit, 0.2)
        with connected(visitor) as connection:
            with contextlib.suppress(ConnectionError):  # dropped before it was sent
                connection.sendall(sent)
            assert ended(connection)
    assert visitor.get("/sign-in").status == 200


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (b"GET /log?actor=" + b"x" * 70_000, b"x" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
        (b"hello\r\n\r\n", b"and more" * 10_000),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: x\r\n\r\n", b"y" * 100_000),
    ],
)
def test_a_peer_reads_its_refusal_although_it_still_sends(
    visitor: Visitor, first: bytes, more: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "LINGER_S", PATIENCE_S)  # a slow machine needs more
    with connected(visitor) as connection:
        connection.sendall(first)
        text = connection.recv(1 << 16)  # the server has refused it
        connection.sendall(more)
        while part := connection.recv(1 << 16):
            text += part
    assert text.startswith(b"HTTP/1.1 400")
    assert text.endswith(b"Invalid HTTP request received.")


def test_a_peer_that_sends_without_end_is_dropped(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "LINGER_S", 600.0)
    sent, most = 0, 100 * listener.LINGER_BYTES
    with connected(visitor) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"hello\r\n\r\n")
        while sent < most:
            sent += connection.send(b"x" * 100_000)
    assert sent < most


def test_bytes_that_trickle_do_not_extend_the_time(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HEAD_S", 0.3)
    with connected(visitor) as connection:
        until = time.monotonic() + PATIENCE_S
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            while time.monotonic() < until:
                connection.sendall(b"X-A: b\r\n")
                time.sleep(0.02)
        assert time.monotonic() < until


def test_a_stranger_keeps_little_memory_and_a_session_may_send_a_file(visitor: Visitor) -> None:
    visitor.get("/sign-in")
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    large = b"x" * (STRANGER_BYTES_MAX + 1)
    for path in ("/sign-in", "/db/shop/access"):
        assert visitor.ask("POST", path, large, kind).status in {303, 413}
    visitor.sign_in("token-of-rita")
    refused = visitor.ask("POST", "/sign-out", large, kind)
    assert refused.status == 403  # read, and without its token


def test_the_pages_of_one_session_do_not_take_all_threads(visitor: Visitor) -> None:
    visitor.sign_in("token-of-rita")
    cookie = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())
    asked = f"GET /db/shop/log/events HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {cookie}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        for _ in range(STREAMS_EACH):
            one = stack.enter_context(connected(visitor))
            one.sendall(asked)
            assert b"retry" in _until(one, b"retry: 1000")
        last = stack.enter_context(connected(visitor))
        last.sendall(asked)
        assert b"retry: 60000" in _until(last, b"0\r\n\r\n")
        assert visitor.get("/account").status == 200


def _until(connection: socket.socket, end: bytes) -> bytes:
    found = b""
    while end not in found:
        piece = connection.recv(1 << 16)
        assert piece
        found += piece
    return found
