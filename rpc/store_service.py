"""Store service: rows over gRPC. Keys and ranges come encoded, rows go as they are stored.

    request ─▶ table and index by name ─▶ store ─▶ Row {key, row, version}

A remote transaction reads the newest state and says at which seq it began; what changed since is
a conflict, told at once. Its commit carries what it read and what it writes, and is validated as
any other (store/validate.py).

Invariants
  (1) what a client encoded by another schema than the one in force is not read: it is told, and
      asks again with the new one;
  (2) nothing that a transaction reads here is newer than its snapshot.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from google.protobuf.message import DecodeError

from everlog.proto import log_pb2, store_pb2, store_pb2_grpc
from everlog.rpc.calls import Context
from everlog.rpc.hosting import Hosting
from everlog.rpc.leases import Leases
from everlog.rpc.load_service import loading
from everlog.rpc.protocol import SCHEMA_KEY
from everlog.rpc.scanning import Scanning, check_unchanged, moment_of, span_of, what
from everlog.store import keys, write
from everlog.store.database import Database
from everlog.store.errors import CorruptionError, RowError, SchemaError
from everlog.store.past_view import PastView, bounds, source_of
from everlog.store.schema import TableInfo
from everlog.store.source import LocalSource, is_noted
from everlog.store.transaction import CommitResult, Reads
from everlog.store.write import Write

GOT_TOGETHER = 16  # rows that are read together: few enough that the largest fit into memory
COUNT_SLICE = 4096  # rows between two looks at whether the server stops


class StoreService(store_pb2_grpc.StoreServicer):
    """See proto/store.proto."""

    def __init__(self, hosting: Hosting) -> None:
        self._hosting = hosting
        self._leases = defaultdict[str, Leases](Leases)

    async def Describe(self, request: store_pb2.DescribeRequest, context: Any) -> store_pb2.DescribeResponse:
        return await self._hosting.read(_describe, self._hosting.database(request.database))

    async def Get(self, request: store_pb2.GetRequest, context: Any) -> store_pb2.GetResponse:
        return await self._hosting.read(_get, self._database(request.database, context), request)

    async def BatchGet(self, request: store_pb2.BatchGetRequest, context: Any) -> store_pb2.BatchGetResponse:
        return await self._hosting.read(_batch_get, self._database(request.database, context), request)

    async def Scan(self, request: store_pb2.ScanRequest, context: Context) -> None:  # type: ignore[override]
        """Writes its answers itself: it minds how fast they are taken."""
        read = self._hosting.read
        scanning = await read(Scanning, self._database(request.database, context), request)
        try:
            while True:
                await context.write(await read(scanning.page))
                if scanning.done:
                    return
                if not await context.taken(scanning.stall_s):
                    await read(scanning.let_go)
                    await context.taken(None)
        finally:
            scanning.let_go()

    async def Count(self, request: store_pb2.CountRequest, context: Any) -> store_pb2.CountResponse:
        db, going = self._database(request.database, context), self._hosting.check_going
        return await self._hosting.survey(_count, db, request, going)

    async def Commit(self, request: store_pb2.CommitRequest, context: Any) -> store_pb2.CommitResponse:
        db = self._database(request.database, context)
        actor = self._hosting.callers.actor(context, request.actor)
        tables = (one.table for one in request.writes)
        async with self._leases[request.database].commit(tables, request.turn):
            result = await self._hosting.write(_commit, db, request, actor)
        position = log_pb2.Cursor(database=db.uuid, seq=result.seq, checksum=result.checksum)
        return store_pb2.CommitResponse(position=position, time_ns=result.time_ns, missing=result.missing)

    async def Turn(
        self, request: store_pb2.TurnRequest, context: Any
    ) -> AsyncIterator[store_pb2.TurnResponse]:
        db = self._hosting.database(request.database)
        for name in request.tables:
            db.schema.table(name)
        if not request.tables:
            raise RowError("expected the names of the tables that the transaction reads, found none")
        async with contextlib.aclosing(self._leases[request.database].turn(request.tables)) as turns:
            async for turn in turns:
                yield store_pb2.TurnResponse(turn=turn)

    async def Load(
        self, request_iterator: AsyncIterator[store_pb2.LoadRequest], context: Any
    ) -> AsyncIterator[store_pb2.LoadResponse]:
        async for answer in loading(self._hosting, request_iterator, context):
            yield answer

    def _database(self, name: str, context: Context) -> Database:
        """Raises OpenError, and SchemaError with `moved` for a client with another schema."""
        db = self._hosting.database(name)
        check_schema(db, context)
        return db


def check_schema(db: Database, context: Context) -> None:
    """Raises SchemaError with `moved` for a client with another schema."""
    version = db.schema.version
    known = context.header(SCHEMA_KEY)
    if known is not None and known != str(version):
        raise SchemaError(
            f"the schema is at version {version}, the request was made for {known}; ask again",
            moved=version,
        )


def _describe(db: Database) -> store_pb2.DescribeResponse:
    return store_pb2.DescribeResponse(
        uuid=db.uuid, schema=db.schema.proto, head=db.cursor(), read_only=db.read_only
    )


def _get(db: Database, request: store_pb2.GetRequest) -> store_pb2.GetResponse:
    if request.at_seq:
        moment = db.at(seq=request.at_seq)
        info = moment.schema.generation(request.table, request.space)
        value = source_of(moment.view).get(info, request.key)
        return store_pb2.GetResponse(row=None if value is None else _row(request.key, value), seq=moment.seq)
    info = db.schema.generation(request.table, request.space)
    seq = db.tables.applied  # before the value is read: a newer one is a conflict later, an older none
    value = db.tables.get(info.row_prefix + request.key)
    if request.snapshot:
        check_unchanged(db, request.snapshot, [info.row_prefix + request.key])
    return store_pb2.GetResponse(
        row=None if value is None else _row(request.key, info.opened(request.key, value)), seq=seq
    )


def _batch_get(db: Database, request: store_pb2.BatchGetRequest) -> store_pb2.BatchGetResponse:
    schema, view, seq = moment_of(db, request.at_seq)
    info = schema.generation(request.table, request.space)
    answer = store_pb2.BatchGetResponse(seq=seq)
    try:
        source, left = source_of(view), request.bytes_max or 1 << 63
        for at in range(0, len(request.keys), GOT_TOGETHER):
            some = list(request.keys[at : at + GOT_TOGETHER])
            for key, value in zip(some, source.get_many(info, some), strict=True):
                if left > 0:
                    answer.rows.append(store_pb2.Row() if value is None else _row(key, value))
                    left -= 0 if value is None else len(value)
            if left <= 0:
                break
    finally:
        view.close()
    if request.snapshot:
        read = request.keys[: len(answer.rows)]
        check_unchanged(db, request.snapshot, [info.row_prefix + key for key in read])
    return answer


def _count(
    db: Database, request: store_pb2.CountRequest, going: Callable[[], None]
) -> store_pb2.CountResponse:
    schema, view, seq = moment_of(db, request.at_seq)
    info, index = what(schema, request)
    span = span_of(index, request.start, request.end)
    prefix, count = info.row_prefix if index is None else index.prefix, 0
    start, end = span.under(prefix)
    try:
        rows: Iterable[object] = view.items(start, end)
        if isinstance(view, PastView) and index is None:  # it need not read the rows
            rows = view.places(*bounds(start, end))
        if not isinstance(view, PastView) and is_noted(info, index, span):
            rows, count = (), LocalSource(view).rows_noted(info)
        for count, _ in enumerate(rows, 1):
            if not count % COUNT_SLICE:
                going()
    finally:
        view.close()
    if request.snapshot:
        check_unchanged(db, request.snapshot, (), [span.under(prefix)])
    return store_pb2.CountResponse(count=count, seq=seq)


def _commit(db: Database, request: store_pb2.CommitRequest, actor: str) -> CommitResult:
    durability = {store_pb2.SYNC: "sync", store_pb2.OS: "os"}.get(request.durability)
    tx = db.transaction(
        actor=actor,
        reason=request.reason,
        correlation_id=request.correlation_id,
        causation_id=request.causation_id,
        client=request.client,
        commit_id=request.commit_id,
        durability=durability,
    )
    tx.snapshot = request.snapshot
    if request.reads:
        tx.reads = _reads(db, request)
    for one in request.writes:
        made = _write(db.schema.generation(one.table, one.space), one)
        tx.writes[made.full] = made
    return tx.commit()


def _reads(db: Database, request: store_pb2.CommitRequest) -> Reads:
    reads = Reads(set(), [])
    for read in request.reads:
        info, index = what(db.schema, read)
        prefix = info.row_prefix if index is None else index.prefix
        reads.keys.update(info.row_prefix + key for key in read.keys)
        reads.ranges.extend(span_of(index, one.start, one.end).under(prefix) for one in read.ranges)
    return reads


def _write(info: TableInfo, one: store_pb2.Write) -> Write:
    if one.op == log_pb2.DELETE:
        try:
            info.decode_key(one.key)
        except CorruptionError as error:
            raise RowError(f"expected the key of a row of {info.name} to delete: {error}") from None
        return write.delete(info, one.key).expecting(one.expect, one.version)
    try:
        row = info.model.FromString(one.row)
    except DecodeError as error:
        raise RowError(f"expected a row of {info.name} to be a {info.proto.model}: {error}") from None
    return write.put(info.own, row, write.sent(one.expires_ns)).expecting(one.expect, one.version)


def _row(key: bytes, value: bytes) -> store_pb2.Row:
    return store_pb2.Row(
        key=key,
        row=keys.row_of(value),
        version=keys.version_of(value),
        expires_ns=keys.expires_of(value),
    )
