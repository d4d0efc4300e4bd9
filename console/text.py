"""Text: rows and keys as people type them and as programs read them.

    airports JFK              ─▶ "JFK"                      each field of a key is a word
    flights 2013 1 1 UA …     ─▶ (2013, 1, 1, "UA", …)
    row                       ─▶ {"faa": "JFK", "tz": -5}   protobuf's JSON, names as in the model

Words are read as cells of a CSV file are (everlog.migrations.values).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from everlog.migrations.values import as_json, dump, expected, from_text, plain
from everlog.store.errors import RowError
from everlog.store.kinds import TIMESTAMP, kind_of

__all__ = ["dotted", "dump", "echo", "moment", "path", "plain", "row_dict", "size", "values"]

Steps = tuple[FieldDescriptor, ...]


def row_dict(row: Message) -> dict[str, Any]:
    """A row as JSON values: fields that are not set are left out if they can be told from empty. What JSON
    has no words for is shown as it is stored (everlog.migrations.values)."""
    found: dict[str, Any] = as_json(row)
    return found


def echo(value: Any, *, indent: bool = False) -> None:
    click.echo(dump(value, indent=indent))


def values(fields: Sequence[Steps], words: Iterable[str], role: str) -> Any:
    """The value of the first of these fields, or a tuple of the first ones; None for no words.

    Raises RowError naming the field whose word does not fit.
    """
    words = list(words)
    if len(words) > len(fields):
        raise RowError(
            f"{role} has the fields {dotted(fields)}; found {len(words)} values: {' '.join(words)}"
        )
    found = tuple(_value(path, word, role) for path, word in zip(fields, words, strict=False))
    return found[0] if len(found) == 1 else found or None


def dotted(fields: Sequence[Steps]) -> str:
    return ", ".join(".".join(step.name for step in path) for path in fields)


def moment(time_ns: int) -> str:
    """A time for people: 2026-01-05 09:30:00.123 in UTC."""
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(" ", "milliseconds").removesuffix("+00:00")


def path(found: Path) -> str:
    """A path for people: from here, where it is below."""
    here = Path.cwd()
    return str(found.relative_to(here) if found.is_relative_to(here) else found)


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _value(path: Steps, word: str, role: str) -> Any:
    field = path[-1]
    try:
        value = from_text(field)(word)
        return Timestamp(**value) if kind_of(field) is TIMESTAMP else value
    except (ValueError, TypeError) as error:
        name = ".".join(step.name for step in path)
        raise RowError(f"expected {expected(field)} for {name} in {role}, found {word!r} ({error})") from None
