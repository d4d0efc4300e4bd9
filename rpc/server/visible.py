"""Visible: what a caller with limited rights sees of schemas, rows and commits.

    schema   without the tables that the caller has no right on, and without models that only those have

Invariants
  (1) a caller whose rules have no limits gets what is stored, and pays nothing for this;
  (2) without the right `audit` nobody reads roles, grants and tokens of others in the log, and without it or
      `migrate` nobody the files of migrations.
"""

from __future__ import annotations

from collections.abc import Container

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

from everlog.proto import access_pb2, log_pb2
from everlog.rpc.server.rights import Scope

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
