"""Validate: whether a transaction may commit, given all that committed before it.

    schema unchanged ─▶ nothing it read was touched ─▶ expectations ─▶ unique indexes

Raises ConflictError, PreconditionError or UniqueError, and changes nothing.
"""

from __future__ import annotations

import uuid

from everlog.proto import log_pb2
from everlog.store import codec, keys
from everlog.store.clock import Clock
from everlog.store.errors import ConflictError, PreconditionError, UniqueError
from everlog.store.log import Log
from everlog.store.projection import Edits, old_values
from everlog.store.schema import IndexInfo, Schema
from everlog.store.tables import Tables
from everlog.store.transaction import CommitResult, Transaction
from everlog.store.write import Expect, Write

DELETE = log_pb2.DELETE
Rows = list[tuple[Write, bytes | None]]
NO_UNIQUES: Edits = {}


class Staged:
    """What a group of commits does, as far as it is accepted; nothing of it is written yet."""

    def __init__(self) -> None:
        self.edits: Edits = {}
        self.uniques: Edits = {}
        self.deltas: dict[int, int] = {}


class Validator:
    """Validates against the tables and the group of commits that is being built."""

    def __init__(self, log: Log, tables: Tables, clock: Clock, idempotency_s: float) -> None:
        self._log = log
        self._tables = tables
        self._clock = clock
        self._life_ns = int(idempotency_s * 1e9)

    def validate(self, transaction: Transaction, staged: Staged, schema: Schema) -> tuple[Rows, Edits]:
        """Its writes, each with the value it replaces, and the unique values that they take."""
        if transaction.read_keys or transaction.read_ranges:
            self._reads(transaction)
        rows: Rows = []
        unique = False
        pending = self._tables.pending
        mine, recent, stored = staged.edits, pending.edits, pending.target.stored
        for full, write in transaction.writes.items():
            if write.info.schema is not schema:
                raise ConflictError(
                    f"the schema changed to version {schema.version} while this transaction ran; run it again"
                )
            old = mine[full] if full in mine else recent[full] if full in recent else stored(full)
            if write.expect:
                _expect(write, old)
            rows.append((write, old))
            if write.info.unique:
                unique = True
        if unique:
            return rows, self._uniques(rows, staged)
        return rows, NO_UNIQUES

    def repeated(self, transaction: Transaction) -> CommitResult | None:
        """Where the commit with this id is already; None if there is none.

        Raises PreconditionError for an id that is too old to tell, or that has other content.
        """
        commit_id = transaction.metadata.commit_id
        born_ns = _born_ns(commit_id)
        if born_ns < self._clock.last_ns - self._life_ns:
            raise PreconditionError(
                f"commit_id {uuid.UUID(bytes=commit_id)} is older than the {self._life_ns / 3.6e12:g} h for"
                " which ids are remembered: whether it was committed cannot be told. Read, and decide anew",
                commit_id=commit_id,
            )
        value = self._tables.get(keys.NOTE_COMMIT + commit_id)
        if value is None:
            return None
        seq: int = keys.SEQ.unpack(value)[0]
        commit = self._log.commit(seq)
        wanted = {write.full: (write.op, write.row) for write in transaction.writes.values()}
        found = {keys.prefix(c.space) + c.key: (c.op, c.row) for c in commit.changes}
        if (
            commit.actor != transaction.metadata.actor
            or commit.reason != transaction.metadata.reason
            or any(found.get(full, (DELETE, b"")) != what for full, what in wanted.items())
            or not found.keys() <= wanted.keys()
        ):
            raise PreconditionError(
                f"commit_id {uuid.UUID(bytes=commit_id)} was used by commit {seq} with other content;"
                " take a new id for a new commit",
                commit_id=commit_id,
                seq=seq,
            )
        return CommitResult(seq, commit.time_ns, commit.checksum, repeated=True)

    def _reads(self, transaction: Transaction) -> None:
        found = self._tables.window.conflict(
            transaction.snapshot, transaction.read_keys, transaction.read_ranges
        )
        if found is None:
            return
        seq, key = found
        if not key:
            raise ConflictError(
                f"this transaction read at {transaction.snapshot}, and what was written before {seq} is no"
                " longer remembered; run it again",
                seq=seq,
                snapshot=transaction.snapshot,
            )
        raise ConflictError(
            f"{self._name(key)} was changed by commit {seq} after this transaction read it at"
            f" {transaction.snapshot}; run it again",
            seq=seq,
            snapshot=transaction.snapshot,
        )

    def _name(self, full: bytes) -> str:
        """A key of the tables for people: `row airports/JFK`."""
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

    def _uniques(self, rows: Rows, staged: Staged) -> Edits:
        """All old values are free before the first new one is looked at: rows can swap theirs."""
        mine: Edits = {}
        for write, old in rows:
            if old is not None and write.info.unique:
                before = old_values(write.info, old)
                for at, _ in write.info.unique:
                    mine[before[at]] = None
        for write, _ in rows:
            if write.op == DELETE:
                continue
            for at, index in write.info.unique:
                values = write.values[at]
                if index.nullable and index.has_null(values[len(index.prefix) :]):
                    continue
                holder = mine[values] if values in mine else self._holder(values, index, staged)
                if holder is not None and holder != write.key:
                    raise duplicate(index, values, holder, write.key)
                mine[values] = write.key
        return mine

    def _holder(self, values: bytes, index: IndexInfo, staged: Staged) -> bytes | None:
        """Key of the row that has these values of a unique index."""
        pending = self._tables.pending
        for known in (staged.uniques, pending.uniques):
            if values in known:
                return known[values]
        for entry, _ in pending.target.view.items(values, codec.after(values)):
            return index.key_in(entry[len(index.prefix) :])
        return None


def duplicate(index: IndexInfo, values: bytes, holder: bytes, key: bytes) -> UniqueError:
    info = index.table
    shown = index.show(values[len(index.prefix) :])
    return UniqueError(
        f"row {info.show_key(key)} has {shown} in the unique index {index.name}, as row"
        f" {info.show_key(holder)} has already",
        index=index.name,
        value=shown,
        key=info.decode_key(holder),
        table=info.name,
    )


def _expect(write: Write, old: bytes | None) -> None:
    info = write.info
    if write.expect == Expect.ABSENT and old is not None:
        text = f"expected no row {info.show_key(write.key)}, found one of version {keys.version_of(old)}"
    elif write.expect == Expect.PRESENT and old is None:
        text = f"expected a row {info.show_key(write.key)}, found none"
    elif write.expect == Expect.VERSION and (old is None or keys.version_of(old) != write.version):
        found = "none" if old is None else f"version {keys.version_of(old)}"
        text = f"expected row {info.show_key(write.key)} at version {write.version}, found {found}"
    else:
        return
    raise PreconditionError(
        text,
        table=info.name,
        key=info.decode_key(write.key),
        found=0 if old is None else keys.version_of(old),
    )


def _born_ns(commit_id: bytes) -> int:
    """The time in a UUIDv7 (RFC 9562, section 5.7)."""
    if len(commit_id) != 16 or commit_id[6] >> 4 != 7:
        raise PreconditionError(f"expected a commit_id to be a UUIDv7 of 16 bytes, found {commit_id!r}")
    return int.from_bytes(commit_id[:6], "big") * 1_000_000
