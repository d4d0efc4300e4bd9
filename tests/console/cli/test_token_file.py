"""`--token-file`: the token of a client comes from a file or from standard input."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from everlog.store.database import Database
from tests.console.conftest import Run
from tests.console.served import serving


def test_the_token_of_a_client_is_in_a_file_or_comes_from_standard_input(
    everlog: Run, books: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Database(books) as db:
        token = db.access.create_token("ann", ("owner",)).text
    file = books.parent / "ann token"
    file.write_text(token + "\n", encoding="utf-8")
    file.chmod(0o600)
    with serving() as served:
        for words in (
            ("-u", served.url, "--token-file", str(file), "access", "whoami"),
            ("access", "whoami", "-u", served.url, "--token-file", str(file)),
        ):
            done = everlog(*words)
            assert (done.code, done.out.splitlines()[0]) == (0, "ann (proof: token)")
            assert "warning: a token" not in done.err
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{token}\nmore\n"))
        done = everlog("-u", served.url, "--token-file", "-", "access", "whoami")
        assert done.out.splitlines()[0] == "ann (proof: token)"
        monkeypatch.setattr("sys.stdin", io.StringIO())
        done = everlog("-u", served.url, "--token-file", "-", "access", "whoami")
        assert (done.code, "expected one token of visible ASCII characters" in done.err) == (1, True)
        done = everlog("-u", f"{served.url}?token={token}", "--token-file", str(file), "access", "whoami")
        assert "expected one token, found one in the URL and --token-file" in done.err
        assert token not in done.out + done.err.replace(f"?token={token}", "")
        file.chmod(0o644)
        done = everlog("-u", served.url, "--token-file", str(file), "access", "whoami")
        assert (done.code, "can be read by others" in done.err) == (1, True)
    done = everlog("--token-file", str(file), "access", "whoami")
    assert (done.code, "files of a database need none; leave --token-file out" in done.err) == (1, True)
