"""Care: a database is checked, or rebuilt from its log."""

from __future__ import annotations

from pathlib import Path

import click

from everlog.console import text
from everlog.console.opening import open_database
from everlog.console.progress import shown
from everlog.console.settings import Settings, common, pass_settings
from everlog.store.errors import Error


@click.command()
@common
@pass_settings
@click.pass_context
def check(ctx: click.Context, settings: Settings) -> None:
    """Looks at everything, and prints what is not as it must be. Exits with 1 if anything is not.

    \b
    Examples:
      everlog -u file:flights.db check
    """
    found = 0
    with open_database(settings, read_only=True) as db, shown() as progress:
        for problem in db.check(progress=progress):
            found += 1
            text.echo({"problem": problem}) if settings.json else click.echo(problem)
    if found:
        ctx.exit(1)
    if not settings.json:
        click.echo("All is as it must be")


@click.command()
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Into a new directory, from the log alone.",
)
@common
@pass_settings
def rebuild(settings: Settings, *, into: Path | None) -> None:
    """Makes all tables anew from the log, proves that they equal the live ones, and switches.

    \b
    Examples:
      everlog -u file:flights.db rebuild
      everlog -u file:flights.db rebuild --into proof.db
    """
    from everlog.feed.embedded import EmbeddedDatabase

    settings.resume = "the live tables are as they were"
    with open_database(settings, read_only=into is not None) as db, shown() as progress:
        if into is None:
            hashes = db.rebuild(progress=progress)
        elif not isinstance(db, EmbeddedDatabase):
            raise Error("--into makes a directory beside a database of this machine; give its URL, file:PATH")
        else:
            hashes = db.rebuild_into(into, progress=progress)
            if hashes != db.hashes(progress=progress):
                raise Error(f"the tables in {into} differ from the live ones; `everlog check` tells more")
    for name, table in hashes.items():
        if settings.json:
            text.echo({"table": name, "rows": table.rows, "hash": table.hash.hex()})
        else:
            click.echo(f"Equal: {name}, {table.rows:,} rows, {table.hash.hex()[:16]}")
