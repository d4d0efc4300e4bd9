"""What `serve` tells a service manager over a datagram socket, and the listening sockets that it inherits."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from everlog.console.cli import systemd
from everlog.console.cli.systemd import ServiceManager, inherited_sockets
from everlog.rpc.client.database import RemoteDatabase
from everlog.store.upkeep.status import Health
from tests.console.conftest import Run

# Like systemd: the sockets become 3, 4, … and LISTEN_PID is the process that is executed.
START = """
import os, sys
fds = [int(fd) for fd in sys.argv[1].split(",") if fd]
high = [os.dup(fd) for fd in fds]
for number, fd in enumerate(high):
    os.dup2(fd, 3 + number)
    os.set_inheritable(3 + number, True)
if fds:
    os.environ["LISTEN_PID"], os.environ["LISTEN_FDS"] = str(os.getpid()), str(len(fds))
os.execv(sys.executable, [sys.executable, "-m", "everlog.console", *sys.argv[2:]])
"""


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.settimeout(60)

    def next(self, *but: str) -> list[str]:
        """Return the lines of the next message, other than those that are exactly `but`."""
        while True:
            lines = self._socket.recv(4096).decode().split("\n")
            if lines != list(but):
                return lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(here: Path) -> Iterator[Manager]:
    found = Manager(str(here / "notify"))
    yield found
    found.close()


@contextmanager
def started(
    *words: str, sockets: tuple[socket.socket, ...] = (), **variables: str
) -> Iterator[subprocess.Popen[str]]:
    fds = [one.fileno() for one in sockets]
    command = [sys.executable, "-c", START, ",".join(map(str, fds)), "serve", "--json", *words]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | variables,
        pass_fds=fds,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return str(json.loads(process.stdout.readline())["url"])


LISTEN = ("--listen", "127.0.0.1:0")


def test_a_service_is_ready_reloads_beats_and_stops(books: Path, manager: Manager) -> None:
    with started(*LISTEN, NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="1000000") as process:
        said = manager.next()
        while "READY=1" not in said:
            assert said[0].startswith("STATUS=")
            said = manager.next("WATCHDOG=1")
        assert said == ["READY=1", "STATUS=ready"]
        url = url_of(process)
        assert manager.next() == manager.next() == ["WATCHDOG=1"]
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        process.send_signal(signal.SIGHUP)
        first, at = manager.next("WATCHDOG=1")
        assert first == "RELOADING=1"
        usec = int(at.removeprefix("MONOTONIC_USEC="))
        assert before <= usec <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert manager.next("WATCHDOG=1") == ["READY=1", "STATUS=ready"]
        with RemoteDatabase(url) as db:
            assert db.admin.health().ready
        process.send_signal(signal.SIGTERM)
        assert manager.next("WATCHDOG=1") == ["STOPPING=1", "STATUS=stopping"]
        assert process.wait(30) == 0


def test_a_start_that_fails_is_never_ready(books: Path, manager: Manager) -> None:
    with started("--listen", "0.0.0.0:0", NOTIFY_SOCKET=manager.address) as process:
        assert process.wait(60) == 1
        manager._socket.setblocking(False)  # noqa: SLF001
        with suppress(BlockingIOError):
            while True:
                assert "READY=1" not in manager.next()


@pytest.mark.long
def test_sockets_are_inherited(books: Path, everlog: Run) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.create_server(("127.0.0.1", 0)) as second,
    ):
        ports = [one.getsockname()[1] for one in (first, second)]
        waiting = socket.create_connection(("127.0.0.1", ports[0]))  # before the server runs
        with started(sockets=(first, second)) as process:
            assert url_of(process) == f"everlog+insecure://127.0.0.1:{ports[0]}/books"
            for port in ports:
                with RemoteDatabase(f"everlog+insecure://127.0.0.1:{port}/books") as db:
                    assert db.admin.health().ready
            waiting.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"))
            assert len(waiting.recv(9)) == 9  # it is served, too
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        waiting.close()
        # systemd keeps the sockets: the next start gets the connections that come in between
        with started(sockets=(first, second)) as process:
            with RemoteDatabase(f"everlog+insecure://127.0.0.1:{ports[1]}/books") as db:
                assert db.admin.health().ready
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


@pytest.mark.parametrize(
    "kind",
    ["unix", *(pytest.param(one, marks=pytest.mark.long) for one in ("file", "datagram", "not listening"))],
)
def test_other_descriptors_are_refused(books: Path, here: Path, kind: str) -> None:
    made: Any
    match kind:
        case "file":
            made = (here / "x").open("wb")
        case "datagram":
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        case "not listening":
            made = socket.socket()
        case _:
            made = socket.socket(socket.AF_UNIX)
            with contextlib.chdir(here):
                made.bind("s")  # the address of a socket has at most 104 bytes
            made.listen()
    with made, started(sockets=(made,)) as process:
        assert process.wait(60) == 1
        assert process.stderr is not None
        assert "expected descriptor 3 of LISTEN_FDS as a listening TCP socket" in process.stderr.read()


def test_sockets_need_tls_and_tokens_like_an_address(books: Path) -> None:
    with socket.create_server(("", 0)) as open_to_all, started(sockets=(open_to_all,)) as process:
        assert process.wait(60) == 1
        assert process.stderr is not None
        assert "a server on 0.0.0.0 can be reached from other machines" in process.stderr.read()


def test_an_address_beside_sockets_is_refused(books: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, started(*LISTEN, sockets=(one,)) as process:
        assert process.wait(60) == 2
        assert process.stderr is not None
        assert "--listen would have no effect beside the sockets" in process.stderr.read()


def test_variables_of_another_process_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "x")
    monkeypatch.setenv("NOTIFY_SOCKET", "")
    assert inherited_sockets() == []
    assert not {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} & os.environ.keys()
    manager = ServiceManager.of_environment()
    manager.ready(Health())
    manager.beat()
    manager.close()


def test_the_abstract_namespace_and_a_manager_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Manager(f"@everlog-test-{os.getpid()}")
    monkeypatch.setenv("NOTIFY_SOCKET", other.address)
    monkeypatch.setenv("WATCHDOG_USEC", "1")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    manager = ServiceManager.of_environment()
    manager.beat()  # it is another process that is watched
    manager.show(Health(state="migrating", reason="5 of\n10 rows are built " + "x" * 1000))
    (line,) = other.next()
    assert re.fullmatch(r"STATUS=migrating: 5 of 10 rows are built x+", line)
    assert len(line) < 520
    for _ in range(100_000):  # more than its buffer has room for
        manager.ready(Health())
    other.close()
    manager.ready(Health())  # it is gone
    manager.close()


def test_it_is_the_beat_of_the_event_loop(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(systemd, "time", SimpleNamespace(monotonic=lambda: now[0]))
    mine = ServiceManager(manager.address, watchdog_s=0.2)
    mine.beat()
    now[0] += 0.09
    mine.beat()  # too early
    now[0] += 0.02
    mine.beat()
    mine.tell("END=1")
    assert [manager.next() for _ in range(3)] == [["WATCHDOG=1"], ["WATCHDOG=1"], ["END=1"]]
    mine.close()
