"""Reads: the rows of a remote database.

    Reader ─ encoded key or span ─▶ RemoteSource ─▶ Store service ─▶ the same value as embedded

A value here is the store's (keys.py), made of the received row and version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from everlog.proto import store_pb2, store_pb2_grpc
from everlog.rpc.client.channel import Channel, Unary
from everlog.rpc.wire import SCHEMA_KEY
from everlog.store.errors import ConflictError, SchemaError
from everlog.store.keys import HEADER, pack_value
from everlog.store.schema.schema import IndexInfo, Schema, TableInfo
from everlog.store.tx.source import Entry, Span

KEYS_MAX, BYTES_MAX = 4096, 4 << 20  # keys of one request; approximate bytes of rows of its response

A = TypeVar("A")
Q = TypeVar("Q")


class RemoteSource:
    """Rows of a database on a server, as of its newest state.

    `refresh` requests the schema again. With `pinned`, all reads are under one schema and of one seq, that of
    the first read, or raise ConflictError. With `at_seq`, reads are of that seq.
    """

    def __init__(
        self,
        channel: Channel,
        schema: Schema,
        refresh: Callable[[], Schema],
        *,
        pinned: bool = False,
        at_seq: int = 0,
    ) -> None:
        self._channel = channel
        self._database = channel.address.database
        self._stub = store_pb2_grpc.StoreStub(channel.grpc)
        self._schema = schema
        self._version = schema.version
        self._refresh = refresh
        self._pinned = pinned
        self.snapshot = 0
        self._at_seq = at_seq

    def get(self, info: TableInfo, key: bytes) -> bytes | None:
        request = store_pb2.GetRequest(
            database=self._database,
            table=info.name,
            space=info.space,
            key=key,
            snapshot=self.snapshot,
            at_seq=self._at_seq,
        )
        answer = self._call(self._stub.Get, request)
        self._read_at(answer.seq)
        return _value(answer.row) if answer.HasField("row") else None

    def get_many(self, info: TableInfo, keys: list[bytes]) -> list[bytes | None]:
        """Read in as many requests as a server accepts; later ones are as of the first, or conflict."""
        found, snapshot = list[bytes | None](), self.snapshot
        while True:
            answer = self._get_some(info, keys[len(found) : len(found) + KEYS_MAX], snapshot)
            snapshot = 0 if self._at_seq else snapshot or answer.seq
            found += [_value(row) if row.key else None for row in answer.rows]
            if len(found) >= len(keys):
                return found

    def _get_some(self, info: TableInfo, keys: list[bytes], snapshot: int) -> store_pb2.BatchGetResponse:
        request = store_pb2.BatchGetRequest(
            database=self._database,
            table=info.name,
            space=info.space,
            keys=keys,
            snapshot=snapshot,
            at_seq=self._at_seq,
            bytes_max=BYTES_MAX,
        )
        answer = self._call(self._stub.BatchGet, request)
        self._read_at(answer.seq)
        return answer

    def scan(
        self, info: TableInfo, index: IndexInfo | None, span: Span, *, reverse: bool, limit: int | None
    ) -> Iterator[Entry]:
        if limit == 0:
            return
        request = store_pb2.ScanRequest(
            database=self._database,
            table=info.name,
            space=info.space,
            index=index.name if index else "",
            start=span.start,
            end=span.end,
            backwards=reverse,
            limit=limit or 0,
            snapshot=self.snapshot,
            at_seq=self._at_seq,
        )
        for page in self._pages(request):
            self._read_at(page.seq)
            for row in page.rows:
                key = row.key
                yield key if index is None else _order(info, index, row), key, _value(row)

    def count(self, info: TableInfo, index: IndexInfo | None, span: Span) -> int:
        request = store_pb2.CountRequest(
            database=self._database,
            table=info.name,
            space=info.space,
            index=index.name if index else "",
            start=span.start,
            end=span.end,
            snapshot=self.snapshot,
            at_seq=self._at_seq,
        )
        answer = self._call(self._stub.Count, request)
        self._read_at(answer.seq)
        return answer.count

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the schema version by which a request is encoded; none for a moment of the past."""
        return () if self._at_seq else ((SCHEMA_KEY, str(self._version)),)

    def _call(self, method: Unary[Q, A], request: Q) -> A:
        try:
            return self._channel.call(method, request, metadata=self.metadata)
        except SchemaError as error:
            self.moved(error)
            return self._channel.call(method, request, metadata=self.metadata)

    def _pages(self, request: store_pb2.ScanRequest) -> Iterator[store_pb2.ScanResponse]:
        try:
            yield from self._channel.stream(self._stub.Scan, request, self.metadata)
        except SchemaError as error:
            self.moved(error)
            yield from self._channel.stream(self._stub.Scan, request, self.metadata)

    def moved(self, error: SchemaError) -> None:
        """Return if the encoded request means the same under the schema in force now, so that it can be sent
        again. Raises ConflictError if it does not, and `error` if it has another cause."""
        if "moved" not in error.facts:
            raise error
        now = self._refresh()
        if (self._pinned and self.snapshot) or not means_the_same(self._schema, now):
            raise ConflictError(
                f"the schema changed to version {now.version} during this read; run it again"
            ) from error
        self._version = now.version

    def _read_at(self, seq: int) -> None:
        if self._pinned and not self.snapshot:
            self.snapshot = seq


def means_the_same(before: Schema, now: Schema) -> bool:
    """Return whether keys and index values encoded by `before` are the same by `now`."""
    for name, info in before.tables.items():
        table = now.tables.get(name)
        if table is None or table.space != info.space:
            return False
        for index in info.indexes.values():
            if index.name not in table.indexes or table.indexes[index.name].proto != index.proto:
                return False
    return True


def _value(row: store_pb2.Row) -> bytes:
    if row.expires_ns:
        return pack_value(row.version, row.row, expires_ns=row.expires_ns)
    value: bytes = HEADER.pack(0, row.version) + row.row
    return value


def _order(info: TableInfo, index: IndexInfo, row: store_pb2.Row) -> bytes:
    """Return the row's position in an index: its values and its key."""
    own: Any = info.own
    at = list(info.indexes.values()).index(index)
    values: bytes = own.values(info.salvage(row.row), row.row)[at]
    return values[len(index.prefix) :] + row.key
