"""Export: rows as CSV, JSON Lines and Parquet.

    jsonl      one object per line, ProtoJSON
    csv        a header of field names; lists and nested messages as JSON in their cell
    parquet    a column for each field; times, enums, lists and nested messages as text, as in CSV

    rows ─▶ exported ─▶ pieces of bytes ─▶ a file, a pipe, a response

Invariants
  (1) `everlog import` reads each exported row back unchanged, or the export stops and names the row, unless
      the caller accepts that CSV does not tell unset from empty, or chooses the columns;
  (2) memory holds one piece, not all rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from everlog.console import output
from everlog.migrations.rows import CELL_MAX, LINE_BYTES_MAX
from everlog.migrations.values import message_from_json, to_text
from everlog.store.errors import Error, RowError
from everlog.store.keys import ROW_BYTES_MAX
from everlog.store.schema.admission import doubts
from everlog.store.schema.codec import size_of
from everlog.store.schema.descriptors import descriptor_of

FORMATS = ("jsonl", "csv", "parquet")
PIECE_CHARS = 64 << 10
GROUP_ROWS, GROUP_BYTES = 4096, 8 << 20  # of one row group of Parquet

_QUOTED = re.compile(r'[",\r\n]')
_EMPTY = '""'  # an empty cell that is the only one of its line, which would otherwise be empty
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


def exported(
    rows: Iterable[Message],
    form: str,
    model: type[Message],
    *,
    columns: Sequence[str] = (),
    null: str = "",
    exact: bool = True,
) -> Generator[bytes, None, None]:
    """Yield rows as the bytes of a file, in pieces of about 64 KiB; of Parquet in groups of rows. Reads
    `rows` as the pieces are taken.

    `columns`: the names of the fields to write, in their order; empty: all. `null`: the text of an unset
    field in CSV. `exact`: raise RowError for a row whose set field has that
    text; without it, both look the same. Raises RowError for an unknown column and for a row
    that would not be read back unchanged, and Error for Parquet without the extra `parquet`.
    """
    fields = fields_of(model, columns)
    if form == "parquet":
        yield from _parquet(rows, model, fields)
        return
    waiting, size = list[str](), 0
    for line in _lines(rows, form, model, fields, null=null, exact=exact):
        waiting.append(line)
        size += len(line)
        if size >= PIECE_CHARS:
            yield "".join(waiting).encode()
            waiting.clear()
            size = 0
    if waiting:
        yield "".join(waiting).encode()


def has_parquet() -> bool:
    """Return whether the extra `parquet` is installed."""
    return find_spec("pyarrow") is not None


def _lines(
    rows: Iterable[Message],
    form: str,
    model: type[Message],
    fields: Sequence[FieldDescriptor],
    *,
    null: str,
    exact: bool,
) -> Iterator[str]:
    rows = _checked(rows, model)
    if form == "csv":
        yield from _csv(rows, model, fields, null, exact=exact)
        return
    names = [field.name for field in fields]
    for row in rows:
        values = output.row_dict(row)
        line = output.dump({name: values[name] for name in names if name in values})
        _check_size(line, form, model)
        yield f"{line}\n"


class _Pieces:
    """The file of a writer of Parquet: keeps what was written until it is taken."""

    closed = False

    def __init__(self) -> None:
        self._pieces = list[bytes]()
        self._size = 0

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._size += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """Do nothing: `take` has all."""

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        found = b"".join(self._pieces)
        self._pieces.clear()
        return found


def _parquet(
    rows: Iterable[Message], model: type[Message], fields: Sequence[FieldDescriptor]
) -> Iterator[bytes]:
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise Error("writing Parquet needs pyarrow: pip install 'everlog[parquet]'") from None
    columns = [_column(field, arrow) for field in fields]
    schema: Any = arrow.schema([(column.name, column.kind) for column in columns])
    waiting, size = list[Message](), 0
    pieces = _Pieces()
    with parquet.ParquetWriter(pieces, schema) as writer:

        def flush() -> None:
            arrays = [arrow.array([column.get(row) for row in waiting], column.kind) for column in columns]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))
            waiting.clear()

        for row in _checked(rows, model):
            waiting.append(row)
            size += size_of(row)
            if len(waiting) >= GROUP_ROWS or size >= GROUP_BYTES:
                flush()
                size = 0
                yield pieces.take()
        flush()
    yield pieces.take()


def csv_line(cells: Iterable[str]) -> str:
    """Return a line of CSV (RFC 4180). A cell with a carriage return is quoted, unlike in csv.writer."""
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
    """Yield the rows. If the model can hold data that JSON cannot, compare each with what would be read back.

    Extensions, and text that is not UTF-8, are such data. Raises RowError for a row that would differ.
    """
    if not any(doubt.has_loose_text for doubt in doubts(model, model)):
        yield from rows
        return
    read = message_from_json(descriptor_of(model))
    for row in rows:
        try:
            again: Message = read(output.row_dict(row))
            same = _bytes(again) == _bytes(row)
        except ValueError:
            same = False
        if not same:
            raise RowError(
                f"a row of {descriptor_of(model).full_name} cannot be exported: it has extensions, or text"
                " that is not UTF-8",
                private=output.dump(output.row_dict(row)),
            )
        yield row


def _bytes(row: Message) -> bytes:
    alone = type(row)()
    alone.CopyFrom(row)
    alone.DiscardUnknownFields()
    return alone.SerializePartialToString(deterministic=True)


def fields_of(model: type[Message], columns: Sequence[str] = ()) -> list[FieldDescriptor]:
    """Return the fields of these names, each once; without names all fields. Raises RowError."""
    known = descriptor_of(model).fields_by_name
    for name in columns:
        if name not in known:
            names = ", ".join(known)
            raise RowError(f"there is no field {name[:80]!r}; the fields are: {names[:2000]}")
    return [known[name] for name in dict.fromkeys(columns or known)]


def _csv(
    rows: Iterable[Message],
    model: type[Message],
    fields: Sequence[FieldDescriptor],
    null: str,
    *,
    exact: bool,
) -> Iterator[str]:
    cells = [(field.name, field.has_presence, to_text(field)) for field in fields]
    yield csv_line(field.name for field in fields)
    for row in rows:
        line = []
        for name, optional, cell in cells:
            if optional and not row.HasField(name):
                line.append(null)
                continue
            word = cell(row)
            if exact and word == null and (optional or word):
                raise RowError(
                    f"{name} is {word!r} in a row of {descriptor_of(model).full_name}, which is also the"
                    " text of an unset field: choose another --null, or --format jsonl",
                    column=name,
                )
            if len(word) > CELL_MAX:
                raise _too_long("csv", model, f"{len(word):,} characters in the cell {name}", CELL_MAX)
            line.append(word)
        text = csv_line(line)
        _check_size(text, "csv", model)
        yield text


def _check_size(line: str, form: str, model: type[Message]) -> None:
    """Raise RowError if `import` would not read a line."""
    if len(line) > ROW_BYTES_MAX and (size := len(line.encode())) > LINE_BYTES_MAX:
        raise _too_long(form, model, f"{size:,} bytes", LINE_BYTES_MAX)


def _too_long(form: str, model: type[Message], size: str, most: int) -> RowError:
    return RowError(
        f"a row of {descriptor_of(model).full_name} cannot be exported as {form}: it has {size}, and"
        f" `import` reads at most {most:,}; use --format parquet"
    )
