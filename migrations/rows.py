"""Rows: files of rows as messages of a model, one after the other.

    airports.csv      faa,name,position.lat       a header of field names, dotted into messages
                      JFK,John F Kennedy,40.6
    airports.jsonl    {"faa": "JFK", "name": …}   one object a line, as protobuf's JSON
    airports.parquet  columns named as the fields; needs the extra `parquet`

A cell that equals `null` (empty, unless told otherwise) and a null elsewhere leave the field unset. A
row that does not fit stops the reading with a LoadError that names file, line and column. What
values look like: `everlog.migrations.values`.

Rows of a CSV file: RFC 4180, UTF-8, with a header of field names.

The converters of the columns are chosen once, from the header; a row then costs a call for each
cell and one to make the message. Only a row that fails is looked at cell by cell, for the error.

Rows of a JSON Lines file: one object a line, as protobuf's JSON mapping writes messages.

Keys are the fields' names, in the model's spelling or in lowerCamelCase.

Rows of a Parquet file: columns named as the fields of the model.

Values have types already, so protobuf takes them as they are; lists and structs become repeated
fields and messages. A time without a zone is taken as UTC; a whole number may come as a float, as
pandas writes columns of integers in which some are missing. Needs pyarrow, the extra `parquet`.

Misfit: the error for a row of a file that does not fit, at its file, line and column.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn, TypeVar

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor import FieldDescriptor as FD
from google.protobuf.message import DecodeError, Message

from everlog.migrations.values import Convert, expected, fits_float, from_json, from_text, takes_null
from everlog.store.errors import LoadError
from everlog.store.keys import ROW_BYTES_MAX
from everlog.store.schema.codec import BOOL, BYTES, DOUBLE, ENUM, FLOAT, MESSAGE, STRING, TIMESTAMP, kind_of
from everlog.store.user_code import private


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


M = TypeVar("M", bound=Message)

CELL_MAX = 4 * ROW_BYTES_MAX  # characters; the largest row, as JSON with all of it escaped


class Column(NamedTuple):
    """A column: its place from 1, the way to its field, and the converter of its cells."""

    place: int
    name: str
    path: tuple[FieldDescriptor, ...]
    convert: Convert

    def at(self, line: Place) -> Place:
        return line._replace(shown=f"column {self.place} ({self.name})", column=self.name)


def read_csv(file: IO[bytes], model: type[M], *, null: str = "", skip: Collection[str] = ()) -> Iterator[M]:
    """The rows of an open file, without the columns in `skip`.

    Raises LoadError naming the file, the line and the column.
    """
    name = getattr(file, "name", None) or "<rows>"
    csv.field_size_limit(max(csv.field_size_limit(), CELL_MAX))
    reader = csv.reader(_lines(file, name), strict=True)
    try:
        header = next(reader, None)
        if not header:
            fail(Place(name, 1), "expected a header of field names, found nothing")
        columns = _columns(header, model, name, skip)
        make = _maker(model, columns, null)
        whole = [column for column in columns if len(column.path) == 1]
        groups = rivals(column.path[0] for column in whole)
        line = reader.line_num
        for cells in reader:
            start, line = line + 1, reader.line_num
            if len(cells) != len(header):
                if not cells:
                    continue  # an empty line
                fail(
                    Place(name, start), f"expected {len(header)} cells, as in the header, found {len(cells)}"
                )
            try:
                row = make(cells)
            except (ValueError, TypeError, DecodeError) as error:
                given = [(column, cells[column.place - 1]) for column in columns]
                _explain_csv(model, [one for one in given if one[1] != null], Place(name, start), error)
            if groups:
                set_ = [column.name for column in whole if cells[column.place - 1] != null]
                check_rivals(groups, set_, Place(name, start), "column")
            yield row
    except csv.Error as error:
        fail(Place(name, reader.line_num), f"not CSV: {error}")


def _lines(file: IO[bytes], name: str) -> Iterator[str]:
    """Decodes line by line, so that it is known on which a bad byte is."""
    for number, line in enumerate(file, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            fail(Place(name, number), f"not UTF-8: {error.reason} at byte {error.start + 1} of the line")


def _columns(header: list[str], model: type[Message], file: str, skip: Collection[str]) -> list[Column]:
    columns: list[Column] = []
    for place, name in enumerate(header, 1):
        if name in skip:
            continue
        at = Place(file, 1, f"column {place}", name)
        if name in header[: place - 1]:
            fail(at._replace(column=None), "the header names it twice", private=repr(name))
        path: list[FieldDescriptor] = []
        owner: Any = model.DESCRIPTOR
        for word in name.split("."):
            if owner is None or word not in owner.fields_by_name:
                unknown(at, model)
            path.append(owner.fields_by_name[word])
            owner = None if path[-1].is_repeated else path[-1].message_type
        columns.append(Column(place, name, tuple(path), from_text(path[-1])))
    return columns


def _maker(model: type[M], columns: list[Column], null: str) -> Callable[[list[str]], M]:
    if all(len(column.path) == 1 for column in columns):
        flat = [(column.place - 1, column.name, column.convert) for column in columns]

        def make(cells: list[str]) -> M:
            return model(**{name: convert(cell) for at, name, convert in flat if (cell := cells[at]) != null})

        return make

    def make_nested(cells: list[str]) -> M:
        words: dict[str, Any] = {}
        for column in columns:
            cell = cells[column.place - 1]
            if cell != null:
                _put(words, column, column.convert(cell))
        return model(**words)

    return make_nested


def _put(words: dict[str, Any], column: Column, value: Any) -> None:
    for step in column.path[:-1]:
        words = words.setdefault(step.name, {})
    words[column.path[-1].name] = value


def _explain_csv(
    model: type[Message], given: list[tuple[Column, str]], line: Place, error: Exception
) -> NoReturn:
    """Raises LoadError for the first cell that does not fit by itself."""
    for column, cell in given:
        try:
            words: dict[str, Any] = {}
            _put(words, column, column.convert(cell))
            model(**words)
        except (ValueError, TypeError, DecodeError) as misfitting:
            misfit(column.at(line), column.path[-1], cell, misfitting)
    fail(line, "the values do not fit together", private=private(error))


# Fields, the converters of their values, and whether null is one of these.
_Fields = dict[str, tuple[Any, Convert, bool]]


def read_jsonl(file: IO[bytes], model: type[M]) -> Iterator[M]:
    """The rows of an open file. Raises LoadError naming it, the line and the column."""
    name = getattr(file, "name", None) or "<rows>"
    fields: _Fields = {}
    field: Any
    for field in model.DESCRIPTOR.fields:
        null = takes_null(field) and not field.is_repeated
        fields[field.name] = fields[field.json_name] = (field, from_json(field), null)
    groups = rivals(field for field, _, _ in fields.values())
    decoder = msgspec.json.Decoder(dict[str, Any])
    for number, line in enumerate(file, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901
        if not line.strip():
            continue
        found: dict[str, Any] = {}
        try:
            found = decoder.decode(line)
            words = {}
            for key, value in found.items():
                field, convert, null = fields[key]
                if value is not None or null:
                    words[field.name] = convert(value)
            if groups:
                check_rivals(groups, words, Place(name, number), "key")
            row = model(**words)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            fail(Place(name, number), f"expected a JSON object: {error}")
        except (KeyError, ValueError, TypeError, DecodeError) as error:
            _explain_jsonl(fields, model, found, Place(name, number), error)
        yield row


def _explain_jsonl(
    fields: _Fields, model: type[Message], found: dict[str, Any], line: Place, error: Exception
) -> NoReturn:
    """Raises LoadError for the first value that does not fit by itself."""
    for number, (key, value) in enumerate(found.items(), 1):
        if key not in fields:
            unknown(line._replace(shown=f"key {number}", column=key), model)
        at = line._replace(shown=f"key {key!r}", column=key)
        field, convert, null = fields[key]
        if value is None and not null:
            continue
        try:
            model(**{field.name: convert(value)})
        except (ValueError, TypeError, DecodeError) as misfitting:
            misfit(at, field, value, misfitting)
    fail(line, "the values do not fit together", private=private(error))


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
                _explain_parquet(model, converters, given, Place(name, number), error)
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


def _explain_parquet(
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


__all__ = ["SUFFIXES", "read", "read_csv", "read_jsonl", "read_parquet"]


PIECE_BYTES = 1 << 16
SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")


def read(path: Path, model: type[M], *, null: str = "") -> Iterator[M]:
    """The rows of a file, whose name says what is in it. Read-only.

    Raises LoadError for a file that cannot be read, another kind of file, and a row that does
    not fit.
    """
    _check_suffix(path)
    try:
        file: IO[bytes] = path.open("rb")
    except OSError as error:
        raise LoadError(f"{path}: {error.strerror}", file=str(path)) from error
    with file:
        yield from _rows(path, file, model, null)


def read_bytes(path: Path, content: bytes, model: type[M], *, null: str = "") -> Iterator[M]:
    """The rows of a file whose content is at hand. Read-only. Raises LoadError as `read` does."""
    _check_suffix(path)
    yield from _rows(path, _Named(content, str(path)), model, null)


def read_pieces(path: Path, pieces: Iterable[bytes], model: type[M], *, null: str = "") -> Iterator[M]:
    """The rows of a CSV or JSON Lines file whose content comes in pieces, all of which are taken. Read-only.
    Raises LoadError as `read` does, and what the pieces raise."""
    _check_suffix(path)
    yield from _rows(path, io.BufferedReader(_Pieces(pieces, str(path)), PIECE_BYTES), model, null)


class _Pieces(io.RawIOBase):
    """Bytes that come in pieces, with the name of the file that they are of."""

    def __init__(self, pieces: Iterable[bytes], name: str) -> None:
        self._pieces = iter(pieces)
        self._left = memoryview(b"")
        self.name = name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        into = memoryview(buffer).cast("B")
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        size = min(len(into), len(self._left))
        into[:size], self._left = self._left[:size], self._left[size:]
        return size


class _Named(io.BytesIO):
    """Bytes with the name of the file that they are of, for the errors."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise LoadError(
            f"{path}: expected a file named {' or '.join(SUFFIXES)}, found {path.suffix or 'no suffix'}",
            file=str(path),
        )


def _rows(path: Path, file: IO[bytes], model: type[M], null: str) -> Iterator[M]:
    match path.suffix:
        case ".csv":
            yield from read_csv(file, model, null=null)
        case ".parquet":
            yield from read_parquet(file, model)
        case _:
            yield from read_jsonl(file, model)
