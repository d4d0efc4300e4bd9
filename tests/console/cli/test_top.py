"""Top and kill: what a server does now, as lines, as JSON and on a terminal, and the end of one call."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from everlog.console.cli.top import page
from everlog.rpc.calls import DatabaseNow, Now, OpenConnection, RunningCall, ThreadPool, WorkProgress
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.errors import UnavailableError
from tests.console.conftest import Run
from tests.ports import reserved_port

PATIENCE_S = 60.0


@pytest.fixture
def server(books: Path) -> Iterator[Server]:
    with EmbeddedDatabase(books) as db, Server({"books": db}) as server:
        yield server


@contextmanager
def followed(server: Server) -> Iterator[RemoteDatabase]:
    """A client with one subscription, which runs as long as the block."""
    with RemoteDatabase(server.url("books")) as db:
        feed = iter(db.feed().batches())
        next(feed)
        yield db
        feed.close()  # type: ignore[attr-defined]


def test_top_prints_lines_once(everlog: Run, server: Server) -> None:
    with followed(server):
        until = time.monotonic() + PATIENCE_S
        while True:  # a call ends a little later than its client has the response
            done = everlog("-u", server.url("books"), "top", "--connections")
            assert done.code == 0
            if " 2 running calls" in done.out:
                break
            assert time.monotonic() < until, done.out
    lines = done.out.splitlines()
    assert lines[0] == f"everlog top · {server.url('books')}"
    assert re.fullmatch(r"[12] of [\d,]+ connections · 2 running calls", lines[1])
    (header,) = [line for line in lines if line.split()[:1] == ["ID"]]
    assert header.split() == ["ID", "AGE", "WHO", "FROM", "DATABASE", "METHOD", "ROWS", "BYTES", "STATE"]
    (feed,) = [line for line in lines if "Feed/Subscribe" in line]
    assert feed.split()[4:6] == ["books", "Feed/Subscribe"]
    assert feed.endswith("idle")
    assert "Connections" in lines


def test_top_prints_json(everlog: Run, server: Server) -> None:
    with followed(server):
        until = time.monotonic() + PATIENCE_S
        while (now := everlog("-u", server.url("books"), "top", "--json").json[0])["total"] != 2:
            assert time.monotonic() < until, now
    assert {one["method"] for one in now["calls"]} == {"Feed/Subscribe", "Admin/Calls"}
    assert now["total"] == 2
    assert [one["name"] for one in now["databases"]] == ["books"]


def test_a_call_is_ended_by_its_id(everlog: Run, server: Server) -> None:
    url = server.url("books")
    with RemoteDatabase(url) as db:
        feed = iter(db.feed().batches())
        next(feed)
        (call,) = [one for one in db.admin.calls().calls if one.method == "Feed/Subscribe"]
        done = everlog("-u", url, "kill", call.id, "--reason", "a test")
        assert (done.code, done.out) == (0, f"Ended Feed/Subscribe of an unnamed caller ({call.id})\n")
        with pytest.raises(UnavailableError, match="the call was ended by an unnamed caller: a test"):
            list(feed)
        again = everlog("-u", url, "kill", call.id)
        assert (again.code, f"there is no running call {call.id}" in again.err) == (1, True)


def test_a_database_without_a_server_is_refused(everlog: Run, books: Path) -> None:
    for words in (("top",), ("kill", 7)):
        done = everlog(*words)
        assert done.code == 1
        assert f"{words[0]} is about the calls of a server: expected everlog://HOST:PORT/DATABASE" in done.err


# Ctrl-C on the terminal is for the command.
OWNS = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "everlog.console", *sys.argv[1:]])
"""


class Terminal:
    """A command on a terminal of 100 columns and 24 lines."""

    def __init__(self, *words: str) -> None:
        self._own, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.before = termios.tcgetattr(theirs)
        self._theirs = theirs
        variables = {name: value for name, value in os.environ.items() if name not in ("CI", "COLUMNS")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNS, *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=variables | {"TERM": "xterm"},
            start_new_session=True,
        )
        self.shown = ""

    def wait_for(self, text: str, times: int = 1) -> None:
        """Read until a text was shown."""
        until = time.monotonic() + PATIENCE_S
        while self.shown.count(text) < times:
            left = until - time.monotonic()
            assert left > 0, self.shown
            assert select.select([self._own], [], [], left)[0], self.shown
            self.shown += os.read(self._own, 65_536).decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self._own, text.encode())

    @property
    def settings(self) -> list[object]:
        return list(termios.tcgetattr(self._theirs))

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        os.close(self._own)
        os.close(self._theirs)


