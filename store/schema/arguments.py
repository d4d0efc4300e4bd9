r"""Arguments: check the types and ranges of arguments, for callers without a type checker, and convert times.

    "5", True, 1.5   ─▶ whole    ─▶ RowError: expected `limit` as a whole number, found str '5'
    "\\ud800", b"x"   ─▶ text     ─▶ RowError: expected `actor` as text, found bytes

    "2026-01-05T09:30:00Z", datetime, int ─▶ nanoseconds ─▶ nanoseconds since the Unix epoch
    SEQ|TIME of a command line            ─▶ position    ─▶ a seq (digits only), or a time (times.py)

Each function returns its argument, or raises an `Error` with what was expected and found. Only times are
converted. Values that may come from a row never appear in the message, only in `private`.

Invariants
  (1) an argument is checked before its call reads, writes or sends anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, tzinfo
from typing import Any, TypeVar

from everlog.store.errors import CursorError, Error, RowError, SchemaError
from everlog.store.schema.table import Table
from everlog.store.schema.times import exact_text, time_ns_of, to_ns

T = TypeVar("T")

Time = datetime | str | int
# Of an int: a seq.
Position = datetime | str | int

_SEQ = re.compile(r"[0-9]{1,20}")
TEXT_BYTES_MAX = 1 << 20  # of each text of a call, such as the reason of a commit
MANY = (1 << 63) - 1  # more records than any log has: no limit


def text(value: Any, name: str, *, error: type[Error] = RowError) -> str:
    """Return `value`, a text of at most TEXT_BYTES_MAX that can be stored and sent. Raises `error`."""
    if not isinstance(value, str):
        raise error(f"expected `{name}` as text, found {type(value).__name__}", private=repr(value))
    if len(value) > TEXT_BYTES_MAX // 4 and (size := len(value.encode(errors="replace"))) > TEXT_BYTES_MAX:
        raise error(f"expected `{name}` of at most {TEXT_BYTES_MAX:,} bytes, found {size:,}; shorten it")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as found:
            raise error(
                f"expected `{name}` as valid Unicode, found an unpaired surrogate at character"
                f" {found.start + 1}",
                private=repr(value),
            ) from None
    return value


def binary(value: Any, name: str, *, error: type[Error] = RowError) -> bytes:
    """Return `value`, bytes. Raises `error`."""
    if not isinstance(value, bytes):
        raise error(f"expected `{name}` as bytes, found {type(value).__name__}", private=repr(value))
    return value


def whole(value: Any, name: str, *, error: type[Error] = RowError) -> int:
    """Return `value`, a whole number of any size. Raises `error`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise error(f"expected {name} as a whole number, found {type(value).__name__} {value!r}")
    return value


def counted(value: Any, name: str, *, error: type[Error] = RowError) -> int:
    """Return `value`, a whole number from 0 to 2^63 - 1. Raises `error`."""
    if not 0 <= whole(value, name, error=error) <= MANY:
        raise error(f"expected {name} from 0 to 2^63 - 1, found {value}")
    return int(value)


def limit(value: Any, of: str) -> int | None:
    """Return a maximum number of items (`of` names them in the error); None: no limit. Raises RowError."""
    if value is None:
        return None
    if whole(value, "a limit") < 0:
        raise RowError(f"expected a limit of 0 or more {of}, found {value}")
    return min(int(value), MANY - 1)


def seconds(value: Any, name: str, *, zero: bool = True, error: type[Error] = RowError) -> float:
    """Return a duration in seconds: above 0, or 0 if `zero` allows it. Raises `error`."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or math.isnan(value)
        or value < 0
        or (value == 0 and not zero)
    ):
        span = "0 seconds or more" if zero else "more than 0 seconds"
        raise error(f"expected {name} of {span}, found {type(value).__name__} {value!r}")
    return float(value)


def rate(value: Any) -> float | None:
    """Return a maximum rate, in rows per second; None: unlimited. Raises RowError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise RowError(f"expected a rate above 0 rows per second, found {type(value).__name__} {value!r}")
    return float(value)


def several(value: Any, name: str, *, error: type[Error] = RowError) -> Iterable[Any]:
    """Return `value`, an iterable that is not a text, because iterating a text yields characters. Raises
    `error`."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise error(f"expected `{name}` as a list or another iterable, found {type(value).__name__}")
    return value


def function(value: Callable[..., T], name: str) -> Callable[..., T]:
    """Return `value`, a callable. Raises Error."""
    if not callable(value):
        raise Error(f"expected `{name}` as a function, found {type(value).__name__} {value!r}")
    return value


def table(value: Any) -> Table[Any, Any]:
    """Return `value`, a table constant. Raises SchemaError."""
    if not isinstance(value, Table):
        raise SchemaError(f"expected a Table, found {type(value).__name__} {value!r}")
    return value


def table_name(value: Any) -> str:
    """Return the name of a table given by its constant or by name. Raises SchemaError."""
    if isinstance(value, Table):
        return value.name
    if not isinstance(value, str):
        raise SchemaError(f"expected a Table or the name of one, found {type(value).__name__} {value!r}")
    return text(value, "table", error=SchemaError)


def position(text: str, zone: tzinfo | None = UTC) -> int | str:
    """Return the seq that a text of digits names, or a time as ISO 8601 in UTC. `zone` is that of a time
    without a zone; None: local time. Raises CursorError."""
    seq = seq_of(text)
    if seq is not None:
        return seq
    try:
        return exact_text(time_ns_of(text, zone=zone))
    except RowError as error:
        says = str(error).replace("expected a time", "expected a seq, or a time", 1)
        raise CursorError(says, why="unclear") from None


def seq_of(text: str) -> int | None:
    """Return the seq that a text names; None unless it consists of 1 to 20 ASCII digits."""
    return int(text) if _SEQ.fullmatch(text) else None


def nanoseconds(time: Time) -> int:
    """Return a time as nanoseconds since the Unix epoch. Raises RowError.

    Accepts a datetime, a text (ISO 8601, or as people write it: times.py), or nanoseconds. A time without a
    zone is UTC.
    """
    if isinstance(time, bool) or not isinstance(time, (datetime, str, int)):
        raise RowError(
            f"expected a time as datetime, text or nanoseconds, found {type(time).__name__} {time!r}"
        )
    if isinstance(time, int):
        return time
    if isinstance(time, str):
        return time_ns_of(time, zone=UTC)
    return to_ns(time if time.tzinfo is not None else time.replace(tzinfo=UTC))


def time_text(time_ns: int) -> str:
    """Format a time in nanoseconds since the Unix epoch for people."""
    try:
        return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{time_ns} ns"
