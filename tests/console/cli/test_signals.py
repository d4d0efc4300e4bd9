"""Signals that stop a command: where they are raised, and that none is lost."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from types import FrameType

import pytest

from everlog.console.cli.signals import interruptible
from everlog.rpc.server.server import Server
from tests.conformance.database_case import open_case
from tests.rpc.added import weather

WAIT_S = 30


def frame_of(work: Callable[[], object], reached: Callable[[FrameType], bool]) -> FrameType:
    """Return the frame of a thread that does the work, once it has reached a place."""

    def done() -> None:
        with suppress(Empty, TimeoutError, threading.BrokenBarrierError):
            work()

    thread = threading.Thread(target=done, daemon=True)
    thread.start()
    while thread.is_alive():
        frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001
        if frame is not None and reached(frame):
            return frame
    raise AssertionError(f"{work} has ended")


class Finalized:
    def __init__(self, wait: Callable[[float], object]) -> None:
        self.wait = wait

    def __del__(self) -> None:
        self.wait(WAIT_S)


@pytest.mark.parametrize("name", ["event", "queue", "future", "barrier", "thread"])
def test_what_waits_for_a_thread_may_be_interrupted(name: str) -> None:
    ended = threading.Event()
    other = threading.Thread(target=ended.wait, args=(WAIT_S,), daemon=True)
    other.start()
    waits: dict[str, Callable[[], object]] = {
        "event": lambda: ended.wait(WAIT_S),
        "queue": lambda: Queue[int]().get(timeout=WAIT_S),
        "future": lambda: Future[int]().result(WAIT_S),
        "barrier": lambda: threading.Barrier(2).wait(WAIT_S),
        "thread": lambda: other.join(WAIT_S),
    }
    frame_of(
        waits[name], lambda frame: frame.f_code.co_filename == threading.__file__ and interruptible(frame)
    )
    ended.set()


def test_what_takes_a_lock_or_finalizes_may_not_be_interrupted() -> None:
    taken = threading.Condition()
    with taken:
        frame = frame_of(taken.__enter__, lambda frame: frame.f_code.co_name == "__enter__")
        assert not interruptible(frame)
    lock = threading.Lock()
    with lock:

        def finalizes() -> None:
            Finalized(lambda limit_s: lock.acquire(timeout=limit_s))

        frame = frame_of(finalizes, lambda frame: frame.f_code.co_name == "<lambda>")
        assert not interruptible(frame)


LOST = """
import signal, time
from everlog.console.cli.signals import StopSignals
signals = StopSignals()
signals.install()
try:
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        pass  # as a finalizer or a callback of C code would
    time.sleep(30)
except KeyboardInterrupt:
    time.sleep(1)  # it is not raised again while it is handled
    signals.ended()
    time.sleep(1)
    print(signals.number.name)
"""


def test_what_was_lost_is_raised_again_until_the_command_has_ended() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOST], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("SIGTERM\n", "", 0)


EARLY = """
import importlib.abc, signal, sys
module, number = sys.argv[1], signal.Signals[sys.argv[2]]
class Raises(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == module:
            sys.meta_path.remove(self)
            signal.raise_signal(number)
sys.meta_path.insert(0, Raises())
from everlog.console.__main__ import main
sys.argv[1:] = ["config"]
main()
"""


@pytest.mark.parametrize(
    ("module", "name", "word", "code"),
    [
        ("click", "SIGINT", "interrupted", 130),
        ("everlog.console.cli", "SIGTERM", "terminated", 143),
        ("everlog.console.cli.config", "SIGTERM", "terminated", 143),
        ("click", "SIGHUP", "hung up", 129),
    ],
)
def test_a_signal_during_the_imports_ends_the_command_like_any_other(
    module: str, name: str, word: str, code: int
) -> None:
    words = [sys.executable, "-c", EARLY, module, name]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr.strip(), done.returncode) == ("", word, code)


INTERRUPTED = """
import os, random, signal, sys, threading, time
from contextlib import closing
from everlog.console.cli.signals import StopSignals
from everlog.rpc import address
from everlog.rpc.client.api import Api
from everlog.rpc.client.channel import CONNECT_S, Channel
url, times = sys.argv[1], int(sys.argv[2])
signals = StopSignals()
signals.install()
ended = 0

def interrupt():
    time.sleep(random.uniform(0, 0.03))
    os.kill(os.getpid(), signal.SIGINT)

for _ in range(times):
    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        with closing(Channel(address.parse(url), retry_s=CONNECT_S)) as channel:
            api = Api(channel)
            method = api.services.method("Weather", "Observe")
            with closing(api.call(method, iter([api.request(method, {})]))) as answers:
                for _ in answers:
                    pass
    except KeyboardInterrupt:
        signals.ended()
        ended += 1
    thread.join()
print(ended)
"""


@pytest.mark.parametrize("times", [50, pytest.param(1_000, marks=pytest.mark.long)])
def test_calls_that_are_interrupted_anywhere_leave_nothing_that_waits(tmp_path: Path, times: int) -> None:
    with open_case("file", tmp_path) as case, Server({"x": case.embedded}, services=[weather()]) as server:
        words = [sys.executable, "-c", INTERRUPTED, server.url("x"), str(times)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.stderr) == (f"{times}\n", "")


ENDED = """
import atexit, os, signal
from everlog.console.cli.signals import StopSignals

class Late:
    def __del__(self):  # while the interpreter ends, when Python has restored the signals
        os.kill(os.getpid(), signal.SIGTERM)

late = Late()
signals = StopSignals()
signals.install()
signals.ignore()
atexit.register(signal.raise_signal, signal.SIGINT)
raise SystemExit(3)
"""


def test_a_signal_while_the_process_exits_does_not_change_its_exit_code() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDED], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 3)
