"""Past time: moments as they are given, and as records carry them.

"2026-01-05T09:30:00Z"  datetime  nanoseconds ─▶ nanoseconds since the Unix epoch
framed record ─▶ its time, read from its head without parsing it
"""

from __future__ import annotations

import re
import struct
from datetime import UTC, datetime

from everlog.store import record
from everlog.store.errors import RowError

Time = datetime | str | int
# Of an int: a seq.
Position = datetime | str | int

_TIME = struct.Struct("<Q")
_BELOW = re.compile(r"\d[.,]\d{6}(\d{1,3})")  # what of a second is less than a datetime knows


def time_of(framed: bytes) -> int:
    """The time of a record, read from its head."""
    at = record.read_varint(framed, 1)[1]
    at = record.read_varint(framed, at + 1)[1]
    if framed[at] != 0x11:
        return record.decode(framed, record.seq_of(framed)).time_ns
    time_ns: int = _TIME.unpack_from(framed, at + 1)[0]
    return time_ns


def nanoseconds(time: Time) -> int:
    """Since the Unix epoch: of a datetime or its text (ISO 8601; UTC where no zone is said), or of
    nanoseconds as they are. Raises RowError."""
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
    """A time for people."""
    try:
        return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{time_ns} ns"
