"""Transaction: a transaction of a remote database: one schema, one seq of all reads, its commit, its lease.

    Transaction ─ reads ─▶ RemoteSource, pinned ─▶ Store service
                └ commit ─▶ request_of ─▶ Commit, repeated after a lost response

    read keys, read ranges ─▶ Read {table, index, keys, ranges}     without the prefix of a space
    writes                 ─▶ Write {table, op, key | row, expectation}

Each commit carries an id, so that it can be sent again after a lost response and takes effect once.

After many conflicts, `run` gets a lease from the server, exclusive among all of its clients
(server/leases.py):

    run, 4th try ─▶ Turn {tables that the last try read} ─▶ lease ─▶ the try, its commits with the lease's id
                                                          └ none, or an old server: like other tries

The lease belongs to the thread: other commits of `fn` in that thread use it too.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from everlog.proto import log_pb2, store_pb2, store_pb2_grpc
from everlog.rpc.client.channel import CALL_S, COMMIT_S, Channel, deadline_at
from everlog.rpc.client.reads import RemoteSource
from everlog.store import keys
from everlog.store.errors import ConflictError, SchemaError
from everlog.store.schema import codec
from everlog.store.schema.schema import Binding, Schema
from everlog.store.schema.table import Table
from everlog.store.tx.source import Source
from everlog.store.tx.transaction import CommitResult, Fair, Metadata, Reads, Transaction, new_commit_id
from everlog.store.tx.write import NEVER, Write

DURABILITY = {
    None: store_pb2.DURABILITY_UNSPECIFIED,
    "sync": store_pb2.SYNC,
    "os": store_pb2.OS,
}


def request_of(
    transaction: Transaction, schema: Schema, snapshot: int, database: str
) -> store_pb2.CommitRequest:
    """Return the request that commits `transaction`, which read at `snapshot` under `schema`."""
    meta = transaction.metadata
    request = store_pb2.CommitRequest(
        database=database,
        snapshot=snapshot,
        reads=_reads(transaction, schema),
        actor=meta.actor,
        reason=meta.reason,
        correlation_id=meta.correlation_id,
        causation_id=meta.causation_id,
        client=meta.client,
        commit_id=meta.commit_id or new_commit_id(),
        durability=DURABILITY[meta.durability],
    )
    for write in transaction.writes.values():
        is_put = write.op == log_pb2.PUT
        request.writes.add(
            table=write.info.name,
            space=write.info.space,
            op=write.op,
            key=b"" if is_put else write.key,
            row=write.row,
            expect=write.expect,
            version=write.version,
            expires_ns=_expires_ns(write),
        )
    return request


def _expires_ns(write: Write) -> int:
    """Return the end of a row for a request; 0 means the table's default."""
    return write.expires_ns or (NEVER if write.info.ttl_ns and not write.ttl_ns else 0)


def _reads(transaction: Transaction, schema: Schema) -> list[store_pb2.Read]:
    found: dict[bytes, store_pb2.Read] = {}

    def of(full: bytes) -> store_pb2.Read:
        prefix = full[: keys.PREFIX.size]
        if prefix not in found:
            table, index = _names(schema, prefix)
            space = keys.SPACE.unpack_from(prefix)[0]
            found[prefix] = store_pb2.Read(table=table, space=space, index=index)
        return found[prefix]

    reads = transaction.reads or Reads(set(), [])
    for key in reads.keys:
        of(key).keys.append(key[keys.PREFIX.size :])
    for start, end in reads.ranges:
        last = b"" if end == codec.after(start[: keys.PREFIX.size]) else end[keys.PREFIX.size :]
        of(start).ranges.add(start=start[keys.PREFIX.size :], end=last)
    return list(found.values())


def _names(schema: Schema, prefix: bytes) -> tuple[str, str]:
    """Return table and index of the keys with this prefix; an empty index means rows."""
    space, index = keys.PREFIX.unpack(prefix)
    info = schema.spaces[space]
    name = next((one.name for one in info.indexes.values() if one.id == index), "")
    return info.name, name


M = TypeVar("M", bound=Message)


