"""Outage: a server that is killed during calls, and started again."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import everlog
from everlog.consumers import Follower, SqliteSink
from everlog.rpc.client.database import RemoteDatabase
from tests.conformance.database_case import FLIGHTS, flight
from tests.ports import reserved_port


class Serving:
    """A server in its own process, always on the same port."""

    def __init__(self, path: Path, port: int) -> None:
        self._path = path
        self.port = port
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"everlog+insecure://127.0.0.1:{self.port}/x"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.rpc.serving", str(self._path), str(self.port)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == f"{self.port}\n"

    def kill(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with reserved_port() as port:
        serving = Serving(tmp_path / "x", port)
        yield serving
        serving.kill()


def test_acknowledged_commits_survive_and_the_feed_resumes_without_gap_or_repeat(serving: Serving) -> None:
    count, start = 300, 2
    received: list[int] = []
    acknowledged: list[int] = []
    half = threading.Event()
    with RemoteDatabase(serving.url) as db, RemoteDatabase(serving.url) as follower:
        feed = follower.feed(after=start, until=start + count)

        def write() -> None:
            for number in range(count):
                acknowledged.append(db.insert(FLIGHTS, flight(number)).seq)
                if number == count // 3:
                    half.set()

        writer = threading.Thread(target=write)
        reader = threading.Thread(target=lambda: received.extend(commit.seq for commit in feed))
        writer.start()
        reader.start()
        assert half.wait(60)
        serving.kill()
        serving.start()
        writer.join(60)
        reader.join(60)
        assert acknowledged == list(range(start + 1, start + count + 1))  # each once, despite retries
        assert received == acknowledged
        assert db.count(FLIGHTS) == count


@pytest.mark.long
def test_a_load_goes_on_after_the_server_was_killed(serving: Serving) -> None:
    with RemoteDatabase(serving.url) as db:

        def rows() -> Iterator[Any]:
            for number in range(20_000):
                if number == 10_000:
                    serving.kill()
                    serving.start()
                yield flight(number)

        done = db.load(FLIGHTS, rows(), id="outage")
        assert done.rows == 20_000
        assert db.count(FLIGHTS) == 20_000
        loads = [commit.load for commit in db.feed(bounded=True) if commit.HasField("load")]
        assert [load.rows for load in loads] == list(range(1000, 20_001, 1000))


@pytest.mark.long
def test_who_has_no_more_patience_is_told_and_may_ask_again(serving: Serving) -> None:
    with RemoteDatabase(serving.url, retry_s=0.5) as db:
        db.put(FLIGHTS, flight(1))
        serving.kill()
        for call in (lambda: db.get(FLIGHTS, ("UA", 1)), lambda: db.put(FLIGHTS, flight(2)), db.feed):
            with pytest.raises(everlog.UnavailableError, match="cannot be reached"):
                call()
        serving.start()
        assert db.get(FLIGHTS, ("UA", 1)) == flight(1)


def test_closing_ends_the_wait_for_a_server(serving: Serving) -> None:
    failed: list[BaseException] = []
    with RemoteDatabase(serving.url, retry_s=600) as db:
        serving.kill()
        waiting = threading.Event()

        def call() -> None:
            waiting.set()
            try:
                db.get(FLIGHTS, ("UA", 1))
            except everlog.Error as error:
                failed.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        waiting.wait()
    caller.join(30)
    assert not caller.is_alive()
    assert [type(error) for error in failed] == [everlog.ClosedError]
    serving.start()


@pytest.mark.long
def test_closing_a_feed_ends_its_wait_for_a_server(serving: Serving) -> None:
    received: list[int] = []
    with RemoteDatabase(serving.url, retry_s=600) as db:
        feed = db.feed(after=0)
        seen = threading.Event()

        def read() -> None:
            for commit in feed:
                received.append(commit.seq)
                if commit.seq == 2:
                    seen.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert seen.wait(30)
        serving.kill()
        feed.close()
        reader.join(30)
        assert not reader.is_alive()
        assert received == [1, 2]
    serving.start()


@pytest.mark.long
def test_a_load_that_a_server_does_not_know_any_more_is_not_gone_on_with(
    serving: Serving, tmp_path: Path
) -> None:
    with RemoteDatabase(serving.url) as db:

        def rows() -> Iterator[Any]:
            for number in range(20_000):
                if number == 10_000:
                    serving.kill()
                    shutil.rmtree(tmp_path / "x")  # like a restored backup
                    serving.start()
                yield flight(number)

        with pytest.raises(everlog.CorruptionError, match="it lost rows that it had acknowledged"):
            db.load(FLIGHTS, rows(), id="lost")


@pytest.mark.long
def test_a_load_that_fails_leaves_no_thread(serving: Serving) -> None:
    with RemoteDatabase(serving.url, retry_s=0.2) as db:
        before = threading.active_count()
        serving.kill()
        for _ in range(3):
            with pytest.raises(everlog.UnavailableError):
                db.load(FLIGHTS, [flight(1)])
        until = time.monotonic() + 30
        while threading.active_count() > before and time.monotonic() < until:
            threading.Event().wait(0.05)
        assert threading.active_count() <= before
    serving.start()


@pytest.mark.long
def test_a_bookmark_survives_a_server_that_is_killed_and_is_never_ahead(
    serving: Serving, tmp_path: Path
) -> None:
    with RemoteDatabase(serving.url) as db, SqliteSink(tmp_path / "mirror.db") as sink:
        known = 0
        for life in range(3):
            for number in range(20):
                db.insert(FLIGHTS, flight(life * 100 + number))
            follower = Follower(db, sink, consumer="mirror")
            follower.run(until=db.head - 7)
            done = follower.run(until=db.head - 3).position
            assert db.consumers["mirror"].position == done
            serving.kill()
            serving.start()
            found = db.consumers["mirror"]
            assert known < found.position.seq <= done.seq
            known = found.position.seq
        assert Follower(db, sink, consumer="mirror").run(bounded=True).position == db.cursor()


def test_a_server_that_is_gone_is_waited_for_once_and_not_by_every_call(serving: Serving) -> None:
    with RemoteDatabase(serving.url, retry_s=3.0) as db:
        db.put(FLIGHTS, flight(1))
        serving.kill()
        began = time.monotonic()
        for _ in range(5):
            with pytest.raises(everlog.UnavailableError):
                db.get(FLIGHTS, ("UA", 1))
        assert time.monotonic() - began < 14.0  # each would have waited for three seconds
        serving.start()
        assert db.get(FLIGHTS, ("UA", 1)) == flight(1)


def test_a_deadline_bounds_calls_and_the_wait_for_a_server(serving: Serving) -> None:
    with RemoteDatabase(serving.url, retry_s=600) as db:
        with everlog.deadline(60.0):
            db.put(FLIGHTS, flight(1))
        serving.kill()
        with everlog.deadline(600.0), everlog.deadline(0.3), pytest.raises(everlog.UnavailableError):
            db.get(FLIGHTS, ("UA", 1))
        with everlog.deadline(0.3), pytest.raises(everlog.UnavailableError):
            db.put(FLIGHTS, flight(2))
        with everlog.deadline(0.3), pytest.raises(everlog.UnavailableError):
            list(db.scan(FLIGHTS))
        with everlog.deadline(0.3), pytest.raises(everlog.UnavailableError):
            next(iter(db.feed()))
        serving.start()
        assert db.get(FLIGHTS, ("UA", 1)) == flight(1)


@pytest.mark.long
def test_a_timeout_given_on_opening_bounds_each_call(serving: Serving) -> None:
    with everlog.open(serving.url, timeout=5.0) as db:  # a slow machine needs some for the first ones
        db.put(FLIGHTS, flight(1))
        serving.kill()
        began = time.monotonic()
        with pytest.raises(everlog.UnavailableError):
            db.get(FLIGHTS, ("UA", 1))
        assert time.monotonic() - began < 20.0  # without, it would be half a minute
        serving.start()


@pytest.mark.long
def test_opening_does_not_wait_long_for_a_server_that_never_responds() -> None:
    with socket.create_server(
        ("127.0.0.1", 0)
    ) as silent:  # it accepts connections, as a stopped process does
        url = f"everlog+insecure://127.0.0.1:{silent.getsockname()[1]}/x"
        began = time.monotonic()
        with pytest.raises(everlog.UnavailableError):
            everlog.open(url)
        took_s = time.monotonic() - began
        assert took_s < 20.0  # 10 s are documented; it was 49 s
        with everlog.deadline(0.3), pytest.raises(everlog.UnavailableError):
            everlog.open(url)


def test_a_refused_connection_fails_at_once_and_with_a_timeout_is_waited_for(serving: Serving) -> None:
    url, port = serving.url, serving.port
    serving.kill()
    with pytest.raises(everlog.UnavailableError, match="cannot be reached") as refused:
        everlog.open(url)
    assert refused.value.facts["refused"]
    opened: list[int] = []

    def wait() -> None:
        with everlog.open(url, timeout=60.0) as db:
            opened.append(db.head)

    waiting = threading.Thread(target=wait)
    waiting.start()
    serving.start()
    waiting.join(60)
    assert (len(opened), serving.port) == (1, port)


def test_a_deadline_of_no_time_is_refused() -> None:
    for seconds in (0.0, -1.0, float("nan")):
        with pytest.raises(everlog.Error, match="more than 0 seconds"), everlog.deadline(seconds):
            raise AssertionError
