"""Transaction: a value with the seq it read at, what it read, and what it writes.

    with db.transaction(actor="ann", reason="typo") as tx:
        airport = tx.get(AIRPORTS, "JFK")       reads   {row key}      at `snapshot`
        airport.name = "John F. Kennedy"
        tx.put(AIRPORTS, airport)               writes  {row key: Write}
                                                ─▶ Committer.commit(tx)

It changes nothing until it commits, and it reads its own writes. Embedded, remote and replicated stores
validate the same value in the same way.

`Writer` has the calls that write rows, each in a separate transaction. Databases are writers, embedded
and remote; they differ only in their transactions.

Invariants
  (1) every read is as of `snapshot`, or the transaction conflicts;
  (2) each row has one write: a later write replaces an earlier one, but keeps its precondition, which
      refers to the row before the transaction.
"""

from __future__ import annotations

import contextlib
import functools
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TypeVar

from google.protobuf.message import Message

from everlog.proto import log_pb2
from everlog.store.errors import ClosedError, ConflictError, Error
from everlog.store.schema import arguments
from everlog.store.schema.schema import Binding, IndexInfo, Schema, TableInfo
from everlog.store.schema.table import Table
from everlog.store.tx import write as writes
from everlog.store.tx.reader import Reader
from everlog.store.tx.source import Entry, Source, Span, WriteSetSource
from everlog.store.tx.write import Expect, Expires, Write

M = TypeVar("M", bound=Message)
K = TypeVar("K")


Proof = log_pb2.Commit.Proof
_CLAIMED = Proof.CLAIMED  # looking it up takes as long as encoding a row


class Actor(str):
    """A name, and how it is authenticated (`proof`). A plain `str` is only claimed."""

    __slots__ = ("proof",)
    proof: Proof.ValueType

    def __new__(cls, name: str, proof: Proof.ValueType = _CLAIMED) -> Self:
        made = super().__new__(cls, name)
        made.proof = proof
        return made


def proof_of(actor: str) -> Proof.ValueType:
    """Return how the actor is authenticated."""
    return actor.proof if isinstance(actor, Actor) else _CLAIMED


def proof_name(proof: Proof.ValueType) -> str:
    """Return how an actor is authenticated, as a word: `claimed`, `token`, `certificate` or `delegated`."""
    return Proof.Name(proof).lower() if proof in Proof.values() else "claimed"


def marked(proof: str) -> str:
    """Return the suffix of a displayed actor that is authenticated: how; empty if the name is only
    claimed."""
    return f" ({proof})" if proof not in ("", "claimed") else ""


def new_commit_id() -> bytes:
    """Return a new `commit_id`: the 16 bytes of a UUIDv7 (RFC 9562, section 5.7).

    Keep it with the request that it belongs to; a commit repeated with it takes effect once.
    """
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    number = number & ~(0xF << 76) | 7 << 76  # version
    return (number & ~(3 << 62) | 2 << 62).to_bytes(16, "big")  # variant


class Metadata(NamedTuple):
    """The metadata of a commit: who, why, part of what, caused by what, through which client; and the
    durability."""

    actor: str = ""
    reason: str = ""
    correlation_id: str = ""
    causation_id: str = ""
    client: str = ""
    commit_id: bytes = b""
    durability: str | None = None  # "sync" or "os"; None: the database's default

    def check(self) -> Self:
        """Return the metadata. Raises RowError for values that a record cannot hold, such as invalid
        Unicode."""
        arguments.text(self.actor, "actor")
        arguments.text(self.reason, "reason")
        arguments.text(self.correlation_id, "correlation_id")
        arguments.text(self.causation_id, "causation_id")
        arguments.text(self.client, "client")
        arguments.binary(self.commit_id, "commit_id")
        return self


ANONYMOUS = Metadata()

About = Callable[[log_pb2.Commit], None]


class Reads(NamedTuple):
    """What a transaction read: full keys that it looked up, and key ranges."""

    keys: set[bytes]
    ranges: list[tuple[bytes, bytes]]


class _Place(NamedTuple):
    seq: int
    time_ns: int = 0
    checksum: int = 0
    repeated: bool = False  # its commit_id was known: this is the result of the first commit


