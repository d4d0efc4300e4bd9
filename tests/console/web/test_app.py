"""Every page: headers, errors, unknown hosts, static files, and a server that goes away."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

import pytest

from everlog.console.web import page as pages
from everlog.console.web.server import WebServer, own_server
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from tests.console.web.visitor import Visitor, console_of

STATIC = Path(pages.__file__).parent / "static"


def test_every_answer_has_the_headers_that_protect_it(open_console: Visitor) -> None:
    for path in ("/", "/account.json", "/nowhere", "/sign-in", "/static/console.css", "/static/nothing"):
        headers = open_console.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "server" not in headers
        assert ("no-store" in headers["cache-control"]) != (path == "/static/console.css")


def test_a_foreign_host_is_refused(open_console: Visitor) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "", "[", "evil.example:80"):
        answer = open_console.get("/", Host=host)
        assert answer.status == 421
        assert "flights" not in answer.text
    port = open_console.url.rpartition(":")[2]
    assert open_console.get("/", Host=f"localhost:{port}").status == 200


def test_an_unknown_page_is_answered_in_html_and_in_json(open_console: Visitor) -> None:
    answer = open_console.get("/nowhere")
    assert answer.status == 404
    assert "Not found" in answer.words
    twin = open_console.ask("GET", "/nowhere.json")
    assert (twin.status, twin.json["status"]) == (404, 404)
    assert open_console.ask("DELETE", "/account").status == 405


def test_a_fault_is_logged_and_shown_without_its_text(
    flights: EmbeddedDatabase, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("the " + "secret")

    with console_of({"flights": flights}) as web, caplog.at_level(logging.ERROR):
        monkeypatch.setattr(pages, "dump", broken)
        answer = Visitor(web.url).get("/account", Accept="application/json")
        assert answer.status == 500
    assert "the secret" not in answer.text + caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_form_that_is_too_large_is_refused(open_console: Visitor) -> None:
    open_console.get("/sign-in")
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert open_console.ask("POST", "/sign-in", b"x" * (17 << 20), kind).status == 413


def test_a_server_that_is_away_is_named_and_served_again_once_it_is_back(flights: EmbeddedDatabase) -> None:
    server = Server({"flights": flights}).start()
    web = WebServer("127.0.0.1:0")
    web.server = own_server(server.host, server.port, None)
    with web:
        visitor = Visitor(web.url)
        assert visitor.get("/account").status == 200
        server.stop()
        answer = visitor.get("/account")
        assert answer.status == 503
        assert "does not answer" in answer.words
        with Server({"flights": flights}, server.address):
            assert visitor.get("/account").status == 200


def test_static_files_are_whole_and_pages_name_them_by_their_content(open_console: Visitor) -> None:
    page = open_console.get("/").text
    urls = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
    assert len(urls) >= 4
    for url in urls:
        answer = open_console.get(url)
        assert answer.status == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert hashlib.sha256(answer.text.encode()).hexdigest().startswith(url.rpartition("=")[2])
    assert open_console.get("/static/../app.py").status == 404
    assert open_console.get("/static/%2e%2e/app.py").status == 404


def test_vendored_files_are_those_that_their_list_names() -> None:
    text = (STATIC / "VENDORED.md").read_text()
    listed = dict(re.findall(r"\| `([^`]+)` \|.*`([0-9a-f]{64})` \|", text))
    assert listed == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in STATIC.glob("*.min.js")
    }
    for name in listed:
        assert "sourceMappingURL" not in (STATIC / name).read_text()


def test_templates_have_no_inline_styles_scripts_or_requests_to_elsewhere() -> None:
    for path in (STATIC.parent / "templates").glob("*.html"):
        text = path.read_text()
        assert not re.search(r"\sstyle=|<style|\son\w+=|<script(?! src=)|javascript:|\| ?safe\b", text), path
        assert not re.search(r'(?:src|href)="(?:https?:)?//', text), path
