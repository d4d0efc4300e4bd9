"""Bad input to the whole console: every page, found in its routes, with a server that changes underneath,
with values that make no sense, and with requests that are too large."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, urlencode, urlsplit

import pytest

import everlog
from everlog.console.web.app import ROUTES
from everlog.console.web.server import WebServer, own_server
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from tests.console.web.conftest import TOKENS
from tests.console.web.visitor import Visitor

PARTS = {"database": "flights", "table": "airports", "seq": "3", "service": "Store", "method": "Scan"}
ROW = "?k=JFK&id=search-index&name=search-index"
LOST = {"/sign-in/oidc", "/sign-in/oidc/callback", "/overview"}  # without a database, or another's twin


def paths() -> list[str]:
    """Return the address of each page, with parts of the path that exist where they can."""
    found = {
        route.path
        for route in ROUTES
        if "GET" in (route.methods or ()) and not route.path.endswith((".json", "/events"))
    }
    return sorted(
        re.sub(r"\{(\w+)\}", lambda part: PARTS.get(part[1], "20260209154500"), path) for path in found - LOST
    )


ALL = paths()
OF_DATABASE = [path for path in ALL if path.startswith("/db/")]
OF_SERVER = {"/db/flights/admin/calls", "/db/flights/admin/settings"}  # they show the server's as well
WORDS = (
    "at until after time ms k resume before limit column facet q index field op value versions from range id"
    " said count"
)
NAMES = WORDS.split()
BAD = ("9" * 30, "-1", "\0", "1999-01-01T00:00Z", "\ud7ff<script>", "%2e%2e/", "9" * 18, "x" * 5000)


@contextmanager
def console_beside(server: Server) -> Iterator[Visitor]:
    """Serve the console of a server by itself."""
    web = WebServer("127.0.0.1:0")
    web.server = own_server(server.host, server.port, None)
    with web:
        yield Visitor(web.url)


def check_told(path: str, status: int, text: str) -> None:
    """Check that a page is an answer of the console, with a sentence, and not a fault in it."""
    assert status < 500 or status == 503, f"{path}: {status} {text[-500:]}"
    assert "A fault in the console" not in text, path
    assert "<script>alert" not in text, path


def test_every_page_answers_values_that_make_no_sense_with_a_sentence(open_console: Visitor) -> None:
    assert len(OF_DATABASE) > 20
    for number, path in enumerate(ALL):
        for at, value in enumerate(BAD):
            name = NAMES[(number + at) % len(NAMES)]
            answer = open_console.get(f"{path}?{urlencode({name: value}, errors='replace')}")
            check_told(path, answer.status, answer.text)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_every_page_answers_every_bad_value_of_every_name(open_console: Visitor) -> None:
    for path in ALL:
        for name in NAMES:
            for value in BAD:
                answer = open_console.get(f"{path}?{urlencode({name: value}, errors='replace')}")
                check_told(f"{path} {name}={value[:40]!r}", answer.status, answer.text)


@pytest.mark.long
def test_every_part_of_a_path_that_does_not_exist_is_told(open_console: Visitor) -> None:
    for path in OF_DATABASE:
        for part in path.split("/")[2:]:
            for value in ("nothing", "..", "a\0b", "x" * 300, "<script>alert(1)</script>"):
                bad = path.replace(f"/{part}", f"/{quote(value, safe='')}", 1)
                answer = open_console.get(bad)
                check_told(bad, answer.status, answer.text)


def test_a_database_that_the_server_has_no_more_is_told_on_each_of_its_pages(
    flights: EmbeddedDatabase,
) -> None:
    with everlog.open("memory:") as other:
        assert isinstance(other, EmbeddedDatabase)
        server = Server({"flights": flights, "crew": other}).start()
        with console_beside(server) as visitor:
            assert visitor.get("/db/flights/tables").status == 200
            server.stop()
            with Server({"crew": other}, server.address):
                for path in OF_DATABASE:
                    answer = visitor.get(path + ROW)
                    told = 400 <= answer.status < 500 or answer.status == 503
                    assert told or path in OF_SERVER, f"{path}: {answer.status}"
                    check_told(path, answer.status, answer.text)
                assert [one["name"] for one in visitor.json("/")["databases_shown"]] == ["crew"]


def test_pages_of_a_server_that_is_away_name_it_and_come_back(flights: EmbeddedDatabase) -> None:
    server = Server({"flights": flights}).start()
    with console_beside(server) as visitor:
        assert visitor.get("/db/flights/log").status == 200
        server.stop()
        for path in ("/", "/db/flights/tables", "/db/flights/log/3"):
            answer = visitor.get(path)
            assert answer.status == 503, path
            assert "does not answer" in answer.words
            assert server.address in answer.words
        with Server({"flights": flights}, server.address):
            for path in ("/", "/db/flights/tables", "/db/flights/log/3"):
                assert visitor.get(path).status == 200, path


@pytest.mark.parametrize("time", ["1999-01-01T00:00Z", "2999-01-01T00:00Z", "2026-13-45", "-1", "soon", "0"])
def test_a_time_outside_of_the_log_is_told_where_it_was_typed(open_console: Visitor, time: str) -> None:
    answer = open_console.get(f"/db/flights/tables/airports?{urlencode({'time': time})}")
    check_told(time, answer.status, answer.text)
    assert answer.status in {200, 400, 404}
    assert answer.status == 200 or "expected" in answer.words or "log" in answer.words


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: {host}\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        b"GET /?" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: {host}\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: {host}\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: {host}\r\nCookie: " + b"a=b; " * 2000 + b"\r\n\r\n",
        b"POST /sign-in HTTP/1.1\r\nHost: {host}\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["header", "address", "headers", "cookies", "length", "tls", "no host"],
)
def test_a_request_that_is_too_large_or_none_ends_alone(open_console: Visitor, request_: bytes) -> None:
    where = urlsplit(open_console.url)
    assert where.hostname is not None
    with socket.create_connection((where.hostname, where.port or 0), timeout=30) as connection:
        try:
            connection.sendall(request_.replace(b"{host}", where.netloc.encode()))
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65_536)
        except OSError:  # the console has closed it already
            answer = b""
    assert not answer or answer.split(b" ")[1][:1] in {b"2", b"4"}
    assert open_console.get("/account").status == 200


def test_a_form_with_very_many_fields_is_refused(open_console: Visitor) -> None:
    open_console.get("/account")
    many = urlencode([("csrf", open_console.csrf), *((f"f{n}", "") for n in range(20_000))])
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = open_console.ask("POST", "/db/flights/admin/check", many, kind)
    assert answer.status == 400
    check_told("check", answer.status, answer.text)


def test_a_file_that_was_sent_after_the_session_ended_is_named_as_lost(console: Visitor) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="table"\r\n\r\nairports\r\n'
    body += b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\nfaa\r\n--x--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x", "Origin": console.url}
    console.get("/sign-in")
    answer = console.ask("POST", "/db/flights/load/file", body, kind)
    assert answer.status == 303
    back = re.search(r'name="next" value="([^"]+)"', console.get(answer.headers["location"]).text)
    assert back is not None
    page = console.get(console.post("/sign-in", token=TOKENS["ann"], next=back[1]).headers["location"])
    assert "table airports" in page.words
    assert "The file was not kept" in page.words
