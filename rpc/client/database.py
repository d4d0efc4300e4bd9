"""Remote: a database on a server, with the calls of one in this process.

    RemoteDatabase ─┬─ reads ────────▶ RemoteSource ─▶ Store service
       a Writer     ├─ transactions ─▶ a value ──────▶ Commit, validated there
                    ├─ the past ─────▶ History service          (client/history.py)
                    ├─ people ───────▶ People service           (client/database.py)
                    ├─ consumers ────▶ Consumers service        (client/database.py)
                    ├─ feed ─────────▶ RemoteBatches ▶ Feed service
                    └─ the rest ─────▶ Admin service

Invariants
  (1) what a call gives and raises is what it gives and raises embedded; besides, when the server
      is away for longer than `retry_s`, every call can raise UnavailableError;
  (2) a snapshot here is a promise to notice: what changed after it is a ConflictError.

Remote people: what concerns the people of a database on a server, with the calls of one in this process.

Invariants
  (1) what a call gives and raises is what it gives and raises embedded;
  (2) a person is forgotten once, though the answer was lost and the call is made again: it carries an id.

Remote admin: the answers of the Admin service as the embedded database gives them.

Remote consumers: those of a database on a server, as `db.consumers` of an embedded one gives them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec
from google.protobuf.message import Message

from everlog.feed.feed import Feed, table_names
from everlog.feed.subscription import HEARTBEAT_S
from everlog.proto import (
    admin_pb2,
    admin_pb2_grpc,
    consumers_pb2_grpc,
    log_pb2,
    people_pb2,
    people_pb2_grpc,
    store_pb2,
    store_pb2_grpc,
)
from everlog.proto import consumers_pb2 as pb
from everlog.rpc.address import parse
from everlog.rpc.client.channel import CONNECT_S, RETRY_S, Channel
from everlog.rpc.client.fairness import RemoteFair
from everlog.rpc.client.feed import RemoteBatches
from everlog.rpc.client.history import PastCalls, seq_of
from everlog.rpc.client.keys import RemoteKeys
from everlog.rpc.client.load import RemoteLoad
from everlog.rpc.client.reads import RemoteSource
from everlog.rpc.client.transaction import RemoteTransaction, Session, new_commit_id
from everlog.rpc.messages import consumer_of
from everlog.rpc.protocol import SCHEMA_KEY
from everlog.store.crypto.master_key import MasterKey
from everlog.store.crypto.vault import Opener
from everlog.store.errors import Error, ReadOnlyError, RowError, SchemaError, UnavailableError
from everlog.store.history.timestamps import Time, nanoseconds
from everlog.store.progress import OnProgress, Progress
from everlog.store.schema import arguments
from everlog.store.schema.schema import Binding, Schema
from everlog.store.schema.table import Table
from everlog.store.tables.hashing import TableHash
from everlog.store.tx.load import IMPORT, LoadResult, check_load
from everlog.store.tx.reader import Snapshot
from everlog.store.tx.source import Source
from everlog.store.tx.transaction import Metadata, Transaction, Writer
from everlog.store.tx.write import NEVER, Expires, expires_ns_of
from everlog.store.upkeep.consumers import Cap, Consumer, check_registration, cursor_of, message_of_cap
from everlog.store.upkeep.erase import Forgotten, person_of
from everlog.store.upkeep.held import Remaining
from everlog.store.upkeep.status import (
    ArchiveStatus,
    ClockStatus,
    ConsumersStatus,
    ExpiryStatus,
    Status,
    TableStatus,
    WritesStatus,
)

if TYPE_CHECKING:
    from everlog.audit.prover import Prover
    from everlog.rpc import handles

K = TypeVar("K")

FORGET_S = 600.0  # the tables go to disk with it


def _remaining(one: people_pb2.Remaining) -> Remaining:
    return Remaining(one.kind, one.text, tuple(one.seqs))


def _name_person(
    request: people_pb2.ForgetRequest | people_pb2.ExportRequest, schema: Schema, key: Any, person: Any
) -> None:
    """Put the person into a request about a table. Raises RowError and SchemaError."""
    who = person_of(schema, request.table, key, person)
    request.space = who.space
    if who.key is not None:
        request.key = who.key
    else:
        request.person = who.value or b""


class PeopleCalls(Writer):
    """The calls of a remote database that concern people."""

    @property
    def channel(self) -> Channel:
        raise NotImplementedError

    @property
    def schema(self) -> Schema:
        raise NotImplementedError

    def forget(
        self, table: Table[Any, K] | str, key: K | None = None, *, person: Any = None, **metadata: Any
    ) -> Forgotten:
        """Erases one person, on the server; see `Database.forget`."""
        self._check_writable()
        known: Metadata = self.transaction(**metadata).metadata
        request = people_pb2.ForgetRequest(
            database=self.channel.address.database,
            table=arguments.table_name(table),
            actor=known.actor,
            reason=known.reason,
            correlation_id=known.correlation_id,
            causation_id=known.causation_id,
            client=known.client,
            commit_id=known.commit_id or new_commit_id(),
        )
        try:
            return self._forget(request, self.schema, key, person)
        except SchemaError:
            schema = self.schema
            if self.refresh_schema() is schema:
                raise
            return self._forget(request, self.schema, key, person)

    def export_person(
        self, table: Table[Any, K] | str, key: K | None = None, *, person: Any = None
    ) -> dict[str, Any]:
        """Everything that the server holds on one person; see `Database.export_person`."""
        found: dict[str, Any] = msgspec.json.decode(b"".join(self.stream_person(table, key, person=person)))
        return found

    def stream_person(
        self, table: Table[Any, K] | str, key: K | None = None, *, person: Any = None
    ) -> Iterator[bytes]:
        """The same as pieces of one JSON object; see `Database.stream_person`."""
        request = people_pb2.ExportRequest(
            database=self.channel.address.database, table=arguments.table_name(table)
        )
        schema = self.refresh_schema()
        _name_person(request, schema, key, person)
        stub = people_pb2_grpc.PeopleStub(self.channel.grpc)
        said = (*self.channel.metadata, (SCHEMA_KEY, str(schema.version)))
        answers = self.channel.stream(lambda: stub.Export(request, metadata=said))
        first = next(answers)  # or the error
        return (answer.json for answer in chain([first], answers))

    def readable_people(self) -> list[Remaining]:
        """Return the data about people in the server's log that is readable without keys; see
        `Database.readable_people`."""
        request = people_pb2.ReadableRequest(database=self.channel.address.database)
        stub = people_pb2_grpc.PeopleStub(self.channel.grpc)
        return [*map(_remaining, self.channel.call(stub.Readable, request, timeout_s=FORGET_S).found)]

    def rotate_key(
        self, master_key: MasterKey | None = None, progress: OnProgress | None = None, **metadata: Any
    ) -> int:
        """Puts all keys under the next master key, whose file the server's process was told of; see
        `Database.rotate_key`. Raises Error for one that is given: it does not travel."""
        self._check_writable()
        if master_key is not None:
            raise Error(
                f"{self.channel.url} is on a server, and a master key does not travel: give none. The server"
                " takes the one of the file that it was told of (`everlog serve --next-master-key`)"
            )
        known: Metadata = self.transaction(**metadata).metadata
        request = people_pb2.RotateKeyRequest(
            database=self.channel.address.database,
            actor=known.actor,
            reason=known.reason,
            correlation_id=known.correlation_id,
            causation_id=known.causation_id,
            client=known.client,
        )
        said, stub, total = self.channel.metadata, people_pb2_grpc.PeopleStub(self.channel.grpc), 0
        for answer in self.channel.stream(lambda: stub.RotateKey(request, metadata=said)):
            total = answer.total
            if progress is not None and not answer.finished:
                progress(Progress("rotate keys", answer.done, answer.total, "keys"))
        return total

    def opener(self, tables: Sequence[str] = ()) -> Opener:
        """What opens sealed rows for who follows these tables, or all; see `Database.opener`. Raises
        AccessError for a caller who may not, where rows of them are sealed."""
        chosen = [info for name, info in self.schema.tables.items() if not tables or name in tables]
        return RemoteKeys(self.channel, ask=any(info.sealed for info in chosen))

    def _forget(self, request: people_pb2.ForgetRequest, schema: Schema, key: Any, person: Any) -> Forgotten:
        _name_person(request, schema, key, person)
        stub = people_pb2_grpc.PeopleStub(self.channel.grpc)
        done = self.channel.call(
            stub.Forget, request, timeout_s=FORGET_S, metadata=((SCHEMA_KEY, str(schema.version)),)
        )
        return Forgotten(done.seq, done.key_id, done.rows, tuple(map(_remaining, done.remaining)))

    # of the database that these are calls of

    def refresh_schema(self) -> Schema:
        raise NotImplementedError

    def _check_writable(self) -> None:
        raise NotImplementedError


HASHES_S = 3600.0


class RemoteAdmin:
    """Looks after one database of a server."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._database = channel.address.database
        self._stub = admin_pb2_grpc.AdminStub(channel.grpc)

    def databases(self) -> list[str]:
        """Names of all databases of the server."""
        answer = self._channel.call(self._stub.ListDatabases, admin_pb2.ListDatabasesRequest())
        return list(answer.databases)

    def status(self) -> Status:
        answer = self._channel.call(self._stub.Status, admin_pb2.StatusRequest(database=self._database))
        return Status(
            uuid=answer.head.database,
            head=answer.head.seq,
            head_time_ns=answer.head_time_ns,
            checksum=answer.head.checksum,
            oldest=answer.oldest,
            schema_version=answer.schema_version,
            tables=[TableStatus(table.name, table.rows, list(table.indexes)) for table in answer.tables],
            disk_bytes=answer.disk_bytes,
            software=answer.software,
            format=answer.format,
            read_only=answer.read_only,
            expiry=ExpiryStatus(
                answer.expiry.rows, answer.expiry.due, answer.expiry.next_ns, answer.expiry.jumped_s
            ),
            consumers=ConsumersStatus(answer.consumers, list(answer.consumers_over), answer.consumers_error),
            archive=ArchiveStatus(
                answer.archive.base,
                answer.archive.archived_ns,
                answer.archive.target,
                answer.archive.error,
                answer.archive.error_ns,
            ),
            writes=WritesStatus(answer.writes.error, answer.writes.since_ns),
            clock=ClockStatus(answer.clock.reading_ns, answer.clock.ahead_s, answer.clock.corrected),
            warnings=list(answer.warnings),
            production=answer.production,
        )

    def hashes(self, seq: int | None, *, sealed: bool) -> dict[str, TableHash]:
        request = admin_pb2.StatusRequest(database=self._database, hashes=True, at=seq or 0, sealed=sealed)
        answer = self._channel.call(self._stub.Status, request, timeout_s=HASHES_S)
        return {table.name: TableHash(table.rows, table.hash) for table in answer.tables}

    def rebuild(self, progress: OnProgress | None) -> dict[str, TableHash]:
        request = admin_pb2.RebuildRequest(database=self._database)
        metadata = self._channel.metadata
        hashes: dict[str, TableHash] = {}
        for answer in self._channel.stream(lambda: self._stub.Rebuild(request, metadata=metadata)):
            if answer.finished:
                hashes = {table.name: TableHash(table.rows, table.hash) for table in answer.tables}
            elif progress is not None:
                progress(Progress(answer.step, answer.done, answer.total or None))
        return hashes

    def expire(self, *, confirm_time: bool) -> int:
        request = admin_pb2.ExpireRequest(database=self._database, confirm_time=confirm_time)
        rows: int = self._channel.call(self._stub.Expire, request, timeout_s=HASHES_S).rows
        return rows

    def correct_clock(self, *, actor: str, reason: str) -> int:
        request = admin_pb2.CorrectClockRequest(database=self._database, actor=actor, reason=reason)
        seq: int = self._channel.call(self._stub.CorrectClock, request).seq
        return seq

    def set_production(self, on: bool, *, actor: str, reason: str) -> int:
        request = admin_pb2.SetProductionRequest(
            database=self._database, production=on, actor=actor, reason=reason
        )
        seq: int = self._channel.call(self._stub.SetProduction, request).seq
        return seq

    def check(self, progress: OnProgress | None, *, deep: bool) -> Iterator[str]:
        request = admin_pb2.CheckRequest(database=self._database, deep=deep)
        metadata = self._channel.metadata
        for answer in self._channel.stream(lambda: self._stub.Check(request, metadata=metadata)):
            if answer.problem:
                yield answer.problem
            elif progress is not None and not answer.finished:
                progress(Progress(answer.step, answer.done, answer.total or None))


