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
from google.protobuf.message import Message

from everlog.migrations.misfit import Place, fail, misfit, unknown
from everlog.store.errors import LoadError
from everlog.store.user_code import private

M = TypeVar("M", bound=Message)

_INTEGERS = {FD.CPPTYPE_INT32, FD.CPPTYPE_INT64, FD.CPPTYPE_UINT32, FD.CPPTYPE_UINT64}


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
    whole = {name for name, field in fields.items() if field.cpp_type in _INTEGERS and not field.is_repeated}
    number = 0
    for batch in source.iter_batches():
        columns = {column: batch.column(column).to_pylist() for column in batch.schema.names}
        for values in zip(*columns.values(), strict=True):
            number += 1
            given = zip(columns, values, strict=True)
            words = {
                key: int(value) if key in whole and isinstance(value, float) and value.is_integer() else value
                for key, value in given
                if value is not None
            }
            try:
                row = model(**{key: _value(value) for key, value in words.items()})
            except (ValueError, TypeError) as error:
                _explain(model, words, Place(name, number), error)
            yield row


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


def _explain(model: type[Message], words: dict[str, Any], row: Place, error: Exception) -> NoReturn:
    """Raises LoadError for the first value that does not fit by itself."""
    fields: Any = model.DESCRIPTOR.fields_by_name
    for column, value in words.items():
        try:
            model(**{column: _value(value)})
        except (ValueError, TypeError) as misfitting:
            misfit(row._replace(shown=f"column {column}", column=column), fields[column], value, misfitting)
    fail(row, "the values do not fit together", private=private(error))
