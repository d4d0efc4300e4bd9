"""Evolve: the next schema from the one in force and the tables that a migration declares.

    Schema (protobuf) + tables by hand + dropped names ──▶ Schema (protobuf)

    before ─▶ online(before, after) ─▶ after ─▶ both(before, after)
              while it is being built            while clients of both versions are served

Invariants
  (1) a table keeps its id and its space for as long as its rows are not rewritten;
  (2) ids of tables, spaces and indexes are never used twice;
  (3) an index with other fields, or that becomes unique, is another index: it gets a new id.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from google.protobuf.descriptor import Descriptor

from everlog.proto import log_pb2
from everlog.store.errors import SchemaError
from everlog.store.schema.descriptors import add_models, collect_models
from everlog.store.schema.fields import has
from everlog.store.schema.schema import Schema
from everlog.store.schema.table import Table

NONE: Mapping[str, str] = MappingProxyType({})


def evolve(
    before: log_pb2.Schema,
    version: int,
    tables: Iterable[Table[Any, Any]],
    *,
    drop: Iterable[str] = (),
    rename: Mapping[str, str] = NONE,
    rewrite: Collection[str] = (),
    remake: Collection[str] = (),
    since: int = 0,
) -> log_pb2.Schema:
    """The schema after a migration that declares `tables` whole, drops others by name, renames
    some (old name to new), rewrites the rows of some one by one, and makes those of some anew.

    `since` is the version that rewrites, where it is not `version`.

    Read-only. Raises SchemaError for a change that would rewrite rows of another table, and for
    a table to drop or rename that there is not.
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
    _rename(after, version, rename)
    models: dict[str, Descriptor] = {}
    by_name = {known.name: known for known in after.tables}
    for table in tables:
        models[table.name] = table.model.DESCRIPTOR
        found = by_name.get(table.name)
        by_name[table.name] = now = _declare(
            after, found, table, any_key=table.name in remake, rewritten=table.name in {*rewrite, *remake}
        )
        if table.name in rewrite or (found is not None and table.name in remake):
            _new_generation(after, now, since or version)
    collect_models(after, models)
    return after


def online(
    before: log_pb2.Schema, after: log_pb2.Schema, *, remade: Collection[str] = ()
) -> log_pb2.Schema | None:
    """The schema while what `after` has more than `before` is built beside it; None: nothing has to
    be built. Models that change compatibly change at once, if they have what indexes that go are over (if
    neither has all, new ones wait for the end). Tables come and go then, too; `remade` ones are filled."""
    schema = log_pb2.Schema()
    whole: tuple[Schema, Schema] | None = None  # made where a table differs
    schema.CopyFrom(before)
    schema.next_space, schema.next_table = after.next_space, after.next_table
    known = {table.id: table for table in schema.tables}
    for table in after.tables:
        mine = known.get(table.id)
        if table.name in remade:
            schema.building.add().CopyFrom(table)
            schema.building[-1].remade = True
            continue
        if mine is None or mine == table:
            continue
        if table.space != mine.space:
            schema.building.append(table)
            continue
        kept = {index.id for index in mine.indexes}
        fresh = [index for index in table.indexes if index.id not in kept]
        will, was = whole = whole or (Schema(after), Schema(before))
        model = _having((*mine.indexes, *fresh), will.model(table.model), was.model(mine.model))
        if not model:
            continue
        mine.model, mine.next_index, mine.life_ns = model, table.next_index, table.life_ns
        for index in fresh:
            mine.indexes.add().CopyFrom(index)
            mine.indexes[-1].building = True
    add_models(schema, after)
    return schema if is_online(schema) else None


def _having(indexes: Iterable[log_pb2.IndexSchema], *models: Any) -> str:
    """The first of these models that has what all indexes are over; empty: none has."""
    paths = [path.numbers for index in indexes for path in index.fields]
    names = (one.DESCRIPTOR.full_name for one in models if all(has(one.DESCRIPTOR, path) for path in paths))
    return next(names, "")


def reseeded(before: log_pb2.Schema, after: log_pb2.Schema, names: Collection[str]) -> log_pb2.Schema:
    """`after`, with another generation of each of these tables that `before` has and `after` does not
    rewrite: rows of bootstrap data are loaded into it. It serves the same versions as the one before."""
    schema = log_pb2.Schema()
    schema.CopyFrom(after)
    there = {table.id: table.space for table in before.tables}
    for table in schema.tables:
        if table.name in names and there.get(table.id) == table.space:
            _new_generation(schema, table, table.since)
    return schema


def is_rewritten(before: log_pb2.TableSchema, after: log_pb2.TableSchema) -> bool:
    """Whether the rows of a table are others after it, so that the two are no versions of one row."""
    return before.space != after.space and before.since != after.since


