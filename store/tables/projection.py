"""Projection: from commits to the tables, the same way live, on opening and on a rebuild.

    Commit ─▶ edits of keys: rows, index entries, notes ─▶ Pending ─▶ one batch ─▶ column family

What is projected gathers in memory (`Pending`) and is written some thousand keys, or some MiB, at a
time: a key that is written often is written once. Point reads look there first; whoever reads a range
or takes a snapshot has it written before.

`Projector` (tables/projector.py) does it for records of the log, the committer for what it has just
written there.

Invariants
  (1) the batch that moves the tables moves `applied` with it: all of a commit or nothing;
  (2) projecting a record again changes nothing (index builds may have been cut short);
  (3) no code of a user runs, and nothing but the log and the tables themselves is read.

Target: where projections are written: a column family, or memory over somebody else's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from rocksdict import ColumnFamily, Rdict, WriteBatch

from everlog.proto import log_pb2
from everlog.store import keys
from everlog.store.clock import CORRECTED
from everlog.store.errors import SealedError
from everlog.store.keys import APPLIED, ENDS, HAS_EXPIRY, SEQ
from everlog.store.rocks.engine import Engine
from everlog.store.rocks.view import FamilyView, LiveView, Overlay, View
from everlog.store.schema.schema import TableInfo

KEYS_PER_BATCH = 4096
BATCH_BYTES = 4 << 20  # of records
# Raised where the same records make other keys or values: what was begun by other code is begun anew.
CODE = b"2"
PREFIX_SIZE = keys.PREFIX.size
NO_VALUES: list[bytes] = []
# Kinds of Notice. The detail of one that forgets a key is its key_id; the subject of production is empty, or
# "no"; the subject of those of a consumer is its name, and the detail of the first everlog.v1.Registration.
SHREDDED = "key.shredded"
REGISTERED, REMOVED = "consumer.registered", "consumer.removed"
PRODUCTION = "database.production"
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
        self.size = 0  # bytes of the records that it is of
        self._counted: set[int] = set()

    @property
    def is_full(self) -> bool:
        """Whether it is time to write it."""
        return len(self.edits) >= KEYS_PER_BATCH or self.size >= BATCH_BYTES

    def get(self, full: bytes) -> bytes | None:
        """What is stored under a key, as the next commit finds it."""
        edits = self.edits
        return edits[full] if full in edits else self.target.stored(full)

    def take(self, staged: Staged, size: int) -> bool:
        """Takes what a group of commits does, whose records have so many bytes. Returns whether it is time to
        write it."""
        self.size += size
        self.edits.update(staged.edits)
        if staged.uniques:
            self.uniques.update(staged.uniques)
        if staged.deltas:
            self.count(staged.deltas)
        # As `is_full`: a call less for each commit.
        return len(self.edits) >= KEYS_PER_BATCH or self.size >= BATCH_BYTES

    def count(self, deltas: dict[int, int]) -> None:
        """Adds to the number of rows in each space."""
        counts = self.counts
        for space, delta in deltas.items():
            counts[space] = counts.get(space, 0) + delta
            self._counted.add(space)

    def whole(self, seq: int, checksum: int) -> Edits:
        """All that `flush` would write."""
        notes: Edits = {keys.rows_note(space): SEQ.pack(self.counts[space]) for space in self._counted}
        return {**self.edits, **notes, keys.NOTE_APPLIED: APPLIED.pack(seq, checksum)}

    def flush(self, seq: int, checksum: int) -> None:
        """Writes it all, as of the record at `seq`. Those who read meanwhile see it throughout."""
        writes, edits = self.target.batch(), self.edits
        for full in sorted(edits):  # RocksDB takes neighbours in a third of the time
            value = edits[full]
            if value is None:
                del writes[full]
            else:
                writes[full] = value
        for space in self._counted:
            writes[keys.rows_note(space)] = SEQ.pack(self.counts[space])
        writes[keys.NOTE_APPLIED] = APPLIED.pack(seq, checksum)
        self.target.write(writes)
        self.edits, self.uniques, self._counted, self.size = {}, {}, set(), 0


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
    if (old is not None and old[0] & HAS_EXPIRY) or (value is not None and value[0] & HAS_EXPIRY):
        _edit_end(edits, deltas, full, value, old)
    if info.sealed:
        _edit_sealed(edits, info, full, value, old)
    if old is None:
        deltas[info.space] = deltas.get(info.space, 0) + 1
        for after in values:
            edits[after + full[PREFIX_SIZE:]] = b""
        return
    if value is None:
        deltas[info.space] = deltas.get(info.space, 0) - 1
    if info.indexes:
        key = full[PREFIX_SIZE:]
        gone = old_values(info, key, old)
        for before in gone:
            if before not in values:
                edits[before + key] = None
        for after in values:
            if after not in gone or info.builds:  # a backfill leaves out the entry of a row that was written
                edits[after + key] = b""


def _edit_end(
    edits: Edits, deltas: dict[int, int], full: bytes, value: bytes | None, old: bytes | None
) -> None:
    """Notes when the row's life ends, and no longer when that of `old` did."""
    before = keys.expires_of(old) if old is not None else 0
    after = keys.expires_of(value) if value is not None else 0
    if before and before != after:
        edits[keys.end_note(before, full)] = None
    if after and before != after:
        edits[keys.end_note(after, full)] = b""
    deltas[ENDS] = deltas.get(ENDS, 0) + bool(after) - bool(before)