class Session:
    """The part of a remote database that a transaction needs. `refresh` requests the schema again."""

    def __init__(
        self,
        channel: Channel,
        schema: Schema,
        refresh: Callable[[], Schema],
        turn: Callable[[], bytes] = lambda: b"",
    ) -> None:
        """`turn` returns the id of the calling thread's lease."""
        self._channel = channel
        self._turn = turn
        self._refresh = refresh
        self.schema = schema
        self._source = RemoteSource(channel, schema, refresh, pinned=True)

    def refreshed(self) -> bool:
        """Return whether the server has another schema now, and use it. Only before anything was read or
        written."""
        schema = self._refresh()
        if schema is self.schema:
            return False
        self.schema = schema
        self._source = RemoteSource(self._channel, schema, self._refresh, pinned=True)
        return True

    def begin(self) -> tuple[Source, int]:
        return self._source, 0  # known after the first read

    def commit(self, transaction: Transaction) -> CommitResult:
        transaction.snapshot = self._source.snapshot
        request = request_of(transaction, self.schema, transaction.snapshot, self._channel.address.database)
        request.turn = self._turn()
        stub = store_pb2_grpc.StoreStub(self._channel.grpc)
        for _ in range(2):
            try:
                answer = self._channel.call(
                    stub.Commit, request, timeout_s=COMMIT_S, metadata=self._source.metadata
                )
            except SchemaError as error:
                self._source.moved(error)
            else:
                at = answer.position
                return CommitResult(at.seq, answer.time_ns, at.checksum).lacking(answer.missing)
        raise ConflictError("the schema changed twice while this transaction was committed; run it again")


class RemoteTransaction(Transaction):
    """A transaction of a remote database, whose schema may be newer than the one that the client knows."""

    def __init__(self, session: Session, metadata: Metadata) -> None:
        super().__init__(session, metadata)
        self._session = session

    @property
    def tables_read(self) -> list[str]:
        """Return the names of the tables that it has read so far."""
        reads = self.reads or Reads(set(), [])
        read = {
            keys.SPACE.unpack_from(key)[0] for key in (*reads.keys, *(start for start, _ in reads.ranges))
        }
        return sorted({self._session.schema.spaces[space].name for space in read})

    def _bind(self, table: Table[M, Any]) -> Binding:
        try:
            return super()._bind(table)
        except SchemaError:
            if self.writes or self.reads is not None or not self._session.refreshed():
                raise
            return super()._bind(table)


class RemoteFair(Fair):
    """Lets one `run` proceed alone: on its server, or within this database object if the server has no
    leases."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._mine = threading.local()
        self._known = True  # whether the server has leases

    @property
    def held(self) -> bytes:
        """Id of this thread's lease; empty if it has none."""
        return getattr(self._mine, "id", b"")

    @contextlib.contextmanager
    def turn(self, *, alone: bool, last: Transaction | None = None) -> Iterator[None]:
        tables = last.tables_read if alone and not self.held and isinstance(last, RemoteTransaction) else []
        if not self._known:
            with super().turn(alone=alone):
                yield
        elif not tables:
            yield
        else:
            with self._lease(tables):
                yield

    @contextlib.contextmanager
    def _lease(self, tables: list[str]) -> Iterator[None]:
        """Make one try with a lease, or without one if there is none: the try itself reports errors."""
        request = store_pb2.TurnRequest(database=self._channel.address.database, tables=tables)
        until, timeout_s = deadline_at(), CALL_S
        if until is not None:
            timeout_s = min(timeout_s, max(0.0, until - time.monotonic()))
        stub = store_pb2_grpc.StoreStub(self._channel.grpc)
        call = self._channel.started(
            lambda: stub.Turn(request, timeout=timeout_s, metadata=self._channel.metadata)
        )
        try:
            try:
                self._mine.id = next(call).turn
            except StopIteration:
                pass
            except grpc.RpcError as error:
                self._known = error.code() != grpc.StatusCode.UNIMPLEMENTED
            yield
        finally:
            self._mine.id = b""
            call.cancel()
