"""Transaction: a value. The seq it read at, what it read, and what it writes.

    with db.transaction(actor="ann", reason="typo") as tx:
        airport = tx.get(AIRPORTS, "JFK")       reads   {row key}      at `snapshot`
        airport.name = "John F. Kennedy"
        tx.put(AIRPORTS, airport)               writes  {row key: Write}
                                                ─▶ Committer.commit(tx)

It touches nothing until it commits, and it reads its own writes. Embedded, remote and replicated
stores validate the same value in the same way.

Invariants
  (1) everything it reads, it reads as of `snapshot`, or it conflicts;
  (2) each row has one write: a later one takes the place of an earlier one, with the earlier
      one's expectation, for that is what was true of the row before the transaction.

Writer: the calls that write rows, each a transaction. A database is one, here and over the
network; they differ in what their transactions are alone.
"""

from __future__ import annotations

import contextlib
import functools
import random
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
_CLAIMED = Proof.CLAIMED  # to look it up takes as long as encoding a row


class Actor(str):
    """A name, and how it is known to be that of who acts (`proof`). A `str` that is none is claimed."""

    __slots__ = ("proof",)
    proof: Proof.ValueType

    def __new__(cls, name: str, proof: Proof.ValueType = _CLAIMED) -> Self:
        made = super().__new__(cls, name)
        made.proof = proof
        return made


def proof_of(actor: str) -> Proof.ValueType:
    """How it is known that it is that of who acts."""
    return actor.proof if isinstance(actor, Actor) else _CLAIMED


def proof_name(proof: Proof.ValueType) -> str:
    """How an actor is known, as a word: `claimed`, `token`, `certificate` or `delegated`."""
    return Proof.Name(proof).lower() if proof in Proof.values() else "claimed"


def marked(proof: str) -> str:
    """What is shown behind the name of an actor that is known by more than a claim: how."""
    return f" ({proof})" if proof not in ("", "claimed") else ""


class Metadata(NamedTuple):
    """Who, why, as part of what, because of what, through what; and how durably."""

    actor: str = ""
    reason: str = ""
    correlation_id: str = ""
    causation_id: str = ""
    client: str = ""
    commit_id: bytes = b""
    durability: str | None = None  # "sync", "os"; None: as the database was opened

    def check(self) -> Self:
        """The same. Raises RowError for what no record takes, as text that is not Unicode."""
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
    """What a transaction read: whole keys of the tables that it looked up, and ranges of them."""

    keys: set[bytes]
    ranges: list[tuple[bytes, bytes]]


class _Place(NamedTuple):
    seq: int
    time_ns: int = 0
    checksum: int = 0
    repeated: bool = False  # its commit_id was known: this is the first commit's place


class CommitResult(_Place):
    """Where a transaction is in the log. A transaction that changed nothing is nowhere: seq 0.

    `missing`: how many of the rows that it deletes were not there. It is no part of the tuple.
    """

    missing = 0

    def lacking(self, missing: int) -> Self:
        """The same result, of a transaction that deletes so many rows that were not there."""
        if missing:
            self.missing = missing
        return self


class Host(Protocol):
    """What a transaction needs of the database that it is one of."""

    @property
    def schema(self) -> Schema: ...

    def begin(self) -> tuple[Source, int]:
        """A moment to read at, and its seq."""

    def commit(self, transaction: Transaction) -> CommitResult: ...


