"""New: a migration's folder is made, and its model is built."""

from __future__ import annotations

import sys

import click

from everlog.console import text
from everlog.console.settings import Settings, common, pass_settings
from everlog.store.errors import Error


@click.command()
@click.argument("name")
@common
@pass_settings
def new(settings: Settings, name: str) -> None:
    """Makes the folder of a new migration, by copying the newest.

    Edit its model.proto and its constants, then run `everlog build` and `everlog up`.

    \b
    Examples:
      everlog new create_airports
      everlog -d flights/migrations new add_airlines
    """
    from everlog import migrations

    path = migrations.new(name, settings.migrations)
    if settings.json:
        text.echo({"path": str(path)})
    else:
        click.echo(f"Creating migration: {text.path(path)}")


@click.command()
@click.option("--force", is_flag=True, help="Build all, not only what is missing or stale.")
@common
@pass_settings
def build(settings: Settings, *, force: bool) -> None:
    """Generates the typed Python of every migration's model.proto. Check it in.

    \b
    Examples:
      everlog build
      everlog -d flights/migrations build --force
    """
    from everlog import migrations

    written = migrations.build(settings.migrations, force=force)
    for path in written:
        if settings.json:
            text.echo({"path": str(path)})
        else:
            click.echo(f"Built: {text.path(path)}")
    if not written and not settings.json:
        click.echo("Nothing to build: all is up to date")


@click.command()
@click.argument("name", default="base")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
@pass_settings
def squash(settings: Settings, *, name: str, yes: bool) -> None:
    """Folds the folders of all migrations into one, proves that it makes the same, and removes them.

    Databases that have them all are told with `everlog baseline VERSION`; the others need the old
    folders first, which are in version control. Of the database that is named, here or on a server,
    it is made sure that it has them all.

    \b
    Examples:
      everlog squash base --yes
      everlog -u everlog://db.example.com/flights squash --yes
    """
    from everlog import migrations

    if not yes:
        if not sys.stdin.isatty():
            raise Error("this would remove the folders of all migrations; say --yes if that is meant")
        click.confirm("Remove the folders of all migrations, once one is proven equal?", abort=True, err=True)
    settings.resume = "all folders are as they were"
    if settings.url_given or (settings.has_url and _is_there(settings.url)):
        _check_applied(settings)
    done = migrations.squash(name, settings.migrations)
    if settings.json:
        text.echo({"path": str(done.path), "version": done.version, "folded": done.folded})
        return
    for folded in done.folded:
        click.echo(f"Folded: {folded}")
    click.echo(f"Equal: {text.path(done.path)}; tell databases that have it: everlog baseline {done.version}")


def _is_there(url: str) -> bool:
    from everlog.console.opening import directory_of, is_remote

    return is_remote(url) or directory_of(url).exists()


def _check_applied(settings: Settings) -> None:
    from everlog.console import migrating
    from everlog.console.opening import open_database
    from everlog.migrations.squash import check_applied

    with open_database(settings, read_only=True) as db:
        check_applied(migrating.status(db, settings), settings.migrations, where=db.url)
