"""Recorded: the commands accept and restore-folder."""

from __future__ import annotations

import click
import msgspec

from everlog.console import output
from everlog.console.cli.connect import directory_of, is_remote, open_database
from everlog.console.cli.options import Settings, common, pass_settings, writes
from everlog.rpc.address import without_secrets
from everlog.store.errors import Error


@click.command()
@click.argument("versions", type=int, nargs=-1, metavar="[VERSION]…")
@writes
@common
@pass_settings
def accept(settings: Settings, *, versions: tuple[int, ...], actor: str, reason: str) -> None:
    """Accept the edited folders of applied migrations. The log records the folders, the actor and the
    reason.

    Without VERSION, all edited folders. Edits of comments need no acceptance. Edits that change the
    schema are refused. A server uses its own folders.

    \b
    Examples:
      everlog accept --reason "imports sorted"
      everlog accept 20260105093000 --actor ann --reason "renamed a helper"
    """
    if not reason.strip():
        raise click.UsageError("expected --reason: the log keeps why the edit is accepted")
    _check_there(settings)
    with open_database(settings) as db:
        done = db.migrations.accept(versions, actor=actor, reason=reason)
    for info in done:
        if settings.json:
            output.echo({"version": info.version, "name": info.name, "seq": info.seq})
        else:
            click.echo(f"Accepted: {info.title} (commit {info.seq})")
    if not done and not settings.json:
        click.echo("Nothing to accept: no folder was edited")


@click.command()
@click.argument("versions", type=int, nargs=-1, metavar="[VERSION]…")
@click.option("--force", is_flag=True, help="Replace existing folders that were edited.")
@common
@pass_settings
def restore_folder(settings: Settings, *, versions: tuple[int, ...], force: bool) -> None:
    """Restore the folders of applied migrations from the log, on this machine, and build their models.
    Without VERSION, all missing folders.

    The log has only a digest of large files and of files with rows of sealed tables. If such files are
    missing, they are listed with size and SHA-256, the exit code is 1, and nothing is built.

    \b
    Examples:
      everlog restore-folder
      everlog restore-folder 20260105093000 --force
    """
    from everlog import migrations

    _check_there(settings)
    with open_database(settings, read_only=True) as db:
        done = db.migrations.restore(versions, force=force)
    for one in done:
        if settings.json:
            missing = [msgspec.to_builtins(file) for file in one.missing]
            output.echo({"path": str(one.path), "version": one.version, "missing": missing})
            continue
        click.echo(f"Restored: {output.path(one.path)}")
        for file in one.missing:
            click.echo(f"  {file.says}")
    if any(one.missing for one in done):
        raise Error(
            "not all files could be restored, so no folder was built: put in those that are named above, and"
            " run `everlog build`"
        )
    if done:
        migrations.build(settings.migrations)
    elif not settings.json:
        click.echo("Nothing to restore: every folder is there")


def _check_there(settings: Settings) -> None:
    if not is_remote(settings.url) and not directory_of(settings.url).exists():
        raise Error(
            f"there is no database at {without_secrets(settings.url)}; give the database whose log"
            " has the folders"
        )
