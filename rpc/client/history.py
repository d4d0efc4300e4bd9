"""History: the past of a database on a server, with the calls of an embedded one.

    at ─────▶ At: seq and schema of that moment ─▶ RemoteMoment: reads with `at_seq`
    history ┐
    diff    ├▶ a stream of rows, with the schemas that describe them ─▶ rows in the caller's models
    log     ┘

    rows that the constants can read        ─▶ the constants' model
    rows that a migration rewrote since     ─▶ the model of their time, from the schema of the moment

Invariants
  (1) a call returns and raises the same as on an embedded database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, TypeVar

from google.protobuf.message import Message

from everlog.proto import history_pb2, history_pb2_grpc, log_pb2
from everlog.rpc.client.channel import Channel
from everlog.rpc.client.reads import RemoteSource
from everlog.rpc.wire import version_of_message
from everlog.store.errors import RowError, SchemaError
from everlog.store.history.diff import Difference
from everlog.store.history.past import Positions, check_times
from everlog.store.history.query import Entry, LogFilter, check_filter, entry_of
from everlog.store.history.row_history import Version, models_of
from everlog.store.progress import OnProgress
from everlog.store.schema import arguments
from everlog.store.schema.admission import read
from everlog.store.schema.arguments import Position, Time, nanoseconds
from everlog.store.schema.descriptors import descriptor_of, encode_values, resolve, version_of
from everlog.store.schema.schema import Binding, Schema, TableInfo
from everlog.store.schema.table import Table
from everlog.store.tx.reader import Snapshot

Side = tuple[TableInfo, type[Message]]


def differences(
    answers: Iterable[history_pb2.DiffResponse], table: Table[Any, Any], moments: tuple[Snapshot, Snapshot]
) -> Iterator[Difference[Any]]:
    """Yield the differences of a server's response, with the moments of the request. Raises SchemaError if
    the constants read neither."""
    sides: list[Side] = []
    for answer in answers:
        for one in answer.differences:
            sides = sides or _sides(table, moments)
            before = read(sides[0][1], one.before) if one.HasField("before") else None
            after = read(sides[1][1], one.after) if one.HasField("after") else None
            info, _ = sides[one.kind != "deleted"]
            yield Difference(one.kind, info.decode_key(one.key), before, after, tuple(one.fields))


def _sides(table: Table[Any, Any], moments: tuple[Snapshot, Snapshot]) -> list[Side]:
    """Return the table at both moments; where it does not exist, as at the other: no row comes from there."""
    errors, bindings = list[SchemaError](), list[Binding | None]()
    for moment in moments:
        try:
            bindings.append(moment._bind(table))
        except SchemaError as error:
            errors.append(error)
            bindings.append(None)
    known = next((one for one in bindings if one is not None), None)
    if known is None:
        raise errors[-1]
    return [
        _side(one or known, moment._schema(), bound=one is not None)
        for one, moment in zip(bindings, moments, strict=True)
    ]


def _side(binding: Binding, then: Schema, *, bound: bool) -> Side:
    if not bound:
        for info in then.tables.values():
            if info.proto.id == binding.info.proto.id:
                return info, info.model
    return binding.info, binding.model


M = TypeVar("M", bound=Message)
K = TypeVar("K")

AT_S = 3600.0  # the first call reads the whole log


class RemoteMoment(Snapshot):
    """A database on a server as of the record at `seq`. Needs no closing."""

    def __init__(self, past: RemotePast, answer: history_pb2.AtResponse) -> None:
        self._past = past
        self.time_ns = answer.time_ns
        schema = Schema(answer.schema)
        source = RemoteSource(past.channel, schema, lambda: schema, at_seq=answer.seq)
        super().__init__(source, answer.seq, schema, lambda: None)

    @property
    def schema(self) -> Schema:
        """The schema in force at that moment."""
        return self._of

    def _bind(self, table: Table[M, Any]) -> Binding:
        known = self._of.bound.get(arguments.table(table))
        if known is not None:
            return known
        version = version_of(table.model)
        if table.name in self._of.tables and version <= self._of.version:
            return self._of.bind(table)
        name = self._past.ask(history_pb2.AtRequest(seq=self.seq, table=table.name, version=version)).table
        binding = self._of.bound[table] = self._of.table(name).bind(table.model)
        return binding


class RemotePast:
    """The past of a database on a server. `schema` returns the schema in force."""

    def __init__(self, channel: Channel, schema: Callable[[], Schema]) -> None:
        self.channel = channel
        self._schema = schema
        self._history_stub = history_pb2_grpc.HistoryStub(channel.grpc)

    def at(
        self, *, seq: int | None = None, time: Time | None = None, progress: OnProgress | None = None
    ) -> RemoteMoment:
        """Return the database as of the record at `seq`, or of a time; see `Database.at`."""
        if (seq is None) == (time is None):
            raise RowError("expected either a seq or a time, found both or none")
        at = history_pb2.AtRequest()
        if seq is not None:
            at.seq = seq_of(seq)
        if time is not None:
            at.time_ns = _unsigned(nanoseconds(time))
        return RemoteMoment(self, self.ask(at))

    def ask(self, request: history_pb2.AtRequest) -> history_pb2.AtResponse:
        """Return the server's response about a moment."""
        request.database = self.channel.address.database
        return self.channel.call(self._history_stub.At, request, timeout_s=AT_S)

    def history(
        self, table: Table[M, K], key: K, *, newest_first: bool = True, limit: int | None = None
    ) -> Iterator[Version[M]]:
        """Yield every version of a row; see `Database.history`."""
        arguments.table(table)
        limit = arguments.limit(limit, "versions")
        request = history_pb2.HistoryRequest(
            database=self.channel.address.database,
            table=table.name,
            version=version_of(table.model),
            key=key_of(table, key),
            oldest_first=not newest_first,
            limit_plus_one=0 if limit is None else _unsigned(limit + 1),
        )
        stub = self._history_stub
        answers = self.channel.stream(stub.History, request)
        first = next(answers)  # now, so that errors are raised by this call
        infos = {one.space: Schema(one.schema).spaces[one.space] for one in first.generations}
        return _versions(answers, infos, table.model)

    def diff(self, table: Table[M, Any], start: Position, end: Position) -> Iterator[Difference[M]]:
        """Yield the rows of a table that differ between two moments; see `Past.diff`."""
        arguments.table(table)
        first, last = (
            self.at(seq=one) if isinstance(one, int) else self.at(time=one) for one in (start, end)
        )
        request = history_pb2.DiffRequest(
            database=self.channel.address.database,
            table=table.name,
            version=version_of(table.model),
            start_seq=first.seq,
            end_seq=last.seq,
        )
        stub = self._history_stub
        answers = self.channel.stream(stub.Diff, request)
        header = next(answers)
        return differences(chain((header,), answers), table, (first, last))

    def log(
        self,
        *,
        actor: str | None = None,
        table: Table[Any, Any] | str | None = None,
        key: Any = None,
        correlation_id: str | None = None,
        kind: str | None = None,
        after: int = 0,
        until: int | None = None,
        since: Time | None = None,
        before: Time | None = None,
        limit: int | None = None,
    ) -> Iterator[Entry]:
        """Yield the commits that match all filters, oldest first; see `Past.log`."""
        limit = check_filter(
            LogFilter(actor, table, key, correlation_id, kind, after, until, since, before), limit
        )
        if table is not None:
            arguments.table_name(table)
        if until is not None and until < 1:
            limit = 0  # no record matches; 0 in a request would mean all
        request = history_pb2.LogRequest(
            database=self.channel.address.database,
            actor=actor,
            correlation_id=correlation_id,
            kind=kind or "",
            after_seq=_unsigned(after),
            until_seq=0 if until is None else _unsigned(until),
            since_ns=None if since is None else _unsigned(nanoseconds(since)),
            before_ns=None if before is None else _unsigned(nanoseconds(before)),
            limit_plus_one=0 if limit is None else _unsigned(limit + 1),
        )
        if isinstance(table, str):
            info = self._info(table) if key is not None or not table else None  # raises for an empty name
            request.table, request.key = table, b"" if info is None else info.encode_key(key)
        elif table is not None:
            request.table, request.version = table.name, version_of(table.model)
            request.key = b"" if key is None else key_of(table, key)
        stub = self._history_stub
        answers = self.channel.stream(stub.Log, request)
        return _entries(next(answers), answers)

    def positions(self, times: Iterable[Time]) -> Positions:
        """Return the positions of the log at these times; see `Past.positions`."""
        request = history_pb2.PositionsRequest(
            database=self.channel.address.database, times_ns=map(_unsigned, check_times(times))
        )
        found = self.channel.call(self._history_stub.Positions, request)
        return Positions(list(found.seqs), found.oldest, found.oldest_ns, found.head, found.head_ns)

    def _info(self, table: str) -> TableInfo:
        return self._schema().table(table)


