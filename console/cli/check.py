"""Check: the commands check, rebuild, repair, expire and clock."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from everlog.console import output
from everlog.console.cli.connect import (
    Directory,
    at_option,
    by_keyword,
    directory_of,
    is_remote,
    open_database,
)
from everlog.console.cli.options import Renamed, Settings, common, dry_run, pass_settings, writes
from everlog.console.output import show_progress
from everlog.rpc.address import without_secrets
from everlog.store.errors import Error, quantity
from everlog.store.rocks import files

if TYPE_CHECKING:
    from everlog.console.cli.connect import AnyDatabase
    from everlog.store.progress import OnProgress
    from everlog.store.tables.hashing import TableHash
    from everlog.store.upkeep.status import ClockStatus


@click.command()
@click.option("--deep", is_flag=True, help="Also compare every row with the log.")
@common
@pass_settings
@click.pass_context
def check(ctx: click.Context, settings: Settings, *, deep: bool) -> None:
    """Check the folders of migrations and the database, and print each problem. Exit with 1 if there is
    any.

    Folders are checked first, as by `everlog lint`. Without a URL only the folders are checked.

    \b
    Examples:
      everlog check
      everlog -u file:flights.db check
      everlog -u file:flights.db check --deep
    """
    found = 0
    folders = _mistakes_in_folders(settings)
    for problem in folders or ():
        found += 1
        output.echo({"problem": problem}) if settings.json else click.echo(problem)
    if folders is not None and not settings.has_url:
        if settings.json:
            output.echo({"migrations": settings.migrations, "problems": found})
        elif not found:
            click.echo("OK: no problems found in the folders; without a URL no database was checked")
        if found:
            ctx.exit(1)
        return
    with open_database(settings, read_only=True) as db, show_progress() as progress:
        for problem in db.admin.check(progress=progress, deep=deep):
            found += 1
            output.echo({"problem": problem}) if settings.json else click.echo(problem)
        if settings.json:
            checked = {"url": without_secrets(db.url), "seq": db.head, "tables": sorted(db.schema.tables)}
            output.echo({**checked, "problems": found})
    if found:
        ctx.exit(1)
    if not settings.json:
        click.echo("OK: no problems found")


def _mistakes_in_folders(settings: Settings) -> list[str] | None:
    """Return the errors of lint in the folders; None if there are no folders, and none were named."""
    from everlog.migrations import Severity, lint

    if settings.migrations_or_none is None and not Path(settings.migrations).is_dir():
        return None
    return [
        f"{one.file}:{one.line}: {one.text}; {one.fix} [{one.id}]"
        for one in lint(settings.migrations)
        if one.severity is Severity.ERROR
    ]


@click.command()
@click.option(
    "--into",
    type=Directory(),
    metavar="PATH",
    help="Build a new database in this directory, from the log alone.",
)
@click.option("--from", "from_", metavar="URL", help="With --into: rebuild from the feed of this server.")
@at_option("With --into: as of this commit, or of this time, as 02:13 or 1h ago.")
@common
@pass_settings
def rebuild(settings: Settings, *, into: Path | None, from_: str | None, at: int | str | None) -> None:
    """Rebuild all tables from the log, verify that they equal the live ones, and switch to them.

    A killed rebuild resumes.

    \b
    Examples:
      everlog -u file:flights.db rebuild
      everlog -u file:flights.db rebuild --into proof.db
      everlog -u file:flights.db rebuild --into monday.db --at 2026-01-05T09:30
      everlog rebuild --into copy.db --from everlog://db.example.com/flights
    """
    from everlog.console.cli.erase import say_sealed
    from everlog.store.upkeep.rebuild import is_half

    if into is None and (at is not None or from_ is not None):
        raise click.UsageError(
            f"--{'from' if from_ else 'at'} creates another database: name its directory with --into"
        )
    settings.resume = "the live tables are unchanged"
    if into is not None:
        settings.resume = f"{into} was removed"
        if is_half(into):
            click.echo(f"Found: {into} has an interrupted rebuild; resuming it", err=True)
    with open_database(settings, url=from_, read_only=into is not None) as db, show_progress() as progress:
        hashes = db.admin.rebuild(progress=progress) if into is None else _into(db, into, at, progress)
        if into is not None and not is_remote(from_ or settings.url):  # a remote rebuild compares them itself
            settings.resume = f"{into} is complete, but was not compared with the live tables"
            last = files.read_head(into)
            seq = None if at is None or last is None else last.seq
            if hashes != db.admin.hashes(progress, seq=seq):
                raise Error(
                    f"the tables in {into} differ from the live ones; `everlog check --deep` shows the rows"
                )
    if into is not None:
        say_sealed(into)
    for name, table in hashes.items():
        if settings.json:
            output.echo({"table": name, "rows": table.rows, "hash": table.hash.hex()})
        else:
            click.echo(f"Equal: {name}, {quantity(table.rows, 'row')}, {table.hash.hex()[:16]}")


def _into(db: AnyDatabase, into: Path, at: int | str | None, progress: OnProgress) -> dict[str, TableHash]:
    if at is None:
        return db.admin.rebuild_into(into, progress=progress)
    return db.admin.rebuild_into(into, progress, **by_keyword(at))


@click.command()
@click.option("--dry-run", is_flag=True, help="Print what would be done; change nothing.")
@common
@pass_settings
def repair(settings: Settings, *, dry_run: bool) -> None:
    """Repair a damaged database: keep its log up to the first invalid record, and rebuild the tables
    from it.

    The damaged files are kept under another name. A row that cannot be read is deleted by one more
    commit; `everlog log` shows it.

    \b
    Examples:
      everlog -u file:flights.db repair --dry-run
      everlog -u file:flights.db repair
    """
    from everlog.store.upkeep.repair import repair as repair_files

    path = directory_of(settings.url)
    settings.resume = "nothing was changed"
    with show_progress() as progress:
        done = repair_files(path, dry_run=dry_run, progress=progress)
    if settings.json:
        output.echo({**msgspec.structs.asdict(done), "cut": done.cut})
        return
    for problem in done.files:
        click.echo(f"Found: {problem}")
    if done.why:
        click.echo(f"Found: {done.why}")
    click.echo(
        f"{'Would keep' if dry_run else 'Kept'} the log up to record {done.records:,} of"
        f" {done.records + done.cut:,}, and rebuilt its tables from it: {quantity(done.cut, 'record')} cut"
    )
    for name in done.aside:
        click.echo(f"{'Would set' if dry_run else 'Set'} aside: row {name}, which cannot be read")
    if done.damaged:
        click.echo(f"Damaged files: kept in {done.damaged}; delete them when they are no longer needed")


@click.command()
@click.option(
    "--trust-clock",
    cls=Renamed,
    was=("--yes",),
    is_flag=True,
    help="Confirm that the clock is correct after a forward jump.",
)
@dry_run
@common
@pass_settings
def expire(settings: Settings, *, trust_clock: bool, dry_run: bool) -> None:
    """Delete expired rows. A process that writes to the database does this itself, within a minute.

    After a jump of its clock a server deletes nothing until the clock is correct again, or
    --trust-clock confirms it.

    \b
    Examples:
      everlog -u everlog://db.example.com/shop expire
      everlog -u everlog://db.example.com/shop expire --trust-clock
    """
    with open_database(settings, read_only=dry_run) as db:
        rows = db.admin.status().expiry.due if dry_run else db.admin.expire(confirm_time=trust_clock)
    if settings.json:
        output.echo({"rows": rows, **({"dry_run": True} if dry_run else {})})
    else:
        click.echo(f"{'Would expire' if dry_run else 'Expired'}: {quantity(rows, 'row')}")


@click.command()
@click.option("--correct", is_flag=True, help="Record in the log that the clock is correct.")
@writes
@common
@pass_settings
def clock(settings: Settings, *, correct: bool, actor: str, reason: str) -> None:
    """Show the clock of the machine that writes, and how far the newest commit is ahead of it.

    Commit times never decrease. After a commit by a clock that was ahead, later commits have the same
    time until the clock reaches it. --correct records in the log that the clock is correct now: reads
    as of a time then use the clock's reading at each commit, and rows expire again after a jump.

    \b
    Examples:
      everlog clock
      everlog -u everlog://db.example.com/shop clock --correct --reason "NTP was down"
    """
    with open_database(settings, read_only=not correct) as db:
        seq = db.admin.correct_clock(actor=actor, reason=reason) if correct else 0
        found = db.admin.status().clock
    if settings.json:
        output.echo(msgspec.structs.asdict(found))
        return
    click.echo(f"The clock reads {output.moment(found.reading_ns)}")
    click.echo(ahead_of(found) or "The newest commit is not ahead of it")
    if correct and not seq:
        click.echo("Nothing to correct in the log")


def ahead_of(found: ClockStatus) -> str:
    """Return a sentence about how far the log is ahead; empty if it is not."""
    if found.ahead_s < 1:
        return ""
    ahead = f"The newest commit is {found.ahead_s:,.0f} s ahead of the clock: "
    if found.corrected:
        return f"{ahead}commit {found.corrected:,} records that the clock is correct"
    return f"{ahead}commits carry its time until then; if the clock is correct, run `everlog clock --correct`"
