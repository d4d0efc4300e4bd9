"""Progress: reports of long-running work, the pace at which it may run, and its interruption. Displayed by
console/cli/output.py.

    with interruptible(check): for row in scan: …     `check` is called between two chunks of rows or records

Python runs one thread at a time, so a thread at full speed delays the others for as long as one slice
takes. With a rate limit, slices are small, and other threads run between them.
"""

from __future__ import annotations

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


SLICE_ROWS = 1024
SLICE_S = 0.004  # maximum duration of a slice under a rate limit
BEHIND_S = 0.1  # maximum delay that it catches up on; the rest is dropped


class Pace:
    """Limits work to `rate` rows per second; None: unlimited."""

    def __init__(self, rate: float | None) -> None:
        self.rate = rate
        self.slice_rows = SLICE_ROWS if rate is None else max(16, min(SLICE_ROWS, int(rate * SLICE_S)))
        self._due = time.monotonic()

    def wait(self) -> None:
        """Wait after a slice until the next one is due."""
        if self.rate is None:
            return
        now = time.monotonic()
        self._due = max(self._due + self.slice_rows / self.rate, now - BEHIND_S)
        if self._due > now:
            time.sleep(self._due - now)
