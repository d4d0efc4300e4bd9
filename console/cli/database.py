"""Database: the commands create, drop, production and wait."""

from __future__ import annotations

import os
import sys

import click

from everlog.console import output
from everlog.console.cli.connect import check_url, directory_of, is_remote, open_database
from everlog.console.cli.options import Settings, common, dry_run, pass_settings, writes
from everlog.rpc.address import without_secrets
from everlog.store.errors import Error, OpenError, quantity
from everlog.store.rocks.files import read_marker
from everlog.store.rocks.ownership import locked, remove_owned


@click.command()
@common
@pass_settings
def create(settings: Settings) -> None:
    """Create an empty database. An existing one is left unchanged.

    \b
    Examples:
      everlog -u file:flights.db create
    """
    path = directory_of(settings.url)
    there = path.exists() and any(path.iterdir())
    try:
        db = open_database(settings, create=True, read_only=there)
    except OpenError as error:
        if not error.facts.get("interrupted"):
            raise
        db, there = open_database(settings, create=True), False
    with db:
        if settings.json:
            output.echo({"url": without_secrets(db.url), "created": not there})
        else:
            click.echo(f"{'Exists already' if there else 'Created'}: {without_secrets(db.url)}")


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@dry_run
@common
@pass_settings
def drop(settings: Settings, *, yes: bool, dry_run: bool) -> None:
    """Delete a database on this machine, including its log.

    Asks first, or needs --yes where nobody can answer. A database that a process has open is refused.

    \b
    Examples:
      everlog -u file:scratch.db drop --yes
    """
    path = directory_of(settings.url)
    if read_marker(path) is None:  # raises if the path leads through a file, a loop or a private directory
        if os.path.lexists(path):
            raise OpenError(f"{path} is not an everlog database, and was left unchanged")
        if settings.json:
            output.echo({"url": without_secrets(settings.url), "dropped": False})
        else:
            click.echo(f"Does not exist: {without_secrets(settings.url)}")
        return
    if dry_run:
        if settings.json:
            output.echo({"url": without_secrets(settings.url), "dropped": False, "dry_run": True})
        else:
            click.echo(f"Would drop: {without_secrets(settings.url)}, {_size(settings)}")
        return
    with locked(path) as owner:  # without opening it: it may be damaged, or its disk full
        if not yes:
            what = f"{without_secrets(settings.url)}, {_size(settings)}"
            if not sys.stdin.isatty():
                raise Error(f"this deletes {what} permanently; confirm with --yes")
            if not click.confirm(f"Delete {what} permanently?", err=True):
                raise Error("nothing was removed")
        left = [file.name for file in remove_owned(owner)]
    if settings.json:
        output.echo({"url": without_secrets(settings.url), "dropped": True, "left": left})
        return
    click.echo(f"Dropped: {without_secrets(settings.url)}")
    if left:
        click.echo(f"Not part of the database, and kept: {', '.join(left)} in {output.path(path)}")


@click.command()
@click.argument("answer", type=click.Choice(["yes", "no"]), required=False)
@writes
@common
@pass_settings
def production(settings: Settings, *, answer: str | None, actor: str, reason: str) -> None:
    """Mark a database as production (`yes`) or not (`no`) in its log; without an argument print the
    mark.

    A database in production refuses test data from all clients.

    \b
    Examples:
      everlog production yes --actor ann
      everlog production
    """
    with open_database(settings, read_only=answer is None) as db:
        if answer is not None:
            db.admin.set_production(answer == "yes", actor=actor, reason=reason)
        is_in = db.admin.production
    if settings.json:
        output.echo({"url": without_secrets(settings.url), "production": is_in})
    else:
        click.echo(f"{without_secrets(settings.url)} is {'' if is_in else 'not '}in production")


def _size(settings: Settings) -> str:
    try:
        with open_database(settings, read_only=True) as db:
            rows = sum(table.rows for table in db.admin.status().tables)
            return f"{quantity(rows, 'row')} in {quantity(db.head, 'commit')}"
    except Error as error:
        return f"which cannot be read ({error})"


@click.command()
@common
@pass_settings
def wait(settings: Settings) -> None:
    """Wait until the database exists and can be opened.

    \b
    Examples:
      everlog -u everlog://db.example.com/flights wait --wait-timeout 30s
    """

    check_url(settings.url)
    what = without_secrets(settings.url)
    if not settings.json:
        click.echo(f"Waiting for {what}", err=True)
    settings.wait = True
    try:
        with open_database(settings, read_only=not is_remote(settings.url)) as db:
            db.admin.status()
    except OpenError as error:
        raise OpenError(f"{what} is not available: {error}", **error.facts) from None
    if settings.json:
        output.echo({"url": what, "ready": True})
    else:
        click.echo(f"Ready: {what}")