def is_online(schema: log_pb2.Schema) -> bool:
    """Whether something is being built, or served beside what took its place."""
    indexes = (index for table in schema.tables for index in table.indexes)
    return bool(schema.building or schema.retiring) or any(index.building for index in indexes)


def given_up(before: log_pb2.Schema, now: log_pb2.Schema) -> log_pb2.Schema:
    """`before` once more, with the numbers that were used since never used again."""
    schema = log_pb2.Schema()
    schema.CopyFrom(before)
    schema.next_space, schema.next_table = now.next_space, now.next_table
    used = {table.space: table.next_index for table in (*now.tables, *now.retiring)}
    for table in schema.tables:
        table.next_index = max(table.next_index, used.get(table.space, 0))
    return schema


def both(before: log_pb2.Schema, after: log_pb2.Schema) -> log_pb2.Schema:
    """`after`, with the generations before those that it rewrote still served."""
    schema = log_pb2.Schema()
    schema.CopyFrom(after)
    spaces = {table.id: table.space for table in after.tables}
    for table in before.tables:
        if spaces.get(table.id, table.space) != table.space:
            schema.retiring.append(table)
    add_models(schema, before)
    return schema


def alone(both: log_pb2.Schema) -> log_pb2.Schema:
    """What `both` was made of, without the generations before."""
    schema = log_pb2.Schema()
    schema.CopyFrom(both)
    del schema.retiring[:]
    collect_models(schema, {})
    return schema


def _rename(schema: log_pb2.Schema, version: int, rename: Mapping[str, str]) -> None:
    by_name = {table.name: table for table in schema.tables}
    for old, new in rename.items():
        if old not in by_name or new in by_name:
            what = (
                f"none of that name; there are: {', '.join(by_name)}"
                if old not in by_name
                else f"already {new!r}"
            )
            raise SchemaError(f"migration {version} renames table {old!r} to {new!r}, but there is {what}")
        by_name[old].name = new


def _new_generation(schema: log_pb2.Schema, table: log_pb2.TableSchema, since: int) -> None:
    """Another space for the rows of a table, with all its indexes to be built there."""
    table.space, table.generation, table.since = schema.next_space, table.generation + 1, since
    schema.next_space += 1


def _declare(
    schema: log_pb2.Schema,
    found: log_pb2.TableSchema | None,
    table: Table[Any, Any],
    *,
    any_key: bool,
    rewritten: bool,
) -> log_pb2.TableSchema:
    """Declares a table, of which `found` is what `schema` has; returns what it has now."""
    paths = [log_pb2.FieldPath(numbers=field.path) for field in table.key]
    was = found
    if found is None:
        found = schema.tables.add(
            name=table.name, id=schema.next_table, space=schema.next_space, key=paths, next_index=1
        )
        schema.next_table += 1
        schema.next_space += 1
    elif any_key:
        del found.key[:]
        found.key.extend(paths)
    elif list(found.key) != paths:
        raise SchemaError(
            f"{table.where}: table {table.name} is declared with another primary key than it has;"
            " that rewrites every row: have them made anew (`Remake`), or declare a new table",
            where=table.where,
            table=table.name,
        )
    _declare_person(found, table, new=was is None, rewritten=rewritten)
    found.model, found.life_ns = table.model.DESCRIPTOR.full_name, table.life_ns
    known = {index.name: index for index in found.indexes}
    indexes = []
    for index in table.indexes.values():
        fields = [log_pb2.FieldPath(numbers=field.path) for field in index.fields]
        old = known.get(index.name)
        if (
            old is None
            or list(old.fields) != fields
            or old.unique != index.unique
            or old.hashed != index.hashed
        ):
            old = log_pb2.IndexSchema(
                name=index.name,
                id=found.next_index,
                fields=fields,
                unique=index.unique,
                hashed=index.hashed,
            )
            found.next_index += 1
        indexes.append(old)
    del found.indexes[:]
    found.indexes.extend(indexes)
    return found


def _declare_person(
    found: log_pb2.TableSchema, table: Table[Any, Any], *, new: bool, rewritten: bool
) -> None:
    person = None if table.person is None else log_pb2.FieldPath(numbers=table.person.path)
    before = found.person if found.HasField("person") else None
    if not new and not rewritten and person != before:
        what = (
            "is sealed"
            if before is None
            else "is no longer sealed"
            if person is None
            else "has another person"
        )
        raise SchemaError(
            f"{table.where}: table {table.name} {what} from here on; that rewrites every row: give the"
            " migration a transform for it (`up`)",
            where=table.where,
            table=table.name,
        )
    found.ClearField("person")
    if person is not None:
        found.person.CopyFrom(person)
