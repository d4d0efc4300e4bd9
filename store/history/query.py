"""Past log: the log, asked: who did what, when and why. `db.past.log(actor="ann", table=AIRPORTS)`.

    records after ‥ until ─▶ those that fit ─▶ Entry: commit, and its changes with their rows
      of one row: only those of its history

Rows are of the models that the log carries, each in that of its time, so that nothing in them is
unknown. Whoever asks for a table is told its changes only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from google.protobuf.message import Message

from everlog.proto import log_pb2
from everlog.store import record
from everlog.store.errors import RowError
from everlog.store.history.row_history import image_of
from everlog.store.history.schemas import Meant, PastSchemas
from everlog.store.history.timestamps import Time
from everlog.store.log import Log
from everlog.store.schema import arguments
from everlog.store.schema.schema import Schema
from everlog.store.schema.table import Table
from everlog.store.tables.tables import Tables
from everlog.store.tx.transaction import proof_name

KINDS = ("commit", "created", "base", "migration", "load", "notice")


class RowChange(NamedTuple):
    """A row that a commit wrote or deleted. `op` is "put" or "delete"; `row` is None where it was
    deleted; `erased`, its person was forgotten; or `sealed`, under a key that is not at hand. `prior` is
    the seq of the version that it replaced, 0: there was none. `table` is the name that it had then; empty
    for a space that no table had, with `key` as it is encoded."""

    table: str
    key: tuple[Any, ...]
    op: str
    row: Message | None
    prior: int
    version: int
    erased: bool
    sealed: bool = False


class Entry(NamedTuple):
    """A commit of the log. `kind` is what it is about: one of KINDS; `about` is that, as in the record.
    `checksum` is the record's. `proof`: how `actor` is known: `claimed`, by a `token` or a `certificate`, or
    `delegated`, by a program that acts for others. `reading_ns`: what the clock read, where `time_ns` is
    ahead of it; 0: it is not."""

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


class LogFilter(NamedTuple):
    """What entries have to have. With a `table` as it is meant `key` is encoded; else both are as they
    are given."""

    actor: str | None = None
    table: Table[Any, Any] | str | Meant | None = None
    key: Any = None
    correlation_id: str | None = None
    kind: str | None = None
    after: int = 0
    until: int | None = None
    since: Time | None = None
    before: Time | None = None


class Searched(Protocol):
    """What the log is searched with: see `Past`."""

    @property
    def records(self) -> Log: ...
    @property
    def tables(self) -> Tables: ...
    @property
    def schemas(self) -> PastSchemas: ...
    def before(self, time: Time) -> int: ...
    def seqs_of(self, table: Meant, key: bytes, after: int) -> list[int]: ...


def entries(past: Searched, asked: LogFilter, limit: int | None = None) -> Iterator[Entry]:
    """See `Past.log`."""
    return (entry_of(commit, schema) for commit, schema in commits(past, asked, limit))


def commits(
    past: Searched, asked: LogFilter, limit: int | None = None
) -> Iterator[tuple[log_pb2.Commit, Schema]]:
    """The same commits as messages, with the changes that were asked for, and the schema of then."""
    limit = check_asked(asked, limit)
    head = past.tables.applied
    until = head if asked.until is None else min(asked.until, head)
    after = max(asked.after, past.records.oldest - 1)
    if asked.since is not None:
        after = max(after, past.before(asked.since))
    if asked.before is not None:
        until = min(until, past.before(asked.before))
    table, key = asked.table, asked.key
    if table is not None and not isinstance(table, Meant):
        by_name = isinstance(table, str) and key is None
        table = past.schemas.ever(str(table), head) if by_name else past.schemas.meant(table, head)
        key = None if key is None else table.info.encode_key(key)
    return _commits(past, asked, after=after, until=until, table=table, key=key, limit=limit)


def check_asked(asked: LogFilter, limit: int | None) -> int | None:
    """Return the limit. Raises RowError for a question that is none."""
    for name in ("actor", "correlation_id"):
        if (word := getattr(asked, name)) is not None:
            arguments.text(word, name)
    arguments.whole(asked.after, "`after`")
    if asked.until is not None:
        arguments.whole(asked.until, "`until`")
    if asked.kind is not None and asked.kind not in KINDS:
        raise RowError(f"expected a kind of {', '.join(KINDS)}, found {asked.kind!r}")
    if asked.key is not None and asked.table is None:
        raise RowError("a key is one of a table; name the table as well")
    return arguments.limit(limit, "entries")


def _commits(
    past: Searched,
    asked: LogFilter,
    *,
    after: int,
    until: int,
    table: Meant | None,
    key: bytes | None,
    limit: int | None,
) -> Iterator[tuple[log_pb2.Commit, Schema]]:
    left = -1 if limit is None else limit
    words = [word.encode() for word in (asked.actor, asked.correlation_id) if word]
    if left == 0:
        return
    if table is not None and key is not None:
        seqs = past.seqs_of(table, key, after)
        records: Any = ((seq, past.records.get(seq)) for seq in seqs if seq <= until)
    else:
        records = past.records.scan(after, until)
    for seq, framed in records:
        if not all(word in framed for word in words):
            continue
        commit = record.decode(framed, seq)
        if not _fits(commit, asked):
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


def _is_of(change: log_pb2.Change, seq: int, schema: Schema, table: Meant, key: bytes | None) -> bool:
    info = schema.spaces.get(change.space)
    return info is not None and (key is None or change.key == key) and table.is_of(info.proto.id, seq)


def _fits(commit: log_pb2.Commit, asked: LogFilter) -> bool:
    return (
        (asked.actor is None or commit.actor == asked.actor)
        and (asked.correlation_id is None or commit.correlation_id == asked.correlation_id)
        and (asked.kind is None or (commit.WhichOneof("about") or "commit") == asked.kind)
    )


def entry_of(commit: log_pb2.Commit, schema: Schema) -> Entry:
    """A commit with its rows, by the schema in force with it."""
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
    )


def _change(change: log_pb2.Change, seq: int, schema: Schema) -> RowChange:
    info = schema.spaces.get(change.space)
    op, version = "delete" if change.op == log_pb2.DELETE else "put", change.version or seq
    if info is None:
        return RowChange("", (change.key,), op, None, change.prior, version, erased=False)
    image = image_of(info, info.model, change)
    key = info.decode_key(change.key)
    return RowChange(info.name, key, op, image.row, change.prior, version, image.erased, image.sealed)
