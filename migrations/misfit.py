"""Misfit: the error for a row of a file that does not fit, at its file, line and column."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from everlog.migrations.values import expected
from everlog.store.errors import LoadError


class Place(NamedTuple):
    """A line of a file, from 1, and a column or key in it, for people and by name."""

    file: str
    line: int
    shown: str = ""
    column: str | None = None


def fail(place: Place, text: str, *, private: str = "") -> NoReturn:
    """Raises LoadError. `private`: what stands there, which is no part of the message."""
    where = f"{place.file}:{place.line}: {f'{place.shown}: ' if place.shown else ''}"
    raise LoadError(
        where + text, private=private, file=place.file, line=place.line, column=place.column
    ) from None


def unknown(place: Place, model: type[Message]) -> NoReturn:
    """For a column or key that the model has no field for. The message does not name it: where a file has
    no header, it is a value of the first row."""
    descriptor = model.DESCRIPTOR
    known = [field.name for field in descriptor.fields]
    from difflib import get_close_matches  # noqa: PLC0415  only for messages

    near = get_close_matches(place.column or "", known, 1)
    meant = f"; is {near[0]} meant?" if near else ""
    text = f"{descriptor.full_name} has no such field; it has: {', '.join(known)}{meant}"
    fail(place._replace(column=None), text, private=repr(place.column))


def misfit(place: Place, field: FieldDescriptor, value: Any, error: Exception) -> NoReturn:
    """For a value that does not fit its field."""
    names = (
        f" ({field.enum_type.name} has {', '.join(field.enum_type.values_by_name)})"
        if field.enum_type
        else ""
    )
    found = f"text of length {len(value):,}" if isinstance(value, str) else type(value).__name__
    fail(place, f"expected {expected(field)}{names}, found {found}", private=f"{value!r:.200}: {error}")


def rivals(fields: Iterable[FieldDescriptor]) -> list[set[str]]:
    """The names of the fields of each oneof: a row can have only one of them."""
    groups: dict[str, set[str]] = {}
    for field in fields:
        if field.containing_oneof is not None:
            groups.setdefault(field.containing_oneof.full_name, set()).add(field.name)
    return [group for group in groups.values() if len(group) > 1]


def check_rivals(groups: list[set[str]], given: Iterable[str], place: Place, what: str) -> None:
    """Raises LoadError where two fields of one oneof are given: the last would take the place of the others.
    `what`: a column or a key."""
    names = list(given)
    for group in groups:
        both = [name for name in names if name in group]
        if len(both) > 1:
            fail(
                place._replace(shown=f"{what} {both[1]}", column=both[1]),
                f"expected one of {', '.join(sorted(group))} to be set, found {both[0]} as well",
            )
