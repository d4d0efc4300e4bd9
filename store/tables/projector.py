"""Projector: project records of the log, in order, onto tables: on opening and in a rebuild.

    framed record ─▶ checked, decoded ─▶ schema? change_schema ─▶ rows ─▶ Pending ─▶ target

For a record with a new schema, new indexes are built and dropped tables are deleted before the record's
own rows are projected. A PREPARED record completes the indexes that are being built: the log does not have
their entries. After a crash, all of it can be repeated from the same record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from google.protobuf.message import DecodeError, Message

from everlog.proto import log_pb2
from everlog.store import keys, record
from everlog.store.errors import CorruptionError
from everlog.store.keys import HEADER
from everlog.store.rocks.view import View
from everlog.store.schema import codec
from everlog.store.schema.schema import IndexInfo, KeyOf, Schema, TableInfo
from everlog.store.tables.projection import (
    BATCH_BYTES,
    KEYS_PER_BATCH,
    NO_VALUES,
    Pending,
    Target,
    edit_notes,
    edit_row,
    old_values,
)

# A table, its row prefix, the parser of its rows, and the encoders of its index entries.
Plan = tuple[TableInfo, bytes, Callable[[bytes], Message], list[KeyOf]]

# For each space: the ids of its indexes, and whether each is being built.
Shape = dict[int, list[tuple[int, bool]]]


class Projector:
    """Projects records of the log, in order, onto a target that is at the record `applied`."""

    def __init__(
        self,
        pending: Pending,
        schema: Schema,
        applied: int,
        checksum: int,
        following: Schema | None = None,
    ) -> None:
        """`following`: the schema that a later record brings, if the caller has it already."""
        self.pending = pending
        self._following = following
        self._schema, self._vault = schema, schema.vault
        self._coming: log_pb2.Schema | None = None  # in force, but not built yet
        self._shape: Shape | None = None
        self.applied = applied
        self.checksum = checksum
        self._deltas: dict[int, int] = {}
        self._shut: set[bytes] = set()  # rows without index entries: their key was shredded before
        self._plans: dict[int, Plan] = {}

    @property
    def schema(self) -> Schema:
        """The schema in force. Built on demand: in a log with many migrations most schemas are not needed."""
        if self._coming is not None:
            self._schema, self._coming = Schema(self._coming, self._vault), None
        return self._schema

    def add(self, framed: bytes) -> None:
        """Project one record. Raises CorruptionError if it is invalid."""
        commit = record.decode(framed, self.applied + 1)
        pending = self.pending
        about = commit.WhichOneof("about")
        if about == "migration" and commit.migration.HasField("schema"):
            self.flush()
            self._change_schema(commit.migration.schema)
            self._plans = {}
        elif about == "migration" and commit.migration.step == log_pb2.Migration.PREPARED:
            self.flush()
            complete_indexes(pending.target, self.schema)
        pending.size += len(framed)
        if commit.changes:
            self._rows(commit)
        if about or commit.commit_id:
            edit_notes(pending.edits, commit)
        self.applied, self.checksum = commit.seq, commit.checksum
        if (about and commit.migration.HasField("schema")) or pending.is_full:
            self.flush()

    def _change_schema(self, proto: log_pb2.Schema) -> None:
        after, self._following = self._following, None
        before = self._shape or _shape(self.schema.proto)
        self._shape = _shape(proto)
        if after is not None and after.proto != proto:
            after = None
        if not _is_kept(before, self._shape):
            after = after or Schema(proto, self._vault)
            change_schema(self.pending.target, self.schema, after, self.pending.counts)
            if keys.ENDS in self.pending.counts:
                self._deltas = {keys.ENDS: 0}  # `keep_ends` may have counted again
        self._schema, self._coming = after or self._schema, None if after else proto

    def _rows(self, commit: log_pb2.Commit) -> None:
        """Project the changes of a commit. Most are new rows without extras, which take the short path."""
        seq, edits, deltas, plans = commit.seq, self.pending.edits, self._deltas, self._plans
        header, plain = HEADER.pack(0, seq), not commit.requires
        at, rows = commit.changes[0].space, 0
        info, prefix, parse, entry_ofs = plans.get(at) or self._plan(at, seq)
        for change in commit.changes:
            if (space := change.space) != at:  # rows of one table are adjacent
                if rows:
                    deltas[at] = deltas.get(at, 0) + rows
                at, rows = space, 0
                info, prefix, parse, entry_ofs = plans.get(space) or self._plan(space, seq)
            if not plain or change.prior or change.op:
                self._row(info, change, seq)
                continue
            key, row = change.key, change.row
            edits[prefix + key] = header + row
            rows += 1
            if entry_ofs:
                try:
                    message = parse(row)
                except DecodeError:
                    message = info.salvage(row)
                for entry_of in entry_ofs:
                    edits[entry_of(message) + key] = b""
        if rows:
            deltas[at] = deltas.get(at, 0) + rows

    def _row(self, info: TableInfo, change: log_pb2.Change, seq: int) -> None:
        """Project a change that replaces or deletes a row, or carries an expiry, a version or a key."""
        pending, full = self.pending, info.row_prefix + change.key
        old = pending.get(full) if change.prior else None
        if change.prior and (old is None or keys.seq_of(old) != change.prior):
            there = "none" if old is None else f"that of record {keys.seq_of(old)}"
            raise CorruptionError(
                f"record {seq} replaces the row of record {change.prior} in table {info.name},"
                f" found {there} (key {change.key.hex()}): the log is inconsistent",
                seq=seq,
                place=change.key.hex(),
            )
        if info.sealed:  # even without indexes: some may be added
            self._shut_rows(info, change, full, old)
        if change.op == log_pb2.DELETE:
            edit_row(pending.edits, self._deltas, info, full, None, old, NO_VALUES)
            return
        row = change.row
        value = keys.pack_value(
            seq, row, version=change.version, expires_ns=change.expires_ns, key_id=change.key_id
        )
        values = old_values(info, change.key, value) if info.indexes else NO_VALUES
        edit_row(pending.edits, self._deltas, info, full, value, old, values)

    def _shut_rows(self, info: TableInfo, change: log_pb2.Change, full: bytes, old: bytes | None) -> None:
        """Track rows that cannot be unsealed. They get no index entries, and their old entries cannot be
        computed.

        If that is because keys are missing, or a row has entries from when its key existed, the space is
        marked (NOTE_BARE): its indexes must be rebuilt.
        """
        vault, bare = self._vault, False
        if vault is None or vault.locked or not vault.is_open:
            bare = True
        else:
            before = keys.key_id_of(old) if old is not None else b""
            bare = bool(before) and not vault.has(before) and full not in self._shut
            self._shut.discard(full)
            if change.key_id and not vault.has(change.key_id):
                self._shut.add(full)
                bare = bare or not vault.is_shredded(change.key_id)
        if bare:
            self.pending.edits[keys.NOTE_BARE + keys.SPACE.pack(info.space)] = b""

    def _plan(self, space: int, seq: int) -> Plan:
        """Return what new rows of a space need, looked up once."""
        info = self.schema.spaces.get(space)
        if info is None:
            raise CorruptionError(f"record {seq} writes to space {space}, which belongs to no table", seq=seq)
        plan = self._plans[space] = (info, info.row_prefix, info.model.FromString, info.own.entry_ofs)
        return plan

    def flush(self) -> None:
        """Write the collected edits."""
        self.pending.count(self._deltas)
        self._deltas = {}
        if self.applied:
            self.pending.flush(self.applied, self.checksum)


def _is_kept(before: Shape, after: Shape) -> bool:
    """Return whether `change_schema` has nothing to do: at most spaces are added, and no index is being
    built."""
    return all(
        after.get(space) == indexes and not any(building for _, building in indexes)
        for space, indexes in before.items()
    )


def _shape(schema: log_pb2.Schema) -> Shape:
    """Return which spaces and indexes of a schema have keys in the tables."""
    return {
        table.space: [(index.id, index.building) for index in table.indexes]
        for tables in (schema.tables, schema.building, schema.retiring)
        for table in tables
    }


def change_schema(target: Target, before: Schema, after: Schema, counts: dict[int, int]) -> None:
    """Build the new indexes, and delete the tables and indexes that are gone. Writes."""
    ready = list(new_indexes(target.view, before, after))
    for start, end in gone(before, after):
        target.delete(start, end)
    for space in before.spaces.keys() - after.spaces.keys():
        target.delete(keys.rows_note(space), keys.rows_note(space + 1))
        counts.pop(space, None)
    if counts.get(keys.ENDS) and before.spaces.keys() - after.spaces.keys():
        counts[keys.ENDS] = keep_ends(target, after)
    for info, index in ready:
        build_index(target, info, index)
    for known in before.spaces.values():
        for index in known.indexes.values():
            if index.building:  # finished or aborted: its progress note is obsolete
                target.delete(built_note(index), codec.after(built_note(index)))


def complete_indexes(target: Target, schema: Schema) -> None:
    """Build each index that is being built and has no entry for some rows. Writes."""
    for info in schema.tables.values():
        for index in info.indexes.values():
            if index.building and target.view.get(built_note(index)) != keys.ALL_BUILT:
                build_index(target, info, index)
                writes = target.batch()
                writes[built_note(index)] = keys.ALL_BUILT
                target.write(writes)


def keep_ends(target: Target, schema: Schema) -> int:
    """Delete the expiry notes of rows whose space is gone. Return how many notes are left. Writes."""
    left, start, end = 0, keys.NOTE_END, codec.after(keys.NOTE_END)
    while some := target.view.first_items(start, end, KEYS_PER_BATCH):
        writes = target.batch()
        for note, _ in some:
            if keys.read_end(note)[1] not in schema.spaces:
                del writes[note]
        left += len(some) - len(writes)
        target.write(writes)
        start = some[-1][0] + b"\x00"
    return left


def gone(before: Schema, after: Schema) -> Iterable[tuple[bytes, bytes]]:
    """Yield the key ranges that `before` has and `after` has not."""
    for space, info in before.spaces.items():
        if space not in after.spaces:
            yield keys.space_range(space)
            continue
        kept = {index.id for index in after.spaces[space].indexes.values()}
        for index in info.indexes.values():
            if index.id not in kept:
                yield index.prefix, keys.prefix(space, index.id + 1)


def new_indexes(view: View, before: Schema, after: Schema) -> Iterable[tuple[TableInfo, IndexInfo]]:
    """Yield the indexes that must be built when `after` follows `before`. Read-only.

    These are indexes of existing tables that `before` lacks and that no online build has completed.
    """
    for space, info in after.spaces.items():
        if space in before.spaces:
            known = {index.id for index in before.spaces[space].indexes.values() if not index.building}
            for index in info.indexes.values():
                if index.id in known or index.building or view.get(built_note(index)) == keys.ALL_BUILT:
                    continue
                yield info, index


def built_note(index: IndexInfo) -> bytes:
    """Return the key of the note on the progress of an index build."""
    return keys.NOTE_BUILT + index.prefix


def index_entries(
    view: View, info: TableInfo, index: IndexInfo, progress: Callable[[int], None] | None = None
) -> Iterable[tuple[bytes, bytes]]:
    """Yield (values with prefix, key) of each row of a table in an index. Read-only.

    Sealed rows that cannot be unsealed have no entry.
    """
    at = list(info.indexes.values()).index(index)
    skip = len(info.row_prefix)
    end = keys.prefix(info.space, 1)
    for done, (full, value) in enumerate(view.items(info.row_prefix, end), 1):
        values = old_values(info, full[skip:], value)
        if values:
            yield values[at], full[skip:]
        if progress is not None and done % KEYS_PER_BATCH == 0:
            progress(done)


def build_index(target: Target, info: TableInfo, index: IndexInfo) -> None:
    """Write the entries of an index for all rows of its table."""
    writes, size = target.batch(), 0
    for values, key in index_entries(target.view, info, index):
        entry = values + key
        writes[entry] = b""
        size += len(entry)
        if len(writes) >= KEYS_PER_BATCH or size >= BATCH_BYTES:
            target.write(writes)
            writes, size = target.batch(), 0
    target.write(writes)
