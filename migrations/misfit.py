"""Misfit: the error for a row of a file that does not fit, at its file, line and column."""

from __future__ import annotations

from typing import Any, NoReturn

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from everlog.migrations.values import expected
from everlog.store.errors import LoadError


def fail(file: str, line: int, text: str, column: str | None = None) -> NoReturn:
    raise LoadError(f"{file}:{line}: {text}", file=file, line=line, column=column) from None


def unknown(file: str, line: int, name: str, what: str, model: Descriptor) -> NoReturn:
    """For a column or key that the model has no field for."""
    known = ", ".join(field.name for field in model.fields)
    fail(file, line, f"{what} {name!r} is no field of {model.full_name}, which has: {known}", name)


def misfit(
    file: str, line: int, where: str, name: str, field: FieldDescriptor, value: Any, error: Exception
) -> NoReturn:
    """For a value that does not fit its field."""
    shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}…"
    fail(file, line, f"{where}: expected {expected(field)}, found {shown} ({error})", name)
