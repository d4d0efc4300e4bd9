"""Backup: the log of a database is copied to a directory, verified there, and made a database again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from everlog.console import text
from everlog.console.opening import Directory, open_database
from everlog.console.progress import shown
from everlog.console.settings import Settings, check_common, common, pass_settings
from everlog.store import past_time
from everlog.store.errors import CursorError, RowError


class Moment(click.ParamType[Any]):
    """A seq, or a time as ISO 8601 has it, in UTC unless it says otherwise."""

    name = "seq or time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int | None, int | None]:
        if isinstance(value, tuple):
            return value
        if value.isdecimal():
            return int(value), None
        return None, nanoseconds(value)


def nanoseconds(value: str) -> int:
    """Since the Unix epoch, of a time as text. Raises CursorError."""
    try:
        return past_time.nanoseconds(value)
    except RowError:
        raise CursorError(f"expected a seq, or a time like 2026-01-05T09:30:00Z, found {value!r}") from None


@click.command()
@click.argument("directory", metavar="DIR|URL")
@click.option(
    "--hashes/--no-hashes",
    default=None,
    help="Record what the tables contain, for verify-backup --deep and restore.  [default: of few rows]",
)
@common
@pass_settings
def backup(settings: Settings, *, directory: str, hashes: bool | None) -> None:
    """Copies the log to a directory, or a URL that fsspec knows, while writers go on; from the second time
    on only what is new.

    What it writes is read again and compared. Interrupted or killed, it leaves a whole backup, of less;
    run it again. A database on a server is read through its feed.

    \b
    Examples:
      everlog -u file:flights.db backup flights.backup
      everlog -u everlog://db.example.com/flights backup s3://backups/flights
    """
    from everlog.audit.backup import backup as back_up
    from everlog.audit.source import Source
    from everlog.feed.embedded import EmbeddedDatabase
    from everlog.rpc.remote_backup import RemoteLog

    check_common(settings, folders=False, dumps=False)
    settings.resume = f"what is in {directory} is whole; run it again to go on"
    with open_database(settings, read_only=True) as db, shown() as progress:
        source: EmbeddedDatabase | Source = db if isinstance(db, EmbeddedDatabase) else RemoteLog(db)
        done = back_up(source, directory, hashes=hashes, progress=progress)
    if settings.json:
        text.echo({**msgspec.structs.asdict(done), "records": done.records})
    elif done.records:
        click.echo(
            f"Backed up: records {done.first:,} to {done.last:,}, {text.size(done.written_bytes)} written;"
            f" {directory} has {done.segments} segments, {text.size(done.total_bytes)}"
        )
    else:
        click.echo(f"Nothing new: {directory} is at record {done.last:,}, and so is the database")


@click.command(name="verify-backup")
@click.argument("directory", metavar="DIR|URL")
@click.option("--deep", is_flag=True, help="Restore it into a temporary directory, and check the database.")
@common
@pass_settings
@click.pass_context
def verify_backup(ctx: click.Context, settings: Settings, *, directory: str, deep: bool) -> None:
    """Reads a backup, all of it, and prints what is not as it must be. Exits with 1 if anything is not.

    \b
    Examples:
      everlog verify-backup flights.backup
      everlog verify-backup s3://archive/flights --deep
    """
    from everlog.audit.verify import verify

    found = 0
    with shown() as progress:
        for problem in verify(directory, deep=deep, progress=progress):
            found += 1
            text.echo({"problem": problem}) if settings.json else click.echo(problem)
    if settings.json:
        text.echo({"backup": directory, "problems": found})
    if found:
        ctx.exit(1)
    if not settings.json:
        click.echo("OK: no problems found")


@click.command()
@click.argument("directory", metavar="DIR|URL")
@click.argument("to", type=Directory())
@click.option("--at", type=Moment(), metavar="SEQ|TIME", help="As of this record, or this time.")
@click.option("--fork", is_flag=True, help="As another database, to be used beside the first.")
@common
@pass_settings
def restore(
    settings: Settings, *, directory: str, to: Path, at: tuple[int | None, int | None] | None, fork: bool
) -> None:
    """Makes a new database in the directory TO from a backup. It is whole, or it is none.

    It is the same database, gone back: who follows it goes on, or is told that it diverged. With --fork it is
    another one, with a UUID of its own.

    \b
    Examples:
      everlog restore flights.backup flights.db
      everlog restore flights.backup before.db --at 2026-01-05T09:30:00Z
      everlog restore flights.backup staging.db --fork
    """
    from everlog.audit.restore import restore as make
    from everlog.console.people import say_sealed

    settings.resume = f"nothing is left in {to}"
    seq, time_ns = at or (None, None)
    with shown() as progress:
        done = make(directory, to, at=seq, at_time_ns=time_ns, fork=fork, progress=progress)
    say_sealed(to)
    if settings.json:
        tables = {name: {"rows": one.rows, "hash": one.hash.hex()} for name, one in done.tables.items()}
        text.echo({**msgspec.structs.asdict(done), "tables": tables})
        return
    proven = ", proven by the hashes in the backup" if done.proven else ""
    click.echo(f"Restored: {to}, as of record {done.seq:,}, {text.moment(done.time_ns)}{proven}")
    for name, table in done.tables.items():
        click.echo(f"          {name}, {table.rows:,} rows, {table.hash.hex()[:16]}")