class CommitResult(_Place):
    """The position of a commit in the log. A transaction that changed nothing has seq 0.

    `missing`: how many rows it deletes that did not exist. It is not part of the tuple.
    """

    missing = 0

    def lacking(self, missing: int) -> Self:
        """Return the same result with `missing` set."""
        if missing:
            self.missing = missing
        return self


class Host(Protocol):
    """What a transaction needs of its database."""

    @property
    def schema(self) -> Schema: ...

    def begin(self) -> tuple[Source, int]:
        """Return a source to read from, and its seq."""

    def commit(self, transaction: Transaction) -> CommitResult: ...


class Transaction(Reader):
    """Reads and writes rows. As a context manager it commits at the end, or does nothing on an exception."""

    snapshot = 0  # the seq it reads at; 0: it has read nothing
    reads: Reads | None = None  # None: it has read nothing
    result: CommitResult | None = None  # of `commit`; None: it was not committed
    _base: Source | None = None
    _done = False

    def __init__(self, host: Host, metadata: Metadata) -> None:
        self._host = host
        self.metadata = metadata
        self.writes: dict[bytes, Write] = {}

    def put(
        self,
        table: Table[M, Any],
        row: M,
        *,
        expect_version: int | None = None,
        expires: Expires | None = None,
    ) -> None:
        """Write a row, whether or not it exists.

        `expect_version`: the commit raises PreconditionError if the row has another version (0: if the row
        exists). `expires`: when the row expires, a datetime with a time zone, or nanoseconds since the Unix
        epoch (0: never); None: the table's time to live. Raises RowError.
        """
        write = writes.put(self._binding(table, row), row, expires)
        self._write(
            write if expect_version is None else write.with_precondition(*_expectation(expect_version))
        )

    def insert(self, table: Table[M, Any], row: M, *, expires: Expires | None = None) -> None:
        """Write a row; the commit raises PreconditionError if it exists already. Raises RowError."""
        write = writes.put(self._binding(table, row), row, expires)
        write.expect = Expect.ABSENT
        self._write(write)

    def update(self, table: Table[M, Any], row: M, *, expires: Expires | None = None) -> None:
        """Write a row; the commit raises PreconditionError if it does not exist. Raises RowError."""
        write = writes.put(self._binding(table, row), row, expires)
        write.expect = Expect.PRESENT
        self._write(write)

    def delete(self, table: Table[M, K], key: K, *, expect_version: int | None = None) -> None:
        """Delete a row. Raises RowError.

        If it does not exist, nothing is written and the result counts it as `missing`, unless
        `expect_version` requires it.
        """
        info = self._bind(table).info
        write = writes.delete(info, info.encode_key(key))
        self._write(
            write if expect_version is None else write.with_precondition(*_expectation(expect_version))
        )

    def commit(self) -> CommitResult:
        """Commit and return the result. Writes one record if the transaction changes anything.

        Raises ConflictError, PreconditionError, UniqueError, DiskError. After any error other than a
        DiskError with an unknown outcome, nothing was written.
        """
        if self._done:
            self._check_open()
        self._done = True
        self.result = self._host.commit(self) if self.writes else CommitResult(0)
        self._base = None
        return self.result

    def rollback(self) -> None:
        """End the transaction without writing anything."""
        self._done = True
        self._base = None

    def content(self) -> tuple[str, str, dict[bytes, tuple[log_pb2.Op.ValueType, bytes]]]:
        """Return what two commits with the same commit_id must have in common."""
        writes = {full: (write.op, write.row) for full, write in self.writes.items()}
        return self.metadata.actor, self.metadata.reason, writes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.rollback()
        elif not self._done:
            self.commit()

    def _binding(self, table: Table[M, Any], row: M) -> Binding:
        binding = self._host.schema.bound.get(table) or self._bind(table)
        if type(row) is not binding.model:
            writes.check_row(table, row)
        return binding

    def _write(self, write: Write) -> None:
        if self._done:
            self._check_open()
        earlier = self.writes.get(write.full)
        if earlier is not None:
            writes.check_repeated(earlier, write)
            if earlier.expect != Expect.ANYTHING or write.expect != Expect.VERSION:
                write.expect, write.version = earlier.expect, earlier.version
        self.writes[write.full] = write

    def _check_open(self) -> None:
        if self._done:
            raise ClosedError("this transaction has ended; begin another one")

    def _schema(self) -> Schema:
        return self._host.schema

    def _source(self) -> Source:
        self._check_open()
        if self._base is None:
            self._base, self.snapshot = self._host.begin()
            self.reads = Reads(set(), [])
        assert self.reads is not None
        return RecordingSource(
            WriteSetSource(self._base, self.writes) if self.writes else self._base, self.reads
        )


