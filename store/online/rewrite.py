"""Rewrite: compute the rows of tables by user code that sees the whole database, while nothing else writes.

    snapshot ─▶ the user's function ─▶ (table, row) … ─▶ BACKFILL records ─▶ the tables that are `remade`

Rows are split, joined or moved this way, which a function of one row cannot do. The caller has the
committer to itself from here until the record that switches.

Invariants
  (1) nothing it writes can be read before the switch, which is one record;
  (2) the function sees one snapshot, and nothing is written after that snapshot;
  (3) killed half-way, it is aborted and starts over: what the function would yield next is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from google.protobuf.message import Message

from everlog.proto import log_pb2
from everlog.store import keys
from everlog.store.core import Core
from everlog.store.errors import Error, MigrationError, RowError, UniqueError, quantity
from everlog.store.online.backfill import backfilled, seeds_of
from everlog.store.progress import OnProgress, Pace, Progress
from everlog.store.schema.schema import Schema, TableInfo
from everlog.store.schema.table import Table
from everlog.store.tx import write
from everlog.store.tx.reader import Reader
from everlog.store.tx.transaction import ANONYMOUS, Transaction
from everlog.store.tx.validator import claim
from everlog.store.tx.write import Expect, Write
from everlog.store.user_code import is_fault, place, private, type_name, words

CHUNK_ROWS = 1024
CHUNK_BYTES = 512 << 10

MakeRows = Callable[[Reader], Iterable[tuple[Table[Any, Any], Message]]]


def recompute(
    core: Core, migration: log_pb2.Migration, make: MakeRows, progress: OnProgress | None = None
) -> int:
    """Fill the tables that the schema in force marks as `remade`. Return the number of rows. Writes; only
    inside `db.committer.exclusive()`.

    `migration` is the one in progress. Raises MigrationError for errors of the function, and for an invalid
    row.
    """
    work = _Recompute(core, migration)
    with core.snapshot() as now:
        for one in computed_rows(now, core.schema, make):
            work.add(one)
            if progress is not None and not work.chunk:
                progress(Progress(f"make {', '.join(work.tables)}", work.rows))
        work.write()
    return work.rows


def fill(
    core: Core,
    migration: log_pb2.Migration,
    rows: Iterable[tuple[Table[Any, Any], Message]],
    progress: OnProgress | None = None,
    *,
    total: int | None = None,
    rate: float | None = None,
    going: Callable[[], None] = lambda: None,
) -> None:
    """Load rows into the tables that the schema in force marks as `seeded` or `remade`. Writes; others
    write meanwhile.

    The rows must be the same at each call: killed half-way, the load resumes after the last record. A row
    replaces an existing one, also one that was written meanwhile. `total` is the number of rows, for
    `progress`; `rate`: maximum rows per second. `going` is called before each record, and may raise. Raises
    MigrationError for an invalid row.
    """
    tables = {
        info.name: info for info in core.schema.building.values() if info.proto.remade or info.proto.seeded
    }
    done = backfilled(core, core.schema)
    if done is not None and not seeds_of(done, core.schema):
        return  # the seeds are loaded: existing rows follow them
    work = _Recompute(core, migration, "the bootstrap data has")
    work.rows, work.is_seeds = (done.rows if done is not None else 0), True
    pace = Pace(rate)
    chunk: list[Write] = []
    size = 0

    def write_chunk() -> None:
        going()
        with core.committer.exclusive():
            for one in chunk:
                work.add(one)
            work.write()
        if progress is not None:
            progress(Progress(f"load {', '.join(tables)}", work.rows, total))
        pace.wait()

    for table, row in islice(rows, work.rows, None):
        info = tables[table.name]
        one = write.put(info.bind(table.model), row)
        chunk.append(one.with_version(info.proto.seeded))
        size += len(one.key) + len(one.row)
        if len(chunk) >= min(CHUNK_ROWS, pace.slice_rows) or size >= CHUNK_BYTES:
            write_chunk()
            chunk, size = [], 0
    if chunk:
        write_chunk()


def computed_rows(now: Reader, schema: Schema, make: MakeRows) -> Iterable[Write]:
    """Yield the rows that a function computes from a snapshot, as writes to the tables that are `remade`.
    Read-only.

    Raises MigrationError.
    """
    tables = {info.name: info for info in schema.building.values() if info.proto.remade}
    count = 0
    try:
        for table, row in make(now):
            if table.name not in tables:
                raise _failed(
                    f"yields a row of {table.name}; expected one of {', '.join(tables)}{place(make)}", count
                )
            info, model = tables[table.name], table.model.DESCRIPTOR.full_name
            if model != info.proto.model:
                raise _failed(
                    f"yields a row of {table.name} as {model}; expected {info.proto.model}{place(make)}",
                    count,
                )
            yield write.put(info.bind(table.model), row)
            count += 1
    except BaseException as error:
        if is_fault(error):
            code = getattr(make, "__code__", None)
            what = words(error, code.co_filename) if code is not None else type_name(error)
            raise _failed(f"fails: {what}{place(make, error)}", count, private=private(error)) from None
        if not isinstance(error, Error) or isinstance(error, MigrationError):
            raise
        if isinstance(error, RowError):
            what = f"yields an invalid row: {error}{place(make)}"
            raise _failed(what, count, private=error.private, **error.facts) from error
        raise _failed(f"fails: {error}{place(make, error)}", count, private=error.private) from error


def check_computed(now: Reader, schema: Schema, make: MakeRows) -> int:
    """Return how many rows a function computes from a snapshot, if all are valid. Read-only. Raises
    MigrationError as `recompute` does."""
    seen, taken = set[bytes](), dict[bytes, bytes | None]()
    for one in computed_rows(now, schema, make):
        if one.full in seen:
            raise duplicate_row(one.info, one.key, len(seen))
        seen.add(one.full)
        try:
            for at, index in one.info.unique:
                claim(taken, index, one.values[at], one.key)
        except UniqueError as error:
            raise _failed(f"yields {error}", len(seen), private=error.private, **error.facts) from error
    return len(seen)


class _Recompute:
    """Writes the computed rows, a record at a time."""

    def __init__(
        self,
        core: Core,
        migration: log_pb2.Migration,
        yields: str = "the function of the Remake yields",
    ) -> None:
        self._core, self._migration, self._yields = core, migration, yields
        self.tables = [info.name for info in core.schema.building.values() if info.proto.remade]
        self.rows = 0
        self.is_seeds = False  # whether `rows` counts bootstrap data
        self.chunk: dict[bytes, Write] = {}
        self._bytes = 0

    def add(self, one: Write) -> None:
        """Add a row; writes a record when the chunk is full. Raises MigrationError for a duplicate."""
        old, seeded = self._core.tables.get(one.full), one.info.proto.seeded
        if one.full in self.chunk or (old is not None and (not seeded or keys.version_of(old) == seeded)):
            raise duplicate_row(one.info, one.key, self.rows)
        self.chunk[one.full] = one if seeded else one.with_precondition(Expect.ABSENT)
        self.rows += 1
        self._bytes += len(one.key) + len(one.row)
        if len(self.chunk) >= CHUNK_ROWS or self._bytes >= CHUNK_BYTES:
            self.write()

    def write(self) -> None:
        """Append the collected rows as one record."""
        if not self.chunk:
            return
        last = next(reversed(self.chunk.values()))
        step = log_pb2.Migration(
            step=log_pb2.Migration.BACKFILL,
            version=self._migration.version,
            name=self._migration.name,
            cursor=keys.SPACE.pack(last.info.space) + last.key,
            rows=self.rows,
            seeds=self.rows if self.is_seeds else 0,
        )
        transaction = Transaction(self._core, ANONYMOUS)
        transaction.writes.update(self.chunk)
        try:
            self._core.committer.commit_exclusive(
                transaction, sync=False, about=lambda commit: commit.migration.CopyFrom(step)
            )
        except UniqueError as error:
            text = f"{self._yields} {error} (after {quantity(self.rows, 'row')})"
            raise MigrationError(text, private=error.private, **error.facts) from error
        self.chunk, self._bytes = {}, 0


def duplicate_row(info: TableInfo, key: bytes, count: int) -> MigrationError:
    """Return the error for two rows with one key."""
    return _failed(
        f"yields row {info.name_key(key)} twice",
        count,
        private=info.show_key(key),
        table=info.name,
        key=info.decode_key(key),
    )


def _failed(what: str, count: int, **facts: Any) -> MigrationError:
    return MigrationError(f"the function of the Remake {what} (after {quantity(count, 'row')})", **facts)
