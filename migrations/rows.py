"""Rows: read files of rows as messages of a model.

    airports.csv      faa,name,position.lat       RFC 4180, UTF-8, with a header of field names; a dotted
                      JFK,John F Kennedy,40.6     name is a field of a nested message
    airports.jsonl    {"faa": "JFK", "name": …}   one object a line, in protobuf's JSON mapping; keys are
                                                  field names, also in lowerCamelCase
    airports.parquet  columns named as the fields; needs pyarrow, the extra `parquet`

A cell that equals `null` (by default an empty one), and a null in the other formats, leave the field unset. A
row that does not fit stops reading with a LoadError that names file, line and column. For the values, see
`everlog.migrations.values`.

CSV: the converters of the columns are chosen once, from the header. A row then costs one call for each cell
and one to build the message. Only a row that fails is examined cell by cell, for the error.

Parquet: values are typed; lists, maps and structs become repeated fields, maps and messages. A time without
a zone is read as UTC. An integer may be stored as a float, as pandas does for columns of integers with
missing values.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn, TypeVar

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor import FieldDescriptor as FD
from google.protobuf.message import DecodeError, Message

from everlog.migrations.values import (
    Convert,
    expected,
    fits_float,
    from_json,
    from_text,
    one_from_json,
    repeated_key,
    takes_null,
)
from everlog.store.errors import LoadError
from everlog.store.keys import ROW_BYTES_MAX
from everlog.store.schema.codec import BOOL, BYTES, DOUBLE, ENUM, FLOAT, MESSAGE, STRING, TIMESTAMP, kind_of
from everlog.store.schema.descriptors import is_map
from everlog.store.user_code import private

SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")
PIECE_BYTES = 1 << 16
_JSON_MESSAGES = {f"google.protobuf.{name}" for name in ("Struct", "Value", "ListValue")}

Wrong = Callable[[LoadError], None]  # is called with a row that does not fit; the next rows follow

M = TypeVar("M", bound=Message)


def read(path: Path, model: type[M], *, null: str = "") -> Iterator[M]:
    """Yield the rows of a file, in the format that its name says. Read-only.

    `null`: the cell of a CSV file that means "unset". Raises LoadError for a file that cannot be read, an
    unknown format, and a row that does not fit.
    """
    _check_suffix(path)
    try:
        file: IO[bytes] = path.open("rb")
    except OSError as error:
        raise LoadError(f"{path}: {error.strerror}", file=str(path)) from error
    with file:
        yield from _rows(path, file, model, null)


def read_bytes(path: Path, content: bytes, model: type[M], *, null: str = "") -> Iterator[M]:
    """Yield the rows of a file whose content is in memory. Read-only. Raises LoadError as `read` does."""
    _check_suffix(path)
    yield from _rows(path, _Named(content, str(path)), model, null)


def read_pieces(path: Path, pieces: Iterable[bytes], model: type[M], *, null: str = "") -> Iterator[M]:
    """Yield the rows of a CSV or JSON Lines file from pieces of its content, reading all of them. Read-only.

    Raises LoadError as `read` does, and what the pieces raise.
    """
    _check_suffix(path)
    yield from _rows(path, io.BufferedReader(_Pieces(pieces, str(path)), PIECE_BYTES), model, null)


class _Pieces(io.RawIOBase):
    """A raw stream over pieces of bytes, with the name of their file."""

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
    """Bytes with the name of their file, for errors."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise LoadError(
            f"{path}: expected a file name that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]},"
            f" found {path.suffix or 'no suffix'}",
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


class Place(NamedTuple):
    """A line of a file, from 1, and a column or key in it: `shown` for people, `column` by name."""

    file: str
    line: int
    shown: str = ""
    column: str | None = None


def fail(place: Place, text: str, *, private: str = "") -> NoReturn:
    """Raise LoadError. `private`: the offending text, which is not part of the message."""
    where = f"{place.file}:{place.line}: {f'{place.shown}: ' if place.shown else ''}"
    raise LoadError(
        where + text, private=private, file=place.file, line=place.line, column=place.column
    ) from None


