"""Clock: the time of commits, and the time by which rows expire.

    wall clock ──▶ read()   the current time, used for expiry and ages. It may go back.
        │
        ├─ max(read(), last) ─▶ now()   the time of a commit. It never goes back.
        │                       if it is over 0.1 s ahead of read(): `reading_ns`, stored in the record
        │
        └─ minus the steady clock: more than ten minutes ahead of before ─▶ `jumped_s`

Invariants
  (1) the time of a commit is at least that of the previous commit, whatever the wall clock does;
  (2) a commit made while the clock was ahead does not change what read() returns afterwards;
  (3) whatever depends on ages (expiry, retention) calls look() first, and does nothing while
      `jumped_s` is not 0;
  (4) `jumped_s` becomes 0 when the wall clock agrees with the steady clock again, or is confirmed.

The long story: docs/time.md.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from everlog.store.program_log import about

JUMP_S = 600.0
_JUMP_NS = int(JUMP_S * 1e9)
BEHIND_NS = 100_000_000  # a commit stores the clock's reading if it is this far behind the commit's time
UNSET_NS = 1_735_689_600_000_000_000  # 2025-01-01: a clock before this was never set
CORRECTED = "clock.corrected"  # kind of the Notice: times in the log up to here are known to be ahead

logger = logging.getLogger("everlog")

# A clock that runs on while the machine sleeps; with another one, sleep would look like a jump.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def steady_ns() -> int:
    """Return nanoseconds since an arbitrary moment, by a clock that cannot be set."""
    return time.clock_gettime_ns(_STEADY)


class Clock:
    """Nanoseconds since the Unix epoch. `wall` and `steady` default to the machine's clocks.

    `reading_ns` is the wall clock's reading at the last `now` if the time of the commit is more than 0.1 s
    ahead of it; else 0. `jumped_s` is by how many seconds the wall clock ran ahead of the steady clock, if
    that is more than ten minutes; else 0.
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
        """Continue from a log whose newest record has the time `last_ns`.

        `reading_ns`: the clock's reading stored in that record, if the log is ahead of it; else 0.
        """
        self.last_ns, self._first_ns = last_ns, reading_ns or last_ns
        self._started = self._steady()

    def now(self) -> int:
        """Return the time of the next commit, at least that of the previous one. Only for the committer."""
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
        """Return the current time, by which rows expire and ages are counted. Changes nothing.

        It is the wall clock's. If that was never set (1970), it is the reading stored with the newest
        record at `start`, plus the time that the steady clock has counted since.
        """
        wall = self._wall()
        if wall >= UNSET_NS:
            return wall
        return max(wall, self._first_ns + self._steady() - self._started)

    def look(self) -> float:
        """Compare the wall clock with the steady clock. Return by how many seconds it jumped forward."""
        offset = self._wall() - self._steady()
        ahead_s = (offset - self._offset) / 1e9
        if ahead_s <= JUMP_S:
            if self.jumped_s:
                logger.warning(
                    "the clock of this machine is back to normal; rows expire again",
                    extra=about("clock.normal"),
                )
            self.jumped_s, self._offset = 0.0, offset
            return 0.0
        if not self.jumped_s:
            logger.warning(
                "the clock of this machine jumped forward by %.0f s; commits carry the new time. Check it:"
                " nothing expires until it is set back or confirmed"
                " (`everlog expire --trust-clock`, `db.admin.expire(confirm_time=True)`)",
                ahead_s,
                extra=about("clock.jumped", seconds=round(ahead_s)),
            )
        self.jumped_s = ahead_s
        return ahead_s

    def confirm(self) -> None:
        """Accept the current time as correct after a jump."""
        self.jumped_s, self._offset = 0.0, self._wall() - self._steady()

    def _warn(self, ahead_s: float) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "the newest commit is %.0f s ahead of the clock of this machine; commits carry its time until"
                " the clock catches up. Check the clock; if it is correct, confirm it:"
                " `everlog clock --correct`, `db.admin.correct_clock()`",
                ahead_s,
                extra=about("clock.behind", seconds=round(ahead_s)),
            )
