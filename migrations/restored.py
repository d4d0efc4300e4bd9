"""Restored: the schema before a migration, put in force again, in the database as it is now.

    schema before ┐              ids that live now        ┐
                  ├─ matched by ─                         ├─▶ schema before, its numbers going on
    schema after  ┘  id          tables by name ─ now ────┘

A table that an earlier return has made anew has another id now than the log says it had; so it
is found by the name that it has in both `after` and `now`.

Invariants
  (1) no space, table id or index id is used twice: what was gone comes back under a new one;
  (2) a table that is in all three keeps its id, its space and its rows, unless the migration rewrote
      them: then it gets a new space, to be filled by code of the folder.
"""

from __future__ import annotations

from typing import Any

from everlog.proto import log_pb2
from everlog.store.errors import MigrationError
from everlog.store.evolve import is_rewritten
from everlog.store.kinds import kind_of
from everlog.store.schema import Schema

_NARROWER = {("int64", "int32"), ("sint64", "sint32"), ("uint64", "uint32")}


def rewritten(before: log_pb2.Schema, after: log_pb2.Schema) -> dict[str, str]:
    """The tables whose rows a migration rewrote: their names after it, by those before it."""
    now = {table.id: table for table in after.tables}
    return {
        table.name: now[table.id].name
        for table in before.tables
        if table.id in now and is_rewritten(table, now[table.id])
    }


def restored(before: log_pb2.Schema, after: log_pb2.Schema, now: log_pb2.Schema) -> log_pb2.Schema:
    """The schema to put in force, where `after` is what the migration made of `before`.

    Read-only. Raises MigrationError where rows that are there would be misread.
    """
    _refuse(before, after)
    schema = log_pb2.Schema()
    schema.CopyFrom(before)
    schema.next_space = max(now.next_space, before.next_space)
    schema.next_table = max(now.next_table, before.next_table)
    left = {table.id: table for table in after.tables}
    live = {table.name: table for table in now.tables}
    for table in schema.tables:
        was = left.get(table.id)
        mine = live.get(was.name) if was is not None else None
        if was is None or mine is None:
            table.id, table.space = schema.next_table, schema.next_space
            schema.next_table += 1
            schema.next_space += 1
            continue
        table.id = mine.id
        if is_rewritten(table, was):
            table.space, table.generation = schema.next_space, mine.generation + 1
            schema.next_space += 1
            continue
        table.space, table.generation = mine.space, mine.generation
        _indexes(table, was, mine)
    return schema


def _indexes(table: log_pb2.TableSchema, was: log_pb2.TableSchema, mine: log_pb2.TableSchema) -> None:
    table.next_index = max(table.next_index, mine.next_index)
    kept = {index.id: index.name for index in was.indexes}
    live = {index.name: index.id for index in mine.indexes}
    for index in table.indexes:
        id = live.get(kept.get(index.id, ""))
        if id is None:
            id = table.next_index
            table.next_index += 1
        index.id = id


def _refuse(before: log_pb2.Schema, after: log_pb2.Schema) -> None:
    old, new = Schema(before), Schema(after)
    by_id = {info.proto.id: info for info in new.tables.values()}
    for name, info in old.tables.items():
        now = by_id.get(info.proto.id)
        if now is not None and not is_rewritten(info.proto, now.proto):
            _refuse_narrower(info.model.DESCRIPTOR, now.model.DESCRIPTOR, name, after.version, set())


def _refuse_narrower(old: Any, new: Any, table: str, version: int, seen: set[str]) -> None:
    if old.full_name in seen:
        return
    seen.add(old.full_name)
    for field in old.fields:
        now = new.fields_by_number.get(field.number)
        if now is None:
            continue
        types = (kind_of(now).name, kind_of(field).name)
        if types in _NARROWER:
            raise MigrationError(
                f"migration {version} made {table}.{field.name} an {types[0]}; as an {types[1]}, as it was"
                " before, rows written since could be misread: there is no instant return from it; write a"
                " new migration instead",
                version=version,
                table=table,
                field=field.name,
            )
        if field.message_type is not None and now.message_type is not None:
            _refuse_narrower(field.message_type, now.message_type, table, version, seen)
