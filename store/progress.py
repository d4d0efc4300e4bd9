"""Progress: reports of long-running work, the pace at which it may run, and its interruption. Displayed by
console/cli/output.py.

    with interruptible(check): for row in scan: …     `check` is called between two chunks of rows or records
    with yielding(0.1): …     while others commit, this thread works for a tenth of the time, in small slices

Python runs one thread at a time, so a thread at full speed delays the others for as long as one slice
takes. With a rate limit, slices are small, and other threads run between them.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec


class Progress(msgspec.Struct, frozen=True):
    """The progress of a step: `done` of `total` (None: unknown) in `unit`s."""

    step: str
    done: int
    total: int | None = None
    unit: str = "rows"


OnProgress = Callable[[Progress], None]


class _Thread(threading.local):
    check: Callable[[], None] | None = None
    share = 0.0  # of the time, while others commit; 0: all
    used_s = 0.0  # processor time of this thread at its last pause
    commits = 0  # of this process, at its last pause


_thread = _Thread()


@contextmanager
def interruptible(check: Callable[[], None]) -> Iterator[None]:
    """Call `check` between the chunks of rows and records that this thread reads in the block. It may wait.
    What it raises ends the read."""
    before, _thread.check = _thread.check, check
    try:
        yield
    finally:
        _thread.check = before


def interruption_point() -> None:
    """Call the `check` of this thread, if it has one. Hold no lock that others need."""
    if (check := _thread.check) is not None:
        check()


class Activity:
    """What the threads of this process have done. Approximate: without a lock."""

    commits = 0  # that were begun
    yielding = 0  # how many threads are in `yielding`
    turn_s = 0.0  # of Python, before the first of them


_yielding = threading.Lock()


@contextmanager
def yielding(share: float) -> Iterator[None]:
    """Give way to threads that commit, in the block: then this thread works for this share of the time, and
    the threads of Python take shorter turns, TURN_S, because a commit waits for several of them."""
    with _yielding:
        if not Activity.yielding:
            Activity.turn_s = sys.getswitchinterval()
            sys.setswitchinterval(min(TURN_S, Activity.turn_s))
        Activity.yielding += 1
    before, _thread.share = _thread.share, share
    _thread.used_s, _thread.commits = time.thread_time(), Activity.commits
    try:
        yield
    finally:
        give_way()
        _thread.share = before
        with _yielding:
            Activity.yielding -= 1
            if not Activity.yielding:
                sys.setswitchinterval(Activity.turn_s)


def give_way() -> None:
    """Pause in `yielding`, if others have committed since the last pause. Hold no lock that others need."""
    if not _thread.share:
        return
    used_s = time.thread_time() - _thread.used_s
    if Activity.commits != _thread.commits:
        time.sleep(min(PAUSE_MAX_S, used_s * (1 / _thread.share - 1)))
    _thread.used_s, _thread.commits = time.thread_time(), Activity.commits


SLICE_ROWS = 1024
YIELDING_ROWS = 128  # of a slice in `yielding`
TURN_S = 0.0005
PAUSE_MAX_S = 0.5
SLICE_S = 0.004  # maximum duration of a slice under a rate limit
BEHIND_S = 0.1  # maximum delay that it catches up on; the rest is dropped


class Pace:
    """Limits work to `rate` rows per second; None: unlimited."""

    def __init__(self, rate: float | None) -> None:
        self.rate = rate
        most = YIELDING_ROWS if _thread.share else SLICE_ROWS
        self.slice_rows = most if rate is None else max(16, min(most, int(rate * SLICE_S)))
        self._due = time.monotonic()

    def wait(self) -> None:
        """Wait after a slice until the next one is due."""
        give_way()
        if self.rate is None:
            return
        now = time.monotonic()
        self._due = max(self._due + self.slice_rows / self.rate, now - BEHIND_S)
        if self._due > now:
            time.sleep(self._due - now)