class RecordingSource:
    """A source that records in a transaction what was read from it."""

    def __init__(self, base: Source, reads: Reads) -> None:
        self._base = base
        self._keys, self._ranges = reads

    def get(self, info: TableInfo, key: bytes) -> bytes | None:
        self._keys.add(info.row_prefix + key)
        return self._base.get(info, key)

    def get_many(self, info: TableInfo, keys: list[bytes]) -> list[bytes | None]:
        self._keys.update(info.row_prefix + key for key in keys)
        return self._base.get_many(info, keys)

    def scan(
        self, info: TableInfo, index: IndexInfo | None, span: Span, *, reverse: bool, limit: int | None
    ) -> Iterator[Entry]:
        """Record the range as far as it was read: all of it, unless the caller stopped before."""
        prefix = info.row_prefix if index is None else index.prefix
        start, end = span.under(prefix)
        at = len(self._ranges)
        self._ranges.append((start, end))
        order = None
        try:
            for entry in self._base.scan(info, index, span, reverse=reverse, limit=limit):
                order = entry[0]
                if index is not None:
                    self._keys.add(info.row_prefix + entry[1])
                yield entry
            order = None
        finally:
            if order is not None:
                seen = prefix + order
                self._ranges[at] = (seen, end) if reverse else (start, seen + b"\x00")

    def count(self, info: TableInfo, index: IndexInfo | None, span: Span) -> int:
        self._ranges.append(span.under(info.row_prefix if index is None else index.prefix))
        return self._base.count(info, index, span)


def _expectation(version: int) -> tuple[int, int]:
    arguments.counted(version, "`expect_version`")
    return (Expect.VERSION, version) if version else (Expect.ABSENT, 0)


R = TypeVar("R")

DURABILITIES = ("sync", "os")
DEADLINE_S = 60.0
PAUSE_TRIES_LOG2, PAUSE_MAX_S = 5, 0.25  # between two tries of `run`: at most 32 times the duration of a try
ALONE_FROM = 3  # number of conflicts after which a `run` goes alone
ALONE_S = 1.0  # how long others wait for a `run` that goes alone


class Fair:
    """Lets a `run` with many conflicts go alone: others wait before they begin a try."""

    def __init__(self) -> None:
        self._alone = threading.RLock()  # `fn` may run another

    @contextlib.contextmanager
    def turn(self, *, alone: bool, last: Transaction | None = None) -> Iterator[None]:
        """One try. `alone`: others wait until it ends, up to ALONE_S. `last`: the previous try."""
        mine = self._alone.acquire(timeout=ALONE_S)
        if mine and not alone:
            self._alone.release()
        try:
            yield
        finally:
            if mine and alone:
                self._alone.release()


