"""Archive: old log of a database is moved to another place, and the disk that it took is free."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from everlog.console import text
from everlog.console.opening import directory_of, open_database
from everlog.console.progress import shown
from everlog.console.settings import Settings, common, pass_settings

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
@click.option("--hold", "held", type=Hold(), multiple=True, metavar="NAME=SEQ", help="Keep from there on.")
@click.option("--release", multiple=True, metavar="NAME", help="Let go of a hold.")
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
) -> None:
    """Moves old log to TARGET, a directory or a URL that fsspec knows, and frees the disk that it took.

    It is removed after it was read again there, and is read from there wherever it is needed. Holds keep
    records from going, until they are released. Nobody else may have the database open for writing.

    \b
    Examples:
      everlog -u file:flights.db archive /mnt/archive/flights --keep-days 90
      everlog -u file:flights.db archive s3://archive/flights --keep-records 1000000
      everlog -u file:flights.db archive --hold audit-2026=81200
    """
    from everlog.audit import holds
    from everlog.audit.archive import archive as move
    from everlog.feed.embedded import EmbeddedDatabase

    path = directory_of(settings.url)
    if target is not None and keep_records is None and keep_days is None:
        raise click.UsageError("Say what is kept: --keep-records or --keep-days (0 is nothing).")
    if target is None and not held and not release:
        raise click.UsageError("Say where to: a directory or a URL; or --hold, or --release.")
    settings.resume = "what was not archived yet is in the database; run it again to go on"
    with open_database(settings, read_only=target is None) as db, shown() as progress:
        assert isinstance(db, EmbeddedDatabase)
        for name, seq in held:
            holds.hold(path, name, seq)
        for name in release:
            holds.release(path, name)
        if target is None:
            found = holds.read(path)
            text.echo({"holds": found}) if settings.json else _print(found)
            return
        keep_ns = int((keep_days or 0) * DAY_NS)
        done = move(db, target, keep_records=keep_records or 0, keep_ns=keep_ns, progress=progress)
    if settings.json:
        text.echo(msgspec.structs.asdict(done))
    elif done.removed:
        freed = text.size(max(0, done.bytes_before - done.bytes_after))
        click.echo(f"Archived: {done.removed:,} records, up to {done.base:,}; {freed} of the disk are free")
    else:
        click.echo(f"Nothing to archive: {done.held}")


def _print(found: dict[str, int]) -> None:
    for name, seq in sorted(found.items()):
        click.echo(f"Held: from record {seq:,} on, by {name}")
    if not found:
        click.echo("Nothing is held")
