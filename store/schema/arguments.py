"""Given: arguments of calls as callers give them, who may have no type checker.

    "5", True, 1.5   ─▶ whole    ─▶ RowError: expected `limit` as a whole number, found str '5'
    "\\ud800", b"x"   ─▶ text     ─▶ RowError: expected `actor` as text, found bytes

Each function returns its argument, or raises an `Error` that says what was expected and found. Nothing is
converted. Values that may be of a row are never in the message, but in `private`.

Invariants
  (1) an argument is checked before the call that it is of reads, writes or sends anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from everlog.store.errors import Error, RowError, SchemaError
from everlog.store.schema.table import Table

T = TypeVar("T")

MANY = (1 << 63) - 1  # more than any log has records: no limit


def text(value: Any, name: str, *, error: type[Error] = RowError) -> str:
    """Text that can be stored and sent. Raises `error`."""
    if not isinstance(value, str):
        raise error(f"expected `{name}` as text, found {type(value).__name__}", private=repr(value))
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as found:
            raise error(
                f"expected `{name}` as text of Unicode, found half of a surrogate pair at character"
                f" {found.start + 1}",
                private=repr(value),
            ) from None
    return value


def binary(value: Any, name: str, *, error: type[Error] = RowError) -> bytes:
    """Bytes. Raises `error`."""
    if not isinstance(value, bytes):
        raise error(f"expected `{name}` as bytes, found {type(value).__name__}", private=repr(value))
    return value


def whole(value: Any, name: str, *, error: type[Error] = RowError) -> int:
    """A whole number, of any size. Raises `error`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise error(f"expected {name} as a whole number, found {type(value).__name__} {value!r}")
    return value


def counted(value: Any, name: str, *, error: type[Error] = RowError) -> int:
    """A whole number that is not negative and that a message can carry. Raises `error`."""
    if not 0 <= whole(value, name, error=error) <= MANY:
        raise error(f"expected {name} of 0 or more, and below 2^63, found {value}")
    return int(value)


def limit(value: Any, of: str) -> int | None:
    """How many of something at most; None: all. Raises RowError."""
    if value is None:
        return None
    if whole(value, "a limit") < 0:
        raise RowError(f"expected a limit of 0 or more {of}, found {value}")
    return min(int(value), MANY - 1)


def seconds(value: Any, name: str, *, zero: bool = True, error: type[Error] = RowError) -> float:
    """A time span of more than 0 seconds, or of 0 where `zero` allows it. Raises `error`."""
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
    """Rows a second at most; None: as many as it can. Raises RowError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise RowError(
            f"expected a rate of more than 0 rows a second, found {type(value).__name__} {value!r}"
        )
    return float(value)


def several(value: Any, name: str, *, error: type[Error] = RowError) -> Iterable[Any]:
    """Something to iterate over that is no text: of a text each character would be one. Raises `error`."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise error(f"expected `{name}` as a list or another iterable, found {type(value).__name__}")
    return value


def function(value: Callable[..., T], name: str) -> Callable[..., T]:
    """What can be called. Raises Error."""
    if not callable(value):
        raise Error(f"expected `{name}` as a function, found {type(value).__name__} {value!r}")
    return value


def table(value: Any) -> Table[Any, Any]:
    """A table by its constant. Raises SchemaError."""
    if not isinstance(value, Table):
        raise SchemaError(f"expected a Table, found {type(value).__name__} {value!r}")
    return value


def table_name(value: Any) -> str:
    """The name of a table that is given by its constant or by name. Raises SchemaError."""
    if isinstance(value, Table):
        return value.name
    if not isinstance(value, str):
        raise SchemaError(f"expected a Table or the name of one, found {type(value).__name__} {value!r}")
    return text(value, "table", error=SchemaError)
