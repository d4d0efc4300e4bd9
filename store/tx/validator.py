"""Validator: check whether a transaction may commit after everything that committed before it.

    schema unchanged ─▶ nothing it read was changed ─▶ preconditions ─▶ unique indexes

Raises ConflictError, PreconditionError or UniqueError, and changes nothing.

A commit with a known commit_id is compared with the one in the log:

    the new request  ─▶ key, op and row of each write ─┬─▶ equal: it is answered with the first result
    the log          ─▶ key, op and row of each change ┘    otherwise: the id was used for other content

While a migration rewrites a table, each write to one generation is also a write to the other. Such a
generation may have appeared or disappeared between the two requests; changes that are only in it follow
from the others, and are not compared.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable

from everlog.proto import log_pb2
from everlog.store import keys
from everlog.store.clock import Clock
from everlog.store.errors import ConflictError, PreconditionError, SealedError, UniqueError
from everlog.store.log import Log
from everlog.store.rocks.view import View
from everlog.store.schema import codec
from everlog.store.schema.schema import IndexInfo, Schema
from everlog.store.tables.projection import Edits, Staged, old_values
from everlog.store.tables.tables import Tables
from everlog.store.tx.transaction import CommitResult, Reads, Transaction
from everlog.store.tx.write import NEVER, Expect, Row, Valid, Write

Content = dict[bytes, tuple[log_pb2.Op.ValueType, bytes]]  # op and row, by the key with its prefix

_NOTHING = (log_pb2.DELETE, b"")  # the delete of a missing row is not in the log


def check_id(commit_id: bytes) -> None:
    """Raise PreconditionError if `commit_id` is not a UUIDv7 (RFC 9562, section 5.7)."""
    if len(commit_id) != 16 or commit_id[6] >> 4 != 7:
        raise PreconditionError(f"expected a commit_id to be a UUIDv7 of 16 bytes, found {commit_id!r}")


def content_of(schema: Schema, commit: log_pb2.Commit, requested: Content) -> Content:
    """Return the content of a commit in the log.

    A row that can no longer be unsealed counts as the requested one: only one commit has the id.
    """
    done: Content = {}
    for one in commit.changes:
        full, row = keys.prefix(one.space) + one.key, one.row
        info = schema.spaces.get(one.space)
        if one.key_id and info is not None and info.sealing is not None:
            try:
                row = info.sealing.open(one.key, one.key_id, row)
            except SealedError:
                row = requested.get(full, _NOTHING)[1]
        done[full] = (one.op, row)
    return done


def same_content(schema: Schema, done: Content, requested: Content) -> bool:
    """Whether the content of a commit in the log equals that of a repeated request, under this schema."""
    there, wanted = _spaces(done), _spaces(requested)
    gone = {space for space in there - wanted if space not in schema.spaces}
    paired = {
        space: schema.spaces[space].other_generation for space in wanted - there if space in schema.spaces
    }
    come = {space for space, other in paired.items() if other is not None and other.space in there}
    left = {full: what for full, what in done.items() if _space(full) not in gone}
    requested = {full: what for full, what in requested.items() if _space(full) not in come}

    def spared(full: bytes) -> bool:
        """Whether bootstrap data replaced the row in the other generation."""
        info = schema.spaces.get(_space(full))
        others = gone | (
            {info.other_generation.space} if info is not None and info.other_generation is not None else set()
        )
        tail = full[keys.SPACE.size :]
        return any(done.get(keys.SPACE.pack(space) + tail) == requested[full] for space in others)

    if gone and gone == there:  # nothing else is left to compare
        return all(spared(full) for full in requested)
    return left.keys() <= requested.keys() and all(
        left.get(full, _NOTHING) == what or spared(full) for full, what in requested.items()
    )


def _spaces(fulls: Iterable[bytes]) -> set[int]:
    return {_space(full) for full in fulls}


def _space(full: bytes) -> int:
    """Return the space of a key with its prefix."""
    space: int = keys.SPACE.unpack_from(full)[0]
    return space


def other_content(commit_id: bytes, seq: int | None) -> PreconditionError:
    """Return the error for a commit_id that is used again with other content."""
    who = f"commit {seq}" if seq else "another transaction at the same moment"
    return PreconditionError(
        f"commit_id {uuid.UUID(bytes=commit_id)} was used by {who} with other content;"
        " take a new id for a new commit",
        commit_id=commit_id,
        seq=seq,
    )


DELETE = log_pb2.DELETE
NOTHING: Edits = {}
_ABSENT = Expect.ABSENT.value  # reading the attribute of an enumeration costs more than comparing


class Validator:
    """Validates against the tables and the group of commits that is being built."""

    def __init__(self, log: Log, tables: Tables, clock: Clock) -> None:
        self._log = log
        self._tables = tables
        self._clock = clock
        self.on_end: Callable[[int], None] = lambda _: None  # called with each expiry

    def validate(self, transaction: Transaction, before: Staged | None, schema: Schema) -> Valid:
        """Return the effect of a transaction if it is valid after what its group has staged (`before`).
        Read-only.

        The hottest loop of the store. Raises ConflictError, PreconditionError, UniqueError.
        """
        if transaction.reads is not None:
            self._reads(transaction.snapshot, transaction.reads)
        pending = self._tables.pending
        mine, recent, stored = (
            NOTHING if before is None else before.edits,
            pending.edits,
            pending.target.stored,
        )
        rows: list[Row] = []
        missing: set[tuple[int, bytes]] | None = None
        unique = False
        for full, write in transaction.writes.items():
            info = write.info
            if info.schema is not schema:
                raise ConflictError(
                    f"the schema changed to version {schema.version} while this transaction ran; run it again"
                )
            old = mine[full] if full in mine else recent[full] if full in recent else stored(full)
            if write.expect and _expect(write, old):
                continue
            if old is None and write.op:
                missing = missing or set()
                missing.add((info.proto.id, write.key))  # once, in however many generations
                continue
            own = write.has_expiry or write.key_id or write.as_of
            rows.append((write, old, self._ends_ns(write) if own else None))
            if info.unique:
                unique = True
        uniques = self._uniques(rows, before) if unique else {}
        return rows, uniques, len(missing) if missing else 0

    def _ends_ns(self, write: Write) -> int:
        """Return when a row expires; 0: never. A time to live counts from this commit.

        Raises ConflictError for the row of a forgotten person.
        """
        sealing = write.info.sealing
        if sealing is not None and not sealing.vault.has(write.key_id):
            raise ConflictError(
                f"the person of row {write.info.name_key(write.key)} was forgotten while this transaction"
                " ran; run it again"
            )
        if not write.has_expiry:
            return 0
        began_ns = self._clock.reading_ns or self._clock.last_ns  # of the commit: now() was called for it
        expires_ns = write.expires_ns or min(began_ns + write.ttl_ns, NEVER - 1)
        self.on_end(expires_ns)
        return expires_ns

    def repeated(self, transaction: Transaction) -> CommitResult | None:
        """Return the result of the commit with this id; None if there is none.

        Raises PreconditionError for an invalid id, and for an id with other content.
        """
        commit_id = transaction.metadata.commit_id
        seq = self.known(commit_id)
        if seq is None:
            return None
        commit, schema = self._log.commit(seq), self._tables.schema
        actor, reason, wanted = transaction.content()
        found = content_of(schema, commit, wanted)
        if (commit.actor, commit.reason) != (actor, reason) or not same_content(schema, found, wanted):
            raise other_content(commit_id, seq)
        done = {
            (schema.spaces[change.space].proto.id, change.key)
            for change in commit.changes
            if change.space in schema.spaces
        }
        deleted = {(one.info.proto.id, one.key) for one in transaction.writes.values() if one.op == DELETE}
        return CommitResult(seq, commit.time_ns, commit.checksum, repeated=True).lacking(len(deleted - done))

    def known(self, commit_id: bytes) -> int | None:
        """Return the seq of the commit with an id; None if there is none. Raises PreconditionError for an
        invalid id.

        The tables note every id in the log. The time in an id is ignored, because it is of an unknown
        clock.
        """
        check_id(commit_id)
        value = self._tables.get(keys.NOTE_COMMIT + commit_id)
        return None if value is None else int(keys.SEQ.unpack(value)[0])

    def _reads(self, snapshot: int, reads: Reads) -> None:
        found = self._tables.window.conflict(snapshot, reads.keys, reads.ranges)
        if found is None:
            return
        seq, key = found
        if not key:
            raise ConflictError(
                f"this transaction read at {snapshot}, but changes before {seq} are no longer kept for"
                " validation; run it again",
                seq=seq,
                snapshot=snapshot,
            )
        raise ConflictError(
            f"{self._name(key)} was changed by commit {seq} after this transaction read it at"
            f" {snapshot}; run it again",
            seq=seq,
            snapshot=snapshot,
        )

    def _name(self, full: bytes) -> str:
        """Format a full key for people: `row airports/JFK`."""
        space, index = keys.PREFIX.unpack_from(full)
        info = self._tables.schema.spaces.get(space)
        if info is None:
            return "a table that is gone"
        rest = full[keys.PREFIX.size :]
        if index == keys.ROWS:
            return f"row {info.show_key(rest)}"
        for one in info.indexes.values():
            if one.id == index:
                return f"row {info.show_key(one.key_in(rest))} in index {one.name}"
        return f"an index of {info.name}"

    def _uniques(self, rows: list[Row], before: Staged | None) -> Edits:
        """Check the unique indexes and return the new holders. Raises UniqueError.

        All old values are released before the first new one is checked, so rows can swap values.
        """
        known = (
            [self._tables.pending.uniques]
            if before is None
            else [before.uniques, self._tables.pending.uniques]
        )
        mine: Edits = {}
        for write, old, _ in rows:
            if old is not None and write.info.unique:
                values = old_values(write.info, write.key, old)
                mine.update((values[at], None) for at, _ in write.info.unique if values)
        for write, _, _ in rows:
            if write.op:
                continue
            for at, index in write.info.unique:
                values_of_row = write.values[at]
                if index.nullable and index.has_null(values_of_row[len(index.prefix) :]):
                    continue
                holder = self._holder(values_of_row, index, [mine, *known])
                if holder is not None and holder != write.key:
                    raise duplicate(index, values_of_row, holder, write.key)
                mine[values_of_row] = write.key
        return mine

    def _holder(self, values: bytes, index: IndexInfo, known: list[Edits]) -> bytes | None:
        """Return the key of the row that holds these values of a unique index; None: free."""
        for uniques in known:
            if values in uniques:
                return uniques[values]
        return holder_of(self._tables.target.view, index, values)


def holder_of(view: View, index: IndexInfo, values: bytes) -> bytes | None:
    """Return the key of a row with these values in an index of a view; None: none. Read-only."""
    for entry, _ in view.first_items(values, codec.after(values), 1):
        return index.key_in(entry[len(index.prefix) :])
    return None


def claim(taken: Edits, index: IndexInfo, values: bytes, key: bytes, view: View | None = None) -> None:
    """Record in `taken` that a row has these values of a unique index. Raises UniqueError if another row
    has them, there or in `view`."""
    if index.nullable and index.has_null(values[len(index.prefix) :]):
        return
    holder = taken.get(values)
    if holder is None and view is not None:
        holder = holder_of(view, index, values)
    if holder is not None and holder != key:
        raise duplicate(index, values, holder, key)
    taken[values] = key


def duplicate(index: IndexInfo, values: bytes, holder: bytes, key: bytes) -> UniqueError:
    """Return the error for two rows with the same values in a unique index."""
    info = index.table
    shown = index.show(values[len(index.prefix) :])
    return UniqueError(
        f"row {info.name_key(key)} has the same {index.over} in the unique index {index.name} as row"
        f" {info.name_key(holder)} has already",
        private=f"{info.show_key(key)} has {shown}, as {info.show_key(holder)} has",
        index=index.name,
        value=shown,
        key=info.decode_key(holder),
        table=info.name,
    )


def _expect(write: Write, old: bytes | None) -> bool:
    """Return whether the write is skipped. Raises PreconditionError."""
    info, expect = write.info, write.expect
    if expect == _ABSENT:
        if old is None:
            return False
        text = f"expected no row {info.name_key(write.key)}, found one of version {keys.version_of(old)}"
    elif expect == Expect.SPARING:
        return old is not None and keys.version_of(old) == write.version
    elif expect == Expect.PRESENT and old is None:
        text = f"expected a row {info.name_key(write.key)}, found none"
    elif expect == Expect.VERSION and (old is None or keys.version_of(old) != write.version):
        found = "none" if old is None else f"version {keys.version_of(old)}"
        text = f"expected row {info.name_key(write.key)} at version {write.version}, found {found}"
    else:
        return False
    raise PreconditionError(
        text,
        table=info.name,
        key=info.decode_key(write.key),
        found=0 if old is None else keys.version_of(old),
    )
