"""Timestamps: parse times and log positions given by a caller.

"2026-01-05T09:30:00Z"  datetime  nanoseconds ─▶ nanoseconds since the Unix epoch
SEQ|TIME of a command line ─▶ a seq (digits only), or a time
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from everlog.store.errors import CursorError, RowError

Time = datetime | str | int
# Of an int: a seq.
Position = datetime | str | int

_SEQ = re.compile(r"[0-9]{1,20}")
_BELOW = re.compile(r"\d[.,]\d{6}(\d{1,3})")  # the nanoseconds, which a datetime cannot hold


def position(text: str) -> int | str:
    """Return the seq that a text of digits names, or a time, checked and unchanged. Raises CursorError."""
    seq = seq_of(text)
    if seq is not None:
        return seq
    try:
        nanoseconds(text)
    except RowError:
        raise CursorError(
            f"expected a seq, or a time like 2026-01-05T09:30:00Z, found {text[:60]!r}", why="unclear"
        ) from None
    return text


def seq_of(text: str) -> int | None:
    """Return the seq that a text names; None unless it consists of 1 to 20 ASCII digits."""
    return int(text) if _SEQ.fullmatch(text) else None


def nanoseconds(time: Time) -> int:
    """Return a time as nanoseconds since the Unix epoch. Raises RowError.

    Accepts a datetime, its text (ISO 8601), or nanoseconds. A time without a zone is UTC.
    """
    if isinstance(time, bool) or not isinstance(time, (datetime, str, int)):
        raise RowError(
            f"expected a time as datetime, text or nanoseconds, found {type(time).__name__} {time!r}"
        )
    if isinstance(time, int):
        return time
    below = 0
    if isinstance(time, str):
        digits = _BELOW.search(time)
        below = int(digits[1].ljust(3, "0")) if digits else 0
        try:
            time = datetime.fromisoformat(time)
        except ValueError:
            raise RowError(f"expected a time like 2026-01-05T09:30:00Z, found {time!r}") from None
    aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    past = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return ((past.days * 86400 + past.seconds) * 1_000_000 + past.microseconds) * 1000 + below


def shown(time_ns: int) -> str:
    """Format a time in nanoseconds since the Unix epoch for people."""
    try:
        return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{time_ns} ns"
