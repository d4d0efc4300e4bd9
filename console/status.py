"""Status: which migrations are applied, and what is in the database."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import click

from everlog.console import migrating, text
from everlog.console.opening import open_database, shown
from everlog.console.settings import Settings, common, pass_settings

if TYPE_CHECKING:
    from everlog.console.opening import AnyDatabase
    from everlog.migrations.status import MigrationInfo
    from everlog.store.status import Status

_MARKS = {"applied": "[X]", "pending": "[ ]", "edited": "[E]", "missing": "[?]", "ahead": "[>]"}
_SAYS = {
    "edited": "was edited after it ran",
    "missing": "was applied, and its folder is gone",
    "ahead": "was applied by newer code",
}


@click.command()
@click.option(
    "--exit-code", is_flag=True, help="Exit with 1 if not every migration is applied as it is in its folder."
)
@click.option("--quiet", is_flag=True, help="Print nothing; implies --exit-code.")
@common
@pass_settings
@click.pass_context
def status(ctx: click.Context, settings: Settings, *, exit_code: bool, quiet: bool) -> None:
    """Lists the migrations and the tables.

    \b
    Examples:
      everlog status
      everlog status --exit-code --quiet || everlog up
      everlog -u everlog://db.example.com/flights status --json
    """
    with open_database(settings, read_only=True) as db:
        migrations, what = migrating.status(db, settings), db.status()
        if not quiet:
            _print(settings, db, migrations, what)
    if (exit_code or quiet) and any(info.state != "applied" for info in migrations):
        ctx.exit(1)


def _print(settings: Settings, db: AnyDatabase, infos: list[MigrationInfo], what: Status) -> None:
    count = {state: sum(info.state == state for info in infos) for state in _MARKS}
    if settings.json:
        text.echo(
            {
                "url": shown(db.url),
                "database": str(uuid.UUID(bytes=what.uuid)),
                "seq": what.head,
                "time_ns": what.head_time_ns,
                "schema_version": what.schema_version,
                "disk_bytes": what.disk_bytes,
                "tables": [{"name": t.name, "rows": t.rows, "indexes": list(t.indexes)} for t in what.tables],
                "migrations": [_migration(info) for info in infos],
                **count,
            }
        )
        return
    for info in infos:
        note = f"  ({_SAYS[info.state]})" if info.state in _SAYS else ""
        when = f"  {text.moment(info.applied_ns)}  commit {info.seq}" if settings.verbose and info.seq else ""
        click.echo(f"{_MARKS[info.state]} {info.title}{when}{note}")
    if infos:
        click.echo()
    for state, number in count.items():
        if number or state in ("applied", "pending"):
            click.echo(f"{state.capitalize()}: {number}")
    click.echo(
        f"\n{shown(db.url)}: commit {what.head:,} of {text.moment(what.head_time_ns)},"
        f" {text.size(what.disk_bytes)} on disk"
    )
    width = max((len(table.name) for table in what.tables), default=0)
    for table in what.tables:
        indexes = f"  indexes: {', '.join(table.indexes)}" if table.indexes else ""
        click.echo(f"  {table.name:{width}}  {table.rows:>11,} rows{indexes}")


def _migration(info: MigrationInfo) -> dict[str, Any]:
    return {
        "version": info.version,
        "name": info.name,
        "state": str(info.state),
        "applied_ns": info.applied_ns,
        "seq": info.seq,
        "actor": info.actor,
        "digest": info.digest.hex(),
    }
