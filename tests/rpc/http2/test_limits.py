"""Limits: attackers are disconnected, honest clients never are, and neither keeps the server's memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from everlog.rpc.http2 import frames as http2
from everlog.rpc.http2 import limits
from everlog.rpc.http2.frames import Code
from everlog.rpc.http2.limits import PeerLimits, Turns
from everlog.rpc.http2.stream import Stream
from tests.rpc.http2 import attacks
from tests.rpc.http2.plain_server import ECHO, MANY, STALL, PlainServer
from tests.rpc.raw_client import RawClient

SECONDS = 120  # far more than any attack takes


@pytest.fixture
def server() -> Iterator[PlainServer]:
    with PlainServer() as server:
        yield server


@pytest.mark.parametrize("name", sorted(attacks.ATTACKS.keys() - attacks.UNBOUNDED))
def test_an_attacker_is_disconnected_and_another_served(server: PlainServer, name: str) -> None:
    with RawClient(server.address) as honest:
        found = attacks.one_connection(server.port, name, SECONDS)
        assert found is not None, "it was not disconnected"
        honest.call(1, ECHO, b"x")
        assert honest.trailers()["grpc-status"] == "0"


def calls(server: PlainServer, count: int) -> None:
    """Make calls as fast as one can, with what some clients send for each answer."""
    noise = http2.window_update(0, 20) + http2.frame(http2.PING, 0, 0, bytes(8))
    with RawClient(server.address) as client:
        sent, done, stream = 0, 0, 1
        while done < count:
            while sent < count and sent - done < 100:
                client.call(stream, ECHO, b"x")
                sent, stream = sent + 1, stream + 2
            _, flags, ended, _ = client.next(http2.HEADERS)
            if flags & http2.END_STREAM:
                done += 1
                client.send(noise + http2.window_update(ended, 20))


def deliveries(server: PlainServer, count: int) -> None:
    """Receive messages as fast as one can, and answer each with two windows."""
    with RawClient(server.address) as client:
        client.call(1, MANY, str(count).encode())
        received = bytearray()
        found = 0
        while found < count:
            frame = client.next(http2.DATA)[3]
            received += frame
            updates = 0
            while len(received) >= 5 and len(received) >= 5 + received[4]:
                del received[: 5 + received[4]]
                updates += 1
            found += updates
            client.send((http2.window_update(0, 12) + http2.window_update(1, 12)) * updates)
        assert client.trailers()["grpc-status"] == "0"


@pytest.mark.parametrize(
    ("work", "count"),
    [
        (calls, 3000),
        (deliveries, 10_000),
        pytest.param(calls, 50_000, marks=pytest.mark.long),
        pytest.param(deliveries, 500_000, marks=pytest.mark.long),
    ],
)
def test_a_fast_client_is_never_disconnected(
    server: PlainServer, work: Callable[[PlainServer, int], None], count: int
) -> None:
    work(server, count)


def test_many_calls_with_long_tokens_are_honest(server: PlainServer) -> None:
    """They run at once, and their headers enter no table, as behind some proxies."""
    with RawClient(server.address) as client:
        for stream in range(1, 3001, 2):
            client.send(client.headers(stream, STALL, authorization=f"{stream:01900}"))
        client.call(3001, ECHO, b"x", authorization="y" * 6000)
        assert client.trailers()["grpc-status"] == "0"


class Clock:
    """A loop's time, which the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, run: Callable[[], None]) -> Any:
        self.due.append((self.now + seconds, run))
        return self

    def cancel(self) -> None:
        self.due.clear()

    def pass_s(self, seconds: float) -> None:
        end = self.now + seconds
        while self.due and self.due[0][0] <= end:
            self.now, run = self.due.pop(0)
            run()
        self.now = end


class Out:
    """What a peer is sent."""

    def __init__(self) -> None:
        self.earned = 0
        self.sent = b""

    def write(self, data: bytes) -> None:
        self.sent += data


def limited() -> tuple[PeerLimits, Clock, Out, list[float]]:
    clock, out = Clock(), Out()
    dropped: list[float] = []
    loop: Any = clock
    return PeerLimits(loop, out, lambda: dropped.append(clock.now)), clock, out, dropped


def test_what_a_peer_may_cost_grows_with_time_and_useful_work() -> None:
    peer, clock, out, _ = limited()
    clock.pass_s(9)
    for _ in range(int(limits.BUCKET)):
        peer.count(1)
    with pytest.raises(http2.ProtocolError):
        peer.count(1)
    out.earned = 1000
    for _ in range(1000):
        peer.count(1)
    with pytest.raises(http2.ProtocolError):
        peer.count(1)
    clock.pass_s(0.5)
    for _ in range(int(limits.PER_S / 2) - 10):
        peer.count(1)
    with pytest.raises(http2.ProtocolError):
        peer.count(20)


def test_a_peer_without_a_whole_preface_is_dropped() -> None:
    _, clock, _, dropped = limited()
    clock.pass_s(100)
    assert dropped == [limits.CHECK_S]


