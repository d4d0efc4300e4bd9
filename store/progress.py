"""Progress: what long work tells about itself. Whoever shows it is above (console/output.py).

Pace: how fast work beside others goes, and in how small pieces.

Python runs one thread at a time: who works at full speed lets others wait for as long as a piece
takes. With a limit the pieces are small, and between them there is time for others.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec


class Progress(msgspec.Struct, frozen=True):
    """How far a step is: `done` of `total` (None: unknown) in `unit`s."""

    step: str
    done: int
    total: int | None = None
    unit: str = "rows"


OnProgress = Callable[[Progress], None]


SLICE_ROWS = 1024
SLICE_S = 0.004  # so much of each slice's time may be work, when there is a limit
BEHIND_S = 0.1  # so far behind its time it hurries; more it lets go


class Pace:
    """`rate`: rows a second at most; None: all it can."""

    def __init__(self, rate: float | None) -> None:
        self.rate = rate
        self.slice_rows = SLICE_ROWS if rate is None else max(16, min(SLICE_ROWS, int(rate * SLICE_S)))
        self._due = time.monotonic()

    def wait(self) -> None:
        """After a slice: until it is time for the next."""
        if self.rate is None:
            return
        now = time.monotonic()
        self._due = max(self._due + self.slice_rows / self.rate, now - BEHIND_S)
        if self._due > now:
            time.sleep(self._due - now)
