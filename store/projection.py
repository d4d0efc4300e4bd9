"""Projection: from commits to the tables, the same way live, on opening and on a rebuild.

    Commit ─▶ edits of keys: rows, index entries, notes ─▶ Pending ─▶ one batch ─▶ column family

What is projected gathers in memory (`Pending`) and is written some thousand keys at a time: a
key that is written often is written once. Point reads look there first; whoever reads a range or
takes a snapshot has it written before.

Invariants
  (1) the batch that moves the tables moves `applied` with it: all of a commit or nothing;
  (2) projecting a record again changes nothing (index builds may have been cut short);
  (3) no code of a user runs, and nothing but the log and the tables themselves is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from everlog.proto import log_pb2
from everlog.store import keys, record
from everlog.store.errors import CorruptionError
from everlog.store.keys import APPLIED, HEADER, SEQ
from everlog.store.schema import IndexInfo, Schema, TableInfo
from everlog.store.view import View

KEYS_PER_BATCH = 4096
PREFIX_SIZE = keys.PREFIX.size
NO_VALUES: list[bytes] = []
_MISSING = object()

# Whole key of the tables -> value; None: deleted.
Edits = dict[bytes, bytes | None]


class Batch(Protocol):
    """Writes that are gathered: RocksDB's batch, or one in memory."""

    def __setitem__(self, key: bytes, value: bytes, /) -> None: ...

    def __delitem__(self, key: bytes, /) -> None: ...

    def __len__(self) -> int: ...


class Target(Protocol):
    """What takes projections: the live tables, those of a rebuild, or memory."""

    @property
    def view(self) -> View: ...

    @property
    def stored(self) -> Callable[[bytes], bytes | None]:
        """Reads a key. Without a seam: RocksDB's errors come as they are."""

    def batch(self) -> Batch: ...

    def write(self, writes: Batch) -> None:
        """All of the batch, or nothing."""

    def delete(self, start: bytes, end: bytes) -> None:
        """Everything from `start` on, up to but without `end`."""


class Staged(NamedTuple):
    """What a transaction, or a group of them, does to the tables; nothing of it is written yet."""

    edits: Edits
    uniques: Edits  # values of a unique index -> key of the row that has them now; None: nobody
    deltas: dict[int, int]  # rows more or fewer in each space

    def add(self, more: Staged) -> None:
        """And what another does after it."""
        self.edits.update(more.edits)
        self.uniques.update(more.uniques)
        for space, delta in more.deltas.items():
            self.deltas[space] = self.deltas.get(space, 0) + delta


class Pending:
    """What was projected onto a target and is not written yet."""

    def __init__(self, target: Target, counts: dict[int, int]) -> None:
        self.target = target
        self.counts = counts  # rows in each space
        self.edits: Edits = {}
        self.uniques: Edits = {}  # values of a unique index -> key of the row that has them now
        self._counted: set[int] = set()

    def get(self, full: bytes) -> bytes | None:
        """What is stored under a key, as the next commit finds it."""
        edits = self.edits
        return edits[full] if full in edits else self.target.stored(full)

    def take(self, staged: Staged) -> None:
        """Takes what a group of commits does."""
        self.edits.update(staged.edits)
        if staged.uniques:
            self.uniques.update(staged.uniques)
        if staged.deltas:
            self.count(staged.deltas)

    def count(self, deltas: dict[int, int]) -> None:
        """Adds to the number of rows in each space."""
        counts = self.counts
        for space, delta in deltas.items():
            counts[space] = counts.get(space, 0) + delta
            self._counted.add(space)

    def flush(self, seq: int, checksum: int) -> None:
        """Writes it all, as of the record at `seq`. Those who read meanwhile see it throughout."""
        writes = self.target.batch()
        for full, value in self.edits.items():
            if value is None:
                del writes[full]
            else:
                writes[full] = value
        for space in self._counted:
            writes[keys.rows_note(space)] = SEQ.pack(self.counts[space])
        writes[keys.NOTE_APPLIED] = APPLIED.pack(seq, checksum)
        self.target.write(writes)
        self.edits, self.uniques, self._counted = {}, {}, set()


def edit_row(  # noqa: PLR0917  called once a row: keywords cost
    edits: Edits,
    deltas: dict[int, int],
    info: TableInfo,
    full: bytes,
    value: bytes | None,
    old: bytes | None,
    values: list[bytes],
) -> None:
    """Puts (or, with None, deletes) a row in place of `old`, and its index entries.

    `values`: for each index its prefix and the new row's values.
    """
    edits[full] = value
    if old is None:
        deltas[info.space] = deltas.get(info.space, 0) + 1
        for after in values:
            edits[after + full[PREFIX_SIZE:]] = b""
        return
    if value is None:
        deltas[info.space] = deltas.get(info.space, 0) - 1
    if info.indexes:
        key = full[PREFIX_SIZE:]
        gone = old_values(info, old)
        for before in gone:
            if before not in values:
                edits[before + key] = None
        for after in values:
            if after not in gone:
                edits[after + key] = b""