@pytest.mark.parametrize("begins", [0.5, 9.5, 15, 29, 31, 44])
def test_a_peer_that_dribbles_is_dropped_within_20_seconds(begins: float) -> None:
    peer, clock, _, dropped = limited()
    while not dropped:
        if clock.now < begins:
            peer.heard, peer.partial = True, False
        else:
            peer.partial = True
        clock.pass_s(0.5)
    assert dropped[0] - begins <= 20


def test_a_silent_peer_is_asked_and_dropped_if_it_does_not_answer() -> None:
    peer, clock, out, dropped = limited()
    peer.heard = True
    clock.pass_s(35)
    assert http2.frame(http2.PING, 0, 0, b"everlog!") in out.sent
    peer.heard = True  # the answer
    clock.pass_s(30)
    assert not dropped
    clock.pass_s(15)
    assert dropped


@pytest.mark.long
@pytest.mark.parametrize("begins", [http2.PREFACE[:10], http2.PREFACE + http2.settings({}) + b"\0\0"])
def test_a_dribbling_connection_is_dropped(server: PlainServer, begins: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=1) as one:
        one.sendall(begins)
        ended = threading.Event()
        threading.Thread(target=_until_closed, args=(one, ended), daemon=True).start()
        for _ in range(40):
            with contextlib.suppress(OSError):
                one.sendall(b"\0" if begins[-1] == 0 else b"")
            if ended.wait(0.5):
                break
        assert ended.is_set()


@pytest.mark.long
def test_a_connection_that_says_nothing_is_dropped(server: PlainServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as one:
        while one.recv(1000):
            pass


def _until_closed(one: socket.socket, ended: threading.Event) -> None:
    while not ended.is_set():
        try:
            if not one.recv(1000):
                ended.set()
        except TimeoutError:
            continue
        except OSError:
            ended.set()


def test_a_reader_that_fails_does_not_stop_the_turns_of_others() -> None:
    assert [type(one) for one in asyncio.run(_faults_of_turns())] == [ValueError]


async def _faults_of_turns() -> list[Exception]:
    turns, done = Turns(), asyncio.Event()
    faults: list[Exception] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))

    class Reader:
        def __init__(self, slices: int) -> None:
            self.left = slices

        def read_slice(self) -> bool:
            self.left -= 1
            if self.left < 0:
                raise ValueError("a fault")
            if not self.left:
                done.set()
            return self.left > 0

    failing, working = Reader(0), Reader(5)
    turns.join(failing)
    turns.join(working)
    await done.wait()
    return faults


def test_calls_leave_no_garbage_in_cycles(server: PlainServer) -> None:
    """Garbage in cycles makes the collector stop the server for a long time."""
    with RawClient(server.address) as client:
        gc.collect()
        gc.disable()
        try:
            for stream in range(1, 101, 2):
                client.call(stream, ECHO, b"x")
                client.trailers()
            for stream in range(101, 201, 2):
                client.send(client.headers(stream, STALL) + http2.rst_stream(stream, Code.CANCEL))
            for stream in range(201, 301, 2):
                client.send(client.headers(stream, STALL))
            client.send(http2.frame(http2.PING, 0, 0, bytes(8)))
            client.next(http2.PING)
            for stream in range(201, 301, 2):
                client.send(http2.rst_stream(stream, Code.CANCEL))
            left, until = 1, time.monotonic() + 60
            while left and time.monotonic() < until:  # the tasks end a little later
                client.send(http2.frame(http2.PING, 0, 0, bytes(8)))
                client.next(http2.PING)
                left = sum(isinstance(one, Stream) for one in gc.get_objects())
        finally:
            gc.enable()
    assert left == 0


def test_a_call_that_is_reset_before_it_runs_is_seen_to_end() -> None:
    seen: list[str] = []

    class Observer:
        def began(self, call: Any) -> None:
            seen.append("began")

        def answered(self, call: Any, answer: Any) -> None:
            pass

        def ended(self, call: Any, code: Any, text: str) -> None:
            seen.append("ended")

    with PlainServer(observer=Observer()) as server, RawClient(server.address) as client:
        for stream in range(1, 101, 2):
            client.send(client.headers(stream, ECHO) + http2.rst_stream(stream, Code.CANCEL))
        client.call(101, ECHO, b"x")
        client.trailers()
    assert seen.count("began") == seen.count("ended") == 51


@pytest.mark.long
@pytest.mark.parametrize("name", ["announced_messages", "more_than_the_windows", "gzip_bombs"])
def test_what_an_attacker_made_the_server_keep_falls_back(name: str) -> None:
    server = attacks.Server()
    try:
        before = server.memory_mb()
        attacks.one_connection(server.port, name, 6)
        assert server.memory_mb("VmHWM") - before < 250
        end = time.monotonic() + 60
        while server.memory_mb() - before > 70 and time.monotonic() < end:
            time.sleep(0.5)
        assert server.memory_mb() - before <= 70
    finally:
        server.close()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_an_honest_client_is_served_beside_each_attack() -> None:
    server = attacks.Server()
    try:
        for name in attacks.ATTACKS:
            took, _ = attacks.beside(server, name, 2)
            assert took, name
    finally:
        server.close()
