"""Clock: the time of commits, and the time by which rows end.

    wall clock ──▶ read()   the time now: lives and ages go by it. It may go back.
        │
        ├─ max(read(), last) ─▶ now()   the time of a commit. It never goes back.
        │                       where that is over 0.1 s ahead of read(): `reading_ns`, kept in the record
        │
        └─ minus the steady clock: more than ten minutes ahead of what it was ─▶ `jumped_s`

Invariants
  (1) the time of a commit is at least that of the commit before, whatever the wall clock does;
  (2) a commit that was made with a clock that was ahead does not change what read() gives afterwards;
  (3) what goes by the age of things (expiry, retention) calls look() first, and does nothing while
      `jumped_s` is not 0;
  (4) `jumped_s` is 0 again when the wall clock agrees with the steady one again, or is confirmed.

docs/time.md has the long story.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

JUMP_S = 600.0
_JUMP_NS = int(JUMP_S * 1e9)
BEHIND_NS = 100_000_000  # a commit keeps what the clock read, where that is so far behind its time
UNSET_NS = 1_735_689_600_000_000_000  # 2025-01-01: a clock that says less was never set
CORRECTED = "clock.corrected"  # kind of the Notice: from here on, times in the log are known to be ahead

logger = logging.getLogger("everlog")

# What goes on while a machine sleeps, or whoever closes a lid would find that the clock jumped.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def steady_ns() -> int:
    """Nanoseconds since some moment; nobody can set it."""
    return time.clock_gettime_ns(_STEADY)


class Clock:
    """Nanoseconds since the Unix epoch. `wall` and `steady` are the clocks of the machine, unless others are
    handed in.

    `reading_ns` is what the clock read at the last `now`, if the time of the commit is more than 0.1 s
    ahead of it; else 0. `jumped_s` is by how much the wall clock ran ahead of the steady one, if that is more
    than ten minutes; else 0.
    """

    def __init__(
        self,
        last_ns: int = 0,
        *,
        wall: Callable[[], int] = time.time_ns,
        steady: Callable[[], int] = steady_ns,
    ) -> None:
        self.jumped_s = 0.0
        self.reading_ns = 0
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()
        self._warned = False
        self.start(last_ns)

    def start(self, last_ns: int, reading_ns: int = 0) -> None:
        """Go on from a log whose newest record has this time; `reading_ns`: what the clock read then, where
        the log is ahead of it."""
        self.last_ns, self._first_ns = last_ns, reading_ns or last_ns
        self._started = self._steady()

    def now(self) -> int:
        """Return the time of the next commit; at least that of the one before. For the committer alone."""
        now = self._wall()
        if now < UNSET_NS:
            now = self.read()
        ahead_ns = now - self.last_ns
        if ahead_ns <= 0:
            self.reading_ns = now if -ahead_ns > BEHIND_NS else 0
            if -ahead_ns > _JUMP_NS:
                self._warn(-ahead_ns / 1e9)
            return self.last_ns
        if ahead_ns > _JUMP_NS:
            self.look()
        self.last_ns = now
        self.reading_ns = 0
        return now

    def read(self) -> int:
        """Return the time now, by which lives end and ages are counted. Changes nothing.

        It is that of the wall clock. Where that was never set (1970), it is what the clock read for the
        newest record at `start`, and what the steady clock has counted since.
        """
        wall = self._wall()
        if wall >= UNSET_NS:
            return wall
        return max(wall, self._first_ns + self._steady() - self._started)

    def look(self) -> float:
        """Compare the wall clock with the steady one; return by how many seconds it jumped forward."""
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
                " (`everlog expire --trust-clock`, `db.expire(confirm_time=True)`)",
                ahead_s,
            )
        self.jumped_s = ahead_s
        return ahead_s

    def confirm(self) -> None:
        """The time is right, though it jumped."""
        self.jumped_s, self._offset = 0.0, self._wall() - self._steady()

    def _warn(self, ahead_s: float) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "the newest commit is %.0f s ahead of the clock of this machine; commits carry its time until"
                " the clock gets there. Check the clock; if it is right, say so: `everlog clock --correct`,"
                " `db.correct_clock()`",
                ahead_s,
            )
