"""Session: one transaction's view of a remote database: one schema, and the seq of its first read.

Transaction ─ reads ─▶ RemoteSource, pinned ─▶ Store service
            └ commit ─▶ request_of ─▶ Commit, again if its answer was lost
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from everlog.proto import store_pb2_grpc
from everlog.rpc.channel import COMMIT_S, Channel
from everlog.rpc.remote_commit import request_of
from everlog.rpc.remote_source import RemoteSource
from everlog.store import keys
from everlog.store.binding import Binding
from everlog.store.errors import ConflictError, SchemaError
from everlog.store.schema import Schema
from everlog.store.source import Source
from everlog.store.table import Table
from everlog.store.transaction import CommitResult, Metadata, Reads, Transaction

M = TypeVar("M", bound=Message)


class Session:
    """What a transaction needs of the database that it is one of. `refresh` asks for the schema
    anew."""

    def __init__(
        self,
        channel: Channel,
        schema: Schema,
        refresh: Callable[[], Schema],
        turn: Callable[[], bytes] = lambda: b"",
    ) -> None:
        """`turn`: the id of the lease that the calling thread has."""
        self._channel = channel
        self._turn = turn
        self._refresh = refresh
        self.schema = schema
        self._source = RemoteSource(channel, schema, refresh, pinned=True)

    def refreshed(self) -> bool:
        """Whether the server has another schema by now: then it is the one from here on. Only
        before anything was read or written."""
        schema = self._refresh()
        if schema is self.schema:
            return False
        self.schema = schema
        self._source = RemoteSource(self._channel, schema, self._refresh, pinned=True)
        return True

    def _begin(self) -> tuple[Source, int]:
        return self._source, 0  # known once something was read

    def _commit(self, transaction: Transaction) -> CommitResult:
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
    """A transaction of a remote database, which may be of a schema that the client has yet to learn."""

    def __init__(self, session: Session, metadata: Metadata) -> None:
        super().__init__(session, metadata)
        self._session = session

    @property
    def tables_read(self) -> list[str]:
        """Names of the tables that it has read so far."""
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
