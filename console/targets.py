"""Targets: files of rows that `everlog export` writes, and `everlog import` reads back.

    jsonl   one object a line, protobuf's JSON; loses nothing
    csv     a header of field names; lists and nested messages as JSON in their cell

Invariants
  (1) what is written is read back as the same row, or the export stops and says which cell.
"""

from __future__ import annotations

import base64
import csv
from collections.abc import Callable, Iterable
from typing import IO, Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from everlog.console import text
from everlog.store.errors import RowError
from everlog.store.kinds import TIMESTAMP, kind_of

FORMATS = ("jsonl", "csv")

_FLOATS = (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)

Cell = Callable[[Any], str]


def write(rows: Iterable[Message], form: str, model: type[Message], out: IO[str], *, null: str) -> None:
    """Writes rows in a format. Raises RowError for a cell that would be read back as another."""
    if form == "csv":
        _write_csv(rows, model, out, null)
        return
    for row in rows:
        out.write(text.dump(text.row_dict(row)))
        out.write("\n")


def _write_csv(rows: Iterable[Message], model: type[Message], out: IO[str], null: str) -> None:
    fields = model.DESCRIPTOR.fields
    cells = [(field.name, field.has_presence, _cell(field)) for field in fields]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([field.name for field in fields])
    for row in rows:
        line = []
        for name, optional, cell in cells:
            if optional and not row.HasField(name):
                line.append(null)
                continue
            word = cell(row)
            if word == null and (optional or word):
                raise RowError(
                    f"{name} is {word!r} in a row of {model.DESCRIPTOR.full_name}, and so is a cell that is"
                    " not set: choose another --null, or --format jsonl",
                    column=name,
                )
            line.append(word)
        writer.writerow(line)


def _cell(field: Any) -> Cell:  # noqa: PLR0911
    # One return for each kind of field.
    name, kind = field.name, field.type
    if not field.is_repeated and kind_of(field) is TIMESTAMP:
        return lambda row: str(getattr(row, name).ToJsonString())
    if field.is_repeated or field.message_type is not None:
        return lambda row: text.dump(text.row_dict(row).get(name))
    if kind == FieldDescriptor.TYPE_BYTES:
        return lambda row: base64.b64encode(getattr(row, name)).decode()
    if kind == FieldDescriptor.TYPE_BOOL:
        return lambda row: "true" if getattr(row, name) else "false"
    if kind in _FLOATS:
        return lambda row: repr(getattr(row, name))
    enum = field.enum_type
    if enum is not None:
        names = {number: value.name for number, value in enum.values_by_number.items()}
        return lambda row: names.get(getattr(row, name), str(getattr(row, name)))
    return lambda row: str(getattr(row, name))