def unknown_field(place: Place, model: type[Message]) -> NoReturn:
    """Raise LoadError for a column or key that is not a field of the model.

    The message does not contain it: in a file without a header, it is a value of the first row.
    """
    descriptor = model.DESCRIPTOR
    known = [field.name for field in descriptor.fields]
    from difflib import get_close_matches  # noqa: PLC0415  rarely needed

    near = get_close_matches(place.column or "", known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    text = f"{descriptor.full_name} has no such field; it has: {', '.join(known)}{hint}"
    fail(place._replace(column=None), text, private=repr(place.column))


def value_error(place: Place, field: FieldDescriptor, value: Any, error: Exception) -> NoReturn:
    """Raise LoadError for a value that does not fit its field."""
    names = (
        f" ({field.enum_type.name} has {', '.join(field.enum_type.values_by_name)})"
        if field.enum_type
        else ""
    )
    found = f"text of length {len(value):,}" if isinstance(value, str) else type(value).__name__
    fail(place, f"expected {expected(field)}{names}, found {found}", private=f"{value!r:.200}: {error}")


def oneof_groups(fields: Iterable[FieldDescriptor]) -> list[set[str]]:
    """Return the field names of each oneof; a row can have only one of them."""
    groups: dict[str, set[str]] = {}
    for field in fields:
        if field.containing_oneof is not None:
            groups.setdefault(field.containing_oneof.full_name, set()).add(field.name)
    return [group for group in groups.values() if len(group) > 1]


def check_oneofs(groups: list[set[str]], given: Iterable[str], place: Place, what: str) -> None:
    """Raise LoadError if two fields of one oneof are given, because the last would replace the others.

    `what`: "column" or "key".
    """
    names = list(given)
    for group in groups:
        both = [name for name in names if name in group]
        if len(both) > 1:
            fail(
                place._replace(shown=f"{what} {both[1]}", column=both[1]),
                f"expected one of {', '.join(sorted(group))} to be set, found {both[0]} as well",
            )


CELL_MAX = 4 * ROW_BYTES_MAX  # characters of a cell
LINE_BYTES_MAX = 8 * ROW_BYTES_MAX  # of one row as text, also over several lines
_LONG = 1 << 20  # bytes of a line whose cells are counted before it is split


class Column(NamedTuple):
    """A column: its position from 1, the path to its field, and the converter of its cells."""

    place: int
    name: str
    path: tuple[FieldDescriptor, ...]
    convert: Convert

    def at(self, line: Place) -> Place:
        return line._replace(shown=f"column {self.place} ({self.name})", column=self.name)


def read_csv(
    file: IO[bytes],
    model: type[M],
    *,
    null: str = "",
    skip: Collection[str] = (),
    columns: Mapping[str, str] | None = None,
    wrong: Wrong | None = None,
) -> Iterator[M]:
    """Yield the rows of an open CSV file, without the columns in `skip`. `columns`: the fields of columns
    that are not named as theirs; an empty one skips the column.

    Raises LoadError naming the file, the line and the column. Rows that do not fit are passed to `wrong`.
    """
    name = getattr(file, "name", None) or "<rows>"
    csv.field_size_limit(max(csv.field_size_limit(), CELL_MAX))
    lines = _TextLines(file, name)
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, None)
        if not header:
            fail(Place(name, 1), "expected a header of field names, found nothing")
        found = _columns(header, model, name, skip, columns or {})
        make = _maker(model, found, null)
        whole = [column for column in found if len(column.path) == 1]
        groups = oneof_groups(column.path[0] for column in whole)

        def one(cells: list[str], at: Place) -> M:
            if len(cells) != len(header):
                fail(at, f"expected {len(header)} cells, as in the header, found {len(cells)}")
            try:
                row = make(cells)
            except (ValueError, TypeError, DecodeError) as error:
                given = [(column, cells[column.place - 1]) for column in found]
                _explain_csv(model, [each for each in given if each[1] != null], at, error)
            if groups:
                set_ = [column.name for column in whole if cells[column.place - 1] != null]
                check_oneofs(groups, set_, at, "column")
            return row

        line = reader.line_num
        lines.end_row()
        for cells in reader:
            lines.end_row()
            start, line = line + 1, reader.line_num
            if not cells:
                continue  # an empty line
            try:
                row = one(cells, Place(name, start))
            except LoadError as error:
                _pass(error, wrong)
                continue
            yield row
    except csv.Error as error:
        fail(Place(name, reader.line_num), f"not CSV: {error}")


