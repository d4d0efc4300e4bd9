"""Projection: apply commits to the tables. The same code runs live, on opening and in a rebuild.

    Commit ─▶ edits of keys: rows, index entries, notes ─▶ Pending ─▶ one batch ─▶ Target

Edits collect in memory (`Pending`) and are written some thousand keys, or some MiB, at a time, so that a
key that changes often is written once. Point reads look in `Pending` first; range reads and snapshots
have it written before.

The committer projects the commits it has just appended. `Projector` (tables/projector.py) projects
records of the log. The target is a column family, or memory over the tables of another process.

Invariants
  (1) the batch that moves the tables moves `applied` with it: all of a commit or nothing;
  (2) projecting a record again changes nothing (an index build may have been interrupted);
  (3) no user code runs, and nothing but the log and the tables themselves is read.
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
from everlog.store.rocks.view import Family, LiveView, Overlay, View
from everlog.store.schema.schema import TableInfo

KEYS_PER_BATCH = 4096
BATCH_BYTES = 4 << 20  # of records
# Increased when the same records project to other keys or values. Work begun under another number restarts.
CODE = b"3"
PREFIX_SIZE = keys.PREFIX.size
NO_VALUES: list[bytes] = []
# Kinds of Notice. SHREDDED: `detail` is the key_id. PRODUCTION: `subject` is empty, or "no". REGISTERED and
# REMOVED: `subject` is the consumer's name; the `detail` of REGISTERED is an everlog.v1.Registration.
SHREDDED = "key.shredded"
REGISTERED, REMOVED = "consumer.registered", "consumer.removed"
PRODUCTION = "database.production"
# About who may do what (store/upkeep/access.py). `subject` and `detail` by kind: a role's name and Role; the
# name alone; an identity and Grant, twice; a token's name and Token; a token's id alone; a table and Audited.
ROLE, ROLE_REMOVED, GRANTED, REVOKED = (
    "access.role",
    "access.role.removed",
    "access.granted",
    "access.revoked",
)
TOKEN, TOKEN_REVOKED = "token.created", "token.revoked"
AUDITED = "access.audited"
ACCESS = frozenset({ROLE, ROLE_REMOVED, GRANTED, REVOKED, TOKEN, TOKEN_REVOKED, AUDITED})
_MISSING = object()

# Full key of the tables -> value; None: deleted.
Edits = dict[bytes, bytes | None]


class Batch(Protocol):
    """A batch of writes: RocksDB's, or one in memory."""

    def __setitem__(self, key: bytes, value: bytes, /) -> None: ...

    def __delitem__(self, key: bytes, /) -> None: ...

    def __len__(self) -> int: ...


class Target(Protocol):
    """Where edits are written: the live tables, the tables of a rebuild, or memory."""

    @property
    def view(self) -> View: ...

    @property
    def stored(self) -> Callable[[bytes], bytes | None]:
        """A function that reads one key. It does not translate RocksDB's errors."""

    def batch(self) -> Batch:
        """Return an empty batch."""

    def write(self, writes: Batch) -> None:
        """Write a batch atomically."""

    def delete(self, start: bytes, end: bytes) -> None:
        """Delete all keys from `start` (inclusive) to `end` (exclusive)."""


class Staged(NamedTuple):
    """The edits of a transaction, or of a group of them, before they are written."""

    edits: Edits
    uniques: Edits  # values of a unique index -> key of the row that holds them; None: free
    deltas: dict[int, int]  # change of the number of rows, by space

    def add(self, more: Staged) -> None:
        """Add the edits of a later transaction."""
        self.edits.update(more.edits)
        self.uniques.update(more.uniques)
        for space, delta in more.deltas.items():
            self.deltas[space] = self.deltas.get(space, 0) + delta


