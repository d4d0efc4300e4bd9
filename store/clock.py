"""Clock: the time of commits. It never goes back, and says so when it jumps forward."""

from __future__ import annotations

import logging
import time

JUMP_S = 600.0

logger = logging.getLogger("everlog")


class Clock:
    """Nanoseconds since the Unix epoch: max(wall clock, last).

    `jumped_s` holds by how much the wall clock once ran ahead of the monotonic one by more than
    ten minutes: whoever acts on the age of things (expiry) waits until somebody has looked.
    """

    def __init__(self, last_ns: int = 0) -> None:
        self.last_ns = last_ns
        self.jumped_s = 0.0
        self._wall = time.time_ns
        self._offset = time.time_ns() - time.monotonic_ns()

    def now(self) -> int:
        """The time of the next commit; at least that of the one before."""
        now = self._wall()
        if now <= self.last_ns:
            return self.last_ns
        if now - self.last_ns > JUMP_S * 1e9:
            self._look(now)
        self.last_ns = now
        return now

    def _look(self, now: int) -> None:
        ahead_s = (now - time.monotonic_ns() - self._offset) / 1e9
        if ahead_s > JUMP_S:
            self.jumped_s = ahead_s
            self._offset = now - time.monotonic_ns()
            logger.warning(
                "the clock of this machine jumped forward by %.0f s; commits carry the new time. Check it:"
                " nothing expires until the database is opened again",
                ahead_s,
            )
