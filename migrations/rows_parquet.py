"""Rows of a Parquet file: columns named as the fields of the model.

Values have types already, so protobuf takes them as they are; lists and structs become repeated
fields and messages. A time without a zone is taken as UTC; a whole number may come as a float, as
pandas writes columns of integers in which some are missing. Needs pyarrow, the extra `parquet`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import import_module
from typing import IO, Any, NoReturn, TypeVar

from google.protobuf.descriptor import FieldDescriptor as FD
from google.protobuf.message import DecodeError, Message

from everlog.migrations.misfit import Place, check_rivals, fail, misfit, rivals, unknown
from everlog.migrations.values import Convert, fits_float, from_text
from everlog.store.errors import LoadError
from everlog.store.kinds import BOOL, BYTES, DOUBLE, ENUM, FLOAT, MESSAGE, STRING, TIMESTAMP, kind_of
from everlog.store.user_code import private

M = TypeVar("M", bound=Message)

BATCH_ROWS = 1024
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def read_parquet(file: IO[bytes], model: type[M]) -> Iterator[M]:
    """The rows of an open file. Raises LoadError naming it, the row (as line) and the column."""
    name = getattr(file, "name", None) or "<rows>"
    try:
        parquet: Any = import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise LoadError(
            f"{name}: Parquet needs pyarrow; install it with `pip install everlog[parquet]`",
            file=name,
        ) from error
    try:
        source = parquet.ParquetFile(file)
    except (OSError, ValueError) as error:
        fail(Place(name, 1), f"not Parquet: {error}")
    fields: Any = model.DESCRIPTOR.fields_by_name
    for place, column in enumerate(source.schema_arrow.names, 1):
        if column not in fields:
            unknown(Place(name, 1, f"column {place}", column), model)
    converters = {column: _converter(fields[column]) for column in source.schema_arrow.names}
    groups = rivals(fields[column] for column in source.schema_arrow.names)
    number = 0
    for batch in source.iter_batches(BATCH_ROWS):
        columns = {column: _listed(batch.column(column)) for column in batch.schema.names}
        for values in zip(*columns.values(), strict=True):
            number += 1
            given = {
                column: value for column, value in zip(columns, values, strict=True) if value is not None
            }
            try:
                row = model(**{column: converters[column](value) for column, value in given.items()})
            except (ValueError, TypeError, DecodeError) as error:
                _explain(model, converters, given, Place(name, number), error)
            if groups:
                check_rivals(groups, given, Place(name, number), "column")
            yield row


def _listed(column: Any) -> list[Any]:
    """The values of a column. Times become the fields of a Timestamp, for a datetime has microseconds."""
    unit = getattr(column.type, "unit", None)
    if unit is None or not str(column.type).startswith("timestamp"):
        return list(column.to_pylist())
    scale = _UNITS[unit]
    return [
        None if ticks is None else {"seconds": ticks // scale, "nanos": ticks % scale * (10**9 // scale)}
        for ticks in column.cast("int64").to_pylist()
    ]


def _converter(field: FD) -> Convert:
    """From a value of Arrow's to one that protobuf takes. Types have to fit; text is read as in CSV only
    where Arrow has no type of its own."""
    kind, of_text = kind_of(field), from_text(field)
    if field.is_repeated or kind in {MESSAGE, TIMESTAMP, ENUM}:
        is_float = kind is FLOAT

        def nested(value: Any) -> Any:
            if isinstance(value, str):
                return of_text(value)
            return [fits_float(one) for one in value] if is_float else _value(value)

        return nested
    if kind is FLOAT:
        return lambda value: fits_float(_number(value))
    if kind is DOUBLE:
        return _number
    types = {BOOL: bool, STRING: str, BYTES: bytes}
    if kind in types:
        return lambda value: _typed(types[kind], value)

    def whole(value: Any) -> int:
        return int(value) if isinstance(value, float) and value.is_integer() else int(_typed(int, value))

    return whole


def _number(value: Any) -> float:
    return float(value if isinstance(value, float) else _typed(int, value))


def _typed(kind: type, value: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"a {type(value).__name__} of Parquet")
    return value


def _value(value: Any) -> Any:
    """As protobuf takes it, inside of lists and structs as well."""
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        nanos = aware.microsecond * 1000 + getattr(value, "nanosecond", 0)
        return {"seconds": int(aware.replace(microsecond=0).timestamp()), "nanos": nanos}
    if isinstance(value, list):
        return [_value(item) for item in value]
    if isinstance(value, dict):
        return {key: _value(item) for key, item in value.items() if item is not None}
    return value


def _explain(
    model: type[Message], converters: dict[str, Convert], given: dict[str, Any], row: Place, error: Exception
) -> NoReturn:
    """Raises LoadError for the first value that does not fit by itself."""
    fields: Any = model.DESCRIPTOR.fields_by_name
    for column, value in given.items():
        try:
            model(**{column: converters[column](value)})
        except (ValueError, TypeError, DecodeError) as misfitting:
            misfit(row._replace(shown=f"column {column}", column=column), fields[column], value, misfitting)
    fail(row, "the values do not fit together", private=private(error))
