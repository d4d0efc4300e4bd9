"""Targets: files of rows that `everlog export` writes, and `everlog import` reads back.

    jsonl    one object a line, ProtoJSON
    csv      a header of field names; lists and nested messages as JSON in their cell
    parquet  a column for each field; times, enums, lists and nested messages as text, as in CSV

Invariants
  (1) what is written is read back as the same row, or the export stops and says which.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import IO, Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from everlog.console import text
from everlog.migrations.values import message_from_json, to_text
from everlog.store.admission import doubts
from everlog.store.errors import Error, RowError
from everlog.store.fields import descriptor_of

FORMATS = ("jsonl", "csv", "parquet")
GROUP_ROWS, GROUP_BYTES = 4096, 8 << 20  # of one row group of Parquet

_QUOTED = re.compile(r'[",\r\n]')
_EMPTY = '""'  # the only cell of a line, which would be an empty line
_ARROW = {
    FieldDescriptor.TYPE_BOOL: "bool_",
    FieldDescriptor.TYPE_BYTES: "binary",
    FieldDescriptor.TYPE_DOUBLE: "float64",
    FieldDescriptor.TYPE_FLOAT: "float32",
    FieldDescriptor.TYPE_STRING: "string",
    **{getattr(FieldDescriptor, f"TYPE_{name}"): "int32" for name in ("INT32", "SINT32", "SFIXED32")},
    **{getattr(FieldDescriptor, f"TYPE_{name}"): "int64" for name in ("INT64", "SINT64", "SFIXED64")},
    **{getattr(FieldDescriptor, f"TYPE_{name}"): "uint32" for name in ("UINT32", "FIXED32")},
    **{getattr(FieldDescriptor, f"TYPE_{name}"): "uint64" for name in ("UINT64", "FIXED64")},
}


def write(rows: Iterable[Message], form: str, model: type[Message], out: IO[str], *, null: str) -> None:
    """Writes rows as text. Raises RowError for a row that would be read back as another."""
    rows = _checked(rows, model)
    if form == "csv":
        _write_csv(rows, model, out, null)
        return
    for row in rows:
        out.write(text.dump(text.row_dict(row)))
        out.write("\n")


def write_parquet(rows: Iterable[Message], model: type[Message], out: IO[bytes]) -> None:
    """Writes rows as Parquet. Raises RowError as `write`, and Error without the extra `parquet`."""
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise Error("writing Parquet needs pyarrow: pip install 'everlog[parquet]'") from None
    columns = [_column(field, arrow) for field in _fields(model)]
    schema: Any = arrow.schema([(column.name, column.kind) for column in columns])
    waiting, size = list[Message](), 0
    with parquet.ParquetWriter(out, schema) as writer:

        def flush() -> None:
            arrays = [arrow.array([column.get(row) for row in waiting], column.kind) for column in columns]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))
            waiting.clear()

        for row in _checked(rows, model):
            waiting.append(row)
            size += row.ByteSize()
            if len(waiting) >= GROUP_ROWS or size >= GROUP_BYTES:
                flush()
                size = 0
        flush()


def csv_line(cells: Iterable[str]) -> str:
    """A line of CSV (RFC 4180). A cell with a carriage return is quoted, which csv.writer does not do."""
    return f"{','.join(map(_quoted, cells)) or _EMPTY}\n"


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if _QUOTED.search(cell) else cell


class _Column(NamedTuple):
    name: str
    kind: Any
    get: Callable[[Any], Any]


def _column(field: FieldDescriptor, arrow: Any) -> _Column:
    name = field.name
    kind = None if field.is_repeated else _ARROW.get(field.type)
    cell = (lambda row: getattr(row, name)) if kind else to_text(field)
    get = (lambda row: cell(row) if row.HasField(name) else None) if field.has_presence else cell
    return _Column(name, getattr(arrow, kind or "string")(), get)


def _checked(rows: Iterable[Message], model: type[Message]) -> Iterable[Message]:
    """The rows, compared with what would be read back where a model can hold more than JSON: extensions, and
    text that is not UTF-8."""
    if not any(doubt.has_loose_text for doubt in doubts(model, model)):
        yield from rows
        return
    read = message_from_json(descriptor_of(model))
    for row in rows:
        try:
            again: Message = read(text.row_dict(row))
            same = _bytes(again) == _bytes(row)
        except ValueError:
            same = False
        if not same:
            raise RowError(
                f"a row of {descriptor_of(model).full_name} cannot be exported: it has extensions, or text"
                " that is not UTF-8",
                private=text.dump(text.row_dict(row)),
            )
        yield row


def _bytes(row: Message) -> bytes:
    alone = type(row)()
    alone.CopyFrom(row)
    alone.DiscardUnknownFields()
    return alone.SerializeToString(deterministic=True)


def _fields(model: type[Message]) -> list[FieldDescriptor]:
    return list(descriptor_of(model).fields)


def _write_csv(rows: Iterable[Message], model: type[Message], out: IO[str], null: str) -> None:
    fields = _fields(model)
    cells = [(field.name, field.has_presence, to_text(field)) for field in fields]
    out.write(csv_line(field.name for field in fields))
    for row in rows:
        line = []
        for name, optional, cell in cells:
            if optional and not row.HasField(name):
                line.append(null)
                continue
            word = cell(row)
            if word == null and (optional or word):
                raise RowError(
                    f"{name} is {word!r} in a row of {descriptor_of(model).full_name}, and so is a cell that"
                    " is not set: choose another --null, or --format jsonl",
                    column=name,
                )
            line.append(word)
        out.write(csv_line(line))
