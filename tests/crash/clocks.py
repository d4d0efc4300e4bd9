"""Clocks: the wall clock of a life's machine, which jumps ahead and back, stands still, and is right again.

    TURNED in the environment ─▶ a thread turns it every half second ─▶ Clock(wall=…) of the database

A life begins with a clock that is right, and the campaign itself has one that always is: a new process cannot
know that its clock is wrong. The steady clock is that of the machine.
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

TURNED = "EVERLOG_CLOCK_TURNED"  # in the environment of a process whose clock is turned
SECOND = 10**9
MINUTE, DAY = 60 * SECOND, 24 * 3600 * SECOND
ERRORS_NS = (0, 0, 3 * DAY, 90 * DAY, 5 * MINUTE, -5 * MINUTE, -DAY, -60 * 365 * DAY)
TRUSTED_NS = int(JUMP_S * SECOND)  # by how much a clock may be set without anybody being asked
REST_S = 0.5
STILL = 0.15


class WallClock:
    """What a process takes for the time. `turns`: how often it was turned."""

    def __init__(self) -> None:
        self.turns = 0
        self._error_ns = 0
        self._stands_ns: int | None = None
        self._care = threading.Lock()

    def time_ns(self) -> int:
        stands_ns = self._stands_ns
        return time.time_ns() + self._error_ns if stands_ns is None else stands_ns

    def turn(self, chance: random.Random) -> None:
        with self._care:
            now, self.turns = self.time_ns(), self.turns + 1
            self._error_ns = chance.choice(ERRORS_NS)
            self._stands_ns = now if chance.random() < STILL else None

    def run(self, journal: Journal, chance: random.Random, ended: threading.Event) -> None:
        """Turns it again and again."""
        while not ended.wait(chance.uniform(0.1, REST_S)):
            self.turn(chance)
            journal.say(clock=self.time_ns() - time.time_ns())

    @contextlib.contextmanager
    def right(self) -> Iterator[bool]:
        """Keeps it as it is; whether that is right."""
        with self._care:
            yield not self._error_ns and self._stands_ns is None


def is_turned() -> bool:
    """Whether the clock of this process is one that jumps."""
    return TURNED in os.environ
