"""Backup: the commands backup, verify-backup, restore and archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from everlog.console import output
from everlog.console.cli.connect import Directory, at_option, is_remote, open_database
from everlog.console.cli.options import (
    Renamed,
    Settings,
    common,
    dry_run,
    pass_settings,
    refuse_idle,
    writes,
)
from everlog.console.output import show_progress
from everlog.store.errors import quantity
from everlog.store.schema.arguments import nanoseconds, seq_of

if TYPE_CHECKING:
    from everlog.console.cli.connect import AnyDatabase


@click.command()
@click.argument("directory", metavar="DIR|URL")
@click.option(
    "--hashes/--no-hashes",
    default=None,
    help="Record hashes of the tables, for verify-backup --deep and restore.  [default: for small tables]",
)
@common
@pass_settings
def backup(settings: Settings, *, directory: str, hashes: bool | None) -> None:
    """Copy the log to a directory or a URL that fsspec supports. Writers continue; later runs copy only
    new records.

    Everything written is read back and compared. After an interruption the backup is complete up to an
    earlier record; run the command again. A database on a server is read through its feed.

    \b
    Examples:
      everlog -u file:flights.db backup flights.backup
      everlog -u everlog://db.example.com/flights backup s3://backups/flights
    """
    settings.resume = f"the backup in {directory} is complete up to an earlier record; run it again to resume"
    with open_database(settings, read_only=True) as db, show_progress() as progress:
        done = db.archive.backup(directory, hashes=hashes, progress=progress)
    if settings.json:
        output.echo({**msgspec.structs.asdict(done), "records": done.records})
    elif done.records:
        click.echo(
            f"Backed up: records {done.first:,} to {done.last:,}, {output.size(done.written_bytes)} written;"
            f" {directory} has {quantity(done.segments, 'segment')}, {output.size(done.total_bytes)}"
        )
    else:
        click.echo(f"Nothing new: {directory} is at record {done.last:,}, and so is the database")


@click.command(name="verify-backup")
@click.argument("directory", metavar="DIR|URL")
@click.option("--deep", is_flag=True, help="Also restore into a temporary directory, and check the database.")
@common
@pass_settings
@click.pass_context
def verify_backup(ctx: click.Context, settings: Settings, *, directory: str, deep: bool) -> None:
    """Verify every record of a backup, and print each problem. Exit with 1 if there is any.

    \b
    Examples:
      everlog verify-backup flights.backup
      everlog verify-backup s3://archive/flights --deep
    """
    from everlog.audit.verify_backup import verify_backup

    found = 0
    with show_progress() as progress:
        for problem in verify_backup(directory, deep=deep, progress=progress):
            found += 1
            output.echo({"problem": problem}) if settings.json else click.echo(problem)
    if settings.json:
        output.echo({"backup": directory, "problems": found})
    if found:
        ctx.exit(1)
    if not settings.json:
        click.echo("OK: no problems found")


@click.command()
@click.argument("directory", metavar="DIR|URL")
@click.argument("to", type=Directory())
@at_option("As of this commit, or of this time, as 02:13 or 1h ago.")
@click.option("--fork", is_flag=True, help="Give the new database its own UUID, for use beside the original.")
@common
@pass_settings
def restore(settings: Settings, *, directory: str, to: Path, at: int | str | None, fork: bool) -> None:
    """Create a database in the directory TO from a backup. A failed restore leaves no database.

    The new database has the UUID of the original. Followers resume, or get an error if their position
    does not exist in it. With --fork it gets a UUID of its own.

    \b
    Examples:
      everlog restore flights.backup flights.db
      everlog restore flights.backup before.db --at 2026-01-05T09:30:00Z
      everlog restore flights.backup staging.db --fork
    """
    from everlog.audit.restore import restore as make
    from everlog.console.cli.erase import say_sealed

    settings.resume = f"{to} was removed"
    seq = at if isinstance(at, int) else None
    time_ns = nanoseconds(at) if isinstance(at, str) else None
    with show_progress() as progress:
        done = make(directory, to, at=seq, at_time_ns=time_ns, fork=fork, progress=progress)
    say_sealed(to)
    if settings.json:
        tables = {name: {"rows": one.rows, "hash": one.hash.hex()} for name, one in done.tables.items()}
        output.echo({**msgspec.structs.asdict(done), "tables": tables})
        return
    proven = ", proven by the hashes in the backup" if done.proven else ""
    click.echo(f"Restored: {to}, as of record {done.seq:,}, {output.moment(done.time_ns)}{proven}")
    for name, table in done.tables.items():
        click.echo(f"          {name}, {quantity(table.rows, 'row')}, {table.hash.hex()[:16]}")


DAY_NS = 86_400 * 10**9


class Hold(click.ParamType[Any]):
    """A name, and the first record that it holds."""

    name = "name=seq"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        name, _, digits = value.partition("=")
        seq = seq_of(digits)
        if not name or seq is None:
            self.fail(f"expected NAME=SEQ, found {value!r}", param, ctx)
        return name, seq


@click.command()
@click.argument("target", required=False)
@click.option("--keep-records", type=click.IntRange(0), metavar="N", help="Keep the last N records.")
@click.option(
    "--keep-days", type=click.FloatRange(0), metavar="DAYS", help="Keep the records of the last DAYS days."
)
@click.option(
    "--add-hold",
    "held",
    cls=Renamed,
    was=("--hold",),
    type=Hold(),
    multiple=True,
    metavar="NAME=SEQ",
    help="Keep record SEQ and later ones, under this name.",
)
@click.option("--release", multiple=True, metavar="NAME", help="Release the hold of this name.")
@dry_run
@writes
@common
@pass_settings
def archive(
    settings: Settings,
    *,
    target: str | None,
    keep_records: int | None,
    keep_days: float | None,
    held: tuple[tuple[str, int], ...],
    release: tuple[str, ...],
    dry_run: bool,
    actor: str,
    reason: str,
) -> None:
    """Move old records to TARGET, a directory or a URL that fsspec supports, and free their disk space.

    Records are removed only after they were read back from TARGET, and are read from there when they
    are needed. Holds keep records until they are released; consumers keep records up to their caps. A
    server has its own target (`serve --archive-to`) and needs no TARGET.

    \b
    Examples:
      everlog -u file:flights.db archive /mnt/archive/flights --keep-days 90
      everlog -u file:flights.db archive s3://archive/flights --keep-records 1000000
      everlog -u everlog://db.example.com/flights archive --keep-days 90
      everlog -u file:flights.db archive --add-hold audit-2026=81200
      everlog -u file:flights.db archive --release audit-2026 --reason "audit closed"
    """
    from everlog.audit.archived import reach
    from everlog.store.urls import without_secrets

    if not release:
        refuse_idle("actor", "reason", when="without --release")
    keeps = keep_records is not None or keep_days is not None
    if target is not None and not keeps:
        raise click.UsageError("expected --keep-records or --keep-days (0: keep nothing)")
    moves = target is not None or (keeps and is_remote(settings.url))
    if not moves and (keeps or not (held or release)):
        raise click.UsageError("expected TARGET, a directory or a URL; or --add-hold, or --release")
    if dry_run:
        if not keeps or held or release:
            raise click.UsageError("--dry-run works only for moving old records: --keep-records, --keep-days")
        _would_archive(settings, keep_records or 0, int((keep_days or 0) * DAY_NS))
        return
    settings.resume = "records that are not archived yet are in the database; run it again to resume"
    with open_database(settings, read_only=not moves) as db, show_progress() as progress:
        found = _held(db, held, release, actor=actor, reason=reason)
        if not moves:
            output.echo({"holds": found}) if settings.json else _print(found)
            return
        keep: dict[str, Any] = {
            "keep_records": keep_records or 0,
            "keep_ns": int((keep_days or 0) * DAY_NS),
            "progress": progress,
        }
        had = reach(target) if target is not None else 0
        done = db.archive.move(target or "", **keep)
    if settings.json:
        output.echo(msgspec.structs.asdict(done))
    elif done.removed:
        freed = output.size(max(0, done.bytes_before - done.bytes_after))
        click.echo(
            f"Archived: {quantity(done.removed, 'record')}, up to {done.base:,}; {freed} of the disk were"
            " freed"
        )
    elif target is not None and had < done.base:
        where = without_secrets(target)
        click.echo(f"Copied: {where} also has the records up to {done.base:,}; later ones stay: {done.held}")
    else:
        click.echo(f"Nothing to archive: {done.held}")


def _would_archive(settings: Settings, keep_records: int, keep_ns: int) -> None:
    with open_database(settings, read_only=True) as db:
        last, held = db.archive.removable(keep_records=keep_records, keep_ns=keep_ns)
        base = db.admin.status().archive.base
    records = max(0, last - base) if last > 1 else 0
    if settings.json:
        output.echo({"records": records, "base": last, "held": held, "dry_run": True})
    elif records:
        click.echo(f"Would archive: {quantity(records, 'record')}, up to {last:,}; later ones stay: {held}")
    else:
        click.echo(f"Nothing to archive: {held}")


def _held(
    db: AnyDatabase,
    held: tuple[tuple[str, int], ...],
    release: tuple[str, ...],
    *,
    actor: str,
    reason: str,
) -> dict[str, int]:
    """Add and release holds, and return all holds."""
    for name, seq in held:
        db.archive.hold(name, seq)
    for name in release:
        db.archive.release(name, actor=actor, reason=reason)
    return db.archive.holds()


def _print(found: dict[str, int]) -> None:
    for name, seq in sorted(found.items()):
        click.echo(f"Held: from record {seq:,} on, by {name}")
    if not found:
        click.echo("No holds")
