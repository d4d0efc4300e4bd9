"""Log file: commits as a table, a line for each row that they wrote, in CSV or Parquet.

    seq, time_ns, kind, actor, reason, correlation_id, causation_id, client, op, table, key, row, prior

Key and row are JSON, as in `everlog log --json`. A commit without rows has a line of its own. The file
appears when it is whole.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from itertools import islice
from typing import IO, Any

from everlog.console import text
from everlog.console.atomic_file import as_text, atomic_file
from everlog.console.targets import csv_line
from everlog.store.errors import Error
from everlog.store.past_log import Entry

COLUMNS = (
    "seq", "time_ns", "kind", "actor", "reason", "correlation_id", "causation_id", "client",
    "op", "table", "key", "row", "prior",
)  # fmt: skip
NUMBERS = {"seq", "time_ns", "prior"}
AT_ONCE = 4096


def write_csv(entries: Iterable[Entry], file: str) -> None:
    """Writes CSV with a header; - is standard output."""

    def write(out: IO[str]) -> None:
        out.write(csv_line(COLUMNS))
        out.writelines(csv_line(map(str, line)) for line in _lines(entries))

    if file == "-":
        write(sys.stdout)
        return

    with atomic_file(file) as out, as_text(out) as lines:
        write(lines)


def write_parquet(entries: Iterable[Entry], file: str) -> None:
    """Writes Parquet. Raises Error without the extra `parquet`."""
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise Error("writing Parquet needs pyarrow: pip install 'everlog[parquet]'") from None
    kinds = [arrow.int64() if name in NUMBERS else arrow.string() for name in COLUMNS]
    schema: Any = arrow.schema(list(zip(COLUMNS, kinds, strict=True)))

    lines = _lines(entries)
    with atomic_file(file) as out, parquet.ParquetWriter(out, schema) as writer:
        while some := list(islice(lines, AT_ONCE)):
            columns = [
                arrow.array(column, kind) for column, kind in zip(zip(*some, strict=True), kinds, strict=True)
            ]
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))


def _lines(entries: Iterable[Entry]) -> Iterator[tuple[Any, ...]]:
    for entry in entries:
        head = (
            entry.seq, entry.time_ns, entry.kind, entry.actor, entry.reason,
            entry.correlation_id, entry.causation_id, entry.client,
        )  # fmt: skip
        for change in entry.changes:
            key = text.dump([text.plain(part) for part in change.key])
            row = "" if change.row is None else text.dump(text.row_dict(change.row))
            yield (*head, change.op, change.table, key, row, change.prior)
        if not entry.changes:
            yield (*head, "", "", "", "", 0)