@contextmanager
def terminal(*words: str) -> Iterator[Terminal]:
    found = Terminal(*words)
    try:
        yield found
    finally:
        found.close()


@pytest.mark.parametrize(("key", "code"), [("q", 0), ("\x03", 130)])
def test_top_on_a_terminal_is_drawn_again_until_it_is_quit(server: Server, key: str, code: int) -> None:
    with followed(server), terminal("-u", server.url("books"), "top", "--interval", "0.1s") as found:
        found.wait_for("Feed/Subscribe", times=3)
        assert found.shown.count("\x1b[?1049h") == 1
        found.type(key)
        found.wait_for("\x1b[?1049l")  # the first screen is back
        assert found.process.wait(PATIENCE_S) == code
        assert "\x1b[?25h" in found.shown
        assert found.settings == found.before


def test_top_on_a_terminal_survives_its_server(books: Path) -> None:
    with EmbeddedDatabase(books) as db, reserved_port() as port:
        with Server({"books": db}, f"127.0.0.1:{port}") as server:
            found = Terminal("-u", server.url("books"), "top", "--interval", "0.1s")
            try:
                found.wait_for("Admin/Calls", times=2)
            except BaseException:
                found.close()
                raise
        try:
            with Server({"books": db}, f"127.0.0.1:{port}"):
                seen = found.shown.count("Admin/Calls")
                found.wait_for("Admin/Calls", times=seen + 3)
                found.type("q")
                assert found.process.wait(PATIENCE_S) == 0
        finally:
            found.close()


def test_top_in_ci_or_with_once_is_not_drawn(server: Server) -> None:
    with terminal("-u", server.url("books"), "top", "--once") as found:
        assert found.process.wait(PATIENCE_S) == 0
        found.wait_for("Admin/Calls")
        assert "\x1b[" not in found.shown


def now(*calls: RunningCall) -> Now:
    return Now(
        calls=list(calls),
        total=2000,
        connections=3,
        connections_max=1000,
        peers=[OpenConnection("10.0.0.1:5", ["ann"], 2, 90.0, 1000, 2000)],
        pools=[ThreadPool("long reads", 4, 16), ThreadPool("loads", 0, 0)],
        databases=[
            DatabaseNow("x", 7, 2, "ann", 5, WorkProgress("build rows", 10, 100, "rows", 5.0, 18.0)),
            DatabaseNow("quiet", 7, 0, "", 0, None),
        ],
    )


def call(id: int, **fields: object) -> RunningCall:
    known: dict[str, object] = {
        "database": "x",
        "method": "Admin/Check",
        "identity": "ann",
        "peer": "10.0.0.1:5",
        "age_s": 4000.0,
        "state": "queued",
        "waits_for": "long reads",
        "behind": [5, 6],
        "ahead": 3,
        "rows": 12_000,
        "bytes": 3_500_000,
        "tables": ["flights"],
        "progress": None,
    }
    return RunningCall(id=id, **(known | fields))  # type: ignore[arg-type]


def test_a_screen_answers_who_waits_for_whom_and_for_how_long() -> None:
    progress = WorkProgress("check tables", 12_000, 40_000, "rows", 3400.0, 8.2)
    lines = page(
        now(call(7), call(8, state="running", waits_for="", behind=[], ahead=0, progress=progress)),
        "url",
        120,
    )
    assert lines[1] == "3 of 1,000 connections · 2,000 running calls"
    assert lines[2] == "long reads: 4 running, 16 waiting"
    assert lines[3] == (
        "x: 2 commits waiting; migrated by ann; lease of call 5; build rows: 10 of 100 rows, 5 a second,"
        " about"
        " 18.0s left"
    )
    text = "\n".join(lines)
    assert (
        "7  66m40s  ann  10.0.0.1:5  x         Admin/Check  12,000  3.5 MB  queued: long reads, 3 before"
        in text
    )
    assert "on flights; check tables: 12,000 of 40,000 rows, 3,400 a second, about 8.2s left" in text
    assert lines[-1] == "… and 1,998 more"
    assert all(len(line) <= 40 for line in page(now(call(7)), "url", 40, connections=True))


def test_names_that_a_client_invents_do_not_reach_the_terminal() -> None:
    lines = page(now(call(7, tables=["a\x1b]0;owned\x07", "b\nID"], identity="e\x9b2Jve")), "url", 200)
    assert all(line.isprintable() for line in lines)


def test_json_has_all_that_the_screen_has(everlog: Run, server: Server) -> None:
    found = everlog("-u", server.url("books"), "top", "--once", "--json")
    assert set(json.loads(found.out)) == set(Now.__struct_fields__)
