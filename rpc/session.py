"""Session: one transaction's view of a remote database: one schema, and the seq of its first read.

Transaction ─ reads ─▶ RemoteSource, pinned ─▶ Store service
            └ commit ─▶ request_of ─▶ Commit, again if its answer was lost
"""

from __future__ import annotations

from collections.abc import Callable

from everlog.proto import store_pb2_grpc
from everlog.rpc.channel import COMMIT_S, Channel
from everlog.rpc.remote_commit import request_of
from everlog.rpc.remote_source import RemoteSource
from everlog.store.errors import ConflictError, SchemaError
from everlog.store.schema import Schema
from everlog.store.source import Source
from everlog.store.transaction import CommitResult, Transaction


class Session:
    """What a transaction needs of the database that it is one of. `refresh` asks for the schema
    anew."""

    def __init__(self, channel: Channel, schema: Schema, refresh: Callable[[], Schema]) -> None:
        self._channel = channel
        self.schema = schema
        self._source = RemoteSource(channel, schema, refresh, pinned=True)

    def _begin(self) -> tuple[Source, int]:
        return self._source, 0  # known once something was read

    def _commit(self, transaction: Transaction) -> CommitResult:
        transaction.snapshot = self._source.snapshot
        request = request_of(transaction, self.schema, transaction.snapshot, self._channel.address.database)
        stub = store_pb2_grpc.StoreStub(self._channel.grpc)
        for _ in range(2):
            try:
                answer = self._channel.call(
                    stub.Commit, request, timeout_s=COMMIT_S, metadata=self._source.metadata
                )
            except SchemaError as error:
                self._source.moved(error)
            else:
                return CommitResult(answer.position.seq, answer.time_ns, answer.position.checksum)
        raise ConflictError("the schema changed twice while this transaction was committed; run it again")
