"""New: a migration's folder is made, and its model is built."""

from __future__ import annotations

import click

from everlog.console import text
from everlog.console.settings import Settings, common, pass_settings


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
