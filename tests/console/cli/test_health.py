"""The command health: what it asks, what it prints, and its exit codes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.endpoint import Endpoint
from everlog.rpc.server.server import Server
from tests.console.conftest import Run
from tests.console.served import fetch, serving
from tests.rpc.refusing import refuse

PATHS = ("readyz", "readyz/x", "healthz")


@pytest.fixture
def db(here: Path) -> Iterator[EmbeddedDatabase]:
    with EmbeddedDatabase(here / "x.db") as found:
        yield found


@pytest.fixture
def server(db: EmbeddedDatabase) -> Iterator[Server]:
    with Server({"x": db}, tokens={"ann": "sesame"}) as found:
        db.access.grant("ann", "reader")
        yield found


def test_ready_and_not_ready_by_every_kind_of_url(
    everlog: Run, db: EmbeddedDatabase, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERLOG_TOKEN", "sesame")
    whole = server.url("x").removesuffix("/x")
    with Endpoint("127.0.0.1:0", server.readiness) as endpoint:
        http = endpoint.url.removesuffix("/readyz")
        urls = (
            server.url("x"),
            whole,
            f"{whole}/",
            http,
            endpoint.url,
            f"{http}/readyz/x",
            f"{http}/healthz",
        )
        for url in urls:
            ended = everlog("health", url)
            assert (ended.code, ended.err) == (0, "")
            assert ended.out.startswith(f"Ready: {url.removesuffix('/')}\n"), ended.out
        refuse(db)
        ended = everlog("health", server.url("x"))
        assert ended.code == 3
        assert ended.out.startswith(f"Not ready: {server.url('x')}: writes refused since 20")
        assert ended.out.endswith("Z: the files moved\n")
        found = everlog("-u", server.url("x"), "health", "--json")
        assert (found.code, found.json[0]["ready"], found.json[0]["reason"]) == (3, False, "the files moved")
        while (ended := everlog("health", whole)).code == 0:
            pass
        assert (ended.code, ended.out) == (3, f"Not ready: {whole}\n")
        ended = everlog("health", http)
        assert ended.code == 3
        assert ended.out.startswith(f"Not ready: {http}: writes refused since ")
        assert everlog("health", f"{http}/healthz").code == 0
        db.engine.refusal.end()


def test_a_file_is_asked_as_a_reader(everlog: Run, db: EmbeddedDatabase) -> None:
    assert everlog("-u", "file:x.db", "health").out == "Ready: file:x.db\n"


def test_what_cannot_be_asked_exits_with_1(everlog: Run, server: Server) -> None:
    for url, says in (
        ("everlog+insecure://127.0.0.1:1", "cannot be reached"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1 cannot be reached: "),
        ("http://127.0.0.1:x", "expected http://HOST:PORT"),
        ("file:nowhere.db", "nowhere.db"),
        (f"http://{server.address}", "answered 505 HTTP Version Not Supported: expected HTTP/2"),
        (server.url("x"), "expected a token of this server, found none"),
        ("everlog://db.example.com/a/b", "expected everlog://HOST:PORT/DATABASE"),
    ):
        ended = everlog("health", url)
        assert (ended.code, ended.out) == (1, ""), url
        assert says in ended.err, ended.err
        assert len(ended.err.splitlines()) == 1
    assert everlog("health").code == 1
    assert everlog("health", "a", "b").code == 2
    assert everlog("health", server.url("x"), "--wait-timeout", "1s").code == 2  # without --wait
    with Endpoint("127.0.0.1:0", server.readiness) as endpoint:
        ended = everlog("health", endpoint.url.replace("readyz", "nowhere"))
        assert (ended.code, "answered 404" in ended.err) == (1, True)


def test_it_waits_until_the_database_is_ready(everlog: Run, db: EmbeddedDatabase, server: Server) -> None:
    whole = server.url("x").removesuffix("/x")
    refuse(db)
    while everlog("health", whole).code == 0:
        pass
    assert everlog("health", whole, "--wait", "--wait-timeout", "100ms").code == 3
    timer = threading.Timer(0.5, db.engine.refusal.end)
    timer.start()
    assert everlog("health", whole, "--wait").out == f"Ready: {whole}\n"
    timer.join()
    assert everlog("health", "http://127.0.0.1:1", "--wait", "--wait-timeout", "300ms").code == 1


def test_a_server_serves_health_from_the_start_to_the_end(everlog: Run, books: Path, here: Path) -> None:
    with serving("--health", "127.0.0.1:0", cwd=here) as served:
        assert served.process.stdout is not None
        url = json.loads(served.process.stdout.readline())["health"]
        assert fetch(url)[0] == fetch(url.replace("readyz", "healthz"))[0] == 200
        assert fetch(url.replace("readyz", "metrics"))[0] == 404
        assert everlog("health", url).out == f"Ready: {url}\n"
    for words, says in (
        (("--health", "127.0.0.1:9", "--metrics", "127.0.0.1:9"), "would have no effect beside --metrics"),
        (("--health", "nowhere"), "expected --health as HOST:PORT"),
        (("--backup-at", "x"), "would have no effect without --metrics"),
    ):
        ended = everlog("serve", *words)
        assert (ended.code, says in ended.err) == (2, True), ended.err
