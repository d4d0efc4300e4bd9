"""Commits: the commits of the Store service: reads and writes by name become those of a transaction.

    request ─▶ table and index by name ─▶ Transaction {snapshot, reads, writes} ─▶ committer

A caller whose roles limit rows or fields:

    write     of a row that it may write, as it is and as it will be; a hidden field keeps its value, and a
              row that sets it is refused
    conflict  with a row that it sees, before or after the change; any other is none: the commit is
              repeated, with its reads as of a later seq, at which the caller would have read the same

Invariants
  (1) the row that such a write replaces is read by its transaction, so no other commit comes in between;
  (2) a repeated commit is compared with what it has written, also where hidden fields have changed since.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import DecodeError, Message

from everlog.proto import access_pb2, log_pb2, store_pb2
from everlog.rpc.server.rights import Scope
from everlog.rpc.server.visible import Sought, disturbed, limits, opened
from everlog.store.database import Database
from everlog.store.errors import ConflictError, CorruptionError, RowError, SealedError
from everlog.store.schema.descriptors import Path
from everlog.store.schema.schema import IndexInfo, Schema, TableInfo
from everlog.store.tx import write
from everlog.store.tx.source import Span
from everlog.store.tx.transaction import CommitResult, Reads, Transaction
from everlog.store.tx.write import Write
from everlog.store.upkeep.roles import OPS
from everlog.store.upkeep.visibility import Limits, displaces, is_set, keep

DURABILITY = {store_pb2.SYNC: "sync", store_pb2.OS: "os"}
TRIES = 64  # of a commit whose conflicts are with rows that its caller does not see
OP_WORDS: dict[int, str] = {number: word for word, number in OPS.items()}


def requested(
    schema: Schema, request: store_pb2.ScanRequest | store_pb2.CountRequest | store_pb2.Read
) -> tuple[TableInfo, IndexInfo | None]:
    """Return the requested table, and its index; an empty name means none."""
    info = schema.generation(request.table, request.space)
    return info, info.index(request.index) if request.index else None


def span_of(index: IndexInfo | None, start: bytes, end: bytes) -> Span:
    """Return the requested span. A client has no keys: values of a hashed index are hashed here."""
    return Span(*index.hash_span(start, end)) if index is not None and index.hashes else Span(start, end)


def commit(
    db: Database, request: store_pb2.CommitRequest, actor: str, scope: Scope | None = None
) -> CommitResult:
    if scope is None or not scope.limited:
        tx = _transaction(db, request, actor)
        for one in request.writes:
            made = _write(db.schema.generation(one.table, one.space), one)
            tx.writes[made.full] = made
        return tx.commit()
    return _limited_commit(db, request, actor, scope)


def _transaction(db: Database, request: store_pb2.CommitRequest, actor: str) -> Transaction:
    """Return the transaction of a request, without its writes."""
    tx = db.transaction(
        actor=actor,
        reason=request.reason,
        correlation_id=request.correlation_id,
        causation_id=request.causation_id,
        client=request.client,
        commit_id=request.commit_id,
        durability=DURABILITY.get(request.durability),
    )
    tx.snapshot = request.snapshot
    if request.reads:
        tx.reads = _reads(db, request)
    return tx


def _limited_commit(db: Database, request: store_pb2.CommitRequest, actor: str, scope: Scope) -> CommitResult:
    """Commit for a caller with limits. A conflict with changes of rows that it does not see, before and
    after, is none: the reads are then as of a later seq, at which the caller would have read the same."""
    snapshot, error = request.snapshot, None
    for _ in range(TRIES):
        applied = db.tables.applied
        tx = _transaction(db, request, actor)
        sought = [one for read in request.reads for one in _sought(db, read, scope)]
        tx.snapshot = snapshot if request.reads else applied
        for one in request.writes:
            info = db.schema.generation(one.table, one.space)
            made = _limited_write(db, tx, info, one, scope)
            tx.writes[made.full] = made
        try:
            return tx.commit()
        except ConflictError as conflict:
            error, applied = conflict, db.tables.applied
            if request.reads:
                if disturbed(db, sought, snapshot, applied):
                    raise
                snapshot = applied
    assert error is not None
    raise error


def _sought(db: Database, read: store_pb2.Read, scope: Scope) -> Iterator[tuple[Sought, Limits | None]]:
    """Return what a transaction read of one table. Raises AccessError for an index over hidden fields."""
    info, index = requested(db.schema, read)
    prefix = info.row_prefix if index is None else index.prefix
    ranges = [span_of(index, one.start, one.end).under(prefix) for one in read.ranges]
    of = limits(scope, access_pb2.READ, read.table)
    if of is not None:
        of.check(info, index)
    if read.keys:
        yield Sought(info, None, set(read.keys), ()), of
    if ranges:
        yield Sought(info, index, (), ranges), of


def _limited_write(
    db: Database, tx: Transaction, info: TableInfo, one: store_pb2.Write, scope: Scope
) -> Write:
    """Return a write of a caller with limits: of a row that it may write, as it is and as it will be, with
    the hidden fields as they are. The transaction reads the row, so that it cannot change meanwhile."""
    writes, reads = _limits(scope, info, one)
    made = _write(info, one)
    of = writes or reads
    if of is None:
        return made
    found = tx.reads or Reads(set(), [])
    found.keys.add(made.full)
    tx.reads = found
    before, again = _before(db, tx, info, made)
    hidden: dict[str, Path] = {}
    if before is not None:
        if writes is not None and not again and writes.hidden(info, before) is None:
            raise writes.outside()
        hidden = _hidden(info, before, writes, reads)
    if one.op == log_pb2.DELETE:
        return made
    row, sent = info.model.FromString(one.row), info.model.FromString(one.row)
    for _ in range(2):  # rules about the row as it will be, which may have other hidden fields
        if before is not None:
            for path in hidden.values():
                keep(row, before, path)
        if writes is not None and writes.hidden(info, row) is None:
            raise writes.outside()
        hidden |= _hidden(info, row, writes, reads)
    for path in hidden.values():
        if is_set(sent, path) or (displaces(sent, path) and before is not None and is_set(before, path)):
            raise of.sets(path)
    return _put(info, row, one)


def _limits(scope: Scope, info: TableInfo, one: store_pb2.Write) -> tuple[Limits | None, Limits | None]:
    """Return the limits of a caller on writes and on reads of a table. Without the right to read it, those on
    writes say what is hidden."""
    may_read = scope.holder.decide(access_pb2.READ, one.table).allowed
    writes = limits(scope, access_pb2.WRITE, one.table, OP_WORDS[one.op])
    reads = limits(scope, access_pb2.READ, one.table) if may_read else None
    for of in (writes, reads):
        if of is not None:
            of.check(info)
    return writes, reads


def _hidden(info: TableInfo, row: Message, *limited: Limits | None) -> dict[str, Path]:
    """Return the fields of a row that some of these limits hide; all of them, if it is not visible."""
    found: dict[str, Path] = {}
    for of in limited:
        if of is not None:
            fields = of.hidden(info, row)
            found |= of.hidden_by_any(info) if fields is None else fields
    return found


def _before(db: Database, tx: Transaction, info: TableInfo, made: Write) -> tuple[Message | None, bool]:
    """Return the row that a write replaces; of a repeated commit the row that it wrote, and True."""
    commit_id = tx.metadata.commit_id
    seq = db.committer.validator.known(commit_id) if commit_id else None
    written = db.log.commit(seq) if seq is not None else None
    if written is not None and written.actor != tx.metadata.actor:  # of another caller: it is refused
        written = None
    if written is not None:
        for change in written.changes:
            if change.space == info.space and change.key == made.key and change.op == log_pb2.PUT:
                row = opened(info, change)
                return (None if row is None else info.salvage(row)), True
    value = db.tables.get(made.full)
    try:
        row = None if value is None else info.row_in(made.key, value)
    except SealedError as error:
        raise SealedError("a row of this commit is sealed, and cannot be opened", **error.facts) from None
    return (None if row is None else info.salvage(row)), written is not None


def _reads(db: Database, request: store_pb2.CommitRequest) -> Reads:
    reads = Reads(set(), [])
    for read in request.reads:
        info, index = requested(db.schema, read)
        prefix = info.row_prefix if index is None else index.prefix
        reads.keys.update(info.row_prefix + key for key in read.keys)
        reads.ranges.extend(span_of(index, one.start, one.end).under(prefix) for one in read.ranges)
    return reads


def _write(info: TableInfo, one: store_pb2.Write) -> Write:
    if one.op == log_pb2.DELETE:
        try:
            info.decode_key(one.key)
        except CorruptionError as error:
            raise RowError(f"expected the key of a row of {info.name} to delete: {error}") from None
        return write.delete(info, one.key).with_precondition(one.expect, one.version)
    try:
        row = info.model.FromString(one.row)
    except DecodeError as error:
        raise RowError(f"expected a row of {info.name} to be a {info.proto.model}: {error}") from None
    return _put(info, row, one)


def _put(info: TableInfo, row: Message, one: store_pb2.Write) -> Write:
    return write.put(info.own, row, write.decode_expiry(one.expires_ns)).with_precondition(
        one.expect, one.version
    )