class Transaction(Reader):
    """Reads and writes rows. As a context manager it commits at the end, or, on an exception,
    does nothing."""

    snapshot = 0  # the seq that it reads at; 0: it has read nothing
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
        """Writes a row, whether or not there is one. Raises RowError.

        `expect_version`: the commit raises PreconditionError if the row's version is another
        (0: if there is a row). `expires`: when its life ends (0: never); None: as its table has it.
        """
        write = writes.put(self._binding(table, row), row, expires)
        self._write(write if expect_version is None else write.expecting(*_expectation(expect_version)))

    def insert(self, table: Table[M, Any], row: M, *, expires: Expires | None = None) -> None:
        """Writes a row; the commit raises PreconditionError if there is one already."""
        self._write(writes.put(self._binding(table, row), row, expires).expecting(Expect.ABSENT))

    def update(self, table: Table[M, Any], row: M, *, expires: Expires | None = None) -> None:
        """Writes a row; the commit raises PreconditionError if there is none yet."""
        self._write(writes.put(self._binding(table, row), row, expires).expecting(Expect.PRESENT))

    def delete(self, table: Table[M, K], key: K, *, expect_version: int | None = None) -> None:
        """Deletes a row. Where there is none, nothing is written, and the result of the commit counts it as
        `missing`, unless `expect_version` says that there is one."""
        info = self._bind(table).info
        write = writes.delete(info, info.encode_key(key))
        self._write(write if expect_version is None else write.expecting(*_expectation(expect_version)))

    def commit(self) -> CommitResult:
        """Commits. Raises ConflictError, PreconditionError, UniqueError, DiskError; after any
        error but a DiskError with an unknown outcome, nothing was written."""
        if self._done:
            self._check_open()
        self._done = True
        self.result = self._host.commit(self) if self.writes else CommitResult(0)
        self._base = None
        return self.result

    def rollback(self) -> None:
        """Forgets everything."""
        self._done = True
        self._base = None

    def content(self) -> tuple[str, str, dict[bytes, tuple[log_pb2.Op.ValueType, bytes]]]:
        """What must be the same in two commits with one commit_id."""
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
    """A source that notes in a transaction what was read from it."""

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
        """Notes the range as far as it was read: all of it, unless the caller stopped before."""
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
PAUSE_TRIES_LOG2, PAUSE_MAX_S = 5, 0.25  # between two tries of `run`: 32 times what a try takes at most
ALONE_FROM = 3  # conflicts
ALONE_S = 1.0  # so long others wait for one that goes alone


class Fair:
    """Lets one `run` that met many conflicts go alone: the others wait before they begin a try."""

    def __init__(self) -> None:
        self._alone = threading.RLock()  # `fn` may run another

    @contextlib.contextmanager
    def turn(self, *, alone: bool, last: Transaction | None = None) -> Iterator[None]:
        """One try. `alone`: the others wait until it is over, or give up waiting. `last`: the try before."""
        mine = self._alone.acquire(timeout=ALONE_S)
        if mine and not alone:
            self._alone.release()
        try:
            yield
        finally:
            if mine and alone:
                self._alone.release()


class Writer(Reader):
    """The calls that write rows, each a transaction; the same over the network."""

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
        """A transaction, to use in a `with`. Raises ReadOnlyError, and RowError for
        metadata that are not text.

        `commit_id` is a UUIDv7: the same id with the same content commits once. `durability`:
        "sync" (on disk when it returns) or "os" (on disk some 20 ms later).
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
        """Run `fn(tx)` and commit, and return what it returned; on a conflict, again. Writes.

        It waits between two tries, for a random time that grows with their number and with what one takes.
        From the fourth try on it goes alone: embedded, no other `run` of this database object begins a try
        meanwhile; on a server, commits of all other clients to the tables that it reads wait. Both for a
        second at most. It ends with the last ConflictError after `retries` more tries (None: as many
        as it takes), or `deadline_s` seconds.
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
        """Writes one row in a transaction of its own. `expires`: when its life ends, a datetime with its
        zone, or nanoseconds since the Unix epoch (0: never); None: as its table has it."""
        return self._once(
            lambda tx: tx.put(table, row, expect_version=expect_version, expires=expires), metadata
        )

    def insert(
        self, table: Table[M, Any], row: M, *, expires: Expires | None = None, **metadata: Any
    ) -> CommitResult:
        """Writes one row that must not be there yet. Raises PreconditionError."""
        return self._once(lambda tx: tx.insert(table, row, expires=expires), metadata)

    def update(
        self, table: Table[M, Any], row: M, *, expires: Expires | None = None, **metadata: Any
    ) -> CommitResult:
        """Writes one row that must be there already. Raises PreconditionError."""
        return self._once(lambda tx: tx.update(table, row, expires=expires), metadata)

    def delete(
        self, table: Table[M, K], key: K, *, expect_version: int | None = None, **metadata: Any
    ) -> CommitResult:
        """Deletes one row. Where there is none, nothing is written, and the result has seq 0 and `missing` 1.

        A `commit_id` is not remembered then: the same delete again deletes a row that came meanwhile.
        """
        return self._once(lambda tx: tx.delete(table, key, expect_version=expect_version), metadata)

    def _once(self, write: Callable[[Transaction], None], metadata: dict[str, Any]) -> CommitResult:
        """One that read nothing and conflicts all the same met a migration: it is made anew, for the
        schema that is in force by now."""
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