class RemoteConsumers:
    """See `everlog.store.upkeep.consumers.Consumers`: each call raises what that raises."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._database = channel.address.database
        self._stub = consumers_pb2_grpc.ConsumersStub(channel.grpc)

    def register(
        self,
        name: str,
        *,
        after: int | log_pb2.Cursor | None = None,
        cap: Cap | None = None,
        take: bool = True,
        actor: str = "",
        reason: str = "",
    ) -> Consumer:
        """Takes a durable name on the server."""
        check_registration(name, after, cap, actor, reason)
        request = pb.RegisterRequest(
            database=self._database, name=name, leave=not take, actor=actor, reason=reason
        )
        if after is not None:
            request.after.CopyFrom(cursor_of(after))
        if cap is not None:
            request.cap.CopyFrom(message_of_cap(cap))
        return consumer_of(self._channel.call(self._stub.Register, request).consumer)

    def bookmark(self, consumer: Consumer, position: log_pb2.Cursor) -> None:
        """The consumer has everything up to there, durably. Does not wait for a server that is away: it
        raises UnavailableError, and the next bookmark says the same and more."""
        request = pb.BookmarkRequest(
            database=self._database, name=consumer.name, turn=consumer.epoch, position=position
        )
        self._channel.call(self._stub.Bookmark, request, retry_s=0)

    def remove(self, name: str, *, actor: str = "", reason: str = "") -> None:
        """Nothing is held for it any more."""
        arguments.text(name, "name")
        Metadata(actor, reason).check()
        request = pb.RemoveConsumerRequest(database=self._database, name=name, actor=actor, reason=reason)
        self._channel.call(self._stub.Remove, request)

    def __getitem__(self, name: str) -> Consumer:
        """One of them. Read-only. Raises RowError."""
        arguments.text(name, "name")
        found = {one.name: one for one in self}
        if name not in found:
            names = ", ".join(found) or "none"
            raise RowError(f"there is no consumer {name!r}; there are: {names}", name=name)
        return found[name]

    def __iter__(self) -> Iterator[Consumer]:
        """All, by name, as they are now. Read-only."""
        answer = self._channel.call(self._stub.List, pb.ListConsumersRequest(database=self._database))
        return map(consumer_of, answer.consumers)


M = TypeVar("M", bound=Message)


class RemoteDatabase(PastCalls, PeopleCalls):
    """A database on a server. Safe to use from many threads.

    Opening waits up to `timeout_s` seconds for the server; without one, 5 seconds, and not at all where
    the connection is refused. Later, a server that went away is waited for up to `retry_s` seconds in
    all; a call that is answered at once waits at most `timeout_s`.

    Raises OpenError for a URL that is none and a database that the server does not host, and
    UnavailableError if the server does not answer.
    """

    folders: str | PathLike[str] | None = None  # migrations of this machine; those of the server are its own

    def __init__(
        self,
        url: str,
        *,
        read_only: bool = False,
        connect_s: float | None = None,
        retry_s: float = RETRY_S,
        timeout_s: float | None = None,
    ) -> None:
        address = parse(url)
        self._channel = Channel(address, retry_s=retry_s, timeout_s=timeout_s)
        self._stub = store_pb2_grpc.StoreStub(self._channel.grpc)
        self._admin = RemoteAdmin(self._channel)
        self.consumers = RemoteConsumers(self._channel)
        self.url = str(address)
        try:
            described = self._connect(timeout_s if connect_s is None else connect_s)
        except BaseException:
            self._channel.close()
            raise
        self.uuid = described.uuid
        self.read_only = read_only or described.read_only
        self._current = Schema(described.schema)

    @property
    def migrations(self) -> handles.Migrations:
        """Its migrations: plan, apply, roll back, approve; see `everlog.rpc.handles.Migrations`."""
        from everlog.rpc.client.migrations import RemoteMigrations

        return RemoteMigrations(self._channel, self, self.refresh_schema, self.folders)

    @property
    def proofs(self) -> Prover:
        """Checkpoints and proofs of its log; see `everlog.audit.prover.Prover`."""
        from everlog.rpc.client.audit import RemoteProver

        return RemoteProver(self._channel, self.uuid)

    @property
    def archive(self) -> handles.Archive:
        """Backup, archive and holds of its log; see `everlog.rpc.handles.Archive`."""
        from everlog.rpc.client.audit import RemoteArchive

        return RemoteArchive(self._channel, self)

    # what it is

    @property
    def schema(self) -> Schema:
        """The schema in force, as it was when the server last told."""
        return self._current

    @property
    def head(self) -> int:
        """Seq of the newest record that is on disk."""
        return self._describe().head.seq

    @property
    def follows_writer(self) -> bool:
        """False: the server writes, and newer commits are seen at once."""
        return False

    def refresh(self) -> int:
        """Return the seq of the newest record; there is nothing to refresh but the schema. Read-only."""
        self.refresh_schema()
        return self.head

    def cursor(self) -> log_pb2.Cursor:
        """The position after the newest record that is on disk. Read-only."""
        return self._describe().head

    def status(self) -> Status:
        """What there is, in numbers. Read-only."""
        return self._admin.status()

    def hashes(
        self, progress: OnProgress | None = None, *, seq: int | None = None, sealed: bool = False
    ) -> dict[str, TableHash]:
        """Rows and content hash of every table; see `Database.hashes`. Read-only."""
        if seq is not None and seq_of(seq) < 1:
            self.at(seq=seq)  # raises it
        return self._admin.hashes(None if seq is None else seq_of(seq), sealed=sealed)

    # reading

    def snapshot(self) -> Snapshot:
        """This moment, for reading more than once: what was changed since raises ConflictError.
        Read-only."""
        schema = self.refresh_schema()
        source = RemoteSource(self._channel, schema, self.refresh_schema, pinned=True)
        for info in schema.tables.values():
            source.get_many(info, [])  # nothing, but at a moment
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
        """Follows the log: see `everlog.feed.feed`. A connection that breaks is made again, and
        the feed goes on where it was."""
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
        actor: str = "",
        reason: str = "",
    ) -> LoadResult:
        """Writes many rows in chunks, each one commit. With an `id` it goes on where it stopped.

        `total`, for the progress, is the number of rows if known. `expires`: as in `put`, of all of them.
        Raises RowError for a row that does not fit: the chunks before it stay.
        """
        self._check_writable()
        binding = self._bind(table)
        Metadata(actor, reason).check()
        check_load(table, rows, id, source, kind, total)
        first = store_pb2.LoadRequest(
            database=self._channel.address.database,
            table=table.name,
            space=binding.info.space,
            id=id or "",
            source=source,
            actor=actor,
            reason=reason,
            kind=kind,
            expires_ns=0 if expires is None else expires_ns_of(expires, table.name) or NEVER,
        )
        return RemoteLoad(self._channel, first).run(table, binding, rows, total=total, progress=progress)

    # looking after it

    def rebuild(self, progress: OnProgress | None = None) -> dict[str, TableHash]:
        """Builds all tables anew on the server; see `Database.rebuild`."""
        self._check_writable()
        return self._admin.rebuild(progress)

    def rebuild_into(
        self,
        path: Path | str,
        progress: OnProgress | None = None,
        *,
        seq: int | None = None,
        time: Time | None = None,
    ) -> dict[str, TableHash]:
        """Builds this database out of the server's feed in a new directory here, compares its tables with
        those of the server, and returns their hashes; see `Database.rebuild_into`."""
        from everlog.rpc.client.rebuild import rebuild_from

        time_ns = None if time is None else nanoseconds(time)
        return rebuild_from(self, Path(path), progress, seq=seq, time_ns=time_ns)

    def expire(self, *, confirm_time: bool = False) -> int:
        """Deletes the rows whose life is over, on the server; see `Database.expire`."""
        self._check_writable()
        return self._admin.expire(confirm_time=confirm_time)

    def correct_clock(self, *, actor: str = "", reason: str = "") -> int:
        """Say that the server's clock is right; see `Database.correct_clock`."""
        self._check_writable()
        Metadata(actor, reason).check()
        return self._admin.correct_clock(actor=actor, reason=reason)

    @property
    def production(self) -> bool:
        """Whether the log says that this is a database in production; see `Database.production`."""
        return self._admin.status().production

    def set_production(self, on: bool, *, actor: str = "", reason: str = "") -> int:
        """Say in the log whether this is a database in production; see `Database.set_production`."""
        self._check_writable()
        Metadata(actor, reason).check()
        return self._admin.set_production(on, actor=actor, reason=reason)

    def check(self, progress: OnProgress | None = None, *, deep: bool = False) -> Iterator[str]:
        """Everything that is not as it must be, a sentence each; `deep` as in `Database.check`. Read-only."""
        self._channel.check_open()
        return self._admin.check(progress, deep=deep)

    @property
    def channel(self) -> Channel:
        """The connection, for the calls of other services."""
        return self._channel

    def close(self) -> None:
        """Ends all calls and lets go of the connection. Twice is once."""
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
            self.refresh_schema()  # it has moved, perhaps, since the server last told
            return super()._bind(table)

    def _transaction(self, metadata: Metadata) -> Transaction:
        self._check_writable()
        session = Session(self._channel, self._current, self.refresh_schema, lambda: self._fair.held)
        return RemoteTransaction(session, metadata)

    @functools.cached_property
    def _fair(self) -> RemoteFair:
        return RemoteFair(self._channel)

    def _connect(self, wait_s: float | None) -> store_pb2.DescribeResponse:
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
        """The schema that is in force on the server now."""
        described = self._describe()
        if described.schema != self._current.proto:  # a version may come again, after a rollback
            self._current = Schema(described.schema)
        return self._current

    def _check_writable(self) -> None:
        self._channel.check_open()
        if self.read_only:
            raise ReadOnlyError(f"{self.url} was opened for reading; open it without read_only to write")