class Writer(Reader):
    """The calls that write rows, each in a transaction; embedded and remote."""

    def transaction(
        self,
        *,
        actor: str = "",
        reason: str = "",
        correlation_id: str = "",
        causation_id: str = "",
        client: str = "",
        commit_id: bytes = b"",
        durability: str | None = None,
    ) -> Transaction:
        """Return a transaction, for a `with` block. Raises ReadOnlyError, and RowError for metadata that
        are not text.

        `actor` and `reason`: who commits, and why. `correlation_id`: the id of the process that the commit
        is part of; `causation_id`: of what caused it; `client`: the program. `commit_id`: a UUIDv7; the
        same id with the same content commits once. `durability`: "sync" (on disk on return) or "os" (on
        disk about 20 ms later).
        """
        if durability is not None and durability not in DURABILITIES:
            raise Error(f"expected a durability of {' or '.join(DURABILITIES)}, found {durability!r}")
        about = Metadata(actor, reason, correlation_id, causation_id, client, commit_id, durability)
        return self._transaction(ANONYMOUS if about == ANONYMOUS else about.check())

    def run(
        self,
        fn: Callable[[Transaction], R],
        *,
        retries: int | None = None,
        deadline_s: float = DEADLINE_S,
        **metadata: Any,
    ) -> R:
        """Run `fn(tx)`, commit, and return the result of `fn`; on a conflict, try again. Writes.

            def rename(tx):
                airport = tx.get(AIRPORTS, "JFK")
                airport.name = "John F. Kennedy"
                tx.put(AIRPORTS, airport)

            db.run(rename, actor="ann")

        Between two tries it waits for a random time that grows with the number of tries and the duration of
        one. From the fourth try on it goes alone, for at most a second: embedded, no other `run` of this
        database object begins a try meanwhile; on a server, commits of all other clients to the tables that
        it reads wait. It raises the last ConflictError after `retries` more tries (None: no limit), or
        after `deadline_s` seconds.
        """
        arguments.function(fn, "fn")
        if retries is not None:
            arguments.counted(retries, "`retries`")
        began = time.monotonic()
        until, tries, tx = began + arguments.seconds(deadline_s, "`deadline_s`"), 0, None
        while True:
            try:
                with self._fair.turn(alone=tries >= ALONE_FROM, last=tx):
                    began = time.monotonic()
                    with self.transaction(**metadata) as tx:
                        return fn(tx)
            except ConflictError:
                tries += 1
                took_s = (now := time.monotonic()) - began
                if now >= until or (retries is not None and tries > retries):
                    raise
            pause_s = min(PAUSE_MAX_S, took_s * 2 ** min(tries, PAUSE_TRIES_LOG2))
            time.sleep(random.uniform(0, pause_s))  # noqa: S311  no secret

    @functools.cached_property
    def _fair(self) -> Fair:
        return Fair()

    def put(
        self,
        table: Table[M, Any],
        row: M,
        *,
        expect_version: int | None = None,
        expires: Expires | None = None,
        **metadata: Any,
    ) -> CommitResult:
        """Write one row in a separate transaction, whether or not it exists. Writes.

        `expect_version`: raise PreconditionError if the row has another version (0: if it exists).
        `expires`: when the row expires, a datetime with a time zone, or nanoseconds since the Unix epoch
        (0: never); None: the table's time to live. `metadata`: as in `transaction`. Raises RowError,
        UniqueError, DiskError.
        """
        return self._once(
            lambda tx: tx.put(table, row, expect_version=expect_version, expires=expires), metadata
        )

    def insert(
        self, table: Table[M, Any], row: M, *, expires: Expires | None = None, **metadata: Any
    ) -> CommitResult:
        """Write one row that must not exist. Raises PreconditionError if it does; otherwise as `put`."""
        return self._once(lambda tx: tx.insert(table, row, expires=expires), metadata)

    def update(
        self, table: Table[M, Any], row: M, *, expires: Expires | None = None, **metadata: Any
    ) -> CommitResult:
        """Write one row that must exist. Raises PreconditionError if it does not; otherwise as `put`."""
        return self._once(lambda tx: tx.update(table, row, expires=expires), metadata)

    def delete(
        self, table: Table[M, K], key: K, *, expect_version: int | None = None, **metadata: Any
    ) -> CommitResult:
        """Delete one row. Writes. If it does not exist, nothing is written, and the result has seq 0 and
        `missing` 1.

        The `commit_id` is not recorded then: the same delete again deletes a row that was written
        meanwhile.
        """
        return self._once(lambda tx: tx.delete(table, key, expect_version=expect_version), metadata)

    def _once(self, write: Callable[[Transaction], None], metadata: dict[str, Any]) -> CommitResult:
        """Write once. A conflict without reads means that the schema changed: try again under the schema in
        force."""
        try:
            tx = self.transaction(**metadata) if metadata else self._transaction(ANONYMOUS)
            write(tx)
            return tx.commit()
        except ConflictError:

            def again(tx: Transaction) -> CommitResult:
                write(tx)
                return tx.commit()

            return self.run(again, **metadata)

    def _transaction(self, metadata: Metadata) -> Transaction:
        raise NotImplementedError
