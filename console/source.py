"""Source: a file of rows to import: its format, its columns, its identity.

    CSV, JSON Lines, Parquet ─▶ source_rows ─▶ messages     everlog.migrations.rows reads them

The identity of a load is derived from the content of the file and from the options that change its rows: the
same file again is the same load.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple

from google.protobuf.message import Message

from everlog.migrations.rows import Wrong, parquet_file, read_csv, read_jsonl, read_parquet
from everlog.store.errors import LoadError

FORMAT_OF = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
HEADER_BYTES_MAX = 1 << 20

_CHUNK = 1 << 20


class Known(NamedTuple):
    """The result of reading a whole file once: the load id, and the number of lines."""

    id: str
    lines: int

    def rows(self, form: str) -> int | None:
        """Return the number of rows in a format, as far as lines tell it."""
        return {"csv": max(0, self.lines - 1), "jsonl": self.lines}.get(form)


def format_of(name: str, given: str | None = None) -> str:
    """Return the format of a file: `given`, or else by its name. Raises LoadError."""
    found = given or FORMAT_OF.get(Path(name).suffix.lower())
    if found is None:
        what = "standard input" if name == "-" else name
        raise LoadError(
            f"{what}: expected --format, or a name that ends in {', '.join(FORMAT_OF)}", file=name
        )
    return found


def look_at(file: IO[bytes], table: str, *words: str) -> Known:
    """Read a whole file. `words`: the options that affect its rows; they are part of the load id."""
    digest, lines = hashlib.sha256("\0".join((table, *words, "")).encode()), 0
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        lines += chunk.count(b"\n")
    return Known(f"import/{table}/{digest.hexdigest()[:32]}", lines)


def source_rows(
    file: IO[bytes],
    form: str,
    model: type[Message],
    *,
    null: str = "",
    columns: Mapping[str, str] | None = None,
    wrong: Wrong | None = None,
) -> Iterator[Message]:
    """Yield the rows of an open file. Read-only. `null`, `columns`, `wrong`: as in `read_csv`. Raises
    LoadError with file, line and column."""
    match form:
        case "csv":
            return read_csv(file, model, null=null, columns=columns, wrong=wrong)
        case "parquet":
            return read_parquet(file, model, columns=columns, wrong=wrong)
        case _:
            return read_jsonl(file, model, wrong=wrong)


def columns_of(file: IO[bytes], form: str, name: str) -> list[str]:
    """Return the names of the columns of an open file; none for JSON Lines, whose lines name their fields.
    Raises LoadError."""
    if form == "parquet":
        return list(parquet_file(file, name).schema_arrow.names)
    if form != "csv":
        return []
    try:
        text = file.read(HEADER_BYTES_MAX).decode("utf-8-sig", errors="replace")
        return next(csv.reader(io.StringIO(text), strict=True), [])
    except csv.Error as error:
        raise LoadError(f"{name}:1: not CSV: {error}", file=name, line=1) from None