def _pass(error: LoadError, wrong: Wrong | None) -> None:
    if wrong is None:
        raise error
    wrong(error)


def _lines(file: IO[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their numbers, from 1. Raises LoadError for one that is too long."""
    number = 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(line) > LINE_BYTES_MAX:
            fail(Place(name, number), f"the line has more than {LINE_BYTES_MAX:,} bytes")
        yield number, line


class _TextLines:
    """The decoded lines of a CSV file. Raises LoadError for an invalid byte and a row that is too long."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._lines = _lines(file, name)
        self._name = name
        self._size = self._cells = 0  # bytes and, of long lines, commas of the current row

    def end_row(self) -> None:
        """Begin the next row."""
        self._size = self._cells = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        number, line = next(self._lines)
        self._size += len(line)
        if self._size > _LONG:
            self._check(Place(self._name, number), line)
        try:
            return line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            at = f"byte {error.start + 1} of the line"
            fail(Place(self._name, number), f"not UTF-8: {error.reason} at {at}")

    def _check(self, place: Place, line: bytes) -> None:
        self._cells += line.count(b",")
        if self._size > LINE_BYTES_MAX:
            what = f"more than {LINE_BYTES_MAX:,} bytes"
        elif self._cells > ROW_BYTES_MAX + _LONG:
            what = f"more than {ROW_BYTES_MAX + _LONG:,} commas"
        else:
            return
        fail(place, f"the row that ends here or later has {what}; is a quoted cell not closed?")


def _columns(
    header: list[str], model: type[Message], file: str, skip: Collection[str], fields: Mapping[str, str]
) -> list[Column]:
    columns: list[Column] = []
    for place, title in enumerate(header, 1):
        name = fields.get(title, title)
        if title in skip or (not name and title in fields):
            continue
        at = Place(file, 1, f"column {place}", name)
        if name in (column.name for column in columns):
            fail(at._replace(column=None), "occurs twice in the header", private=repr(name))
        path: list[FieldDescriptor] = []
        owner: Any = model.DESCRIPTOR
        for word in name.split("."):
            if owner is None or word not in owner.fields_by_name:
                unknown_field(at, model)
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
    """Raise LoadError for the first cell that does not fit on its own."""
    for column, cell in given:
        try:
            words: dict[str, Any] = {}
            _put(words, column, column.convert(cell))
            model(**words)
        except (ValueError, TypeError, DecodeError) as reason:
            value_error(column.at(line), column.path[-1], cell, reason)
    fail(line, "the values do not fit together", private=private(error))


# Fields by name: the field, the converter of its values, and whether null is a value.
_Fields = dict[str, tuple[Any, Convert, bool]]


def read_jsonl(file: IO[bytes], model: type[M], *, wrong: Wrong | None = None) -> Iterator[M]:
    """Yield the rows of an open JSON Lines file. Raises LoadError naming the file, the line and the key. Rows
    that do not fit are passed to `wrong`."""
    name = getattr(file, "name", None) or "<rows>"
    fields: _Fields = {}
    field: Any
    for field in model.DESCRIPTOR.fields:
        null = takes_null(field) and not field.is_repeated
        fields[field.name] = fields[field.json_name] = (field, from_json(field), null)
    groups = oneof_groups(field for field, _, _ in fields.values())
    decoder = msgspec.json.Decoder(dict[str, Any])
    for number, line in _lines(file, name):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901
        if not line.strip():
            continue
        try:
            row = _json_row(line, model, decoder, fields, groups, Place(name, number))
        except LoadError as error:
            _pass(error, wrong)
            continue
        yield row


def _json_row(  # noqa: PLR0917  all are of one loop
    line: bytes,
    model: type[M],
    decoder: msgspec.json.Decoder[dict[str, Any]],
    fields: _Fields,
    groups: list[set[str]],
    at: Place,
) -> M:
    found: dict[str, Any] = {}
    try:
        found = decoder.decode(line)
        words = {}
        for key, value in found.items():
            field, convert, null = fields[key]
            if value is not None or null:
                words[field.name] = convert(value)
        if len(words) < len(found):
            _check_aliases(fields, found, at)
        if path := repeated_key(line, found):
            _key_twice(path, at)
        if groups:
            check_oneofs(groups, words, at, "key")
        return model(**words)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        fail(at, f"expected a JSON object: {error}")
    except (KeyError, ValueError, TypeError, DecodeError) as error:
        _explain_jsonl(fields, model, found, at, error)


def _check_aliases(fields: _Fields, found: dict[str, Any], line: Place) -> None:
    """Raise LoadError if a line has a field twice, by its name in the model and in lowerCamelCase."""
    seen: set[str] = set()
    for key in found:
        field = fields[key][0]
        if field.name in seen:
            fail(line._replace(shown=f"key {key!r}", column=key), f"sets the field {field.name} again")
        seen.add(field.name)


def _key_twice(path: list[str], line: Place) -> NoReturn:
    """Raise LoadError for a key that its object repeats. Inner keys may be data, those of a map."""
    key, *inner = path
    at = line._replace(shown=f"key {key!r}", column=key)
    fail(at, "a key in it occurs twice" if inner else "occurs twice", private=".".join(inner))


def _explain_jsonl(
    fields: _Fields, model: type[Message], found: dict[str, Any], line: Place, error: Exception
) -> NoReturn:
    """Raise LoadError for the first value that does not fit on its own."""
    for number, (key, value) in enumerate(found.items(), 1):
        if key not in fields:
            unknown_field(line._replace(shown=f"key {number}", column=key), model)
        at = line._replace(shown=f"key {key!r}", column=key)
        field, convert, null = fields[key]
        if value is None and not null:
            continue
        try:
            model(**{field.name: convert(value)})
        except (ValueError, TypeError, DecodeError) as reason:
            value_error(at, field, value, reason)
    fail(line, "the values do not fit together", private=private(error))


BATCH_ROWS = 1024
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def parquet_file(file: IO[bytes], name: str) -> Any:
    """Return an open Parquet file, as pyarrow reads it. Raises LoadError."""
    try:
        parquet: Any = import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise LoadError(
            f"{name}: Parquet needs pyarrow; install it with `pip install 'everlog[parquet]'`",
            file=name,
        ) from error
    try:
        return parquet.ParquetFile(file)
    except (OSError, ValueError) as error:
        fail(Place(name, 1), f"not Parquet: {error}")


def read_parquet(
    file: IO[bytes],
    model: type[M],
    *,
    columns: Mapping[str, str] | None = None,
    wrong: Wrong | None = None,
) -> Iterator[M]:
    """Yield the rows of an open Parquet file; `columns` and `wrong` as in `read_csv`. Raises LoadError naming
    the file, the row (as line) and the column.
    """
    name = getattr(file, "name", None) or "<rows>"
    source, fields_of = parquet_file(file, name), columns or {}
    fields: Any = model.DESCRIPTOR.fields_by_name
    used = dict[str, str]()  # field to column
    for place, column in enumerate(source.schema_arrow.names, 1):
        field = fields_of.get(column, column)
        if not field and column in fields_of:
            continue
        if field not in fields:
            unknown_field(Place(name, 1, f"column {place}", field), model)
        if field in used:
            fail(Place(name, 1, f"column {place}"), f"{field} is the field of another column as well")
        used[field] = column
    converters = {field: _converter(fields[field]) for field in used}
    groups = oneof_groups(fields[field] for field in used)

    def one(given: dict[str, Any], at: Place) -> M:
        try:
            row = model(**{field: converters[field](value) for field, value in given.items()})
        except (ValueError, TypeError, DecodeError) as error:
            _explain_parquet(model, converters, given, at, error)
        if groups:
            check_oneofs(groups, given, at, "column")
        return row

    number = 0
    # pyarrow reads a dot in a name as a path
    chosen = None if any("." in column for column in used.values()) else list(used.values())
    for batch in source.iter_batches(BATCH_ROWS, columns=chosen):
        listed = {field: _listed(batch.column(column)) for field, column in used.items()}
        for values in zip(*listed.values(), strict=True):
            number += 1
            given = {field: value for field, value in zip(listed, values, strict=True) if value is not None}
            try:
                row = one(given, Place(name, number))
            except LoadError as error:
                _pass(error, wrong)
                continue
            yield row


def _listed(column: Any) -> list[Any]:
    """Return the values of a column. Times become the fields of a Timestamp, to keep their nanoseconds."""
    unit = getattr(column.type, "unit", None)
    if unit is None or not str(column.type).startswith("timestamp"):
        return list(column.to_pylist())
    scale = _UNITS[unit]
    return [
        None if ticks is None else {"seconds": ticks // scale, "nanos": ticks % scale * (10**9 // scale)}
        for ticks in column.cast("int64").to_pylist()
    ]


def _converter(field: FD) -> Convert:
    """Return the function from an Arrow value to one that protobuf takes.

    Types must match; text is read as in CSV only where Arrow has no such type.
    """
    if not field.is_repeated and kind_of(field) not in {MESSAGE, TIMESTAMP, ENUM}:
        return _one_of_arrow(field)
    of_text, of_arrow = from_text(field), _of_arrow(field)
    return lambda value: of_text(value) if isinstance(value, str) else of_arrow(value)


def _of_arrow(field: FD) -> Convert:
    """Return the converter of a field, a list or a map, in a struct as well."""
    one = _one_of_arrow(field)
    if is_map(field):
        assert field.message_type is not None
        return _map_of_arrow(field.message_type)
    return (lambda value: [one(item) for item in _typed(list, value)]) if field.is_repeated else one


def _map_of_arrow(entry: Descriptor) -> Convert:
    """Return the converter of a map, which is pairs in Arrow, or of a struct that has its keys."""
    key, value = (_one_of_arrow(entry.fields_by_name[name]) for name in ("key", "value"))

    def entries(given: Any) -> dict[Any, Any]:
        if isinstance(given, dict):
            return {name: value(one) for name, one in given.items() if one is not None}
        found: dict[Any, Any] = {}
        for name, one in _typed(list, given):
            if (read := key(name)) in found:
                raise ValueError("a key of a map occurs twice")
            found[read] = value(one)
        return found

    return entries


@lru_cache(maxsize=1024)
def _struct_of_arrow(descriptor: Descriptor) -> Convert:
    """Return the converter of a struct. Protobuf converts JSON messages and values that are no struct."""
    if descriptor.full_name in _JSON_MESSAGES:
        return _value
    fields = {field.name: _of_arrow(field) for field in descriptor.fields}
    groups = oneof_groups(descriptor.fields)

    def fielded(value: Any) -> Any:
        if not isinstance(value, dict):
            return _value(value)
        given = {name: one for name, one in value.items() if one is not None}
        if not given.keys() <= fields.keys() or any(len(group & given.keys()) > 1 for group in groups):
            raise ValueError("a struct with other fields, or with two of one oneof")
        return {name: fields[name](one) for name, one in given.items()}

    return fielded


def _one_of_arrow(field: FD) -> Convert:
    """Return the converter of one value: of a field, a list item or a map value."""
    kind = kind_of(field)
    if field.message_type is not None:
        descriptor = field.message_type

        def convert(value: Any) -> Any:
            return _struct_of_arrow(descriptor)(value)  # lazily, because a model may contain itself

        return convert
    if kind is ENUM:
        return one_from_json(field)
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
    """Return the value as protobuf takes it, also inside lists and structs."""
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
    """Raise LoadError for the first value that does not fit on its own."""
    fields: Any = model.DESCRIPTOR.fields_by_name
    for column, value in given.items():
        try:
            model(**{column: converters[column](value)})
        except (ValueError, TypeError, DecodeError) as reason:
            value_error(row._replace(shown=f"column {column}", column=column), fields[column], value, reason)
    fail(row, "the values do not fit together", private=private(error))
