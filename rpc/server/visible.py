"""Visible: what a caller with limited rights sees of schemas, rows and commits.

    schema     without the tables that the caller has no right on, and without models that only those have
    row        only if one of its rules shows it, without the fields that these rules hide (visibility.py)
    version    as its row; a delete is visible if the row that it deleted is
    commit     only the changes to visible rows, without the migration, load or notice that it is about
    conflict   only by a row that is visible, before or after the change

Invariants
  (1) a caller whose rules have no limits gets what is stored, and pays nothing for this;
  (2) without the right `audit` nobody reads roles, grants and tokens of others in the log, and without it or
      `migrate` nobody the files of migrations;
  (3) a row that cannot be read, because its person was forgotten or its key is missing, is not visible to a
      caller with limits;
  (4) an index over a hidden field is denied, because its order would reveal the values.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator
from typing import Any, NamedTuple

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

from everlog.proto import access_pb2, log_pb2
from everlog.rpc.server.rights import Scope
from everlog.store.database import Database
from everlog.store.errors import CursorError, Error, SealedError
from everlog.store.history.row_history import Found
from everlog.store.schema.schema import IndexInfo, Schema, TableInfo
from everlog.store.upkeep.visibility import Limits

ACCESS_KINDS = ("access.", "token.")  # of Notices of roles, grants and tokens


def told(commit: log_pb2.Commit, scope: Scope) -> None:
    """Leave out of a commit what a caller may not see: roles, grants and tokens, the files of migrations, the
    schema of other tables."""
    if commit.HasField("migration"):
        _migration(commit.migration, scope)
    if commit.notice.kind.startswith(ACCESS_KINDS) and not scope.holder.decide(access_pb2.AUDIT).allowed:
        kind = commit.notice.kind
        commit.notice.Clear()
        commit.notice.kind = kind
        commit.ClearField("reason")


def _migration(migration: log_pb2.Migration, scope: Scope) -> None:
    """Files need the same right as from the Migrations service: they have code, and rows of all tables."""
    if not any(scope.holder.decide(right).allowed for right in (access_pb2.MIGRATE, access_pb2.AUDIT)):
        migration.ClearField("sources")
    if not scope.everywhere:
        migration.ClearField("error")
        if migration.HasField("schema"):
            migration.schema.CopyFrom(visible(migration.schema, scope))


class Sought(NamedTuple):
    """What a transaction read of one table: rows by key, and key ranges of rows or of an index."""

    info: TableInfo
    by: IndexInfo | None
    keys: Collection[bytes]
    ranges: Collection[tuple[bytes, bytes]]

    def has(self, key: bytes) -> bool:
        """Return whether a change to this row may change what was read. Of an index, any may."""
        if self.by is not None or key in self.keys:
            return True
        full = self.info.row_prefix + key
        return any(start <= full < end for start, end in self.ranges)


LOOKED_AT_MAX = 10_000  # records since a snapshot; a conflict after more is reported


def limits(scope: Scope | None, right: int, table: str, op: str = "") -> Limits | None:
    """Return the limits of a caller on a table; None: it has none. Raises AccessError without the right."""
    if scope is None:
        return None
    visibility = scope.visibility(right, table, op)
    return None if visibility is None else Limits(visibility, scope.holder.name, table)


def limits_on(db: Database, scope: Scope, right: int, info: TableInfo) -> Limits | None:
    """Return the limits of a caller on a table in the schema of any time: those on its current name, because
    another table may have the name that it had. Raises AccessError without the right."""
    now = current(db, info)
    bound = scope.holder.bound(right, info.proto.id) if now is None else ()
    if bound:  # it was dropped
        return Limits(bound, scope.holder.name, info.name)
    return limits(scope, right, info.name if now is None else now.name)


def limits_of(
    db: Database, scope: Scope | None, request: Any, info: TableInfo, index: IndexInfo | None = None
) -> tuple[Limits, ...]:
    """Return the limits on a read of a table, now or as of a seq: a row is visible if all of them show it.
    Raises AccessError if none can be, or if the index would reveal hidden fields."""
    if scope is None or not scope.limited:
        return ()
    rights = (access_pb2.READ, access_pb2.HISTORY) if request.at_seq else (access_pb2.READ,)
    found = tuple(one for right in rights if (one := limits_on(db, scope, right, info)) is not None)
    for one in found:
        one.check(info, index)
        if request.at_seq and (now := current(db, info)) is not None:
            one.check(now)
    return found


def current(db: Database, info: TableInfo) -> TableInfo | None:
    """Return a table as it is in the schema in force; None: it was dropped."""
    id = info.proto.id
    return next((one for one in db.schema.tables.values() if one.proto.id == id), None)


def seen(of: Iterable[Limits], info: TableInfo, raw: bytes) -> bytes | None:
    """Return a row as all of these limits show it; None: it is not visible."""
    found: bytes | None = raw
    for one in of:
        found = one.see(info, found) if found is not None else None
    return found


def seen_value(of: Iterable[Limits], info: TableInfo, key: bytes, value: bytes) -> bytes | None:
    """As `seen`, of a stored value, which may be sealed."""
    try:
        return seen(of, info, info.row_in(key, value))
    except SealedError:
        return None


def seen_versions(found: Iterable[Found], of: Limits, *, newest_first: bool) -> Iterator[Found]:
    """Yield the versions of a row that are visible. A delete is visible if the version that it deleted is.

    The fields of a version are those that differ from the previous one, or all, if that is not visible.
    """
    return _newest_seen(found, of) if newest_first else _oldest_seen(found, of)


def _oldest_seen(found: Iterable[Found], of: Limits) -> Iterator[Found]:
    shown = False
    for one in found:
        if one.version.op == "delete":
            if shown:
                yield one
            shown = False
            continue
        row = of.see(one.info, one.raw) if one.raw is not None else None
        if row is not None:
            yield _version(one, row, of, after_visible=shown)
        shown = row is not None


def _newest_seen(found: Iterable[Found], of: Limits) -> Iterator[Found]:
    later: tuple[Found, bytes] | None = None  # a visible version, while the previous one is not known
    delete: Found | None = None
    for one in found:
        row = of.see(one.info, one.raw) if one.version.op != "delete" and one.raw is not None else None
        if later is not None:
            yield _version(*later, of, after_visible=row is not None)
        if delete is not None and row is not None:
            yield delete
        later = None if row is None else (one, row)
        delete = one if one.version.op == "delete" else None
    if later is not None:
        yield _version(*later, of, after_visible=False)


def _version(one: Found, row: bytes, of: Limits, *, after_visible: bool) -> Found:
    hidden = {path[0].name for path in of.hidden_by_any(one.info).values()}
    if after_visible:
        fields = tuple(name for name in one.version.fields if name not in hidden)
    else:
        fields = tuple(field.name for field, _ in one.info.model.FromString(row).ListFields())
    return one._replace(version=one.version._replace(fields=fields), raw=row)


def seen_commit(db: Database, commit: log_pb2.Commit, schema: Schema, scope: Scope) -> bool:
    """Leave in a commit, whose rows are open, the changes to visible rows; return whether there are any."""
    kept = []
    for change in commit.changes:
        info = schema.spaces.get(change.space)
        if info is None:
            continue
        now = current(db, info)
        name = info.name if now is None else now.name
        if not scope.holder.decide(access_pb2.HISTORY, name).allowed:
            continue
        of = limits_on(db, scope, access_pb2.HISTORY, info)
        if of is not None and now is not None and not of.rules(now):
            continue
        if of is not None and change.op == log_pb2.DELETE:
            if _visible_at(db, of, info, change.key, change.prior) is not True:
                continue
        elif of is not None:
            row = of.see(info, change.row) if not change.key_id else None
            if row is None:
                continue
            change.row = row
            if change.prior and not _visible_at(db, of, info, change.key, change.prior):
                change.ClearField("prior")
        kept.append(log_pb2.Change.FromString(change.SerializeToString()))
    about = commit.WhichOneof("about")
    if about and not (about == "load" and scope.reads_history(commit.load.table)):
        commit.ClearField(about)
    del commit.changes[:]
    commit.changes.extend(kept)
    return bool(kept)


def disturbed(db: Database, sought: Iterable[tuple[Sought, Limits | None]], after: int, until: int) -> bool:
    """Return whether a record after one seq, up to another, changed a row that was read and that is visible
    before or after it. Without limits, any row is. Read-only."""
    by_space: dict[int, list[tuple[Sought, Limits | None]]] = {}
    for one, of in sought:
        by_space.setdefault(one.info.space, []).append((one, of))
    if until - after > LOOKED_AT_MAX or after < db.log.oldest - 1:
        return True
    for seq in range(after + 1, until + 1):
        commit = db.log.commit(seq)
        if commit.HasField("migration") or commit.HasField("base"):
            return True
        for change in commit.changes:
            for one, of in by_space.get(change.space, ()):
                if one.has(change.key) and _is_visible(db, of, one.info, change):
                    return True
    return False


def _is_visible(db: Database, of: Limits | None, info: TableInfo, change: log_pb2.Change) -> bool:
    if of is None:
        return True
    if change.op == log_pb2.PUT and _row_of(info, change, of) is not None:
        return True
    return bool(change.prior) and _visible_at(db, of, info, change.key, change.prior) is not False


def _visible_at(db: Database, of: Limits, info: TableInfo, key: bytes, seq: int) -> bool | None:
    """Return whether the version of a row in a record is visible; None: the record does not have it."""
    try:
        commit = db.log.commit(seq) if seq else None
    except (CursorError, Error):
        return None
    for change in commit.changes if commit is not None else ():
        if change.space == info.space and change.key == key:
            return change.op == log_pb2.PUT and _row_of(info, change, of) is not None
    return None


def _row_of(info: TableInfo, change: log_pb2.Change, of: Limits) -> bytes | None:
    row = opened(info, change)
    return None if row is None else of.see(info, row)


def opened(info: TableInfo, change: log_pb2.Change) -> bytes | None:
    """Return the row that a change wrote; None: it cannot be opened."""
    if not change.key_id:
        return change.row
    try:
        return info.sealing.open(change.key, change.key_id, change.row) if info.sealing else None
    except SealedError:
        return None


def visible(schema: log_pb2.Schema, scope: Scope, ids: Container[int] = ()) -> log_pb2.Schema:
    """Return the part of a schema that the caller may know. `ids`: of tables that it may know by any name."""
    if scope.everywhere:
        return schema
    found = log_pb2.Schema()
    found.CopyFrom(schema)
    for tables in (found.tables, found.building, found.retiring):
        kept = [table for table in tables if scope.sees(table.name) or table.id in ids]
        del tables[:]
        tables.extend(kept)
    wanted = {table.model for tables in (found.tables, found.building, found.retiring) for table in tables}
    _keep(found, wanted)
    return found


def _keep(schema: log_pb2.Schema, wanted: set[str]) -> None:
    """Leave only the messages and enums in the models that these messages need."""
    whole = {name: message for file in schema.models.file for name, message in _messages(file)}
    needed, left = set(wanted), list(wanted)
    while left:
        for name in _types(whole[found]) if (found := left.pop()) in whole else ():
            if name not in needed:
                needed.add(name)
                left.append(name)
    for file in schema.models.file:
        prefix = f"{file.package}." if file.package else ""
        messages = [one for one in file.message_type if prefix + one.name in needed]
        enums = [one for one in file.enum_type if prefix + one.name in needed]
        del file.message_type[:]
        del file.enum_type[:]
        del file.service[:]
        del file.extension[:]
        file.message_type.extend(messages)
        file.enum_type.extend(enums)
        file.ClearField("source_code_info")


def _messages(file: FileDescriptorProto) -> list[tuple[str, DescriptorProto]]:
    prefix = f"{file.package}." if file.package else ""
    return [(prefix + message.name, message) for message in file.message_type]


def _types(message: DescriptorProto) -> set[str]:
    """Return the names of the top-level types that a message refers to, its nested types included: each with
    all prefixes of it, of which one is the top-level type."""
    found: set[str] = set()
    for field in (*message.field, *message.extension):
        if field.type_name:
            parts = field.type_name.lstrip(".").split(".")
            found.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    for nested in message.nested_type:
        found |= _types(nested)
    return found
