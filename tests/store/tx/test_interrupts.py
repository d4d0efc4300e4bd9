"""An interrupt (Ctrl-C) that the application catches affects at most one commit."""

from __future__ import annotations

import dis
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from everlog.store.database import Database
from everlog.store.tx import group_commit
from tests.store.conftest import traces_opcodes
from tests.store.models import AIRPORTS, ITEMS, Item, airport, open_flights

ROOT = Path(__file__).parents[3]
STORE = str(Path(group_commit.__file__).parents[1])
# Python checks for interrupts after calls and at backward jumps; code between two of these is one step.
LOOKS = {
    number
    for name, number in dis.opmap.items()
    if name.startswith(("CALL", "JUMP_BACKWARD", "RESUME")) and "NO_INTERRUPT" not in name
}
WRITERS = 4
# Between `open` and the `with` that closes the file, which Python closes then.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


class Interrupt(BaseException):
    """Stands for KeyboardInterrupt, at a point at which Python could raise it."""


def at(nth: int, matters: Callable[[FrameType], bool] = lambda _: True) -> Any:
    """Trace a thread, and interrupt it at the n-th point in the store's code at which Python checks."""
    left, before = nth, dict[FrameType, int]()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(STORE):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            looks = before.get(frame) in LOOKS
            before[frame] = frame.f_code.co_code[frame.f_lasti]
            if looks and matters(frame):
                left -= 1
                if left < 0:
                    sys.settrace(None)
                    raise Interrupt
        return trace

    return trace


@contextmanager
def traced(trace: Any) -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@traces_opcodes
@pytest.mark.parametrize("durability", ["sync", "os"])
def test_it_may_come_anywhere(db: Database, durability: str) -> None:
    for nth in count():
        done = False
        try:
            with traced(at(nth)):
                db.put(AIRPORTS, airport(f"A{nth}", "Rome"), durability=durability)
                done = True
        except Interrupt:
            pass
        others = threading.Thread(target=db.put, args=(ITEMS, Item(id=nth)), daemon=True)
        others.start()
        others.join(30)
        assert not others.is_alive(), f"all are held up after an interrupt at {nth}"
        assert db.get(ITEMS, nth) is not None
        if not nth % 16:
            assert list(db.admin.check()) == []
        if done:
            assert db.get(AIRPORTS, f"A{nth}") is not None
            break
    assert nth > 50


@traces_opcodes
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.long) for part in (1, 2, 3))])
def test_it_costs_those_who_were_taken_along_nothing(db: Database, part: int) -> None:
    for nth in range(part, 10**6, 4):
        said = dict[str, Any]()

        def commit(key: str, nth: int = nth, said: dict[str, Any] = said) -> None:
            try:
                with traced(at(nth, _leads)):
                    said[key] = db.put(AIRPORTS, airport(key, "Rome"))
            except BaseException as error:  # noqa: BLE001  the test reads it
                said[key] = error

        keys = [f"A{nth}-{number}" for number in range(WRITERS)]
        threads = [threading.Thread(target=commit, args=(key,), daemon=True) for key in keys]
        with db.committer.exclusive():
            for thread in threads:
                thread.start()
            while db.committer.waiting < WRITERS:
                time.sleep(0)
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), f"a thread waits forever after an interrupt at {nth}"
        hit = [key for key in keys if isinstance(said[key], Interrupt)]
        for key in set(keys) - set(hit):
            assert said[key].seq == db.version(AIRPORTS, key), (nth, said[key])
        if not hit:
            break
    assert list(db.admin.check()) == []


def _leads(frame: FrameType) -> bool:
    """Return whether a thread leads a group with other threads in it."""
    here: FrameType | None = frame
    while here is not None:
        if here.f_code.co_name == "commit" and here.f_locals.get("followers"):
            return True
        here = here.f_back
    return False


INTERRUPTED = """
import signal, sys, threading
from everlog.store.database import Database
from tests.store.models import ITEMS, Item

db, over, acknowledged, caught = Database(sys.argv[1]), threading.Event(), [], 0
main = threading.main_thread().ident

def interrupt():
    while not over.wait(0.002):
        signal.pthread_kill(main, signal.SIGINT)

thread = threading.Thread(target=interrupt)
thread.start()
number = 0
while caught < 40:
    try:
        while True:
            number += 1
            db.put(ITEMS, Item(id=number), durability=("sync", "os")[number % 2])
            acknowledged.append(number)
    except KeyboardInterrupt:
        caught += 1
signal.signal(signal.SIGINT, signal.SIG_IGN)
over.set()
thread.join()
db.put(ITEMS, Item(id=0))
assert all(db.get(ITEMS, one) is not None for one in acknowledged)
assert list(db.admin.check()) == []
db.close()
"""


def test_many_of_them_leave_the_database_writable(tmp_path: Path) -> None:
    """In a separate process: an interrupt between two lines of the test would end the whole run."""
    open_flights(tmp_path / "db", ITEMS).close()
    for _ in range(20):
        command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "db")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode == -signal.SIGINT or done.stderr.rstrip().endswith("KeyboardInterrupt"):
            continue  # it came outside of the `try`
        assert done.returncode == 0, done.stderr
        return
    raise AssertionError("each run was interrupted outside of its `try`")
