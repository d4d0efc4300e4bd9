"""Expire: the rows whose life is over are deleted now."""

from __future__ import annotations

import click

from everlog.console import text
from everlog.console.opening import open_database
from everlog.console.settings import Settings, common, pass_settings


@click.command()
@click.option("--yes", is_flag=True, help="The clock is right, though it jumped forward.")
@common
@pass_settings
def expire(settings: Settings, *, yes: bool) -> None:
    """Deletes the rows whose life is over. What writes a database does so by itself, within a minute.

    After its clock jumped forward a server waits, until it is right again or somebody says --yes.

    \b
    Examples:
      everlog -u everlog://db.example.com/shop expire
      everlog -u everlog://db.example.com/shop expire --yes
    """
    with open_database(settings) as db:
        rows = db.expire(confirm_time=yes)
    text.echo({"rows": rows}) if settings.json else click.echo(f"Expired: {rows:,} rows")
