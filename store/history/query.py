"""Query: filter the log by who, what, when and why. `db.past.log(actor="ann", table=AIRPORTS)`.

    records after … until ─▶ those that match ─▶ Entry: commit, and its changes with their rows
      with a key: only the records in the history of that row

Rows have the models in the log, each that of its time, so that no field is unknown. With a `table`,
entries contain only the changes to that table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from google.protobuf.message import Message

from everlog.proto import log_pb2
from everlog.store import record
from everlog.store.errors import RowError
from everlog.store.history.row_history import image_of
from everlog.store.history.schemas import PastSchemas, TableLineage
from everlog.store.log import Log
from everlog.store.schema import arguments
from everlog.store.schema.arguments import Time
from everlog.store.schema.schema import Schema
from everlog.store.schema.table import Table
from everlog.store.tables.tables import Tables
from everlog.store.tx.transaction import proof_name

KINDS = ("commit", "created", "base", "migration", "load", "notice")


class RowChange(NamedTuple):
    """A row that a commit wrote or deleted.

    `op` is "put" or "delete". `row` is None if it was deleted; if it is `erased` (its person was
    forgotten); or if it is `sealed` with a key that is not available. `prior` is the seq of the replaced
    version; 0: there was none. `table` is the table's name at that time; empty if no table had the space,
    with `key` as encoded.
    """

    table: str
    key: tuple[Any, ...]
    op: str
    row: Message | None
    prior: int
    version: int
    erased: bool
    sealed: bool = False


class Entry(NamedTuple):
    """A commit of the log.

    `kind` is one of KINDS; `about` is that part of the record. `checksum` is the record's. `proof` is how
    `actor` is authenticated: `claimed`, by `token` or `certificate`, or `delegated` by a program that acts
    for others. `reading_ns` is the clock's reading if `time_ns` is ahead of it; else 0. `size` is the number
    of bytes of the record, as far as the caller may see it.
    """

    seq: int
    time_ns: int
    schema: int
    actor: str
    reason: str
    correlation_id: str
    causation_id: str
    client: str
    commit_id: bytes
    kind: str
    about: Message | None
    changes: list[RowChange]
    checksum: int
    proof: str = "claimed"
    reading_ns: int = 0
    size: int = 0


class LogFilter(NamedTuple):
    """The conditions on entries. With a TableLineage as `table`, `key` is encoded; otherwise both are as
    the caller passed them."""

    actor: str | None = None
    table: Table[Any, Any] | str | TableLineage | None = None
    key: Any = None
    correlation_id: str | None = None
    kind: str | None = None
    after: int = 0
    until: int | None = None
    since: Time | None = None
    before: Time | None = None


class Searched(Protocol):
    """What a query reads; see `Past`."""

    @property
    def records(self) -> Log: ...
    @property
    def tables(self) -> Tables: ...
    @property
    def schemas(self) -> PastSchemas: ...
    def before(self, time: Time) -> int: ...
    def seqs_of(self, table: TableLineage, key: bytes, after: int) -> list[int]: ...


def entries(past: Searched, wanted: LogFilter, limit: int | None = None) -> Iterator[Entry]:
    """See `Past.log`."""
    return (entry_of(commit, schema) for commit, schema in commits(past, wanted, limit))


def commits(
    past: Searched, wanted: LogFilter, limit: int | None = None
) -> Iterator[tuple[log_pb2.Commit, Schema]]:
    """Yield the matching commits as messages, with the changes that match, and the schema of their time."""
    limit = check_filter(wanted, limit)
    head = past.tables.applied
    until = head if wanted.until is None else min(wanted.until, head)
    looked_up = wanted.kind == "migration" and wanted.key is None
    after = max(wanted.after, 0 if looked_up else past.records.oldest - 1)
    if wanted.since is not None:
        after = max(after, past.before(wanted.since))
    if wanted.before is not None:
        until = min(until, past.before(wanted.before))
    table, key = wanted.table, wanted.key
    if table is not None and not isinstance(table, TableLineage):
        by_name = isinstance(table, str) and key is None
        table = past.schemas.ever(str(table), head) if by_name else past.schemas.lineage(table, head)
        key = None if key is None else table.info.encode_key(key)
    return _commits(past, wanted, after=after, until=until, table=table, key=key, limit=limit)


def check_filter(wanted: LogFilter, limit: int | None) -> int | None:
    """Check the conditions and return the limit. Raises RowError."""
    for name in ("actor", "correlation_id"):
        if (word := getattr(wanted, name)) is not None:
            arguments.text(word, name)
    arguments.whole(wanted.after, "`after`")
    if wanted.until is not None:
        arguments.whole(wanted.until, "`until`")
    if wanted.kind is not None and wanted.kind not in KINDS:
        raise RowError(f"expected a kind of {', '.join(KINDS)}, found {wanted.kind!r}")
    if wanted.key is not None and wanted.table is None:
        raise RowError("expected a table together with `key`, found none")
    return arguments.limit(limit, "entries")


def _commits(
    past: Searched,
    wanted: LogFilter,
    *,
    after: int,
    until: int,
    table: TableLineage | None,
    key: bytes | None,
    limit: int | None,
) -> Iterator[tuple[log_pb2.Commit, Schema]]:
    left = -1 if limit is None else limit
    words = [word.encode() for word in (wanted.actor, wanted.correlation_id) if word]
    if left == 0:
        return
    if table is not None and key is not None:
        seqs = past.seqs_of(table, key, after)
        records: Any = ((seq, past.records.get(seq)) for seq in seqs if seq <= until)
    elif wanted.kind == "migration":  # few, and also those that were archived
        found = past.tables.migrations()
        records = ((seq, past.records.get(seq)) for seq in found if after < seq <= until)
    else:
        records = past.records.scan(after, until)
    for seq, framed in records:
        if not all(word in framed for word in words):
            continue
        commit = record.decode(framed, seq)
        if not _fits(commit, wanted):
            continue
        schema = past.schemas.at(seq)
        if table is not None:
            kept = [change for change in commit.changes if _is_of(change, seq, schema, table, key)]
            if not kept:
                continue
            if len(kept) < len(commit.changes):
                kept = [log_pb2.Change.FromString(change.SerializeToString()) for change in kept]
                del commit.changes[:]
                commit.changes.extend(kept)
        yield commit, schema
        left -= 1
        if not left:
            return


def _is_of(change: log_pb2.Change, seq: int, schema: Schema, table: TableLineage, key: bytes | None) -> bool:
    info = schema.spaces.get(change.space)
    return info is not None and (key is None or change.key == key) and table.is_of(info.proto.id, seq)


def _fits(commit: log_pb2.Commit, wanted: LogFilter) -> bool:
    return (
        (wanted.actor is None or commit.actor == wanted.actor)
        and (wanted.correlation_id is None or commit.correlation_id == wanted.correlation_id)
        and (wanted.kind is None or (commit.WhichOneof("about") or "commit") == wanted.kind)
    )


def entry_of(commit: log_pb2.Commit, schema: Schema) -> Entry:
    """Return a commit with its rows, decoded by the schema in force."""
    about = commit.WhichOneof("about")
    return Entry(
        commit.seq,
        commit.time_ns,
        commit.schema,
        commit.actor,
        commit.reason,
        commit.correlation_id,
        commit.causation_id,
        commit.client,
        commit.commit_id,
        about or "commit",
        getattr(commit, about) if about else None,
        [_change(change, commit.seq, schema) for change in commit.changes],
        commit.checksum,
        proof_name(commit.proof),
        commit.reading_ns,
        commit.ByteSize(),
    )


def _change(change: log_pb2.Change, seq: int, schema: Schema) -> RowChange:
    info = schema.spaces.get(change.space)
    op, version = "delete" if change.op == log_pb2.DELETE else "put", change.version or seq
    if info is None:
        return RowChange("", (change.key,), op, None, change.prior, version, erased=False)
    image = image_of(info, info.model, change)
    key = info.decode_key(change.key)
    return RowChange(info.name, key, op, image.row, change.prior, version, image.erased, image.sealed)
