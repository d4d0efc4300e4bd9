"""Deadline: until when the calls of a block must have been answered, whatever database they go to.

    with everlog.deadline(2.0):
        db.get(AIRPORTS, "JFK")         # an answer, or UnavailableError, within two seconds

A context variable carries it: it holds in this thread or task alone. Inside of another the earlier one holds.
An embedded database answers by itself, and has no use for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_until: ContextVar[float | None] = ContextVar("everlog_deadline", default=None)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Ends the calls of the block after so many seconds in all. Raises ValueError if they are none.

    A call that is not answered by then raises UnavailableError; what it asked for may yet happen.
    """
    if not seconds > 0:
        raise ValueError(f"expected a deadline in more than 0 seconds, found {seconds!r}")
    until, before = time.monotonic() + seconds, _until.get()
    token = _until.set(until if before is None else min(until, before))
    try:
        yield
    finally:
        _until.reset(token)


def until() -> float | None:
    """The deadline of the running block, on the monotonic clock; None: there is none."""
    return _until.get()
