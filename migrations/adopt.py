"""Adopt: migrations that are recorded as applied without having been run.

dump ─▶ text ─▶ load       a new, empty database at the same schema, and what is applied there
"""

from __future__ import annotations

from everlog.migrations.history import lives
from everlog.migrations.lock import lock
from everlog.migrations.schema_text import from_text, to_text
from everlog.migrations.status import compare
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import MigrationError


def dump_schema(db: Database) -> str:
    """The schema of a database as text, with the migrations that made it. Read-only; needs no folders.

    Raises MigrationError while one is under way.
    """
    return to_text(db.schema, compare(db.migrations(), ()))


def load_schema(
    db: Database, text: str, *, where: str = "the text", actor: str = "", reason: str = ""
) -> int:
    """Gives an empty database the schema of a text, and records its migrations as applied; returns
    the version. Rows are not in the text: neither bootstrap nor any other.

    Raises SchemaError with the line for a text that is none, MigrationError if the database has
    a schema already; then nothing was done.
    """
    dumped = from_text(text, where)
    records = [
        log_pb2.Migration(step=log_pb2.Migration.FINISHED, version=version, name=name, digest=digest)
        for version, name, digest in dumped.migrations
    ]
    if not records:
        raise MigrationError(f"{where} names no migration; dump it from a database that has one")
    records[-1].schema.CopyFrom(dumped.schema)  # what stopped on the way has no table, and goes on
    with lock(db.uuid, actor):
        there = [(life.version, life.digest) for life in lives(db.migrations()).values()]
        if db.schema.tables or there != [(one.version, one.digest) for one in records[: len(there)]]:
            raise MigrationError(
                f"{db.url} is at schema version {db.schema.version}; a schema is loaded into an empty"
                " database: give another --url"
            )
        for record in records[len(there) :]:
            db.apply_migration(record, actor=actor, reason=reason or "load of a schema")
    return dumped.schema.version
