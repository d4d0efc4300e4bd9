"""Store: the Store service: rows over gRPC. Keys and ranges are encoded, rows are sent as stored.

    request ─▶ table and index by name ─▶ store ─▶ Row {key, row, version}

**Transactions.** A remote transaction reads the newest state and sends the seq at which it began; a row that
changed since is a conflict, reported at once. Its commit carries its reads and writes, and is validated like
any other (store/tx/validator.py).

**Scans.** One scan is sent in pages, all of one moment:

    page ─▶ taken ─▶ page ─▶ taken ─▶ … the last
              └─ not for STALL_S ─▶ the moment is released
                                      └─ taken later ─▶ nothing of the rest has changed: continue
                                                        else ConflictError

A held moment keeps overwritten data on disk, so it is not held for a client that has stopped reading.

**Loads.** Each request of a bulk load is one chunk, and each chunk one commit:

    client  {table, id}  rows  rows  rows …  last
    server  {rows so far}     rows  rows …   finished       each once the chunk is on disk

The first response says how many rows of this load exist already; the client continues after them, and limits
the number of chunks in flight.

Invariants
  (1) bytes that a client encoded by another schema than the one in force are not read: the client gets an
      error, and repeats the request with the new schema;
  (2) nothing that a transaction reads is newer than its snapshot;
  (3) all pages of a scan are of one moment, whether it was held or not; with a `snapshot`, a page with
      newer data raises ConflictError.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from google.protobuf.message import DecodeError, Message

from everlog.proto import access_pb2, log_pb2, store_pb2, store_pb2_grpc
from everlog.rpc.http2.grpc import Context
from everlog.rpc.server.commits import DURABILITY, commit, requested, span_of
from everlog.rpc.server.host import Hosting
from everlog.rpc.server.leases import Leases
from everlog.rpc.server.rights import Scope
from everlog.rpc.server.threads import note
from everlog.rpc.server.visible import Sought, disturbed, limits_of, seen_value, visible
from everlog.rpc.wire import SCHEMA_KEY
from everlog.store import keys
from everlog.store.database import Database
from everlog.store.errors import ConflictError, RowError, SchemaError, SealedError
from everlog.store.history.view import PastView, bounds, source_of
from everlog.store.progress import Progress
from everlog.store.rocks.view import View
from everlog.store.schema.reflect import table_of
from everlog.store.schema.schema import IndexInfo, Schema, TableInfo
from everlog.store.tx import write
from everlog.store.tx.reader import resumed
from everlog.store.tx.source import Entry, LocalSource, Source, Span, has_row_count
from everlog.store.upkeep.visibility import Limits


async def load_responses(
    hosting: Hosting, requests: AsyncIterator[store_pb2.LoadRequest], context: Context
) -> AsyncIterator[store_pb2.LoadResponse]:
    """Yield the responses to one load's requests. Raises RowError for an invalid row, AccessError."""
    load: ServedLoad | None = None
    async for request in requests:
        if load is None:
            who = hosting.auth.actor(context, request.actor), str(context.who)
            load = await hosting.load(ServedLoad, hosting.database(request.database), request, *who)
            yield load.answer()
        if (request.rows or request.last) and not load.loader.finished:
            await hosting.load(load.add, request)
            yield load.answer()


class ServedLoad:
    """A load that its first request began."""

    def __init__(self, db: Database, first: store_pb2.LoadRequest, actor: str, owner: str) -> None:
        if not first.id:
            raise RowError("expected the first request of a load to name the load's id, found none")
        about = log_pb2.Load(
            kind=first.kind or log_pb2.Load.IMPORT,
            id=first.id,
            table=first.table,
            source=first.source,
            owner=owner,
        )
        self._db = db
        self._table = table_of(db.schema.generation(first.table, first.space))
        expires = write.decode_expiry(first.expires_ns)
        self.loader = db.loader(
            self._table,
            about,
            expires=expires,
            actor=actor,
            reason=first.reason,
            correlation_id=first.correlation_id,
            causation_id=first.causation_id,
            client=first.client,
            durability=DURABILITY.get(first.durability),
        )

    def add(self, request: store_pb2.LoadRequest) -> None:
        """Commit the rows of one request."""
        model: Any = self._table.model
        try:
            rows: list[Message] = [model.FromString(row) for row in request.rows]
        except DecodeError as error:
            raise RowError(
                f"one of the rows of {self._table.name} after row {self.loader.rows} is not a"
                f" {model.DESCRIPTOR.full_name}: {error}",
                table=self._table.name,
            ) from None
        self.loader.add(rows, last=request.last)
        note(Progress(f"load {self._table.name}", self.loader.rows))

    def answer(self) -> store_pb2.LoadResponse:
        """Return how many rows of the load are durable."""
        return store_pb2.LoadResponse(
            rows=self.loader.rows, finished=self.loader.finished, position=self._db.cursor()
        )


