"""Left over: values of fields that a rollback took away, which are in the rows still.

    migration 2 adds city = 3     rows get it     2 is rolled back     rows have a 3 that nobody reads
    migration 2 again             city is there again
    another, with zip = 3         would read every city as a zip: refused, where a row has one

Only a number that comes back as another field is looked for, so this costs nothing mostly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.unknown_fields import UnknownFieldSet

from everlog.migrations.migration import Migration
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import MigrationError
from everlog.store.kinds import kind_of
from everlog.store.reflect import table_of
from everlog.store.schema import Schema, TableInfo


def check_left_over(db: Database, migrations: list[Migration]) -> None:
    """Read-only. Raises MigrationError if a migration gives the number of a field that was rolled
    back to another field, and rows have values of the former."""
    if not migrations:
        return
    for commit, schema in _rolled_back(db):
        gone = {info.proto.id: info for info in schema.tables.values()}
        for migration in migrations:
            rewritten = {*migration.transforms, *(migration.up.names if migration.up else ())}
            for table in migration.tables:
                now = db.schema.tables.get(table.name)
                was = gone.get(now.proto.id) if now is not None else None
                if now is None or was is None or table.name in rewritten:
                    continue
                for old, new in _reused(was.model.DESCRIPTOR, now.model.DESCRIPTOR, table.model.DESCRIPTOR):
                    if rows := _rows_with(db, now, old.number):
                        raise MigrationError(
                            f"migration {migration.title} gives {table.name} {new.name} = {new.number}, but"
                            f" {rows:,} rows have a value of {old.name} = {old.number} there, which commit"
                            f" {commit} rolled back; take the next number that was never used",
                            version=migration.version,
                            table=table.name,
                            field=new.name,
                        )


def _rolled_back(db: Database) -> Iterator[tuple[int, Schema]]:
    for record in db.migrations():
        if record.migration.step == log_pb2.Migration.ROLLED_BACK:
            yield record.seq, Schema(db.schema_at(record.seq - 1))


def _reused(gone: Any, now: Any, new: Any) -> Iterator[tuple[Any, Any]]:
    """Fields of a model that was rolled back whose number is another field's now."""
    for old in gone.fields:
        field = new.fields_by_number.get(old.number)
        if field is None or old.number in now.fields_by_number:
            continue
        same = field.name == old.name and field.is_repeated == old.is_repeated
        if not same or kind_of(field) is not kind_of(old):
            yield old, field


def _rows_with(db: Database, info: TableInfo, number: int) -> int:
    """How many rows have a field of this number that their model does not know."""
    found = 0
    for row in db.scan(table_of(info)):
        left = UnknownFieldSet(row)
        found += any(left[at].field_number == number for at in range(len(left)))
    return found
