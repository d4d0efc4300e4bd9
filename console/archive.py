"""Archive: old log of a database is moved to another place, and the disk that it took is free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from everlog.console import text
from everlog.console.opening import is_remote, open_database
from everlog.console.progress import shown
from everlog.console.settings import Renamed, Settings, check_common, common, dry_run, pass_settings

if TYPE_CHECKING:
    from everlog.audit.archive import Archival
    from everlog.console.opening import AnyDatabase

DAY_NS = 86_400 * 10**9


class Hold(click.ParamType[Any]):
    """A name, and the first record that it holds."""

    name = "name=seq"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        name, _, seq = value.partition("=")
        if not name or not seq.isdecimal():
            self.fail(f"expected NAME=SEQ, found {value!r}", param, ctx)
        return name, int(seq)


@click.command()
@click.argument("target", required=False)
@click.option("--keep-records", type=click.IntRange(0), metavar="N", help="Keep the last N records.")
@click.option(
    "--keep-days", type=click.FloatRange(0), metavar="DAYS", help="Keep the records of so many days."
)
@click.option(
    "--add-hold",
    "held",
    cls=Renamed,
    was=("--hold",),
    type=Hold(),
    multiple=True,
    metavar="NAME=SEQ",
    help="Keep the record SEQ and all after it, under this name.",
)
@click.option("--release", multiple=True, metavar="NAME", help="Let go of a hold.")
@dry_run
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
) -> None:
    """Moves old log to TARGET, a directory or a URL that fsspec knows, and frees the disk that it took.

    It is removed after it was read again there, and is read from there wherever it is needed. Holds keep
    records from going, until they are released, and so do consumers, up to their caps. A server archives to
    where it was told (`serve --archive-to`), and needs no TARGET.

    \b
    Examples:
      everlog -u file:flights.db archive /mnt/archive/flights --keep-days 90
      everlog -u file:flights.db archive s3://archive/flights --keep-records 1000000
      everlog -u everlog://db.example.com/flights archive --keep-days 90
      everlog -u file:flights.db archive --add-hold audit-2026=81200
    """
    from everlog.audit.archived import reach
    from everlog.audit.place import shown as without_secrets

    check_common(settings, folders=False, dumps=False)
    keeps = keep_records is not None or keep_days is not None
    if target is not None and not keeps:
        raise click.UsageError("Say what is kept: --keep-records or --keep-days (0 is nothing).")
    moves = target is not None or (keeps and is_remote(settings.url))
    if not moves and (keeps or not (held or release)):
        raise click.UsageError("Say where to: a directory or a URL; or --add-hold, or --release.")
    if dry_run:
        if not keeps or held or release or is_remote(settings.url):
            raise click.UsageError("--dry-run is for moving the log of a database of this machine")
        _would_archive(settings, keep_records or 0, int((keep_days or 0) * DAY_NS))
        return
    settings.resume = "what was not archived yet is in the database; run it again to go on"
    with open_database(settings, read_only=not moves) as db, shown() as progress:
        found = _held(db, held, release)
        if not moves:
            text.echo({"holds": found}) if settings.json else _print(found)
            return
        keep: dict[str, Any] = {
            "keep_records": keep_records or 0,
            "keep_ns": int((keep_days or 0) * DAY_NS),
            "progress": progress,
        }
        had = reach(target) if target is not None else 0
        done = _archive(db, target, **keep)
    if settings.json:
        text.echo(msgspec.structs.asdict(done))
    elif done.removed:
        freed = text.size(max(0, done.bytes_before - done.bytes_after))
        click.echo(f"Archived: {done.removed:,} records, up to {done.base:,}; {freed} of the disk were freed")
    elif target is not None and had < done.base:
        where = without_secrets(target)
        click.echo(f"Copied: {where} has the records up to {done.base:,} as well; no more go: {done.held}")
    else:
        click.echo(f"Nothing to archive: {done.held}")


def _would_archive(settings: Settings, keep_records: int, keep_ns: int) -> None:
    from everlog.audit.archive import removable
    from everlog.feed.embedded import EmbeddedDatabase

    with open_database(settings, read_only=True) as db:
        assert isinstance(db, EmbeddedDatabase)
        last, held = removable(db, keep_records, keep_ns)
        base = db.log.trimmed.base
    records = max(0, last - base) if last > 1 else 0
    if settings.json:
        text.echo({"records": records, "base": last, "held": held, "dry_run": True})
    elif records:
        click.echo(f"Would archive: {records:,} records, up to {last:,}; what stays: {held}")
    else:
        click.echo(f"Nothing to archive: {held}")


def _archive(db: AnyDatabase, target: str | None, **keep: Any) -> Archival:
    from everlog.audit.archive import archive as move
    from everlog.feed.embedded import EmbeddedDatabase
    from everlog.rpc.remote_archive import archive as ask

    if isinstance(db, EmbeddedDatabase):
        assert target is not None
        return move(db, target, **keep)
    return ask(db, target or "", **keep)


def _held(db: AnyDatabase, held: tuple[tuple[str, int], ...], release: tuple[str, ...]) -> dict[str, int]:
    """What is held, once that was done."""
    from everlog.audit import holds as files
    from everlog.feed.embedded import EmbeddedDatabase
    from everlog.rpc.remote_archive import RemoteHolds

    if isinstance(db, EmbeddedDatabase):
        for name, seq in held:
            files.hold_in(db, name, seq)
        for name in release:
            files.release(db.directory, name)
        return files.read(db.directory)
    there = RemoteHolds(db)
    for name, seq in held:
        there.hold(name, seq)
    for name in release:
        there.release(name)
    return there.read()


def _print(found: dict[str, int]) -> None:
    for name, seq in sorted(found.items()):
        click.echo(f"Held: from record {seq:,} on, by {name}")
    if not found:
        click.echo("Nothing is held")
