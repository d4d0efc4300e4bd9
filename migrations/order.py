"""Order: migrations that come late, after others with newer timestamps were applied.

    folders        1  2  3        2 was merged after 3 had been applied: refused, unless `out_of_order`
    applied        1     3
    then           1     3  2     tables that 3 declares stay as 3 has them; the rest of 2 is done

Folders were checked as a chain, in the order of their timestamps: whatever 2 made of a table that 3
declares as well, 3 goes on from. So the database ends where it would have ended in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from everlog.migrations.migration import Migration
from everlog.migrations.status import MigrationInfo, State
from everlog.store.errors import MigrationError


def check_order(infos: Iterable[MigrationInfo], *, out_of_order: bool) -> None:
    """Raises MigrationError if a migration is pending that is older than an applied one, unless
    that is allowed."""
    newest = max((info.version for info in infos if info.state is not State.PENDING), default=0)
    for info in infos:
        if info.state is State.PENDING and info.version < newest and not out_of_order:
            raise MigrationError(
                f"migration {info.title} is pending, but the newer {newest} is applied already; give the"
                " folder and its model.proto a timestamp after it, or say --out-of-order if that is meant",
                version=info.version,
            )


def settle(migrations: Sequence[Migration], infos: Iterable[MigrationInfo]) -> None:
    """Tells each late migration which tables it no longer decides on.

    Raises MigrationError if it would rename one of those, or rewrite its rows.
    """
    there = {info.version for info in infos if info.state is not State.PENDING}
    for migration in migrations:
        newer = [one for one in migrations if one.version in there and one.version > migration.version]
        decided = {table.name for one in newer for table in one.tables} | {
            name for one in newer for name in (*one.drop, *one.rename, *one.rename.values())
        }
        late = bool(newer) and migration.version not in there
        migration.overruled = frozenset(decided) if late else frozenset()
        names = {*migration.rename, *migration.rename.values(), *migration.transforms}
        for remake in filter(None, (migration.up, migration.down)):
            names.update(remake.names)
        changed = decided & names
        if late and changed:
            table = min(changed)
            raise MigrationError(
                f"migration {migration.title} rewrites or renames table {table}, but the newer"
                f" {newer[-1].title} is applied already, and clients of it know the table as it is; give the"
                " folder and its model.proto a timestamp after it",
                version=migration.version,
                table=table,
            )
