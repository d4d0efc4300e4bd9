"""Rows of a CSV file: RFC 4180, UTF-8, with a header of field names.

The converters of the columns are chosen once, from the header; a row then costs a call for each
cell and one to make the message. Only a row that fails is looked at cell by cell, for the error.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterator
from typing import IO, Any, NamedTuple, NoReturn, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from everlog.migrations.misfit import Place, check_rivals, fail, misfit, rivals, unknown
from everlog.migrations.values import Convert, from_text
from everlog.store.keys import ROW_BYTES_MAX
from everlog.store.user_code import private

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
                _explain(model, [one for one in given if one[1] != null], Place(name, start), error)
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


def _explain(
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
