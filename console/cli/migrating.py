"""Migrating: the same calls whether the database is here or on a server.

here         with the folders of --migrations-dir
a server     with those that the server was started with
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from everlog.console.cli.options import Settings
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.errors import SchemaError

if TYPE_CHECKING:
    from everlog.console.cli.connect import AnyDatabase
    from everlog.migrations import MigrationInfo, PlannedMigration, PlannedRollback


def status(db: AnyDatabase, settings: Settings) -> list[MigrationInfo]:
    """All migrations that are known. Where there are no folders, and none were asked for, those of
    the log."""
    if not isinstance(db, EmbeddedDatabase):
        from everlog.rpc.client import migrations as remote_migrations

        return remote_migrations.status(db)
    from everlog import migrations
    from everlog.migrations.status import compare

    try:
        return migrations.status(db, settings.migrations)
    except SchemaError:
        if settings.migrations_or_none is None:  # the default directory is not here
            return compare(db.migration_records(), [])
        raise


def problem(db: AnyDatabase) -> str:
    """Return why a server can neither propose nor apply the pending migrations; empty if it can."""
    if isinstance(db, EmbeddedDatabase):
        return ""
    from everlog.rpc.client import migrations as remote_migrations

    return remote_migrations.problem(db)


def differences(db: AnyDatabase, settings: Settings) -> dict[int, str]:
    """What was edited after it ran, as diffs."""
    if not isinstance(db, EmbeddedDatabase):
        from everlog.rpc.client import migrations as remote_migrations

        return remote_migrations.differences(db)
    from everlog import migrations

    return migrations.differences(db, settings.migrations)


def plan(db: AnyDatabase, settings: Settings, *, hold: bool = False, **how: Any) -> list[PlannedMigration]:
    """Return the plan of `apply`. Read-only. The plan of a server leaves out the effects of `hold`."""
    if not isinstance(db, EmbeddedDatabase):
        from everlog.rpc.client import migrations as remote_migrations

        return remote_migrations.plan(db, **how)
    from everlog import migrations

    return migrations.plan(db, settings.migrations, hold=hold, **how)


def apply(db: AnyDatabase, settings: Settings, **how: Any) -> list[MigrationInfo]:
    """Applies what is pending."""
    if not isinstance(db, EmbeddedDatabase):
        from everlog.rpc.client import migrations as remote_migrations

        return remote_migrations.apply(db, **how)
    from everlog import migrations

    return migrations.apply(db, settings.migrations, **how)


def plan_rollback(
    db: AnyDatabase, settings: Settings, count: int | None, *, to: int | None
) -> list[PlannedRollback]:
    """What `rollback` would do. Read-only."""
    if not isinstance(db, EmbeddedDatabase):
        from everlog.rpc.client import migrations as remote_migrations

        return remote_migrations.plan_rollback(db, count, to=to)
    from everlog import migrations

    return migrations.plan_rollback(db, count, to=to, source=settings.migrations)


def rollback(db: AnyDatabase, settings: Settings, count: int | None, **how: Any) -> list[MigrationInfo]:
    """Returns to an earlier schema."""
    if not isinstance(db, EmbeddedDatabase):
        from everlog.rpc.client import migrations as remote_migrations

        return remote_migrations.rollback(db, count, **how)
    from everlog import migrations

    return migrations.rollback(db, count, source=settings.migrations, **how)


def complete(db: AnyDatabase, **by: str) -> MigrationInfo:
    """Ends the time of two versions."""
    if not isinstance(db, EmbeddedDatabase):
        from everlog.rpc.client import migrations as remote_migrations

        return remote_migrations.complete(db, **by)
    from everlog import migrations

    return migrations.complete(db, **by)
