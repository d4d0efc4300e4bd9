"""Clocks: the wall clock of a run's machine, which jumps ahead and back, stops, and is correct again.

    TURNED in the environment ─▶ a thread changes it every half second ─▶ Clock(wall=…) of the database

A run starts with a correct clock, because a new process cannot detect a wrong one. The clock of the campaign
itself is always correct. The monotonic clock is that of the machine.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator

from everlog.store.clock import JUMP_S
from tests.crash.journal import Journal

TURNED = "EVERLOG_CLOCK_TURNED"  # environment variable of a process whose clock jumps
SECOND = 10**9
MINUTE, DAY = 60 * SECOND, 24 * 3600 * SECOND
ERRORS_NS = (0, 0, 3 * DAY, 90 * DAY, 5 * MINUTE, -5 * MINUTE, -DAY, -60 * 365 * DAY)
TRUSTED_NS = int(JUMP_S * SECOND)  # the largest change of a clock that needs no confirmation
REST_S = 0.5
STILL = 0.15


class WallClock:
    """The clock of a process. `jumps`: their number."""

    def __init__(self) -> None:
        self.jumps = 0
        self._error_ns = 0
        self._stands_ns: int | None = None
        self._lock = threading.Lock()

    def time_ns(self) -> int:
        stands_ns = self._stands_ns
        return time.time_ns() + self._error_ns if stands_ns is None else stands_ns

    def turn(self, chance: random.Random) -> None:
        with self._lock:
            now, self.jumps = self.time_ns(), self.jumps + 1
            self._error_ns = chance.choice(ERRORS_NS)
            self._stands_ns = now if chance.random() < STILL else None

    def run(self, journal: Journal, chance: random.Random, ended: threading.Event) -> None:
        """Make it jump again and again."""
        while not ended.wait(chance.uniform(0.1, REST_S)):
            self.turn(chance)
            journal.say(clock=self.time_ns() - time.time_ns())

    @contextlib.contextmanager
    def right(self) -> Iterator[bool]:
        """Keep the current time, whether it is correct or not."""
        with self._lock:
            yield not self._error_ns and self._stands_ns is None


def is_turned() -> bool:
    """Return whether the clock of this process jumps."""
    return TURNED in os.environ