def _edit_sealed(edits: Edits, info: TableInfo, full: bytes, value: bytes | None, old: bytes | None) -> None:
    """Which rows are sealed with a key is noted under it, so that they are found when it is forgotten. Where
    a key is missing, its row leaves entries in indexes, which nobody can tell: they are to be made anew."""
    where = full[: keys.SPACE.size] + full[PREFIX_SIZE:]
    before, after = (keys.key_id_of(one) if one is not None else b"" for one in (old, value))
    if before and before != after:
        edits[keys.NOTE_OF_KEY + before + where] = None
        vault = info.schema.vault
        if info.indexes and vault and not vault.has(before) and not vault.is_shredded(before):
            edits[keys.NOTE_BARE + keys.SPACE.pack(info.space)] = b""
    if after and before != after:
        edits[keys.NOTE_OF_KEY + after + where] = b""


def old_values(info: TableInfo, key: bytes, old: bytes) -> list[bytes]:
    """The index values of a stored row, as far as it can be read. One that cannot be opened here has none."""
    try:
        row = info.row_in(key, old)
    except SealedError:
        return NO_VALUES
    return info.own.values(info.salvage(row), row)


def _edit_noticed(edits: Edits, commit: log_pb2.Commit, notice: log_pb2.Notice) -> None:
    if notice.kind == SHREDDED:
        edits[keys.NOTE_SHREDDED + notice.detail] = SEQ.pack(commit.seq)
    elif notice.kind == REGISTERED:
        value = keys.CONSUMER.pack(commit.seq, commit.time_ns) + notice.detail
        edits[keys.NOTE_CONSUMER + notice.subject.encode()] = value
    elif notice.kind == REMOVED:
        edits[keys.NOTE_CONSUMER + notice.subject.encode()] = None
    elif notice.kind == PRODUCTION:
        edits[keys.NOTE_PRODUCTION] = SEQ.pack(commit.seq) if notice.subject != "no" else None
    elif notice.kind == CORRECTED:
        edits[keys.NOTE_CLOCK + SEQ.pack(commit.seq)] = b""


def edit_notes(edits: Edits, commit: log_pb2.Commit) -> None:
    """Keeps what a commit is about, besides its rows, where the store will look for it."""
    if commit.commit_id:
        edits[keys.NOTE_COMMIT + commit.commit_id] = SEQ.pack(commit.seq)
    if commit.HasField("notice"):
        _edit_noticed(edits, commit, commit.notice)
    if commit.HasField("load"):
        edits[keys.NOTE_LOAD + commit.load.id.encode()] = commit.load.SerializeToString()
    if commit.migration.step == log_pb2.Migration.BACKFILL:
        edits[keys.NOTE_BACKFILL] = SEQ.pack(commit.seq)
    elif commit.HasField("migration"):
        edits[keys.NOTE_MIGRATION + SEQ.pack(commit.seq)] = b""
        if commit.migration.HasField("schema"):
            edits[keys.NOTE_SCHEMA] = SEQ.pack(commit.seq)


class FamilyTarget:
    """A column family that takes projections. `live`: whichever holds the live tables."""

    def __init__(
        self, engine: Engine, family: Rdict | None = None, handle: ColumnFamily | None = None
    ) -> None:
        self._engine = engine
        self.family = family
        self.handle = handle
        self.view: View = LiveView(engine) if family is None else FamilyView(family)

    def forget(self) -> None:
        """Lets go of the column family: it can be dropped."""
        self.family = self.handle = None
        self.view = LiveView(self._engine)

    @property
    def stored(self) -> Callable[[bytes], bytes | None]:
        return self._engine.get if self.family is None else self.family.get

    def batch(self) -> Batch:
        writes = WriteBatch(True)
        writes.set_default_column_family(self.handle or self._engine.data_handle)
        return writes

    def write(self, writes: Batch) -> None:
        assert isinstance(writes, WriteBatch)
        self._engine.write_data(writes, live=self.family is None)

    def delete(self, start: bytes, end: bytes) -> None:
        writes = WriteBatch(raw_mode=True)
        writes.delete_range(start, end, self.handle or self._engine.data_handle)
        self._engine.write_data(writes, live=self.family is None)


class MemoryTarget:
    """Takes projections in memory, over the tables of a process that writes."""

    def __init__(self, base: View) -> None:
        self._over: dict[bytes, bytes | None] = {}
        self.view: View = Overlay(base, self._over)

    def over(self, base: View) -> View:
        """Another view of the same tables with what was projected put over it."""
        return Overlay(base, self._over)

    @property
    def stored(self) -> Callable[[bytes], bytes | None]:
        return self.view.get

    def batch(self) -> Batch:
        return _MemoryBatch()

    def write(self, writes: Batch) -> None:
        assert isinstance(writes, _MemoryBatch)
        self._over.update(writes)

    def delete(self, start: bytes, end: bytes) -> None:
        self._over.update({key: None for key, _ in self.view.items(start, end)})


class _MemoryBatch(dict[bytes, bytes | None]):
    def __delitem__(self, key: bytes) -> None:
        self[key] = None
