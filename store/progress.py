"""Progress: what long work tells about itself. Whoever shows it is above (console/progress.py)."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Progress(msgspec.Struct, frozen=True):
    """How far a step is: `done` of `total` (None: unknown) in `unit`s."""

    step: str
    done: int
    total: int | None = None
    unit: str = "rows"


OnProgress = Callable[[Progress], None]
