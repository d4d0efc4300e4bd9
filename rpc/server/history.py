"""History: the History service. Rows are sent as in the log, with the schemas of their time.

    At ─▶ seq and schema ─▶ reads of the Store service with that `at_seq`
    History, Diff, Log ─▶ streams, in messages of some rows; a client that disconnects ends the work

Invariants
  (1) a row is sent with, or after, the schema that describes it;
  (2) nothing here writes, except to the projection of versions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from google.protobuf.message import Message

from everlog.proto import access_pb2, history_pb2, history_pb2_grpc, log_pb2
from everlog.rpc.server.host import Hosting, ResponseStream
from everlog.rpc.server.rights import Scope
from everlog.rpc.server.visible import limits_on, seen_commit, seen_versions, told, visible
from everlog.rpc.wire import message_of_version
from everlog.store.database import Database
from everlog.store.errors import SealedError
from everlog.store.history.query import LogFilter, commits
from everlog.store.history.row_history import Found
from everlog.store.history.schemas import TableLineage
from everlog.store.progress import OnProgress
from everlog.store.schema.schema import Schema, TableInfo
from everlog.store.upkeep.visibility import Limits

MESSAGE_ROWS, MESSAGE_BYTES = 256, 256 << 10
HISTORY = (access_pb2.HISTORY,)

T = TypeVar("T")


class HistoryService(history_pb2_grpc.HistoryServicer):
    """See proto/history.proto."""

    def __init__(self, hosting: Hosting) -> None:
        self._hosting = hosting

    async def At(self, request: history_pb2.AtRequest, context: Any) -> history_pb2.AtResponse:
        db, going = self._hosting.database(request.database), self._hosting.check_going
        return await self._hosting.long_read(_at, db, request, going, context.scope)

    async def Positions(
        self, request: history_pb2.PositionsRequest, context: Any
    ) -> history_pb2.PositionsResponse:
        db = self._hosting.database(request.database)
        found = await self._hosting.long_read(db.past.positions, list(request.times_ns))
        return history_pb2.PositionsResponse(
            seqs=found.seqs,
            oldest=found.oldest,
            oldest_ns=found.oldest_ns,
            head=found.head,
            head_ns=found.head_ns,
        )

    async def History(
        self, request: history_pb2.HistoryRequest, context: Any
    ) -> AsyncIterator[history_pb2.HistoryResponse]:
        async for answer in self._stream(_history, request, context.scope):
            yield answer

    async def Diff(
        self, request: history_pb2.DiffRequest, context: Any
    ) -> AsyncIterator[history_pb2.DiffResponse]:
        async for answer in self._stream(_diff, request, context.scope):
            yield answer

    async def Log(
        self, request: history_pb2.LogRequest, context: Any
    ) -> AsyncIterator[history_pb2.LogResponse]:
        async for answer in self._stream(_log, request, context.scope):
            yield answer

    async def _stream(
        self, answers: Callable[[Database, Any, Scope], Iterable[T]], request: Any, scope: Scope
    ) -> AsyncIterator[T]:
        db = self._hosting.database(request.database)

        def run(responses: ResponseStream[T]) -> None:
            for answer in answers(db, request, scope):
                self._hosting.check_going()
                responses.send(answer)

        async for answer in self._hosting.stream(run, goes_on=False, stops=True):
            yield answer


def _at(
    db: Database, request: history_pb2.AtRequest, going: OnProgress, scope: Scope
) -> history_pb2.AtResponse:
    by_time = request.WhichOneof("at") == "time_ns"
    seq = db.past.position(time=request.time_ns) if by_time else db.past.position(seq=request.seq)
    if request.table:
        info = db.past.schemas.resolve(request.table, request.version, seq)
        scope.check_renamed(HISTORY, request.table, {info.proto.id}, db.schema)
        return history_pb2.AtResponse(seq=seq, table=info.name)
    moment = db.at(seq=seq, progress=going)
    schema = visible(moment.schema.proto, scope)
    return history_pb2.AtResponse(seq=seq, time_ns=moment.time_ns, schema=schema)


def _history(
    db: Database, request: history_pb2.HistoryRequest, scope: Scope
) -> Iterable[history_pb2.HistoryResponse]:
    table = db.past.schemas.named(request.table, request.version, db.tables.applied)
    ids = _checked(db, request.table, table, scope)
    history = db.past.history_of(table, request.key)
    of = _limits(db, table, scope)
    first = history_pb2.HistoryResponse()
    for one in history.generations:
        first.generations.add(space=one.info.space, schema=visible(one.info.schema.proto, scope, ids))
    yield first
    answer, size = history_pb2.HistoryResponse(), 0
    limit = request.limit_plus_one - 1 if request.limit_plus_one else None
    newest_first = not request.oldest_first
    found: Iterable[Found] = history.versions(newest_first=newest_first, limit=limit if of is None else None)
    if of is not None:
        found = islice(seen_versions(found, of, newest_first=newest_first), limit)
    for version, info, raw in found:
        answer.versions.append(message_of_version(version, raw, info.space))
        size += len(raw or b"")
        if len(answer.versions) >= MESSAGE_ROWS or size >= MESSAGE_BYTES:
            yield answer
            answer, size = history_pb2.HistoryResponse(), 0
    yield answer


def _diff(db: Database, request: history_pb2.DiffRequest, scope: Scope) -> Iterable[history_pb2.DiffResponse]:
    table = db.past.schemas.named(request.table, request.version, db.tables.applied)
    _checked(db, request.table, table, scope)
    of = _limits(db, table, scope)
    answer, size = history_pb2.DiffResponse(), 0
    for one in db.past.diff_of(table, request.start_seq, request.end_seq):
        before, after, kind, fields = _raw(one.before), _raw(one.after), one.kind, one.fields
        if of is not None:
            sides = (table, request.start_seq, one.before), (table, request.end_seq, one.after)
            before, after = (_side(db, of, *side) for side in sides)
            kind = KINDS[before is not None, after is not None]
            if not kind or before == after:
                continue
            hidden = {path[0].name for path in of.hidden_by_any(table.info).values()}
            shown = fields if kind == one.kind else _set_fields(table.info, after)
            fields = tuple(name for name in shown if name not in hidden)
        answer.differences.add(
            key=table.info.encode_key(one.key), before=before, after=after, kind=kind, fields=fields
        )
        size += len(before or b"") + len(after or b"")
        if len(answer.differences) >= MESSAGE_ROWS or size >= MESSAGE_BYTES:
            yield answer
            answer, size = history_pb2.DiffResponse(), 0
    yield answer


KINDS = {(True, True): "changed", (True, False): "deleted", (False, True): "added", (False, False): ""}


def _side(db: Database, of: Limits, table: TableLineage, seq: int, row: Message | None) -> bytes | None:
    """Return one side of a difference as it is visible."""
    if row is None:
        return None
    info = db.past.schemas.with_id(table.id_at(seq), seq)
    if info is None:
        return None
    return of.see_message(info, row)


def _set_fields(info: TableInfo, raw: bytes | None) -> tuple[str, ...]:
    return () if raw is None else tuple(field.name for field, _ in info.model.FromString(raw).ListFields())


def _limits(db: Database, table: TableLineage, scope: Scope) -> Limits | None:
    """Return the limits of the caller on the versions of a table; rights are on its current name. Raises
    AccessError if no row can be visible."""
    of = limits_on(db, scope, access_pb2.HISTORY, table.info)
    if of is not None:
        of.check(table.info)
    return of


def _log(db: Database, request: history_pb2.LogRequest, scope: Scope) -> Iterable[history_pb2.LogResponse]:
    table, ids = None, frozenset[int]()
    if request.table:
        schemas, head = db.past.schemas, db.tables.applied
        by_name = not request.version and not request.key
        table = (
            schemas.ever(request.table, head)
            if by_name
            else schemas.named(request.table, request.version, head)
        )
        ids = _checked(db, request.table, table, scope)
        _limits(db, table, scope)
    wanted = LogFilter(
        actor=request.actor if request.HasField("actor") else None,
        table=table,
        key=request.key or None,
        correlation_id=request.correlation_id if request.HasField("correlation_id") else None,
        kind=request.kind or None,
        after=request.after_seq,
        until=request.until_seq or None,
        since=request.since_ns if request.HasField("since_ns") else None,
        before=request.before_ns if request.HasField("before_ns") else None,
    )
    limit = request.limit_plus_one - 1 if request.limit_plus_one else None
    answer, size, sent_schema = history_pb2.LogResponse(), 0, None
    whole = scope.holder.decide(access_pb2.HISTORY).whole
    found = commits(db.past, wanted, limit if whole else None)
    for commit, schema in found if whole else islice(_seen(db, found, scope), limit):
        if schema is not sent_schema:
            if answer.commits:
                yield answer
            answer, size, sent_schema = history_pb2.LogResponse(), 0, schema
            answer.schema.CopyFrom(visible(schema.proto, scope, ids))
        _open(commit, schema)
        told(commit, scope)
        answer.commits.append(commit)
        size += commit.ByteSize()
        if len(answer.commits) >= MESSAGE_ROWS or size >= MESSAGE_BYTES:
            yield answer
            answer, size = history_pb2.LogResponse(), 0
    yield answer


def _seen(
    db: Database, found: Iterable[tuple[log_pb2.Commit, Schema]], scope: Scope
) -> Iterator[tuple[log_pb2.Commit, Schema]]:
    """Yield the commits with changes that a caller with limited rights sees, and only these changes."""
    for commit, schema in found:
        _open(commit, schema)
        if seen_commit(db, commit, schema, scope):
            yield commit, schema


def _checked(db: Database, name: str, table: TableLineage, scope: Scope) -> frozenset[int]:
    """Return the ids of the tables that a name refers to. Raises AccessError if the caller may not have them
    by their current names."""
    ids = frozenset(one.info.proto.id for one in table.generations)
    scope.check_renamed(HISTORY, name, ids, db.schema)
    return ids


def _open(commit: log_pb2.Commit, schema: Schema) -> None:
    """Open the sealed rows of a commit: a client has no keys."""
    if log_pb2.SEALED not in commit.requires:
        return
    for change in commit.changes:
        info = schema.spaces.get(change.space)
        if not change.key_id or info is None or info.sealing is None:
            continue
        try:
            change.row = info.sealing.open(change.key, change.key_id, change.row)
            change.ClearField("key_id")
        except SealedError as error:
            if error.erased:
                change.row = b""


def _raw(row: Message | None) -> bytes | None:
    return None if row is None else row.SerializePartialToString()
