"""Evolve: the next schema from the one in force and the tables that a migration declares.

    Schema (protobuf) + tables by hand + dropped names ──▶ Schema (protobuf)

Invariants
  (1) a table keeps its id and its space for as long as its rows are not rewritten;
  (2) ids of tables, spaces and indexes are never used twice;
  (3) an index with other fields, or that becomes unique, is another index: it gets a new id.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FileDescriptor

from everlog.proto import log_pb2
from everlog.store.errors import SchemaError
from everlog.store.table import Table


def evolve(
    before: log_pb2.Schema, version: int, tables: Iterable[Table[Any, Any]], *, drop: Iterable[str] = ()
) -> log_pb2.Schema:
    """The schema after a migration that declares `tables` whole and drops others by name.

    Read-only. Raises SchemaError for a change that would rewrite rows, and for a table to drop
    that there is not.
    """
    after = log_pb2.Schema()
    after.CopyFrom(before)
    after.version = version
    after.next_space = max(after.next_space, 1)
    after.next_table = max(after.next_table, 1)
    for name in drop:
        position = next((at for at, table in enumerate(after.tables) if table.name == name), None)
        if position is None:
            raise SchemaError(f"migration {version} drops table {name!r}, but there is none of that name")
        del after.tables[position]
    models: dict[str, Descriptor] = {}
    for table in tables:
        models[table.name] = table.model.DESCRIPTOR
        _declare(after, table)
    _collect_models(after, models)
    return after


def _declare(schema: log_pb2.Schema, table: Table[Any, Any]) -> None:
    found = next((known for known in schema.tables if known.name == table.name), None)
    paths = [log_pb2.FieldPath(numbers=field.path) for field in table.key]
    if found is None:
        found = schema.tables.add(
            name=table.name, id=schema.next_table, space=schema.next_space, key=paths, next_index=1
        )
        schema.next_table += 1
        schema.next_space += 1
    elif list(found.key) != paths:
        raise SchemaError(
            f"{table.where}: table {table.name} is declared with another primary key than it has;"
            " that rewrites every row: declare a new table and move the rows into it",
            where=table.where,
            table=table.name,
        )
    found.model = table.model.DESCRIPTOR.full_name
    known = {index.name: index for index in found.indexes}
    indexes = []
    for index in table.indexes.values():
        fields = [log_pb2.FieldPath(numbers=field.path) for field in index.fields]
        old = known.get(index.name)
        if old is None or list(old.fields) != fields or old.unique != index.unique:
            old = log_pb2.IndexSchema(
                name=index.name, id=found.next_index, fields=fields, unique=index.unique
            )
            found.next_index += 1
        indexes.append(old)
    del found.indexes[:]
    found.indexes.extend(indexes)


def _collect_models(schema: log_pb2.Schema, models: dict[str, Descriptor]) -> None:
    """Keeps the files of all tables' models, and whatever they import; drops the others."""
    files = {file.name: file for file in schema.models.file}
    for descriptor in models.values():
        _add_file(files, descriptor.file)
    owners = {
        f"{file.package}.{message}" if file.package else message: file.name
        for file in files.values()
        for message in _message_names(file)
    }
    needed: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def need(name: str) -> None:
        if name not in needed:
            for dependency in files[name].dependency:
                need(dependency)
            needed[name] = files[name]

    for table in schema.tables:
        need(owners[table.model])
    kept = list(needed.values())
    del schema.models.file[:]
    schema.models.file.extend(kept)


def _message_names(file: descriptor_pb2.FileDescriptorProto) -> Iterable[str]:
    pending = [(message.name, message) for message in file.message_type]
    while pending:
        name, message = pending.pop()
        yield name
        pending += [(f"{name}.{inner.name}", inner) for inner in message.nested_type]


def _add_file(files: dict[str, descriptor_pb2.FileDescriptorProto], file: FileDescriptor) -> None:
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    files[file.name] = proto
    for dependency in file.dependencies:
        _add_file(files, dependency)