class Pending:
    """Edits that were projected onto a target and are not written yet."""

    def __init__(self, target: Target, counts: dict[int, int]) -> None:
        self.target = target
        self.counts = counts  # number of rows, by space
        self.edits: Edits = {}
        self.uniques: Edits = {}  # values of a unique index -> key of the row that holds them
        self.size = 0  # bytes of the projected records
        self._counted: set[int] = set()

    @property
    def is_full(self) -> bool:
        """Whether the edits should be written now."""
        return len(self.edits) >= KEYS_PER_BATCH or self.size >= BATCH_BYTES

    def get(self, full: bytes) -> bytes | None:
        """Return the value of a key as the next commit sees it."""
        edits = self.edits
        return edits[full] if full in edits else self.target.stored(full)

    def take(self, staged: Staged, size: int) -> bool:
        """Add the edits of a group of commits; `size`: bytes of their records. Return whether they should
        be written now."""
        self.size += size
        self.edits.update(staged.edits)
        if staged.uniques:
            self.uniques.update(staged.uniques)
        counts = self.counts
        for space, delta in staged.deltas.items():  # `count`, inlined as well
            counts[space] = counts.get(space, 0) + delta
            self._counted.add(space)
        # `is_full` inlined: saves a call for each commit.
        return len(self.edits) >= KEYS_PER_BATCH or self.size >= BATCH_BYTES

    def count(self, deltas: dict[int, int]) -> None:
        """Add to the number of rows of each space."""
        counts = self.counts
        for space, delta in deltas.items():
            counts[space] = counts.get(space, 0) + delta
            self._counted.add(space)

    def whole(self, seq: int, checksum: int) -> Edits:
        """Return everything that `flush` would write."""
        notes: Edits = {keys.rows_note(space): SEQ.pack(self.counts[space]) for space in self._counted}
        return {**self.edits, **notes, keys.NOTE_APPLIED: APPLIED.pack(seq, checksum)}

    def flush(self, seq: int, checksum: int) -> None:
        """Write all edits, as of the record at `seq`. Concurrent readers see them throughout."""
        writes, edits = self.target.batch(), self.edits
        for full in sorted(edits):  # RocksDB writes sorted keys three times as fast
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


def edit_row(  # noqa: PLR0917  called for every row: keyword arguments cost time
    edits: Edits,
    deltas: dict[int, int],
    info: TableInfo,
    full: bytes,
    value: bytes | None,
    old: bytes | None,
    values: list[bytes],
) -> None:
    """Replace the row `old` (None: no row) by `value` (None: delete it), and its index entries.

    `values`: for each index, its prefix and the new row's encoded values.
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
            if after not in gone or info.builds:  # a backfill skips rows that were written meanwhile
                edits[after + key] = b""


def _edit_end(
    edits: Edits, deltas: dict[int, int], full: bytes, value: bytes | None, old: bytes | None
) -> None:
    """Write the note on the row's expiry, and delete that of `old`."""
    before = keys.expires_of(old) if old is not None else 0
    after = keys.expires_of(value) if value is not None else 0
    if before and before != after:
        edits[keys.end_note(before, full)] = None
    if after and before != after:
        edits[keys.end_note(after, full)] = b""
    deltas[ENDS] = deltas.get(ENDS, 0) + bool(after) - bool(before)


def _edit_sealed(edits: Edits, info: TableInfo, full: bytes, value: bytes | None, old: bytes | None) -> None:
    """Note which rows are sealed with a key, so that they are found when the key is shredded.

    Without the key of the old row, its index entries cannot be computed and stay behind. The space is then
    marked (NOTE_BARE): its indexes must be rebuilt.
    """
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
    """Return the index values of a stored row, as far as it can be read; none if it cannot be unsealed."""
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
    elif notice.kind in ACCESS:
        edits[keys.NOTE_ACCESS] = SEQ.pack(commit.seq)
        kept = log_pb2.Commit(
            time_ns=commit.time_ns,
            actor=commit.actor,
            reason=commit.reason,
            proof=commit.proof,
            notice=notice,
        )
        edits[keys.NOTE_ACCESS + SEQ.pack(commit.seq)] = kept.SerializeToString()


def edit_notes(edits: Edits, commit: log_pb2.Commit) -> None:
    """Write the notes by which the store finds what a commit is about, other than its rows."""
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
        if commit.migration.step == log_pb2.Migration.PREPARED:
            edits[keys.NOTE_PREPARED] = SEQ.pack(commit.seq)
        elif commit.migration.decision_id and commit.migration.step != log_pb2.Migration.ABORTED:
            edits[keys.NOTE_PREPARED] = None


class FamilyTarget:
    """A column family as target. Without `family`: the family that holds the live tables."""

    def __init__(
        self, engine: Engine, family: Rdict | None = None, handle: ColumnFamily | None = None
    ) -> None:
        self._engine = engine
        self.family = family
        self.handle = handle
        self.view: View = LiveView(engine if family is None else Family(family, family.get))

    def forget(self) -> None:
        """Release the column family, so that it can be dropped."""
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
    """Projects in memory, over the tables of a process that writes."""

    def __init__(self, base: View) -> None:
        self._over: dict[bytes, bytes | None] = {}
        self.view: View = Overlay(base, self._over)

    def over(self, base: View) -> View:
        """Return another view of the same tables, overlaid with the projected edits."""
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
