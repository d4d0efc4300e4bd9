"""Evolve: compute the next schema from the schema in force and a migration's declarations.

    Schema (protobuf) + declared tables + dropped names ──▶ Schema (protobuf)

    before ─▶ online(before, after) ─▶ after ─▶ with_previous(before, after)
              while it is being built            while clients of both versions are served

Invariants
  (1) a table keeps its id and its space until its rows are rewritten;
  (2) ids of tables, spaces and indexes are never reused;
  (3) an index whose fields change, or that becomes unique, is a new index with a new id.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from google.protobuf.descriptor import Descriptor

from everlog.proto import log_pb2
from everlog.store.errors import SchemaError
from everlog.store.schema.codec import kind_of
from everlog.store.schema.descriptors import add_models, collect_models, has
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
    recompute: Collection[str] = (),
    since: int = 0,
) -> log_pb2.Schema:
    """Return the schema after a migration. Read-only.

    `tables` are declared in full, `drop` names tables to drop, `rename` maps old names to new ones.
    `rewrite` names tables whose rows are converted one by one, `recompute` tables whose rows are computed
    by a function of the whole database. `since` is the version that rewrites, if it is not `version`.

    Raises SchemaError for a change that requires a rewrite which is not declared, and for an unknown table
    to drop or rename.
    """
    after = log_pb2.Schema()
    after.CopyFrom(before)
    after.version = version
    after.next_space = max(after.next_space, 1)
    after.next_table = max(after.next_table, 1)
    for name in drop:
        position = next((at for at, table in enumerate(after.tables) if table.name == name), None)
        if position is None:
            raise SchemaError(f"migration {version} drops table {name!r}, which does not exist")
        del after.tables[position]
    _rename(after, version, rename)
    models: dict[str, Descriptor] = {}
    by_name = {known.name: known for known in after.tables}
    for table in tables:
        models[table.name] = table.model.DESCRIPTOR
        found = by_name.get(table.name)
        by_name[table.name] = now = _declare(
            after,
            found,
            table,
            any_key=table.name in recompute,
            rewritten=table.name in {*rewrite, *recompute},
        )
        if table.name in rewrite or (found is not None and table.name in recompute):
            _new_generation(after, now, since or version)
    collect_models(after, models)
    return after


def online(
    before: log_pb2.Schema, after: log_pb2.Schema, *, remade: Collection[str] = (), early: bool = True
) -> log_pb2.Schema | None:
    """Return the schema while the additions of `after` are built beside `before`; None: nothing has to be
    built.

    A compatible model takes effect at once if it still has the fields of the indexes that are dropped; if
    neither model has the fields of all indexes, new indexes wait for the end. New and dropped tables take
    effect at the end. Tables in `remade` are filled as a new generation. Without `early`, no model takes
    effect before the end; then `to_copy` names the tables that need a new generation for their indexes.
    """
    schema = log_pb2.Schema()
    whole: tuple[Schema, Schema] | None = None  # built at the first table that differs
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
        fresh = _fresh(mine, table)
        if early:
            will, was = whole = whole or (Schema(after), Schema(before))
            model = _having((*mine.indexes, *fresh), will.model(table.model), was.model(mine.model))
            if not model:
                continue
            mine.model, mine.life_ns = model, table.life_ns
        mine.next_index = table.next_index
        for index in fresh:
            mine.indexes.add().CopyFrom(index)
            mine.indexes[-1].building = True
    add_models(schema, after)
    return schema if is_online(schema) else None


def to_copy(before: log_pb2.Schema, after: log_pb2.Schema) -> set[str]:
    """Return the tables with a new index over a field that their present model lacks, or has as another kind.

    Their rows have to be copied (`reseeded`) to build the index while that model stays in force.
    """
    known, found = {table.space: table for table in before.tables}, set[str]()
    was, will = Schema(before), Schema(after)
    for table in after.tables:
        mine = known.get(table.space)
        if mine is not None:
            fresh = _fresh(mine, table)
            models = was.model(mine.model).DESCRIPTOR, will.model(table.model).DESCRIPTOR
            if not all(_is_same(path.numbers, *models) for index in fresh for path in index.fields):
                found.add(table.name)
    return found


def _fresh(old: log_pb2.TableSchema, new: log_pb2.TableSchema) -> list[log_pb2.IndexSchema]:
    """Return the indexes of a table that its former schema does not have."""
    kept = {index.id for index in old.indexes}
    return [index for index in new.indexes if index.id not in kept]


def _is_same(path: Iterable[int], was: Any, will: Any) -> bool:
    """Return whether two models have the field at a path, with the same values in an index."""
    for number in path:
        old, new = (model.fields_by_number.get(number) if model else None for model in (was, will))
        if old is None or new is None or old.has_presence != new.has_presence:
            return False
        if (old.message_type is None) != (new.message_type is None):
            return False
        if old.message_type is None and kind_of(old) is not kind_of(new):
            return False
        was, will = old.message_type, new.message_type
    return True


def _having(indexes: Iterable[log_pb2.IndexSchema], *models: Any) -> str:
    """Return the name of the first model that has the fields of all indexes; empty: none has."""
    paths = [path.numbers for index in indexes for path in index.fields]
    names = (one.DESCRIPTOR.full_name for one in models if all(has(one.DESCRIPTOR, path) for path in paths))
    return next(names, "")


def reseeded(before: log_pb2.Schema, after: log_pb2.Schema, names: Collection[str]) -> log_pb2.Schema:
    """Return `after` with a new generation of the tables in `names` that `after` does not rewrite, for
    bootstrap data.

    The new generation serves the same versions as the previous one.
    """
    schema = log_pb2.Schema()
    schema.CopyFrom(after)
    there = {table.id: table.space for table in before.tables}
    for table in schema.tables:
        if table.name in names and there.get(table.id) == table.space:
            _new_generation(schema, table, table.since)
    return schema


def is_rewritten(before: log_pb2.TableSchema, after: log_pb2.TableSchema) -> bool:
    """Return whether a table's rows were rewritten in between, so that they are not versions of the same
    row."""
    return before.space != after.space and before.since != after.since


def is_online(schema: log_pb2.Schema) -> bool:
    """Return whether something is being built, or a previous generation is still served."""
    indexes = (index for table in schema.tables for index in table.indexes)
    return bool(schema.building or schema.retiring) or any(index.building for index in indexes)


def aborted(before: log_pb2.Schema, now: log_pb2.Schema) -> log_pb2.Schema:
    """Return `before` after an aborted change, without ever reusing the ids that were assigned since."""
    schema = log_pb2.Schema()
    schema.CopyFrom(before)
    schema.next_space, schema.next_table = now.next_space, now.next_table
    used = {table.space: table.next_index for table in (*now.tables, *now.retiring)}
    for table in schema.tables:
        table.next_index = max(table.next_index, used.get(table.space, 0))
    return schema


def with_previous(before: log_pb2.Schema, after: log_pb2.Schema) -> log_pb2.Schema:
    """Return `after` with the previous generations of the tables it rewrote still served."""
    schema = log_pb2.Schema()
    schema.CopyFrom(after)
    spaces = {table.id: table.space for table in after.tables}
    for table in before.tables:
        if spaces.get(table.id, table.space) != table.space:
            schema.retiring.append(table)
    add_models(schema, before)
    return schema


def without_previous(before: log_pb2.Schema) -> log_pb2.Schema:
    """Return a schema without the previous generations that `with_previous` added."""
    schema = log_pb2.Schema()
    schema.CopyFrom(before)
    del schema.retiring[:]
    collect_models(schema, {})
    return schema


def _rename(schema: log_pb2.Schema, version: int, rename: Mapping[str, str]) -> None:
    by_name = {table.name: table for table in schema.tables}
    for old, new in rename.items():
        if old not in by_name or new in by_name:
            what = (
                f"{old!r} does not exist; the tables are: {', '.join(by_name)}"
                if old not in by_name
                else f"{new!r} exists already"
            )
            raise SchemaError(f"migration {version} renames table {old!r} to {new!r}, but {what}")
        by_name[old].name = new


def _new_generation(schema: log_pb2.Schema, table: log_pb2.TableSchema, since: int) -> None:
    """Assign a new space to a table's rows; all its indexes are built there."""
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
    """Declare a table in `schema`; `found` is its current declaration. Return the new one."""
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
            f"{table.where}: table {table.name} is declared with a different primary key, which"
            " rewrites every row: compute them with a function (`Remake`), or declare a new table",
            where=table.where,
            table=table.name,
        )
    _declare_person(found, table, new=was is None, rewritten=rewritten)
    found.model, found.life_ns = table.model.DESCRIPTOR.full_name, table.ttl_ns
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
            f"{table.where}: table {table.name} {what} from this migration on, which rewrites every row:"
            " give the migration a transform for it (`up`)",
            where=table.where,
            table=table.name,
        )
    found.ClearField("person")
    if person is not None:
        found.person.CopyFrom(person)