def old_values(info: TableInfo, old: bytes) -> list[bytes]:
    """The index values of a stored row."""
    row = keys.row_of(old)
    return info.own.values(info.parse(row), row)


def edit_notes(edits: Edits, commit: log_pb2.Commit) -> None:
    """Keeps what a commit is about, besides its rows, where the store will look for it."""
    if commit.commit_id:
        edits[keys.NOTE_COMMIT + commit.commit_id] = SEQ.pack(commit.seq)
    if commit.HasField("load"):
        edits[keys.NOTE_LOAD + commit.load.id.encode()] = commit.load.SerializeToString()
    if commit.HasField("migration"):
        edits[keys.NOTE_MIGRATION + SEQ.pack(commit.seq)] = b""
        if commit.migration.HasField("schema"):
            edits[keys.NOTE_SCHEMA] = SEQ.pack(commit.seq)


class Projector:
    """Projects records of the log, decoded, in order, onto a target."""

    def __init__(self, pending: Pending, schema: Schema, applied: int) -> None:
        self.pending = pending
        self.schema = schema
        self.applied = applied
        self.checksum = 0

    def add(self, framed: bytes) -> None:
        """One record. Raises CorruptionError if it does not check."""
        commit = record.decode(framed, self.applied + 1)
        pending = self.pending
        about = commit.WhichOneof("about")
        if about == "migration" and commit.migration.HasField("schema"):
            self.flush()
            after = Schema(commit.migration.schema)
            change_schema(pending.target, self.schema, after, pending.counts)
            self.schema = after
        if commit.changes:
            self._rows(commit)
        if about or commit.commit_id:
            edit_notes(pending.edits, commit)
        self.applied, self.checksum = commit.seq, commit.checksum
        if about == "migration" or len(pending.edits) >= KEYS_PER_BATCH:
            self.flush()

    def _rows(self, commit: log_pb2.Commit) -> None:
        pending, spaces, seq = self.pending, self.schema.spaces, commit.seq
        edits, deltas = pending.edits, dict[int, int]()
        header = HEADER.pack(0, seq)
        info: TableInfo | None = None
        prefix, indexed = b"", False
        for change in commit.changes:
            if info is None or info.space != change.space:
                info = spaces.get(change.space)
                if info is None:
                    raise CorruptionError(
                        f"record {seq} writes to space {change.space}, which no table has", seq=seq
                    )
                prefix, indexed = info.row_prefix, bool(info.indexes)
            full = prefix + change.key
            old = pending.get(full) if change.prior else None
            if change.op == log_pb2.DELETE:
                edit_row(edits, deltas, info, full, None, old, NO_VALUES)
                continue
            row = change.row
            if change.version or change.expires_ns or change.key_id:
                value = keys.pack_value(
                    seq, row, version=change.version, expires_ns=change.expires_ns, key_id=change.key_id
                )
            else:
                value = header + row
            values = info.own.values(info.parse(row), row) if indexed else NO_VALUES
            edit_row(edits, deltas, info, full, value, old, values)
        pending.count(deltas)

    def flush(self) -> None:
        """Writes what was gathered."""
        if self.applied:
            self.pending.flush(self.applied, self.checksum)


def change_schema(target: Target, before: Schema, after: Schema, counts: dict[int, int]) -> None:
    """Builds the indexes that are new, and deletes the tables and indexes that are gone."""
    for space, info in before.spaces.items():
        if space not in after.spaces:
            target.delete(*keys.space_range(space))
            target.delete(keys.rows_note(space), keys.rows_note(space + 1))
            counts.pop(space, None)
            continue
        kept = {index.id for index in after.spaces[space].indexes.values()}
        for index in info.indexes.values():
            if index.id not in kept:
                target.delete(index.prefix, keys.prefix(space, index.id + 1))
    for info, index in new_indexes(before, after):
        build_index(target, info, index)


def new_indexes(before: Schema, after: Schema) -> Iterable[tuple[TableInfo, IndexInfo]]:
    """The indexes of tables that have rows already which the schema before did not have."""
    for space, info in after.spaces.items():
        if space in before.spaces:
            known = {index.id for index in before.spaces[space].indexes.values()}
            for index in info.indexes.values():
                if index.id not in known:
                    yield info, index


def index_entries(
    view: View, info: TableInfo, index: IndexInfo, progress: Callable[[int], None] | None = None
) -> Iterable[tuple[bytes, bytes]]:
    """(values with prefix, key) of each row of a table in an index. Read-only."""
    at = list(info.indexes).index(index.name)
    skip = len(info.row_prefix)
    end = keys.prefix(info.space, 1)
    for done, (full, value) in enumerate(view.items(info.row_prefix, end), 1):
        yield old_values(info, value)[at], full[skip:]
        if progress is not None and done % KEYS_PER_BATCH == 0:
            progress(done)


def build_index(target: Target, info: TableInfo, index: IndexInfo) -> None:
    writes = target.batch()
    for values, key in index_entries(target.view, info, index):
        writes[values + key] = b""
        if len(writes) >= KEYS_PER_BATCH:
            target.write(writes)
            writes = target.batch()
    target.write(writes)
