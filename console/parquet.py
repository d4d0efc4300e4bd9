"""Parquet: the rows of a Parquet file as messages. It needs pyarrow: pip install everlog[parquet]

column of the file ─▶ field of that name; a null leaves it unset
timestamp          ─▶ google.protobuf.Timestamp, one without a zone taken as UTC
struct, list, map  ─▶ nested messages, repeated fields, as protobuf's JSON
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from everlog.migrations.values import expected
from everlog.store.errors import LoadError
from everlog.store.kinds import TIMESTAMP, kind_of

BATCH_ROWS = 4096

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}


def read_parquet(name: str, model: type[Message]) -> Iterator[Message]:
    """The rows of a file. Read-only. Raises LoadError naming the file, the row and the column."""
    try:
        from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]  # has no stubs
    except ImportError:
        raise LoadError(
            f"{name}: reading Parquet needs pyarrow: pip install everlog[parquet]", file=name
        ) from None
    try:
        file = parquet.ParquetFile(name)
    except ArrowException as error:
        raise LoadError(f"{name}: not a Parquet file: {error}", file=name) from None
    with file:
        fields = model.DESCRIPTOR.fields_by_name
        unknown = [column for column in file.schema_arrow.names if column not in fields]
        if unknown:
            raise LoadError(
                f"{name}: column {unknown[0]!r} is no field of {model.DESCRIPTOR.full_name}, which has:"
                f" {', '.join(fields)}",
                file=name,
                column=unknown[0],
            )
        converters = {column: _converter(fields[column], model) for column in file.schema_arrow.names}
        number = 0
        for batch in file.iter_batches(BATCH_ROWS):
            for cells in batch.to_pylist():
                number += 1
                yield _row(model, converters, cells, name, number)


def _row(
    model: type[Message],
    converters: dict[str, Callable[[Any], Any]],
    cells: dict[str, Any],
    file: str,
    number: int,
) -> Message:
    column = ""
    try:
        words = {}
        for column, cell in cells.items():
            if cell is not None:
                words[column] = converters[column](cell)
                model(**{column: words[column]})
        return model(**words)
    except (ValueError, TypeError, json_format.ParseError) as error:
        field: Any = model.DESCRIPTOR.fields_by_name[column]
        raise LoadError(
            f"{file}: row {number:,}, column {column}: expected {expected(field)}, found"
            f" {cells[column]!r:.60} ({error})",
            file=file,
            line=number,
            column=column,
        ) from None


def _converter(field: Any, model: type[Message]) -> Callable[[Any], Any]:
    if kind_of(field) is TIMESTAMP and not field.is_repeated:
        return _timestamp
    if field.is_repeated or field.message_type is not None:
        return lambda cell: getattr(json_format.ParseDict({field.name: _plain(cell)}, model()), field.name)
    if field.cpp_type in _INTEGERS:
        return _integer
    if field.enum_type is not None:
        return _enum(field)
    return lambda cell: cell


def _integer(cell: Any) -> int:
    if isinstance(cell, float) and cell.is_integer():  # pandas has no whole numbers where some are missing
        return int(cell)
    if isinstance(cell, bool) or not isinstance(cell, int):
        raise TypeError(f"a {type(cell).__name__}")
    return cell


def _enum(field: FieldDescriptor) -> Callable[[Any], int]:
    enum = field.enum_type
    assert enum is not None

    def convert(cell: Any) -> int:
        if not isinstance(cell, str):
            return _integer(cell)
        if cell not in enum.values_by_name:
            raise ValueError(f"{enum.name} has {', '.join(enum.values_by_name)}")
        return int(enum.values_by_name[cell].number)

    return convert


def _timestamp(cell: Any) -> Timestamp:
    stamp = Timestamp()
    if isinstance(cell, str):
        stamp.FromJsonString(cell)
    elif isinstance(cell, datetime):
        nanosecond = getattr(cell, "nanosecond", 0)  # pandas' own datetime has them
        stamp.FromDatetime(cell if cell.tzinfo else cell.replace(tzinfo=UTC))
        stamp.nanos += nanosecond
    elif isinstance(cell, date):
        stamp.FromDatetime(datetime(cell.year, cell.month, cell.day, tzinfo=UTC))
    else:
        raise TypeError(f"a {type(cell).__name__}")
    return stamp


def _plain(cell: Any) -> Any:
    """Arrow's values as JSON's, for nested messages."""
    if isinstance(cell, dict):
        return {key: _plain(value) for key, value in cell.items()}
    if isinstance(cell, list):
        return [_plain(value) for value in cell]
    if isinstance(cell, bytes):
        return base64.b64encode(cell).decode()
    if isinstance(cell, (datetime, date)):
        return _timestamp(cell).ToJsonString()
    return cell
