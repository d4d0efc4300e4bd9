"""Load: many rows in chunks, one commit per chunk. A load resumes where it stopped.

    rows ─▶ chunk of 1,000 rows or 1 MiB ─▶ Commit {changes, about: Load{id, rows so far}} ─▶ …

The id identifies the load. Running it again with the same id skips the rows that are already in the log;
a finished load does nothing. So the source must return the same rows in the same order.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple, Protocol, TypeVar

from google.protobuf.message import Message

from everlog.proto import log_pb2
from everlog.store import keys
from everlog.store.crypto.vault import Vault
from everlog.store.errors import ConflictError, PreconditionError, RowError
from everlog.store.progress import OnProgress, Progress
from everlog.store.schema import arguments
from everlog.store.schema.codec import size_of
from everlog.store.schema.table import Table
from everlog.store.tx import write
from everlog.store.tx.transaction import About, CommitResult, Host, Metadata, Reads, Transaction

M = TypeVar("M", bound=Message)

CHUNK_ROWS = 1000
CHUNK_BYTES = 1 << 20
SAMPLED_OF = 8
IMPORT = log_pb2.Load.IMPORT
SEALED_LOAD = "sealed-"  # prefix of the ids of loads into sealed tables


class LoadResult(NamedTuple):
    """`rows` are in the log, `skipped` of them from an earlier run; `commits` were written by this run."""

    id: str
    rows: int
    skipped: int
    commits: int
    seconds: float


class LoadHost(Host, Protocol):
    """What a load needs of its database."""

    @property
    def production(self) -> bool: ...

    def load_state(self, id: str) -> tuple[log_pb2.Load, int]: ...

    def commit(self, transaction: Transaction, about: About | None = None) -> CommitResult: ...


class Loader:
    """Writes one load, chunk by chunk. Created by a database."""

    def __init__(
        self,
        host: LoadHost,
        table: Table[Any, Any],
        load: log_pb2.Load,
        metadata: Metadata,
        expires: write.Expires | None = None,
    ) -> None:
        self._expires = None if expires is None else write.expires_ns_of(expires, table.name)
        self._host = host
        self._table = table
        self._load = load
        self._metadata = metadata
        if load.kind == log_pb2.Load.TEST and host.production:
            raise PreconditionError(
                "the log marks this database as production: test data is not loaded into it; use another"
                " database, or clear the mark with `everlog production no`"
            )
        known, self._seen = host.load_state(load.id)
        sealing = host.schema.table(table.name).sealing
        if sealing is not None:
            load.source = ""  # file names and load ids may be personal data, too
            if not known.id:  # unless an older version of everlog began the load
                sealing.check()
                load.id = sealed_id(sealing.vault, load.id)
                known, self._seen = host.load_state(load.id)
        self._note = keys.NOTE_LOAD + load.id.encode()
        if known.table not in ("", load.table):
            raise PreconditionError(
                f"load {load.id!r} was begun for table {known.table}, found table {load.table};"
                " use another id",
                table=known.table,
            )
        if load.owner and known.owner not in ("", load.owner):
            raise PreconditionError(
                f"load {load.id!r} was begun by another identity, which alone continues it; use another id"
            )
        self.rows = known.rows
        self.finished = known.step == log_pb2.Load.FINISHED
        self.commits = 0
        load.step = log_pb2.Load.CHUNK

    def add(self, rows: Iterable[Message], *, last: bool = False) -> CommitResult:
        """Write a chunk as one commit, or as several if it is too large; `last` finishes the load.

        Raises RowError, and ConflictError if another process writes the same load.
        """
        chunk = list(rows)
        try:
            return self._add(chunk, last=last)
        except RowError as error:
            if "commit_bytes" not in error.facts or len(chunk) < 2:
                raise
        half = len(chunk) // 2
        self.add(chunk[:half])
        return self.add(chunk[half:], last=last)

    def _add(self, chunk: list[Message], *, last: bool) -> CommitResult:
        about = log_pb2.Load()
        about.CopyFrom(self._load)
        about.rows = self.rows + len(chunk)
        if last:
            about.step = log_pb2.Load.FINISHED
        try:
            result = self._commit(chunk, about)
        except ConflictError as error:
            known, self._seen = self._host.load_state(about.id)
            if known.rows != self.rows:
                raise ConflictError(f"another process is writing load {about.id!r} as well") from error
            # The schema changed, or the load's last chunk is older than the conflict window.
            result = self._commit(chunk, about)
        self.rows += len(chunk)
        self.commits += 1
        self._seen = result.seq
        self.finished = last
        return result

    def _commit(self, rows: list[Message], about: log_pb2.Load) -> CommitResult:
        transaction = Transaction(self._host, self._metadata)
        binding, writes, table = transaction._bind(self._table), transaction.writes, self._table
        model, put, expires = table.model, write.put, self._expires
        for row in rows:
            if type(row) is not model:
                write.check_row(table, row)
            one = put(binding, row, expires)
            writes[one.full] = one
        # If two processes write one load, the second conflicts on the load's note.
        transaction.snapshot = self._seen
        transaction.reads = Reads({self._note}, [])
        return self._host.commit(transaction, lambda commit: commit.load.CopyFrom(about))


def sealed_id(vault: Vault, id: str) -> str:
    """Return the id in the log of a load into a sealed table.

    It is the same for the same id in one database. It does not reveal the id, which may be the digest of a
    small file, to somebody who guesses it.
    """
    return f"{SEALED_LOAD}{vault.hash(b'load', id.encode()).hex()}"


def load(
    host: LoadHost,
    table: Table[M, Any],
    rows: Iterable[M],
    *,
    id: str | None,
    source: str,
    kind: log_pb2.Load.Kind.ValueType,
    metadata: Metadata,
    total: int | None,
    expires: write.Expires | None = None,
    progress: OnProgress | None,
) -> LoadResult:
    """Run a whole load; see `Database.load`."""
    started = time.perf_counter()
    check_load(table, rows, id, source, kind, total, metadata)
    about = log_pb2.Load(kind=kind, id=id or str(uuid.uuid4()), table=table.name, source=source)
    given = about.id
    loader = Loader(host, table, about, metadata, expires)
    skipped = loader.rows
    if loader.finished:
        return LoadResult(given, skipped, skipped, 0, time.perf_counter() - started)
    remaining = islice(rows, skipped, None)
    for chunk, last in chunks(remaining):
        loader.add(chunk, last=last)
        if progress is not None:
            progress(Progress(f"load {table.name}", loader.rows, total))
    return LoadResult(given, loader.rows, skipped, loader.commits, time.perf_counter() - started)


def check_load(  # noqa: PLR0917  in the order of `load`
    table: Table[Any, Any],
    rows: Any,
    id: str | None,
    source: str,
    kind: Any,
    total: int | None,
    metadata: Metadata,
) -> None:
    """Raise RowError for invalid arguments of a load."""
    arguments.table(table)
    arguments.several(rows, "rows")
    if id is not None:
        arguments.text(id, "id")
    arguments.text(source, "source")
    if arguments.whole(kind, "`kind`") not in log_pb2.Load.Kind.values():
        raise RowError(f"expected a kind of load, {', '.join(log_pb2.Load.Kind.keys())}, found {kind!r}")
    if total is not None:
        arguments.counted(total, "`total`")
    if metadata.commit_id:
        raise RowError("a load has many commits, found one commit_id for them; pass `id` to repeat a load")


def chunks(rows: Iterable[M]) -> Iterator[tuple[list[M], bool]]:
    """Yield the rows in chunks, each with whether it is the last; there is always a last chunk, if only an
    empty one."""
    held: list[M] | None = None
    for chunk in _parts(iter(rows)):
        if held is not None:
            yield held, False
        held = chunk
    yield held or [], True


def _parts(source: Iterator[M]) -> Iterator[list[M]]:
    """Yield chunks within the limits of rows and bytes.

    Computing a row's size serializes it. While rows are small, only one in eight is measured, each time at
    another position among them.
    """
    chunk: list[M] = []
    size, sampled, exact, step = 0, 0, False, 0
    while some := list(islice(source, 1 if exact else SAMPLED_OF)):
        step += 1
        sampled += 0 if exact else _size(some[step * 5 % len(some)]) * SAMPLED_OF
        if not exact and sampled >= CHUNK_BYTES // 2:
            exact, size, some = True, 0, chunk + some
            chunk = []
        for row in some if exact else ():
            more = _size(row)
            if chunk and size + more > CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
            chunk.append(row)
            size += more
        if not exact:
            chunk += some
        if len(chunk) >= CHUNK_ROWS:
            yield chunk
            exact = exact and size >= CHUNK_BYTES // 2
            chunk, size, sampled = [], 0, 0
    if chunk:
        yield chunk


def _size(row: Any) -> int:
    return size_of(row) if isinstance(row, Message) else 0  # a value that is no row is refused on writing
