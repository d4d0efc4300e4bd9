"""Database: a database on a server, with the calls of an embedded one.

    RemoteDatabase ─┬─ reads ────────▶ RemoteSource ─▶ Store service
       a Writer     ├─ transactions ─▶ a value ──────▶ Commit, validated there
                    ├─ feed ─────────▶ RemoteBatches ▶ Feed service
                    ├─ handles ──────▶ past, people, consumers, migrations, proofs, archive
                    └─ the rest ─────▶ RemoteAdmin ──▶ Admin service

Invariants
  (1) a call returns and raises the same as on an embedded database; in addition, every call can raise
      UnavailableError when the server is unavailable for longer than `retry_s`;
  (2) a snapshot detects changes: a row that changed after it raises ConflictError.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from google.protobuf.message import Message

from everlog.feed.feed import Feed, table_names
from everlog.feed.subscription import HEARTBEAT_S
from everlog.proto import (
    log_pb2,
    store_pb2,
    store_pb2_grpc,
)
from everlog.rpc.address import Address, parse
from everlog.rpc.client.access import RemoteAccess
from everlog.rpc.client.admin import RemoteAdmin, RemoteConsumers
from everlog.rpc.client.channel import ANSWER_S, CONNECT_S, RETRY_S, Channel, deadline
from everlog.rpc.client.feed import RemoteBatches
from everlog.rpc.client.history import RemoteMoment, RemotePast
from everlog.rpc.client.load import RemoteLoad
from everlog.rpc.client.people import RemoteKeys, RemotePeople
from everlog.rpc.client.reads import RemoteSource
from everlog.rpc.client.transaction import DURABILITY, RemoteFair, RemoteTransaction, Session
from everlog.store.crypto.vault import Opener
from everlog.store.errors import ReadOnlyError, SchemaError, UnavailableError
from everlog.store.history.row_history import Version
from everlog.store.progress import OnProgress
from everlog.store.schema.arguments import Time
from everlog.store.schema.schema import Binding, Schema
from everlog.store.schema.table import Table
from everlog.store.tx.load import IMPORT, LoadResult, check_load
from everlog.store.tx.reader import Snapshot
from everlog.store.tx.source import Source
from everlog.store.tx.transaction import Metadata, Transaction, Writer
from everlog.store.tx.write import NEVER, Expires, expires_ns_of

if TYPE_CHECKING:
    from everlog.audit.prover import Prover
    from everlog.rpc import handles
    from everlog.rpc.client.api import Api
    from everlog.rpc.client.fleet import RemoteFleet

K = TypeVar("K")

M = TypeVar("M", bound=Message)


class RemoteDatabase(Writer):
    """A database on a server. Thread-safe.

    Opening waits up to `timeout_s` seconds for the server; by default 5 seconds, and not at all if the
    connection is refused. Later, calls wait for an unavailable server up to `retry_s` seconds in total; a
    short call takes `timeout_s` at most. `url` can also be an address, whose settings the environment does
    not complete.

    Raises OpenError for an invalid URL and for a database that the server does not host, and
    UnavailableError if the server does not respond.
    """

    folders: str | PathLike[str] | None = None  # the local migrations; a server has its own

    def __init__(
        self,
        url: str | Address,
        *,
        read_only: bool = False,
        connect_s: float | None = None,
        retry_s: float = RETRY_S,
        timeout_s: float | None = None,
    ) -> None:
        self._current: Schema  # as of the server's last response about it
        self.uuid: bytes
        address = parse(url) if isinstance(url, str) else url
        self._channel = Channel(address, retry_s=retry_s, timeout_s=timeout_s)
        self._stub = store_pb2_grpc.StoreStub(self._channel.grpc)
        self.access = RemoteAccess(self._channel, lambda: self.uuid, lambda: self.schema)
        self.consumers = RemoteConsumers(self._channel)
        self.past = RemotePast(self._channel, lambda: self._current)
        self.admin = RemoteAdmin(self._channel, self, self.past, self.transaction)
        self.people = RemotePeople(
            self._channel, self.transaction, lambda: self._current, self.refresh_schema
        )
        self.url = str(address)
        try:
            described = self._connect(timeout_s if connect_s is None else connect_s)
        except BaseException:
            self._channel.close()
            raise
        self.uuid = described.uuid
        self.read_only = read_only or described.read_only
        self._current = Schema(described.schema)

    def use_token(self, token: str) -> None:
        """Send another token with calls that begin from now on: the next one of a caller whose tokens end."""
        self._channel.use_token(token)

    @property
    def migrations(self) -> handles.Migrations:
        """The migrations: plan, apply, roll back, approve; see `everlog.rpc.handles.Migrations`."""
        from everlog.rpc.client.migrations import RemoteMigrations

        return RemoteMigrations(self._channel, self, self.refresh_schema, self.folders)

    @property
    def proofs(self) -> Prover:
        """Checkpoints and proofs of the log; see `everlog.audit.prover.Prover`."""
        from everlog.rpc.client.audit import RemoteProver

        return RemoteProver(self._channel, self.uuid)

    @property
    def archive(self) -> handles.Archive:
        """Backup, archive and holds of the log; see `everlog.rpc.handles.Archive`."""
        from everlog.rpc.client.audit import RemoteArchive

        return RemoteArchive(self._channel, self)

    @property
    def fleet(self) -> RemoteFleet:
        """The fleet whose ledger this database is; see `everlog.rpc.client.fleet.RemoteFleet`."""
        from everlog.rpc.client.fleet import RemoteFleet

        return RemoteFleet(self._channel)

    @property
    def api(self) -> Api:
        """All methods of the server, by their descriptors; see `everlog.rpc.client.api.Api`."""
        from everlog.rpc.client.api import Api

        return Api(self._channel)

    # identity and state

    @property
    def schema(self) -> Schema:
        """The schema in force, as of the server's last response about it."""
        return self._current

    @property
    def head(self) -> int:
        """Seq of the newest durable record."""
        return self._describe().head.seq

    @property
    def follows_writer(self) -> bool:
        """False: the server writes, and newer commits are seen at once."""
        return False

    def refresh(self) -> int:
        """Request the schema again, and return the seq of the newest record. Read-only."""
        self.refresh_schema()
        return self.head

    def cursor(self) -> log_pb2.Cursor:
        """Return the position after the newest durable record. Read-only."""
        return self._describe().head

    # reading

    def at(
        self, *, seq: int | None = None, time: Time | None = None, progress: OnProgress | None = None
    ) -> RemoteMoment:
        """Return the database as of the record at `seq`, or of a time; see `Database.at`."""
        return self.past.at(seq=seq, time=time, progress=progress)

    def history(
        self, table: Table[M, K], key: K, *, newest_first: bool = True, limit: int | None = None
    ) -> Iterator[Version[M]]:
        """Yield every version of a row; see `Database.history`."""
        return self.past.history(table, key, newest_first=newest_first, limit=limit)

    def snapshot(self) -> Snapshot:
        """Return a snapshot for several reads: rows that changed since raise ConflictError. Read-only."""
        schema = self.refresh_schema()
        source = RemoteSource(self._channel, schema, self.refresh_schema, pinned=True)
        for info in schema.tables.values():
            source.get_many(info, [])  # reads no row, but pins the snapshot
            break
        else:
            source.snapshot = self.head
        return Snapshot(source, source.snapshot, schema, lambda: None)

    def feed(
        self,
        after: int | log_pb2.Cursor = 0,
        *,
        tables: Iterable[Table[Any, Any] | str] | None = None,
        now: bool = False,
        until: int | None = None,
        bounded: bool = False,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> Feed:
        """Follow the log: see `everlog.feed.feed`. After a broken connection the feed resumes at its
        position."""
        self._channel.check_open()
        names = table_names(tables)
        return Feed(
            RemoteBatches(
                self._channel,
                after,
                tables=names,
                now=now,
                until=until,
                bounded=bounded,
                heartbeat_s=heartbeat_s,
            )
        )

    # writing

    def load(
        self,
        table: Table[M, Any],
        rows: Iterable[M],
        *,
        id: str | None = None,
        source: str = "",
        kind: log_pb2.Load.Kind.ValueType = IMPORT,
        total: int | None = None,
        expires: Expires | None = None,
        progress: OnProgress | None = None,
        **metadata: Any,
    ) -> LoadResult:
        """Write many rows in chunks, each one commit. With an `id`, an interrupted load resumes.

        `total`: the number of rows, if known, for the progress. `expires`: as in `put`, for all rows.
        `metadata`: as in `transaction`, without `commit_id`. Raises RowError for an invalid row: earlier
        chunks stay.
        """
        about = self.transaction(**metadata).metadata
        binding = self._bind(table)
        check_load(table, rows, id, source, kind, total, about)
        first = store_pb2.LoadRequest(
            database=self._channel.address.database,
            table=table.name,
            space=binding.info.space,
            id=id or "",
            source=source,
            actor=about.actor,
            reason=about.reason,
            correlation_id=about.correlation_id,
            causation_id=about.causation_id,
            client=about.client,
            durability=DURABILITY[about.durability],
            kind=kind,
            expires_ns=0 if expires is None else expires_ns_of(expires, table.name) or NEVER,
        )
        return RemoteLoad(self._channel, first).run(table, binding, rows, total=total, progress=progress)

    def opener(self, tables: Sequence[str] = ()) -> Opener:
        """Return an opener for the sealed rows of these tables, or of all; see `Database.opener`. Raises
        AccessError if rows of them are sealed and the caller may not have keys. Read-only."""
        chosen = [info for name, info in self.schema.tables.items() if not tables or name in tables]
        return RemoteKeys(self._channel, ask=any(info.sealed for info in chosen))

    @property
    def channel(self) -> Channel:
        """The connection, for calls of other services."""
        return self._channel

    def close(self) -> None:
        """End all calls and release the connection. Idempotent."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}{' closed' if self._channel.closed else ''}>"

    # for readers and transactions

    def _schema(self) -> Schema:
        return self._current

    def _source(self) -> Source:
        self._channel.check_open()
        return RemoteSource(self._channel, self._current, self.refresh_schema)

    def _bind(self, table: Table[M, Any]) -> Binding:
        try:
            return super()._bind(table)
        except SchemaError:
            self.refresh_schema()  # the schema may have changed since the server's last response
            return super()._bind(table)

    def _transaction(self, metadata: Metadata) -> Transaction:
        self._check_writable()
        session = Session(self._channel, self._current, self.refresh_schema, lambda: self._fair.held)
        return RemoteTransaction(session, metadata)

    @functools.cached_property
    def _fair(self) -> RemoteFair:
        return RemoteFair(self._channel)

    def _connect(self, wait_s: float | None) -> store_pb2.DescribeResponse:
        with deadline(ANSWER_S if wait_s is None else max(wait_s, ANSWER_S)):
            if wait_s is not None:
                return self._describe(wait_s)
            try:
                return self._describe(0)
            except UnavailableError as error:
                if error.facts.get("refused"):
                    raise
            return self._describe(CONNECT_S)

    def _describe(self, retry_s: float | None = None) -> store_pb2.DescribeResponse:
        request = store_pb2.DescribeRequest(database=self._channel.address.database)
        return self._channel.call(self._stub.Describe, request, retry_s=retry_s)

    def refresh_schema(self) -> Schema:
        """Request the schema in force from the server, and return it. Read-only."""
        described = self._describe()
        if described.schema != self._current.proto:  # not by version: one may return after a rollback
            self._current = Schema(described.schema)
        return self._current

    def _check_writable(self) -> None:
        self._channel.check_open()
        if self.read_only:
            raise ReadOnlyError(f"{self.url} was opened for reading; open it without read_only to write")
