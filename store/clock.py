"""Clock: the time of commits. It never goes back, and says so when it jumps forward.

    wall clock ──▶ max(wall, last) ─▶ the time of a commit
        │
        └─ minus the steady one: more than ten minutes ahead of what it was ─▶ `jumped_s`

Invariants
  (1) whoever acts on the age of things (expiry) looks first, and does nothing while `jumped_s` is not 0;
  (2) it is 0 again when the wall clock agrees with the steady one again, or somebody has confirmed it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

JUMP_S = 600.0

logger = logging.getLogger("everlog")

# What goes on while a machine sleeps, or whoever closes a lid would find that the clock jumped.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def steady_ns() -> int:
    """Nanoseconds since some moment; nobody can set it."""
    return time.clock_gettime_ns(_STEADY)


class Clock:
    """Nanoseconds since the Unix epoch: max(wall clock, last). `wall` and `steady` are the clocks of the
    machine, unless others are handed in.

    `jumped_s` holds by how much the wall clock ran ahead of the steady one, if that is more than ten
    minutes: whoever acts on the age of things (expiry) waits until somebody has looked.
    """

    def __init__(
        self,
        last_ns: int = 0,
        *,
        wall: Callable[[], int] = time.time_ns,
        steady: Callable[[], int] = steady_ns,
    ) -> None:
        self.last_ns = last_ns
        self.jumped_s = 0.0
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()

    def now(self) -> int:
        """The time of the next commit; at least that of the one before. For who commits alone."""
        now = self._wall()
        if now <= self.last_ns:
            return self.last_ns
        if now - self.last_ns > JUMP_S * 1e9:
            self.look()
        self.last_ns = now
        return now

    def peek(self) -> int:
        """The time that a commit would have now. Changes nothing."""
        return max(self._wall(), self.last_ns)

    def look(self) -> float:
        """Compares the wall clock with the steady one; returns by how many seconds it jumped forward."""
        offset = self._wall() - self._steady()
        ahead_s = (offset - self._offset) / 1e9
        if ahead_s <= JUMP_S:
            if self.jumped_s:
                logger.warning("the clock of this machine is what it was again; rows expire again")
            self.jumped_s, self._offset = 0.0, offset
            return 0.0
        if not self.jumped_s:
            logger.warning(
                "the clock of this machine jumped forward by %.0f s; commits carry the new time. Check it:"
                " nothing expires until it is what it was, or until somebody says that it is right"
                " (`everlog expire --yes`, `db.expire(confirm_time=True)`)",
                ahead_s,
            )
        self.jumped_s = ahead_s
        return ahead_s

    def confirm(self) -> None:
        """The time is right, though it jumped."""
        self.jumped_s, self._offset = 0.0, self._wall() - self._steady()
