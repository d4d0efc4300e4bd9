import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.console import shop
from tests.console.conftest import Run

TLS = Path(__file__).parents[2] / "rpc"


@pytest.fixture
def server(books: Path) -> Iterator[str]:
    """Return the URL of the shop's database on a server in its own process."""
    with serving() as url:
        yield url


@contextlib.contextmanager
def serving(*more: str, **variables: str) -> Iterator[str]:
    words = [sys.executable, "-m", "everlog.console", "serve", "--listen", "127.0.0.1:0", "--json", *more]
    environment = os.environ | variables
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_every_command_works_on_a_server(everlog: Run, server: str, here: Path) -> None:
    at = ("-u", server)
    assert server.endswith("/books")
    assert everlog(*at, "wait").out == f"Ready: {server}\n"
    assert f"[X] {shop.SECOND}_index_books" in everlog(*at, "status").out
    assert everlog(*at, "up").out == "Nothing to apply: the database is up to date\n"
    assert everlog(*at, "up", "--dry-run").out == ""
    assert everlog(*at, "testdata").out == "Loaded: 10 rows of books\n"
    assert json.loads(everlog(*at, "get", "books", "978-0", "1").out)["title"] == "Dune"
    assert everlog(*at, "scan", "books", "--count").out == "11\n"
    assert everlog(*at, "export", "books", "out.csv").code == 0
    assert everlog(*at, "import", "books", "out.csv", "--actor", "ann").code == 0
    assert [commit["seq"] for commit in everlog(*at, "log", "--json", "--actor", "ann").json] == [5]
    assert everlog(*at, "check").out == "OK: no problems found\n"
    assert everlog(*at, "rebuild").code == 0
    assert everlog(*at, "follow", "--to", "sqlite:mirror.sqlite", "--once", "--verify").code == 0
    assert everlog("follow", "--from", server, "--to", "sqlite:mirror.sqlite", "--until", "5").code == 0
    assert everlog(*at, "rebuild", "--into", "proof.db").code == 0
    assert everlog("-u", "file:proof.db", "check").code == 0


@pytest.mark.parametrize("option", ["--tokens", "--tls-key", "--audit-key", "master"])
def test_a_secret_that_others_can_read_is_refused_with_the_remedy(
    everlog: Run, books: Path, here: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    secret = here / "a secret"
    secret.write_text("ann sesame\n")
    words = [option, "a secret"]
    match option:
        case "--tls-key":
            words += ["--tls-cert", str(TLS / "certificate.pem")]
        case "master":
            monkeypatch.setenv("EVERLOG_MASTER_KEY_FILE", "a secret")
            words = []
    for mode in (0o604, 0o640, 0o660):
        secret.chmod(mode)
        if mode == 0o640 and not os.getuid():
            os.chown(secret, 65534, -1)
        ended = everlog("serve", *words)
        os.chown(secret, os.getuid(), -1)
        assert ended.code == 1
        assert f"can be read by others (mode {mode:04o})" in ended.err
        assert "sesame" not in ended.err
        remedy = re.search(r"`(chmod [^`]*)`", ended.err)
        assert remedy is not None
        subprocess.run(remedy[1], shell=True, check=True, cwd=here)  # noqa: S602  as a user pastes it
        assert secret.stat().st_mode & 0o777 == 0o600
    monkeypatch.delenv("EVERLOG_MASTER_KEY_FILE", raising=False)


def test_over_tls_with_a_token(everlog: Run, books: Path) -> None:
    tls = ("--tls-cert", str(TLS / "certificate.pem"), "--tls-key", str(TLS / "key.pem"))
    with serving(*tls, EVERLOG_TOKEN="sesame") as url:
        assert url.startswith("everlog://")
        trusted = f"{url}?ca={TLS / 'certificate.pem'}"
        ended = everlog("-u", f"{trusted}&token=sesame", "status")
        assert (ended.code, "sesame" in ended.out) == (0, False)
        for bad, says in ((trusted, "refuses the call"), (url, "pass its authority as ?ca=FILE")):
            ended = everlog("-u", bad, "status")
            assert ended.code == 1
            assert says in ended.err


def test_a_database_that_the_server_has_not_is_a_sentence(everlog: Run, server: str) -> None:
    ended = everlog("-u", server.replace("/books", "/letters"), "status")
    assert ended.code == 1
    assert "this server hosts no database 'letters'" in ended.err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("books",), 1, "expected NAME=URL"),
        (("a=file:x.db", "a=file:y.db"), 1, "two databases are named 'a'"),
        (("a=everlog://host/a",), 1, "is on a server"),
        (("--listen", "nowhere"), 2, "expected --listen as HOST:PORT"),
        (("--tls-cert", "chain.pem"), 2, "expected --tls-cert and --tls-key together"),
        (("--listen", "0.0.0.0:0"), 1, "needs TLS"),
    ],
)
def test_what_cannot_be_served_is_said(
    everlog: Run, books: Path, words: tuple[str, ...], code: int, says: str
) -> None:
    ended = everlog("serve", *words)
    assert ended.code == code
    assert says in ended.err


@pytest.mark.long
def test_a_follower_is_stopped_while_its_server_is_away(books: Path, here: Path) -> None:
    words = [sys.executable, "-m", "everlog.console", "follow", "--to", "sqlite:m.sqlite", "--from"]
    with contextlib.closing(sqlite3.connect(here / "m.sqlite", timeout=30)) as mirror:
        with serving() as url:
            follower = subprocess.Popen([*words, url], stdout=subprocess.PIPE, text=True)
            while not mirror.execute("SELECT 1 FROM sqlite_master WHERE name = 'books'").fetchone():
                assert follower.poll() is None
        with follower:  # its server has ended
            began = time.monotonic()
            follower.send_signal(signal.SIGTERM)
            out, _ = follower.communicate(timeout=60)
            assert (follower.returncode, out) == (0, "Followed: sqlite:m.sqlite is at commit 3\n")
            assert time.monotonic() - began < 20  # it would have waited for half a minute


@pytest.mark.parametrize("lines", ["ann", "ann a b c", "ann sesame\nann thyme", "ann sesame\nbob sesame"])
def test_a_file_of_tokens_that_is_none_is_said_without_the_tokens(
    everlog: Run, books: Path, here: Path, lines: str
) -> None:
    (here / "tokens").write_text(f"# names and tokens\n\n{lines}\n")
    ended = everlog("serve", "--tokens", "tokens")
    assert ended.code == 1
    assert f"tokens:{lines.count(chr(10)) + 3}: expected a name and a token" in ended.err
    assert "sesame" not in ended.err


def test_the_default_directory_of_migrations_is_served(
    everlog: Run, one: Path, project: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVERLOG_MIGRATIONS_DIR")
    (here / "migrations").symlink_to(project)
    with serving() as url:
        (status,) = everlog("-u", url, "status", "--json").json
        states = {one["version"]: one["state"] for one in status["migrations"]}
        assert states == {shop.FIRST: "applied", shop.SECOND: "pending"}
        assert everlog("-u", url, "up").code == 0
