"""The console of `serve --console` and `everlog console`, as processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from everlog.console.cli.console import web_of
from everlog.console.web import server
from everlog.rpc.security import Tls
from everlog.store.errors import OpenError
from tests.console.conftest import Run
from tests.console.served import fetch
from tests.console.web.provider import TestProvider
from tests.console.web.visitor import Visitor

SERVE = (sys.executable, "-m", "everlog.console", "--json")


def line(process: subprocess.Popen[str], key: str) -> str:
    """Return the value of the next line of output that has this key."""
    assert process.stdout is not None
    for text in process.stdout:
        found = json.loads(text)
        if key in found:
            return str(found[key])
    raise AssertionError(f"the output ended without {key!r}")


@contextlib.contextmanager
def started(*words: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*SERVE, *words], stdout=subprocess.PIPE, text=True, env=os.environ | variables
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(30)


@pytest.mark.long
def test_serve_shows_its_console_and_console_that_of_a_server(books: Path) -> None:
    with started("serve", "--listen", "127.0.0.1:0", "--console", "127.0.0.1:0") as process:
        url, web = line(process, "url"), line(process, "console")
        assert "books" in Visitor(web).get("/db/books/tables").text
        with started("console", url, "--listen", "127.0.0.1:0") as other:
            assert "books" in Visitor(line(other, "console")).get("/db/books/tables").text
            assert ended(other) == 143
        assert ended(process) == 0
    with pytest.raises(OSError, match="refused"):
        fetch(web)


def test_the_link_of_console_signs_in_once(books: Path, tmp_path: Path) -> None:
    config = tmp_path / "serve.toml"
    config.write_text('listen = "127.0.0.1:0"\nconsole = "127.0.0.1:0"\n')
    with started("serve", "--config", str(config), EVERLOG_TOKEN="a-token-of-this-test") as process:
        url, web = line(process, "url"), line(process, "console")
        own = Visitor(web)
        assert "Sign in" in own.get("/").words
        own.sign_in("a-token-of-this-test")
        page = own.json("/db/books/admin/settings")
        settings = {one["name"]: (one["value"], one["source"]) for one in page["settings"]}
        assert settings["listen"] == ("127.0.0.1:0", f"{config}:1")
        assert settings["token"] == ("(set, not shown)", "environment")
        assert settings["keep-days"] == ("", "default")
        with started(
            "console", url, "--listen", "127.0.0.1:0", EVERLOG_TOKEN="a-token-of-this-test"
        ) as other:
            link = line(other, "console")
            site, path = link[: link.index("/sign-in")], link[link.index("/sign-in") :]
            visitor = Visitor(site)
            assert "Overview" in visitor.get(path).words
            assert "used already" in Visitor(site).get(path).words
            assert "books" in visitor.get("/db/books/tables").text
            ended(other)
        ended(process)


def test_missing_libraries_are_named_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "NEEDED", ("starlette", "no_such_library"))
    with pytest.raises(OpenError, match=r"needs no_such_library.*pip install 'everlog\[console\]'"):
        server.WebServer("127.0.0.1:0")


def test_a_console_that_is_implied_and_impossible_is_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert web_of(None, "", None) is None
    assert capsys.readouterr().err == ""
    tls = Tls(Path("chain.pem"), Path("key.pem"), Path("clients.pem"))
    assert web_of(None, "", tls, implied=True) is None
    assert "requires client certificates; start `everlog console`" in capsys.readouterr().err
    monkeypatch.setattr(server, "NEEDED", ("no_such_library",))
    assert web_of(None, "", None, implied=True) is None
    said = capsys.readouterr().err
    assert "pip install 'everlog[console]'" in said
    assert "Plans are approved with `everlog approve`" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("console", "file:books.db"), "expected the URL of a server"),
        (("console", "everlog://h/x", "--listen", "here"), "expected --listen as HOST:PORT"),
        (("console", "everlog://h/x", "--listen", "0.0.0.0:0"), "without TLS"),
        (("serve", "--console", "here"), "expected --console as HOST:PORT"),
        (("serve", "--console-url", "https://x"), "would have no effect without --console"),
    ],
)
def test_what_cannot_be_served_is_refused(
    everlog: Run, books: Path, words: tuple[str, ...], says: str
) -> None:
    done = everlog(*words)
    assert done.code in {1, 2}
    assert says in done.err


@pytest.mark.long
def test_the_provider_is_an_option_a_variable_and_a_key_of_the_file(books: Path, tmp_path: Path) -> None:
    config, secret = tmp_path / "serve.toml", tmp_path / "secret"
    secret.write_text("of-the-console\n")
    secret.chmod(0o600)
    with TestProvider() as provider:
        config.write_text(
            f'listen = "127.0.0.1:0"\nconsole = "127.0.0.1:0"\njwt-issuer = "{provider.url}"\n'
            f'jwt-audience = "everlog"\nconsole-oidc-secret-file = "{secret}"\n'
        )
        variables = {"EVERLOG_SERVE_CONSOLE_OIDC_CLIENT": "web"}
        with started("serve", "--config", str(config), **variables) as process:
            url, web = line(process, "url"), line(process, "console")
            begun = Visitor(web).get("/sign-in/oidc", follow=False)
            assert begun.headers["location"].startswith(f"{provider.url}/authorize?")
            assert "client_id=web" in begun.headers["location"]
            words = ("console", url, "--listen", "127.0.0.1:0", "--console-oidc-issuer", provider.url)
            with started(*words, **variables) as other:
                assert "Sign in at" in Visitor(line(other, "console")).get("/").words
                ended(other)
            ended(process)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--console-oidc-scope", "email"), "without --console-oidc-client"),
        (("--console-oidc-client", "web"), "needs --console-oidc-issuer, or --jwt-issuer of serve"),
        (
            ("--console-oidc-client", "web", "--console-oidc-issuer", "http://id.example.com"),
            "--console-oidc-issuer: expected a URL with https://",
        ),
    ],
)
def test_a_provider_that_cannot_be_used_is_refused(
    everlog: Run, words: tuple[str, ...], expected: str
) -> None:
    done = everlog("console", "everlog+insecure://127.0.0.1:1/x", "--listen", "127.0.0.1:0", *words)
    assert done.code == 2 if "issuer, or" in expected or "without" in expected else 1
    assert expected in done.err
