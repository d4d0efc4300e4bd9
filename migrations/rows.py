"""Rows: files of rows as messages of a model, one after the other.

    airports.csv      faa,name,position.lat       a header of field names, dotted into messages
                      JFK,John F Kennedy,40.6
    airports.jsonl    {"faa": "JFK", "name": …}   one object a line, as protobuf's JSON
    airports.parquet  columns named as the fields; needs the extra `parquet`

A cell that equals `null` (empty, unless told otherwise) and a null elsewhere leave the field unset. A
row that does not fit stops the reading with a LoadError that names file, line and column. What
values look like: `everlog.migrations.values`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from google.protobuf.message import Message

from everlog.migrations.rows_csv import read_csv
from everlog.migrations.rows_jsonl import read_jsonl
from everlog.migrations.rows_parquet import read_parquet
from everlog.store.errors import LoadError

__all__ = ["SUFFIXES", "read", "read_csv", "read_jsonl", "read_parquet"]

M = TypeVar("M", bound=Message)

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
