"""Follow: a database is mirrored into another store, exactly once, until it is stopped."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import click

from everlog.console import text
from everlog.console.following import look_again, register
from everlog.console.opening import open_database
from everlog.console.progress import shown
from everlog.console.settings import Settings, check_common, common, pass_settings, refuse_idle
from everlog.console.tables import TableName
from everlog.consumers.follower import RETRY_FIRST_S
from everlog.store.errors import Error

SAY_EVERY_S = 60.0  # that a target is still waited for


@click.command()
@click.option("--from", "source", metavar="URL", help="The database to follow.  [default: that of --url]")
@click.option("--to", "target", metavar="URL", required=True, help="Where to, as sqlite:PATH.")
@click.option("--table", "tables", type=TableName(), multiple=True, help="Only this table; may be repeated.")
@click.option("--until", type=int, metavar="SEQ", help="Stop after this commit.")
@click.option("--once", is_flag=True, help="Stop at the newest commit there is now.")
@click.option(
    "--consumer",
    metavar="NAME",
    help="Register under this name: what this follower lacks is held for it, up to a cap.",
)
@click.option("--verify", "proof", is_flag=True, help="Then prove that both are equal; exit with 1 if not.")
@common
@pass_settings
@click.pass_context
def follow(
    ctx: click.Context,
    settings: Settings,
    *,
    source: str | None,
    target: str,
    tables: tuple[str, ...],
    until: int | None,
    once: bool,
    consumer: str | None,
    proof: bool,
) -> None:
    """Mirrors tables into another store, and keeps them equal until it is stopped.

    The position is stored with the rows: whatever stops it, it goes on exactly where it was. It
    ends at --until, with --once, or by Ctrl-C or SIGTERM. A target that another process has locked, or
    whose disk is full, is tried again until it accepts.

    With --consumer, a name for this target alone, the database knows how far it is (`everlog consumers`),
    and archiving leaves what it lacks.

    \b
    Examples:
      everlog follow --from everlog://db.example.com/flights --to sqlite:flights.sqlite
      everlog -u file:flights.db follow --to sqlite:flights.sqlite --once --verify
      everlog follow --to sqlite:flights.sqlite --consumer mirror
    """
    from everlog.consumers import Follower, open_sink, verify
    from everlog.feed.embedded import EmbeddedDatabase

    check_common(settings, folders=False, dumps=False)
    if source is not None:
        refuse_idle("url", "env", when="beside --from")
    settings.resume = "the same command goes on exactly where it stopped"
    if consumer is not None:
        register(settings, source, consumer)
    with (
        open_database(settings, url=source, read_only=True) as db,
        closing(open_sink(target)) as sink,
        shown() as progress,
        _stopped_by_sigterm() as stop,
    ):
        follower = Follower(
            db, sink, tables=tables, progress=progress, consumer=consumer, retrying=_Retrying()
        )
        beside = db if isinstance(db, EmbeddedDatabase) else None  # another process writes to it
        done = follower.run(until=until, bounded=once or beside is not None, stop=stop)
        while beside and not (once or stop.is_set() or (until and done.position.seq >= until)):
            look_again(beside)
            done = follower.run(until=until, bounded=True, stop=stop)
        if settings.json:
            text.echo(
                {
                    "target": sink.name,
                    "seq": done.position.seq,
                    "commits": done.commits,
                    "changes": done.changes,
                }
            )
        else:
            click.echo(f"Followed: {sink.name} is at commit {done.position.seq:,}")
        if proof:
            _prove(
                ctx,
                settings,
                [str(one) for one in verify(db, sink, progress=progress)],
                {"target": sink.name, "seq": done.position.seq, "tables": sorted(tables or db.schema.tables)},
            )


class _Retrying:
    """Says that the target refuses, when it begins to and once a minute."""

    def __init__(self) -> None:
        self._said: float | None = None

    def __call__(self, error: Error, seconds: float) -> None:
        now = time.monotonic()
        if self._said is None or seconds == RETRY_FIRST_S or now - self._said >= SAY_EVERY_S:
            self._said = now
            click.echo(f"waiting: {error}; trying again until it accepts", err=True)


def _prove(
    ctx: click.Context, settings: Settings, differences: list[str], compared: dict[str, object]
) -> None:
    for difference in differences:
        text.echo({"difference": difference}) if settings.json else click.echo(difference)
    if settings.json:
        text.echo({**compared, "differences": len(differences)})
    if differences:
        ctx.exit(1)
    if not settings.json:
        click.echo("Equal: every table, rows and content hash")


@contextmanager
def _stopped_by_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets: the transaction at hand is finished first."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def told(*_: Any) -> None:
        stop.set()

    before = signal.signal(signal.SIGTERM, told)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