FIRST_PAGE_ROWS, PAGE_ROWS, PAGE_BYTES = 64, 4096, 256 << 10
VISITED_ROWS = 1024  # read for one page at most, for a caller that may see few of them
STALL_S = 60.0


class ServedScan:
    """One requested scan. Raises SchemaError, and RowError for a resume token of another scan."""

    stall_s = STALL_S  # how long its moment is held for a client that does not read

    def __init__(self, db: Database, request: store_pb2.ScanRequest, scope: Scope | None = None) -> None:
        self._db = db
        self._snapshot = request.snapshot
        self._at_seq = request.at_seq
        self._info, self._index = requested(schema_of(db, request.at_seq), request)
        self._limits = limits_of(db, scope, request, self._info, self._index)
        self._prefix = self._info.row_prefix if self._index is None else self._index.prefix
        self._reverse = request.backwards
        self._rest = span_of(self._index, request.start, request.end)
        if request.resume:
            self._rest = resumed(self._rest, self._prefix, request.resume, reverse=self._reverse)
        self._left = request.limit or None
        self._rows = FIRST_PAGE_ROWS
        self._entries: Iterator[Entry] = iter(())
        self._view: View | None = None
        self._seq = 0  # seq of the moment; 0: not known yet
        self._again = False  # the moment was released, and an equal one is in use
        self.done = False

    def page(self) -> store_pb2.ScanResponse:
        """Return the next rows. Raises ConflictError. Read-only.

        For a caller with limits the page may be empty, although more rows follow: `done` is not set.
        """
        if self._view is None:
            self._hold()
        most = self._rows if self._left is None else min(self._rows, self._left)
        page, last = self._limited_page(most) if self._limits else self._page(most)
        self._check(page)
        if last:
            self._rest = resumed(self._rest, self._prefix, last, reverse=self._reverse)
        if self._left is not None:
            self._left -= len(page.rows)
            self.done = self.done or not self._left
        self._rows = PAGE_ROWS
        return page

    def release(self) -> None:
        """Release the moment; the rest of the scan is read from an equal one if it is requested."""
        view, self._view, self._entries = self._view, None, iter(())
        if view is not None:
            view.close()

    def _hold(self) -> None:
        _, self._view, seq = moment_of(self._db, self._at_seq)
        if self._seq and not self._at_seq:
            self._check_unchanged(self._seq, (), [self._rest.under(self._prefix)])
            self._again = True
        else:
            self._seq = seq
        self._entries = source_of(self._view).scan(
            self._info,
            self._index,
            self._rest,
            reverse=self._reverse,
            limit=None if self._limits else self._left,
        )

    def _page(self, most: int) -> tuple[store_pb2.ScanResponse, bytes]:
        """Return at most `most` rows, and the place of the last one that was read; empty: the end."""
        page = store_pb2.ScanResponse(seq=self._seq)
        add, size, last = page.rows.add, 0, b""
        for last, key, value in islice(self._entries, most):  # noqa: B007  used below
            row = keys.row_of(value)
            add(key=key, row=row, version=keys.version_of(value))
            size += len(row)
            if size > PAGE_BYTES:
                break
        else:
            if len(page.rows) < most:
                self.done = True
                return page, b""
        page.resume = self._prefix + last
        return page, page.resume

    def _limited_page(self, most: int) -> tuple[store_pb2.ScanResponse, bytes]:
        """As `_page`, with those of at most VISITED_ROWS rows that the caller sees. The client resumes after
        a row that it sees."""
        page, size, visited, last = store_pb2.ScanResponse(seq=self._seq), 0, 0, b""
        for last, key, value in islice(self._entries, VISITED_ROWS):
            visited += 1
            row = seen_value(self._limits, self._info, key, value)
            if row is None:
                continue
            page.rows.add(key=key, row=row, version=keys.version_of(value))
            page.resume = self._prefix + last
            size += len(row)
            if size > PAGE_BYTES or len(page.rows) >= most:
                return page, page.resume
        if visited < VISITED_ROWS:
            self.done = True
            page.ClearField("resume")
            return page, b""
        return page, self._prefix + last

    def _check_unchanged(
        self, snapshot: int, rows: Iterable[bytes], ranges: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        rows, ranges = list(rows), list(ranges)
        cut = len(self._info.row_prefix)
        sought = Sought(self._info, self._index if ranges else None, {row[cut:] for row in rows}, ranges)
        check_unchanged(self._db, snapshot, rows, ranges, [(sought, one) for one in self._limits])

    def _check(self, page: store_pb2.ScanResponse) -> None:
        """Also check the rows of an index: its entries do not change with the rest of a row."""
        rows = [] if self._index is None else [self._info.row_prefix + row.key for row in page.rows]
        if self._snapshot:
            self._check_unchanged(self._snapshot, rows, [self._rest.under(self._prefix)])
        if self._again and any(row.version > self._seq for row in page.rows):
            self._check_unchanged(self._seq, rows)


class ServedCount:
    """One requested count. Raises SchemaError."""

    def __init__(self, db: Database, request: store_pb2.CountRequest, scope: Scope | None = None) -> None:
        self._db, self._request = db, request
        schema, self._view, self._seq = moment_of(db, request.at_seq)
        self._count = 0
        try:
            self._info, self._index = info, index = requested(schema, request)
            self._limits = limits_of(db, scope, request, info, index)
            span = span_of(index, request.start, request.end)
            self._range = span.under(info.row_prefix if index is None else index.prefix)
            self._rows = self._counted(info, index, span)
        except BaseException:
            self.close()
            raise

    def go_on(self, most: int | None) -> bool:
        """Count up to `most` more rows; return whether there are no others."""
        if self._limits:
            return self._go_on_limited(most)
        before = self._count
        for _ in islice(self._rows, most):
            self._count += 1
        return most is None or self._count - before < most

    def _go_on_limited(self, most: int | None) -> bool:
        """Count the rows that the caller sees, by reading them."""
        visited = 0
        for _, key, value in islice(self._rows, most):
            visited += 1
            self._count += seen_value(self._limits, self._info, key, value) is not None
        return most is None or visited < most

    def answer(self) -> store_pb2.CountResponse:
        """Raises ConflictError."""
        if self._request.snapshot:
            sought = Sought(self._info, self._index, (), [self._range])
            limited = [(sought, one) for one in self._limits]
            check_unchanged(self._db, self._request.snapshot, (), [self._range], limited)
        return store_pb2.CountResponse(count=self._count, seq=self._seq)

    def close(self) -> None:
        self._view.close()

    def _counted(self, info: TableInfo, index: IndexInfo | None, span: Span) -> Iterator[Any]:
        if self._limits:
            return source_of(self._view).scan(info, index, span, reverse=False, limit=None)
        if not isinstance(self._view, PastView):
            if has_row_count(info, index, span):
                self._count = LocalSource(self._view).row_count(info)
                return iter(())
        elif index is None:  # the rows themselves are not needed
            return self._view.places(*bounds(*self._range))
        return self._view.items(*self._range)


def schema_of(db: Database, at_seq: int) -> Schema:
    """Return the schema in force at a seq; 0 means now."""
    return db.past.schemas.at(at_seq) if at_seq else db.schema


def moment_of(db: Database, at_seq: int) -> tuple[Schema, View, int]:
    """Return schema, tables and seq of a moment; 0 means now."""
    if at_seq:
        moment = db.at(seq=at_seq)
        return moment.schema, moment.view, at_seq
    return db.schema, *db.tables.snapshot()


def check_unchanged(
    db: Database,
    snapshot: int,
    read: Iterable[bytes],
    ranges: Iterable[tuple[bytes, bytes]] = (),
    limited: Sequence[tuple[Sought, Limits]] = (),
) -> None:
    """Raise ConflictError if any of this may have changed since `snapshot`: with `limited` only for a row
    that the caller sees, before or after the change."""
    upto = db.tables.applied
    found = db.tables.window.conflict(snapshot, read, ranges)
    if found is not None and limited and found[0] <= upto and not disturbed(db, limited, snapshot, upto):
        found = db.tables.window.conflict(upto, read, ranges)  # what came meanwhile
    if found is not None:
        raise ConflictError(
            f"rows of this read were changed by commit {found[0]}, after its snapshot at {snapshot};"
            " run it again",
            seq=found[0],
            snapshot=snapshot,
        )


GOT_TOGETHER = 16  # rows read together: few enough that the largest fit into memory
BATCH_BYTES_MAX, ROW_BYTES = 64 << 20, 64  # of the rows of one response; what a row takes beside its bytes
SHORT_ROWS = 4096  # a count of more is a long read


class StoreService(store_pb2_grpc.StoreServicer):
    """See proto/store.proto."""

    def __init__(self, hosting: Hosting) -> None:
        self._hosting = hosting
        self.leases = defaultdict[str, Leases](lambda: Leases(hosting.on_limit))

    async def Describe(self, request: store_pb2.DescribeRequest, context: Any) -> store_pb2.DescribeResponse:
        return await self._hosting.read(_describe, self._hosting.database(request.database), context.scope)

    async def Get(self, request: store_pb2.GetRequest, context: Any) -> store_pb2.GetResponse:
        return await self._hosting.read(_get, await self._readable(request, context), request, context.scope)

    async def BatchGet(self, request: store_pb2.BatchGetRequest, context: Any) -> store_pb2.BatchGetResponse:
        return await self._hosting.read(
            _batch_get, await self._readable(request, context), request, context.scope
        )

    async def Scan(self, request: store_pb2.ScanRequest, context: Context) -> None:  # type: ignore[override]
        """Write the responses itself: it depends on how fast the client reads."""
        read = self._hosting.read
        scan = await read(ServedScan, await self._readable(request, context), request, context.scope)
        try:
            while True:
                page = await read(scan.page)
                while not page.rows and not scan.done:  # long reads, which take turns with others
                    page = await self._hosting.long_read(scan.page)
                await context.write(page)
                if scan.done:
                    return
                if not await context.taken(scan.stall_s):
                    await read(scan.release)
                    await context.taken(None)
        finally:
            scan.release()

    async def Count(self, request: store_pb2.CountRequest, context: Any) -> store_pb2.CountResponse:
        db = await self._readable(request, context)
        count = await self._hosting.read(ServedCount, db, request, context.scope)
        try:
            if await self._hosting.read(count.go_on, SHORT_ROWS):
                return count.answer()
            await self._hosting.long_read(count.go_on, None)
            return count.answer()
        finally:
            count.close()

    async def Commit(self, request: store_pb2.CommitRequest, context: Any) -> store_pb2.CommitResponse:
        db = self._database(request.database, context)
        actor = self._hosting.auth.actor(context, request.actor)
        tables = (one.table for one in request.writes)
        async with self.leases[request.database].commit(tables, request.turn):
            result = await self._hosting.write(commit, db, request, actor, context.scope)
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
        async with contextlib.aclosing(self.leases[request.database].turn(request.tables)) as turns:
            async for turn in turns:
                yield store_pb2.TurnResponse(turn=turn)

    async def Load(
        self, request_iterator: AsyncIterator[store_pb2.LoadRequest], context: Any
    ) -> AsyncIterator[store_pb2.LoadResponse]:
        async for answer in load_responses(self._hosting, request_iterator, context):
            yield answer

    async def _readable(self, request: Any, context: Context) -> Database:
        """Return the database of a read. Raises as `_database`, and AccessError for a past table whose
        current name the caller may not read."""
        db = self._database(request.database, context)
        if request.at_seq:
            await self._hosting.read(_check_past, db, request, context.scope)
        return db

    def _database(self, name: str, context: Context) -> Database:
        """Return a database. Raises OpenError, and SchemaError with `moved` for a client with another
        schema."""
        db = self._hosting.database(name)
        check_schema(db, context)
        return db


def check_schema(db: Database, context: Context) -> None:
    """Raise SchemaError with `moved` for a client with another schema."""
    version = db.schema.version
    known = context.header(SCHEMA_KEY)
    if known is not None and known != str(version):
        raise SchemaError(
            f"the schema is at version {version}, the request was made for {known}; repeat the request",
            moved=version,
        )


def _check_past(db: Database, request: Any, scope: Scope) -> None:
    info = schema_of(db, request.at_seq).generation(request.table, request.space)
    for right in (access_pb2.READ, access_pb2.HISTORY):
        scope.check_renamed((right,), request.table, {info.proto.id}, db.schema)


def _describe(db: Database, scope: Scope) -> store_pb2.DescribeResponse:
    schema = visible(db.schema.proto, scope)
    return store_pb2.DescribeResponse(uuid=db.uuid, schema=schema, head=db.cursor(), read_only=db.read_only)


def _get(db: Database, request: store_pb2.GetRequest, scope: Scope | None = None) -> store_pb2.GetResponse:
    if request.at_seq:
        moment = db.at(seq=request.at_seq)
        info, seq = moment.schema.generation(request.table, request.space), moment.seq
        of = limits_of(db, scope, request, info)
        value = _got(source_of(moment.view), info, request.key, of)
        return store_pb2.GetResponse(row=_seen_row(request.key, value, info, of), seq=seq)
    info = db.schema.generation(request.table, request.space)
    of = limits_of(db, scope, request, info)
    seq = db.tables.applied  # before the read: a newer value is a conflict later, never missed
    full = info.row_prefix + request.key
    value = db.tables.get(full)
    if request.snapshot:
        sought = Sought(info, None, {request.key}, ())
        check_unchanged(db, request.snapshot, [full], (), [(sought, one) for one in of])
    if value is not None and not of:
        value = info.opened(request.key, value)
    return store_pb2.GetResponse(row=_seen_row(request.key, value, info, of), seq=seq)


def _batch_get(
    db: Database, request: store_pb2.BatchGetRequest, scope: Scope | None = None
) -> store_pb2.BatchGetResponse:
    schema, view, seq = moment_of(db, request.at_seq)
    answer = store_pb2.BatchGetResponse(seq=seq)
    try:
        info = schema.generation(request.table, request.space)
        of = limits_of(db, scope, request, info)
        source, left = source_of(view), min(request.bytes_max or BATCH_BYTES_MAX, BATCH_BYTES_MAX)
        for at in range(0, len(request.keys), GOT_TOGETHER):
            some = list(request.keys[at : at + GOT_TOGETHER])
            values = [_got(source, info, key, of) for key in some] if of else source.get_many(info, some)
            for key, value in zip(some, values, strict=True):
                if left > 0:
                    row = _seen_row(key, value, info, of)
                    answer.rows.append(store_pb2.Row() if row is None else row)
                    left -= ROW_BYTES + (len(row.row) if of and row else 0 if of else len(value or b""))
            if left <= 0 and not request.bytes_max and len(answer.rows) < len(request.keys):
                raise RowError(
                    f"expected rows of at most {BATCH_BYTES_MAX >> 20} MiB in one response, found more; set"
                    " `bytes_max`, and request the rest, or request fewer keys"
                )
            if left <= 0:
                break
    finally:
        view.close()
    if request.snapshot:
        read = request.keys[: len(answer.rows)]
        fulls = [info.row_prefix + key for key in read]
        sought = Sought(info, None, set(read), ())
        check_unchanged(db, request.snapshot, fulls, (), [(sought, one) for one in of])
    return answer


def _got(source: Source, info: TableInfo, key: bytes, of: Sequence[Limits]) -> bytes | None:
    """Return the value of a row. For a caller with limits, one that cannot be opened is as if it did not
    exist."""
    try:
        return source.get(info, key)
    except SealedError:
        if of:
            return None
        raise


def _row(key: bytes, value: bytes) -> store_pb2.Row:
    return store_pb2.Row(
        key=key,
        row=keys.row_of(value),
        version=keys.version_of(value),
        expires_ns=keys.expires_of(value),
    )


def _seen_row(key: bytes, value: bytes | None, info: TableInfo, of: Sequence[Limits]) -> store_pb2.Row | None:
    """Return a row as a caller with these limits sees it; None: it does not."""
    if value is None:
        return None
    if not of:
        return _row(key, value)
    row = seen_value(of, info, key, value)
    return (
        None
        if row is None
        else store_pb2.Row(
            key=key, row=row, version=keys.version_of(value), expires_ns=keys.expires_of(value)
        )
    )
