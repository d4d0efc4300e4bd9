"""Project: the commands new, build, squash, dump, load, baseline, accept and restore-folders."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from everlog.console import output
from everlog.console.cli.connect import directory_of, is_remote, open_database
from everlog.console.cli.options import Settings, common, pass_settings, writes
from everlog.rpc.address import without_secrets
from everlog.store.environment import read_file
from everlog.store.errors import Error, MigrationError
from everlog.store.rocks.errors import reason
from everlog.store.rocks.ownership import removed_if_failed

if TYPE_CHECKING:
    from everlog.console.cli.connect import AnyDatabase


@click.command()
@click.argument("name")
@common
@pass_settings
def new(settings: Settings, name: str) -> None:
    """Create the folder of a new migration by copying the newest.

    Edit its model.proto and constants, then run `everlog build` and `everlog up`.

    \b
    Examples:
      everlog new create_airports
      everlog -d flights/migrations new add_airlines
    """
    from everlog import migrations

    path = migrations.new(name, settings.migrations)
    if settings.json:
        output.echo({"path": str(path)})
    else:
        click.echo(f"Creating migration: {output.path(path)}")


@click.command()
@click.option("--force", is_flag=True, help="Build all migrations, not only missing or outdated code.")
@common
@pass_settings
def build(settings: Settings, *, force: bool) -> None:
    """Generate the typed Python code of every model.proto. Commit it to version control.

    \b
    Examples:
      everlog build
      everlog -d flights/migrations build --force
    """
    from everlog import migrations

    written = migrations.build(settings.migrations, force=force)
    for path in written:
        if settings.json:
            output.echo({"path": str(path)})
        else:
            click.echo(f"Built: {output.path(path)}")
    if not written and not settings.json:
        click.echo("Nothing to build: all is up to date")


@click.command()
@click.argument("name", default="base")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
@pass_settings
def squash(settings: Settings, *, name: str, yes: bool) -> None:
    """Fold all migrations into one folder, verify that it gives the same schema, and delete the others.

    Run `everlog baseline VERSION` on each database that has all of them; other databases need the old
    folders first, from version control. The database given by --url must have all migrations.

    \b
    Examples:
      everlog squash base --yes
      everlog -u everlog://db.example.com/flights squash --yes
    """
    from everlog import migrations
    from everlog.migrations.squash import recover

    if not yes:
        if not sys.stdin.isatty():
            raise Error("this would remove the folders of all migrations; confirm with --yes")
        click.confirm("Remove the folders of all migrations, once one is proven equal?", abort=True, err=True)
    settings.resume = "all folders are unchanged"
    recover(settings.migrations)  # before they are compared with the database
    if settings.url_given or (settings.has_url and _is_there(settings.url)):
        _check_applied(settings)
    done = migrations.squash(name, settings.migrations)
    if settings.json:
        output.echo({"path": str(done.path), "version": done.version, "folded": done.folded})
        return
    for folded in done.folded:
        click.echo(f"Folded: {folded}")
    click.echo(
        f"Equal: {output.path(done.path)}; tell databases that have it: everlog baseline {done.version}"
    )


def _is_there(url: str) -> bool:
    from everlog.console.cli.connect import directory_of, is_remote

    return is_remote(url) or directory_of(url).exists()


def _check_applied(settings: Settings) -> None:
    from everlog.console.cli.connect import open_database
    from everlog.migrations.squash import check_applied

    with open_database(settings, read_only=True) as db:
        check_applied(db.migrations.status(), settings.migrations, where=db.url)


FILE = "schema.everlog"  # the default


@click.command()
@common
@pass_settings
def dump(settings: Settings) -> None:
    """Write the schema and its migrations as text to --schema-file; - is standard output.

    The default file is schema.everlog. Commit it, so that reviews show what a migration changes. Rows are
    written by `export`.

    \b
    Examples:
      everlog dump
      everlog --schema-file - dump
    """
    with open_database(settings, read_only=True) as db:
        _write(settings, db, settings.schema_given or settings.schema_file or FILE)


@click.command()
@writes
@common
@pass_settings
def load(settings: Settings, *, actor: str, reason: str) -> None:
    """Create a database from the schema that `dump` wrote to --schema-file.

    Its migrations count as applied; it has no rows. The default file is schema.everlog.

    \b
    Examples:
      everlog -u file:new.db load
      everlog -u file:new.db --schema-file db/schema.everlog load
      everlog -u everlog://db.example.com/new load
    """
    path = settings.schema_given or settings.schema_file or FILE
    dumped = read_file(Path(path), "the schema", pipe=True).decode()
    here = not is_remote(settings.url)
    with (
        removed_if_failed(directory_of(settings.url)) if here else nullcontext(),
        open_database(settings, create=True) as db,
    ):
        version = db.migrations.load(dumped, where=path, actor=actor, reason=reason)
        if settings.json:
            output.echo({"url": without_secrets(db.url), "schema_version": version})
        else:
            click.echo(f"Loaded: {without_secrets(db.url)} is at schema version {version}")


@click.command()
@click.argument("version", type=int)
@writes
@common
@pass_settings
def baseline(settings: Settings, *, version: int, actor: str, reason: str) -> None:
    """Record the migrations up to VERSION as applied without running them, for a database that has
    their schema already.

    The schemas are compared first. A server compares its own folders.

    \b
    Examples:
      everlog baseline 20260105093000 --actor ann --reason "squashed"
    """
    with open_database(settings) as db:
        with kept(settings, db):
            done = db.migrations.baseline(version, actor=actor, reason=reason)
        for info in done:
            if settings.json:
                output.echo(
                    {"version": info.version, "name": info.name, "state": info.state, "seq": info.seq}
                )
            else:
                click.echo(f"Adopted: {info.title} (commit {info.seq})")
        if not done and not settings.json:
            click.echo("Nothing to adopt: all up to that version are applied")


@contextmanager
def kept(settings: Settings, db: AnyDatabase) -> Iterator[None]:
    """Update the schema file, if one was named, after a block that may change the schema, also if the block
    raises. While two versions are served the file is left unchanged, with a message. Raises Error if the
    file cannot be written."""
    try:
        yield
    except Error:
        try:
            _keep(settings, db)
        except Error as error:  # the other error is reported first
            click.echo(f"error: {error}", err=True)
        raise
    _keep(settings, db)


def _keep(settings: Settings, db: AnyDatabase) -> None:
    path = settings.schema_file
    if path is None:
        return
    try:
        _write(settings, db, path, if_different=True)
    except MigrationError as error:
        click.echo(f"{path} is unchanged: {error}", err=True)
    except OSError as error:
        raise Error(
            f"{path} could not be written: {reason(error, Path(path))}; the database is correct, and the next"
            " `everlog up` or `everlog dump` writes the file"
        ) from error


def _write(settings: Settings, db: AnyDatabase, path: str, *, if_different: bool = False) -> None:
    found = db.migrations.dump()
    if path == "-":
        click.echo(found, nl=False)
        return
    if if_different and Path(path).is_file() and Path(path).read_bytes() == found.encode():
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(found, encoding="utf-8", newline="\n")
    if settings.json:
        output.echo({"schema_file": path})
    else:
        click.echo(f"Writing: {path}")


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
def restore_folders(settings: Settings, *, versions: tuple[int, ...], force: bool) -> None:
    """Restore the folders of applied migrations from the log, on this machine, and build their models.
    Without VERSION, all missing folders.

    The log has only a digest of large files and of files with rows of sealed tables. If such files are
    missing, they are listed with size and SHA-256, the exit code is 1, and nothing is built.

    \b
    Examples:
      everlog restore-folders
      everlog restore-folders 20260105093000 --force
    """
    from everlog import migrations

    _check_there(settings)
    with open_database(settings, read_only=True) as db:
        done = db.migrations.restore_folders(versions, force=force)
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
