"""Sources: files of rows for `everlog import`: which kind, how many, and under what id.

    airports.csv, .jsonl, .parquet, - (standard input, with --format)

The id of a load follows from the file's content, so that the same file again changes nothing, and
one that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from google.protobuf.message import Message

from everlog.migrations.rows import read_csv, read_jsonl, read_parquet
from everlog.store.errors import LoadError

FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
STDIN = "-"

_CHUNK = 1 << 20


class Known(NamedTuple):
    """What was found by reading the whole file once."""

    id: str
    lines: int


def format_of(name: str, given: str | None) -> str:
    """The format of a file, as its name says or as `given`. Raises LoadError."""
    found = given or FORMATS.get(Path(name).suffix)
    if found is None:
        what = "standard input" if name == STDIN else name
        raise LoadError(f"{what}: expected --format, or a name that ends in {', '.join(FORMATS)}", file=name)
    return found


def is_stream(name: str) -> bool:
    """Whether it can be read only once: standard input, a pipe, `<(zcat rows.jsonl.gz)` of a shell."""
    return name == STDIN or not Path(name).is_file()


def look_at(name: str, table: str, *words: str) -> Known:
    """Reads a file whole. `words` are all that changes what is made of it."""
    digest, lines = hashlib.sha256("\0".join((table, *words, "")).encode()), 0
    with Path(name).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            lines += chunk.count(b"\n")
    return Known(f"import/{table}/{digest.hexdigest()[:32]}", lines)


def read(name: str, form: str, model: type[Message], *, null: str) -> Iterator[Message]:
    """The rows of a file. Read-only. Raises LoadError with file, line and column."""
    if name == STDIN:
        yield from _rows(sys.stdin.buffer, form, model, null)
        return
    with Path(name).open("rb") as file:
        yield from _rows(file, form, model, null)


def _rows(file: IO[bytes], form: str, model: type[Message], null: str) -> Iterator[Message]:
    match form:
        case "csv":
            return read_csv(file, model, null=null)
        case "parquet":
            return read_parquet(file, model)
        case _:
            return read_jsonl(file, model)
