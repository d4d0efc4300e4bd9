"""Baseline: record migrations as applied without running them.

    dump ─▶ text ─▶ load       a new, empty database with the same schema and the same applied migrations
    folders ─▶ baseline        a database that already has that schema, however it got it

Such a record has no sources. Older migrations without a folder are not missing: the schema that they all made
was compared.
"""

from __future__ import annotations

import re

from everlog.migrations.folder import SOURCE, Source
from everlog.migrations.in_progress import check_undecided, current_migration
from everlog.migrations.loader import after, load
from everlog.migrations.lock import lock
from everlog.migrations.schema_text import from_text, to_text
from everlog.migrations.status import MigrationInfo, State, compare, logged_migrations
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import MigrationError, SchemaError
from everlog.store.schema import arguments
from everlog.store.schema.schema import Schema
from everlog.store.tx.transaction import Metadata

_PACKAGE = re.compile(r"\b[\w./]*\bv\d{14}\b")


def dump_schema(db: Database) -> str:
    """Return the schema of a database as text, with the migrations that made it. Read-only; needs no folders.

    Raises MigrationError while a migration is in progress.
    """
    return to_text(db.schema, compare(db.migration_records(), ()))


def load_schema(
    db: Database, text: str, *, where: str = "the text", actor: str = "", reason: str = ""
) -> int:
    """Give an empty database the schema of a text, and record its migrations as applied. Return the version.

    The text contains no rows. `where` names it in errors; `actor` and `reason` go into the log. Writes one
    record for each migration. Raises SchemaError with the line for an invalid text, MigrationError if the
    database already has a schema; then nothing is written.
    """
    Metadata(actor, reason).check()
    dumped = from_text(arguments.text(text, "text", error=SchemaError), where)
    records = [
        log_pb2.Migration(step=log_pb2.Migration.FINISHED, version=version, name=name, digest=digest)
        for version, name, digest in dumped.migrations
    ]
    if not records:
        raise MigrationError(f"{where} names no migration; dump it from a database that has at least one")
    records[-1].schema.CopyFrom(dumped.schema)  # an interrupted load has no tables, and resumes
    with lock(db.uuid, actor, reenter=True):
        check_undecided(current_migration(db))
        there = [
            (logged.version, logged.digest) for logged in logged_migrations(db.migration_records()).values()
        ]
        if db.schema.tables or there != [(one.version, one.digest) for one in records[: len(there)]]:
            raise MigrationError(
                f"{db.url} is at schema version {db.schema.version}; a schema can only be loaded into an"
                " empty database: pass another --url"
            )
        for record in records[len(there) :]:
            db.apply_migration(record, actor=actor, reason=reason or "load of a schema")
    return dumped.schema.version


def baseline(
    db: Database, version: int, source: Source = SOURCE, *, actor: str = "", reason: str = ""
) -> list[MigrationInfo]:
    """Record the migrations up to and including `version` as applied, without running them.

    Returns those that were pending. `actor` and `reason` go into the log. Raises MigrationError, and writes
    nothing, if they would not make the schema of the database: its tables, keys, indexes and fields.
    """
    Metadata(actor, reason).check()
    arguments.whole(version, "a version", error=MigrationError)
    with lock(db.uuid, actor, reenter=True):
        check_undecided(current_migration(db))
        migrations = load(source)
        if version not in {migration.version for migration in migrations}:
            known = ", ".join(str(migration.version) for migration in migrations) or "none"
            raise MigrationError(f"no migration {version}; the versions are: {known}", version=version)
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
    """Raise MigrationError with the differences."""
    diff = difference_of(made, db.schema, f"migrations up to {version}", "the database")
    if diff:
        raise MigrationError(
            f"the migrations up to {version} do not make the schema of {db.url}; change them, or choose"
            f" another version:\n{diff.rstrip()}",
            version=version,
        )


def difference_of(one: Schema, other: Schema, name: str, other_name: str) -> str:
    """Return the diff of two schemas as text, ignoring package versions; empty if they are equal."""
    import difflib  # noqa: PLC0415  only for messages

    texts = [_PACKAGE.sub("v…", to_text(schema)).splitlines(keepends=True) for schema in (one, other)]
    return "".join(difflib.unified_diff(texts[0], texts[1], name, other_name, n=0))
