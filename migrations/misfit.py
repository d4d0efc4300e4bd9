"""Misfit: the error for a row of a file that does not fit, at its file, line and column."""

from __future__ import annotations

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


def fail(place: Place, text: str) -> NoReturn:
    where = f"{place.file}:{place.line}: {f'{place.shown}: ' if place.shown else ''}"
    raise LoadError(where + text, file=place.file, line=place.line, column=place.column) from None


def unknown(place: Place, model: type[Message]) -> NoReturn:
    """For a column or key that the model has no field for."""
    descriptor = model.DESCRIPTOR
    known = ", ".join(field.name for field in descriptor.fields)
    fail(place, f"{descriptor.full_name} has no such field; it has: {known}")


def misfit(place: Place, field: FieldDescriptor, value: Any, error: Exception) -> NoReturn:
    """For a value that does not fit its field."""
    shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}…"
    fail(place, f"expected {expected(field)}, found {shown} ({error})")
