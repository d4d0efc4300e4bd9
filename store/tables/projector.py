"""Projector: records of the log, one after the other, onto tables: on opening and on a rebuild.

    framed record ─▶ checked, decoded ─▶ schema? change_schema ─▶ rows ─▶ Pending ─▶ target

A record that brings a schema has its indexes built and its dropped tables deleted before its own
rows are projected. All of it can be done again from the same record after a crash.
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

# A table, its row prefix, what parses its rows, and what makes the entries of its indexes.
Plan = tuple[TableInfo, bytes, Callable[[bytes], Message], list[KeyOf]]

# Of each space the ids of its indexes, and whether they are being built.
Shape = dict[int, list[tuple[int, bool]]]


class Projector:
    """Projects records of the log, decoded, in order, onto a target, which is at the record `applied`."""

    def __init__(
        self,
        pending: Pending,
        schema: Schema,
        applied: int,
        checksum: int,
        following: Schema | None = None,
    ) -> None:
        """`following`: a schema that a record will bring, which is made already."""
        self.pending = pending
        self._following = following
        self._schema, self._vault = schema, schema.vault
        self._coming: log_pb2.Schema | None = None  # in force, and not yet made
        self._shape: Shape | None = None
        self.applied = applied
        self.checksum = checksum
        self._deltas: dict[int, int] = {}
        self._shut: set[bytes] = set()  # rows without entries: their key was forgotten before
        self._plans: dict[int, Plan] = {}

    @property
    def schema(self) -> Schema:
        """The schema in force. It is made when it is needed: in a log of many migrations most are not."""
        if self._coming is not None:
            self._schema, self._coming = Schema(self._coming, self._vault), None
        return self._schema

    def add(self, framed: bytes) -> None:
        """One record. Raises CorruptionError if it does not check."""
        commit = record.decode(framed, self.applied + 1)
        pending = self.pending
        about = commit.WhichOneof("about")
        if about == "migration" and commit.migration.HasField("schema"):
            self.flush()
            self._change_schema(commit.migration.schema)
            self._plans = {}
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
                self._deltas = {keys.ENDS: 0}  # they may have been counted again
        self._schema, self._coming = after or self._schema, None if after else proto

    def _rows(self, commit: log_pb2.Commit) -> None:
        """The changes of a commit. Most are new rows, and go the short way."""
        seq, edits, deltas, plans = commit.seq, self.pending.edits, self._deltas, self._plans
        header, plain = HEADER.pack(0, seq), not commit.requires
        at, rows = commit.changes[0].space, 0
        info, prefix, parse, entry_ofs = plans.get(at) or self._plan(at, seq)
        for change in commit.changes:
            if (space := change.space) != at:  # rows of one table come together
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
        """A change that replaces a row, or that has more to it than that."""
        pending, full = self.pending, info.row_prefix + change.key
        old = pending.get(full) if change.prior else None
        if change.prior and (old is None or keys.seq_of(old) != change.prior):
            there = "none" if old is None else f"that of record {keys.seq_of(old)}"
            raise CorruptionError(
                f"record {seq} says that it replaces the row of record {change.prior} in table {info.name},"
                f" found {there} (key {change.key.hex()}): the log does not go together",
                seq=seq,
                place=change.key.hex(),
            )
        if info.sealed:  # without indexes as well: it may get some
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
        """Rows that cannot be opened get no entries in indexes, and those that they have cannot be told.
        Where that is for want of keys, or they had some from when there was a key, it is noted."""
        vault, bare = self._vault, False
        if vault is None or vault.locked or not vault.exists:
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
        """What a new row of a space needs, looked up once."""
        info = self.schema.spaces.get(space)
        if info is None:
            raise CorruptionError(f"record {seq} writes to space {space}, which no table has", seq=seq)
        plan = self._plans[space] = (info, info.row_prefix, info.model.FromString, info.own.entry_ofs)
        return plan

    def flush(self) -> None:
        """Writes what was gathered."""
        self.pending.count(self._deltas)
        self._deltas = {}
        if self.applied:
            self.pending.flush(self.applied, self.checksum)


def _is_kept(before: Shape, after: Shape) -> bool:
    """Whether `change_schema` has nothing to do: spaces are added at most, and no index is being built."""
    return all(
        after.get(space) == indexes and not any(building for _, building in indexes)
        for space, indexes in before.items()
    )


def _shape(schema: log_pb2.Schema) -> Shape:
    """What of a schema has keys in the tables."""
    return {
        table.space: [(index.id, index.building) for index in table.indexes]
        for tables in (schema.tables, schema.building, schema.retiring)
        for table in tables
    }


def change_schema(target: Target, before: Schema, after: Schema, counts: dict[int, int]) -> None:
    """Builds the indexes that are new, and deletes the tables and indexes that are gone."""
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
            if index.building:  # whether it is finished or given up, nothing is left to note
                target.delete(built_note(index), codec.after(built_note(index)))


def keep_ends(target: Target, schema: Schema) -> int:
    """Deletes the notes on lives of rows whose space is gone; returns how many are left."""
    left, start, end = 0, keys.NOTE_END, codec.after(keys.NOTE_END)
    while some := target.view.head(start, end, KEYS_PER_BATCH):
        writes = target.batch()
        for note, _ in some:
            if keys.read_end(note)[1] not in schema.spaces:
                del writes[note]
        left += len(some) - len(writes)
        target.write(writes)
        start = some[-1][0] + b"\x00"
    return left


def gone(before: Schema, after: Schema) -> Iterable[tuple[bytes, bytes]]:
    """The ranges of what `before` has more than `after`."""
    for space, info in before.spaces.items():
        if space not in after.spaces:
            yield keys.space_range(space)
            continue
        kept = {index.id for index in after.spaces[space].indexes.values()}
        for index in info.indexes.values():
            if index.id not in kept:
                yield index.prefix, keys.prefix(space, index.id + 1)


def new_indexes(view: View, before: Schema, after: Schema) -> Iterable[tuple[TableInfo, IndexInfo]]:
    """The indexes of tables that have rows already which have yet to be built when `after` follows
    `before`: the schema before did not have them, and they were not built beside it. Read-only."""
    for space, info in after.spaces.items():
        if space in before.spaces:
            known = {index.id for index in before.spaces[space].indexes.values() if not index.building}
            for index in info.indexes.values():
                if index.id in known or index.building or view.get(built_note(index)) == keys.ALL_BUILT:
                    continue
                yield info, index


def built_note(index: IndexInfo) -> bytes:
    """Under which it is noted how far an index is that is being built."""
    return keys.NOTE_BUILT + index.prefix


def index_entries(
    view: View, info: TableInfo, index: IndexInfo, progress: Callable[[int], None] | None = None
) -> Iterable[tuple[bytes, bytes]]:
    """(values with prefix, key) of each row of a table in an index; a sealed row that cannot be opened has
    none. Read-only."""
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
    writes, size = target.batch(), 0
    for values, key in index_entries(target.view, info, index):
        entry = values + key
        writes[entry] = b""
        size += len(entry)
        if len(writes) >= KEYS_PER_BATCH or size >= BATCH_BYTES:
            target.write(writes)
            writes, size = target.batch(), 0
    target.write(writes)
