"""Complete: the version before, which is still served, is served no longer."""

from __future__ import annotations

import click

from everlog.console import migrating, schema, text
from everlog.console.opening import open_database
from everlog.console.settings import Settings, common, dry_run, pass_settings, writes
from everlog.store.errors import MigrationError


@click.command()
@dry_run
@writes
@common
@pass_settings
def complete(settings: Settings, *, dry_run: bool, actor: str, reason: str) -> None:
    """Ends the time of two versions, which `up --hold` began.

    Clients of the version before are refused from then on; until then `rollback` is free.

    \b
    Examples:
      everlog up --hold
      everlog complete --actor ann --reason "all clients are new"
    """
    if dry_run:
        _would_complete(settings)
        return
    with open_database(settings) as db, schema.kept(settings, db):
        done = migrating.complete(db, actor=actor, reason=reason)
    if settings.json:
        text.echo({"version": done.version, "name": done.name, "seq": done.seq})
    else:
        click.echo(f"Completed: {done.title} (commit {done.seq})")


def _would_complete(settings: Settings) -> None:
    from everlog.migrations.under_way import NOT_HELD

    with open_database(settings, read_only=True) as db:
        held = next((info for info in migrating.status(db, settings) if info.held), None)
    if held is None:
        raise MigrationError(NOT_HELD)
    if settings.json:
        text.echo({"version": held.version, "name": held.name, "dry_run": True})
    else:
        click.echo(f"Would complete: {held.title}; clients of the version before would be refused")
