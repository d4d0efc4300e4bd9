"""Deadline: a time limit for all calls of a block, to any server.

    with everlog.deadline(2.0):
        db.get(AIRPORTS, "JFK")         # an answer, or UnavailableError, within two seconds

A context variable carries it, so it applies to this thread or task only. Of nested deadlines the earlier one
applies. Embedded databases ignore it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from everlog.store.errors import Error
from everlog.store.schema import arguments

_until: ContextVar[float | None] = ContextVar("everlog_deadline", default=None)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Limit all calls of the block to `seconds` in total. Raises Error unless `seconds` is positive.

    A call without a response by then raises UnavailableError; the server may still complete it.
    """
    arguments.seconds(seconds, "a deadline", zero=False, error=Error)
    until, before = time.monotonic() + seconds, _until.get()
    token = _until.set(until if before is None else min(until, before))
    try:
        yield
    finally:
        _until.reset(token)


def until() -> float | None:
    """Return the deadline of the running block, on the monotonic clock; None if there is none."""
    return _until.get()
