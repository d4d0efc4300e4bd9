"""Adopt: migrations that are recorded as applied without having been run.

    dump ─▶ text ─▶ load       a new, empty database at the same schema, and what is applied there
    folders ─▶ baseline        a database that has that schema already, by whatever way

Such a record has no sources. What is older than the newest of them and has no folder any more is not
missing: the schema that all of it made was found to be right.
"""

from __future__ import annotations

import re

from everlog.migrations.folder import SOURCE, Source
from everlog.migrations.loader import after, load
from everlog.migrations.lock import lock
from everlog.migrations.schema_text import from_text, to_text
from everlog.migrations.status import MigrationInfo, State, compare, lives
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import MigrationError, SchemaError
from everlog.store.schema import arguments
from everlog.store.schema.schema import Schema
from everlog.store.tx.transaction import Metadata

_PACKAGE = re.compile(r"\b[\w./]*\bv\d{14}\b")


def dump_schema(db: Database) -> str:
    """The schema of a database as text, with the migrations that made it. Read-only; needs no folders.

    Raises MigrationError while one is under way.
    """
    return to_text(db.schema, compare(db.migration_records(), ()))


def load_schema(
    db: Database, text: str, *, where: str = "the text", actor: str = "", reason: str = ""
) -> int:
    """Gives an empty database the schema of a text, and records its migrations as applied; returns
    the version. Rows are not in the text: neither bootstrap nor any other.

    Raises SchemaError with the line for a text that is none, MigrationError if the database has
    a schema already; then nothing was done.
    """
    Metadata(actor, reason).check()
    dumped = from_text(arguments.text(text, "text", error=SchemaError), where)
    records = [
        log_pb2.Migration(step=log_pb2.Migration.FINISHED, version=version, name=name, digest=digest)
        for version, name, digest in dumped.migrations
    ]
    if not records:
        raise MigrationError(f"{where} names no migration; dump it from a database that has one")
    records[-1].schema.CopyFrom(dumped.schema)  # what stopped on the way has no table, and goes on
    with lock(db.uuid, actor, reenter=True):
        there = [(life.version, life.digest) for life in lives(db.migration_records()).values()]
        if db.schema.tables or there != [(one.version, one.digest) for one in records[: len(there)]]:
            raise MigrationError(
                f"{db.url} is at schema version {db.schema.version}; a schema is loaded into an empty"
                " database: give another --url"
            )
        for record in records[len(there) :]:
            db.apply_migration(record, actor=actor, reason=reason or "load of a schema")
    return dumped.schema.version


def baseline(
    db: Database, version: int, source: Source = SOURCE, *, actor: str = "", reason: str = ""
) -> list[MigrationInfo]:
    """Records the migrations up to `version`, and with it, as applied without running them, and
    returns those that were not applied before.

    Raises MigrationError, and records nothing, if they would not make the schema that the database
    has: its tables, keys, indexes and fields.
    """
    Metadata(actor, reason).check()
    arguments.whole(version, "a version", error=MigrationError)
    with lock(db.uuid, actor, reenter=True):
        migrations = load(source)
        if version not in {migration.version for migration in migrations}:
            known = ", ".join(str(migration.version) for migration in migrations) or "none"
            raise MigrationError(
                f"there is no migration {version}; the versions are: {known}", version=version
            )
        infos = compare(
            db.migration_records(), [migration.folder for migration in migrations], db.tables.vault
        )
        todo = {info.version for info in infos if info.state is State.PENDING and info.version <= version}
        made = log_pb2.Schema()
        for migration in migrations:
            if migration.version <= version:
                made = after(made, migration)
        _check_same(db, Schema(made), version)
        recorded = []
        for migration in migrations:
            if migration.version in todo:
                record = log_pb2.Migration(
                    step=log_pb2.Migration.FINISHED,
                    version=migration.version,
                    name=migration.name,
                    digest=migration.folder.digest,
                    schema=after(db.schema.proto, migration) if migration.version == version else None,
                )
                result = db.apply_migration(record, actor=actor, reason=reason or f"baseline {version}")
                recorded.append(
                    MigrationInfo(
                        migration.version, migration.name, State.APPLIED, result.time_ns, result.seq, actor
                    )
                )
    return recorded


def _check_same(db: Database, made: Schema, version: int) -> None:
    """Raises MigrationError with what differs."""
    diff = difference_of(made, db.schema, f"migrations up to {version}", "the database")
    if diff:
        raise MigrationError(
            f"the migrations up to {version} do not make the schema that {db.url} has; make them so, or"
            f" choose another version:\n{diff.rstrip()}",
            version=version,
        )


def difference_of(one: Schema, other: Schema, name: str, other_name: str) -> str:
    """The diff of two schemas as text, each in its own packages; empty: they say the same."""
    import difflib  # noqa: PLC0415  only for messages

    texts = [_PACKAGE.sub("v…", to_text(schema)).splitlines(keepends=True) for schema in (one, other)]
    return "".join(difflib.unified_diff(texts[0], texts[1], name, other_name, n=0))