def key_of(table: Table[Any, Any], key: Any) -> bytes:
    """Return a key encoded by the constants alone, because a dropped table has no schema."""
    paths = tuple(resolve(descriptor_of(table.model), field.path) for field in table.key)
    return encode_values(key, paths, f"the primary key of {table.name}")


def _versions(
    answers: Iterator[history_pb2.HistoryResponse], infos: dict[int, TableInfo], model: type[Message]
) -> Iterator[Version[Any]]:
    models = models_of(model, list(infos.values()))
    for answer in answers:
        for one in answer.versions:
            yield version_of_message(one, models[one.space])


def _entries(header: history_pb2.LogResponse, answers: Iterator[history_pb2.LogResponse]) -> Iterator[Entry]:
    schema = Schema(log_pb2.Schema())
    for answer in chain((header,), answers):
        if answer.HasField("schema"):
            schema = Schema(answer.schema)
        for commit in answer.commits:
            yield entry_of(commit, schema)


def seq_of(seq: int) -> int:
    """Return a seq as a message can hold it. Raises RowError for another value."""
    return _unsigned(arguments.whole(seq, "a seq"))


def _unsigned(number: int) -> int:
    """Return a seq or a time as a message can hold it: a time before 1970 becomes 0, before every record."""
    return min(max(number, 0), (1 << 64) - 1)
