"""Complete: the version before, which is still served, is served no longer."""

from __future__ import annotations

import click

from everlog.console import migrating, schema, text
from everlog.console.opening import open_database
from everlog.console.settings import Settings, common, pass_settings, writes


@click.command()
@writes
@common
@pass_settings
def complete(settings: Settings, *, actor: str, reason: str) -> None:
    """Ends the time of two versions, which `up --hold` began.

    Clients of the version before are refused from then on; until then `rollback` is free.

    \b
    Examples:
      everlog up --hold
      everlog complete --actor ann --reason "all clients are new"
    """
    with open_database(settings) as db, schema.kept(settings, db):
        done = migrating.complete(db, actor=actor, reason=reason)
    if settings.json:
        text.echo({"version": done.version, "name": done.name, "seq": done.seq})
    else:
        click.echo(f"Completed: {done.title} (commit {done.seq})")
