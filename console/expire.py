"""Expire: the rows whose life is over are deleted now."""

from __future__ import annotations

import click

from everlog.console import text
from everlog.console.opening import open_database
from everlog.console.settings import Renamed, Settings, common, dry_run, pass_settings


@click.command()
@click.option(
    "--trust-clock",
    cls=Renamed,
    was=("--yes",),
    is_flag=True,
    help="The clock is right, though it jumped forward.",
)
@dry_run
@common
@pass_settings
def expire(settings: Settings, *, trust_clock: bool, dry_run: bool) -> None:
    """Deletes expired rows. A process that writes to the database does so by itself, within a minute.

    After a jump of its clock a server waits until the clock is right again, or for --trust-clock.

    \b
    Examples:
      everlog -u everlog://db.example.com/shop expire
      everlog -u everlog://db.example.com/shop expire --trust-clock
    """
    with open_database(settings, read_only=dry_run) as db:
        rows = db.status().expiry.due if dry_run else db.expire(confirm_time=trust_clock)
    if settings.json:
        text.echo({"rows": rows, **({"dry_run": True} if dry_run else {})})
    else:
        click.echo(f"{'Would expire' if dry_run else 'Expired'}: {rows:,} rows")
