"""The commands `access` and `token`, on files and at a server."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from everlog.store.database import Database
from tests.console.conftest import Run
from tests.console.served import serving


@pytest.mark.parametrize("kind", ["files", "server"])
def test_the_same_words_work_on_files_and_at_a_server(everlog: Run, books: Path, kind: str) -> None:
    made = everlog("token", "create", "--name", "root", "--role", "owner")
    assert made.out.startswith("evl_")
    assert made.out.count("\n") == 1
    root = made.out.strip()
    with serving() if kind == "server" else contextlib.nullcontext() as served:
        at = ("-u", f"{served.url}?token={root}") if served is not None else ()
        words = ("access", "grant", "ann", "reader", "--table", "b*", "--reason", "joins")
        assert everlog(*at, *words).out.startswith("Granted: ann has the role reader on b* (commit ")
        assert everlog(*at, *words).out == "Nothing to change\n"
        assert everlog(*at, "access", "show").out.startswith("ann: reader on b*  (commit ")
        found = everlog(*at, "access", "explain", "ann", "delete", "books")
        assert (found.code, found.out.splitlines()[0]) == (1, "ann may not delete books")
        assert everlog(*at, "access", "explain", "ann", "read", "books").code == 0
        define = ("access", "define", "clerk", "--right", "write", "--table", "books", "--op", "put")
        assert everlog(*at, *define).out.startswith("Defined: role clerk")
        added = ("access", "define", "clerk", "--add", "--right", "read", "--table", "books")
        assert everlog(*at, *added, "--rows", "tenant=$who").code == 1  # no such field
        assert everlog(*at, *added, "--rows", "title=$who").code == 0
        lines = everlog(*at, "access", "roles").out.splitlines()[-2:]
        assert lines == [
            "clerk: write  (tables books; operations put)",
            "       read  (tables books; rows with title = $who)",
        ]
        compared = ("--rows", "title<M", "--rows", "title^=A")
        assert (
            everlog(*at, *added, *compared, "--limit", "consumers=5", "--limit", "cap-seconds=30d").code == 0
        )
        lines = everlog(*at, "access", "roles").out.splitlines()[-2:]
        assert lines == [
            "       read  (tables books; rows with title < M; rows with title beginning with A)",
            "       at most: consumers 5, cap-seconds 2,592,000",
        ]
        assert everlog(*at, "access", "grant", "bob", "clerk").code == 0
        assert "bob: at most: consumers 5, cap-seconds 2,592,000" in everlog(*at, "access", "show").out
        assert everlog(*at, "access", "revoke", "bob", "clerk").code == 0
        told = everlog(*at, "access", "whoami").out
        assert ("at most 50,000 calls a second (server)" in told) == (kind == "server")
        assert everlog(*at, "access", "remove-role", "clerk").out.startswith("Removed: role clerk")
        (who,) = everlog(*at, "access", "whoami", "--json").json
        assert who["roles"] == ["owner"]
        (told,) = everlog(*at, "token", "create", "--name", "ann", "--expires", "90d", "--json").json
        assert (told["name"], told["expires_ns"] > 0) == ("ann", True)
        (again,) = everlog(*at, "token", "rotate", "ann", "--json").json
        shown = everlog(*at, "token", "list").out
        assert again["id"] in shown
        assert told["id"] not in shown
        assert told["id"] in everlog(*at, "token", "list", "--all").out
        assert told["token"] not in everlog(*at, "log", "--json").out
        assert everlog(*at, "token", "revoke", "ann").out.startswith("Revoked: token ann")
        assert everlog(*at, "access", "revoke", "ann", "reader").out.startswith("Revoked: ann lost")
        assert everlog(*at, "access", "show").out == "No roles are granted\n"
    with Database(books) as db:
        actors = {db.log.commit(seq).actor for seq in range(db.head - 4, db.head + 1)}
    assert actors == ({"root"} if kind == "server" else {""})


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("token", "create", "--name", "ann", "--expires", "soon"), 2, "expected a time like 90d, in 2h"),
        (("token", "create", "--name", "ann", "--role", "god"), 1, "there is no role 'god'"),
        (("token", "create"), 2, "Missing option '--name'"),
        (("token", "revoke", "nobody"), 1, "there is no token 'nobody'"),
        (("access", "grant", "ann", "god"), 1, "there is no role 'god'"),
        (("access", "define", "r", "--right", "read", "--rows", "x"), 2, "expected FIELD=VALUE"),
        (("access", "define", "r", "--right", "reed"), 1, "found 'reed'"),
        (("access", "define", "r", "--right", "read", "--limit", "cap-bytes"), 2, "expected LIMIT=N"),
        (("access", "define", "r", "--right", "read", "--limit", "cap-bytes=1d"), 2, "a whole number"),
        (("access", "explain", "ann", "eat"), 1, "found 'eat'"),
    ],
)
def test_what_is_wrong_is_a_sentence(
    everlog: Run, books: Path, words: tuple[str, ...], code: int, says: str
) -> None:
    ended = everlog(*words)
    assert ended.code == code
    assert says in ended.err
