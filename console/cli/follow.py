"""Follow: the commands follow and consumers.

A database is mirrored into another store, exactly once, until the command is stopped.

    on a server          subscribes to the feed, and resumes after an outage
    embedded, read-only  reads the log, and looks again for commits of the writing process
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import click

from everlog.console import output
from everlog.console.cli.connect import TableName, is_remote, open_database
from everlog.console.cli.options import Settings, common, pass_settings, refuse_idle, writes
from everlog.console.output import show_progress
from everlog.consumers.follower.follower import RETRY_FIRST_S
from everlog.feed.message import FeedBatch
from everlog.proto import log_pb2
from everlog.store.errors import Error, OpenError, quantity

if TYPE_CHECKING:
    from everlog.console.cli.connect import AnyDatabase
    from everlog.store.upkeep.consumers import Cap, Consumer


LOOK_EVERY_S = 0.5


def batches(
    db: AnyDatabase,
    after: log_pb2.Cursor,
    *,
    until: int | None,
    tables: Sequence[str],
    follow: bool,
) -> Iterator[FeedBatch]:
    """Yield the batches after a cursor, up to the newest or `until`; with `follow` also later ones."""
    names = list(tables) or None
    if not follow or not db.follows_writer:
        with db.feed(after, tables=names, until=until, bounded=not follow) as feed:
            yield from feed.batches()
        return
    position = after
    while until is None or position.seq < until:
        with db.feed(position, tables=names, until=until, bounded=True) as feed:
            for batch in feed.batches():
                position = batch.mark.position
                yield batch
        pause_and_refresh(db)


def register_follower(settings: Settings, url: str | None, name: str) -> None:
    """Register a consumer of an embedded database that is opened read-only, unless it is known.
    Writes: opens the database for writing. Raises OpenError if another process has it open."""
    if is_remote(url or settings.url):
        return
    with open_database(settings, url=url, read_only=True) as db:
        if any(one.name == name for one in db.consumers):
            return
    try:
        with open_database(settings, url=url) as db:
            db.consumers.register(name, take=False)
    except OpenError as error:
        raise OpenError(f"consumer {name!r} is new and could not be registered: {error}") from None


def pause_and_refresh(db: AnyDatabase) -> None:
    """Wait a moment, and read what another process has written."""
    time.sleep(LOOK_EVERY_S)
    db.refresh()


SAY_EVERY_S = 60.0  # between two messages about a target that refuses writes


@click.command()
@click.option("--from", "source", metavar="URL", help="URL of the database to follow.  [default: --url]")
@click.option("--to", "target", metavar="URL", required=True, help="Target store, as sqlite:PATH.")
@click.option(
    "--table",
    "tables",
    type=TableName(),
    multiple=True,
    help="Follow only this table; may be repeated.  [default: all]",
)
@click.option("--until", type=int, metavar="SEQ", help="Stop after this commit.")
@click.option("--once", is_flag=True, help="Stop at the current newest commit.")
@click.option(
    "--consumer",
    metavar="NAME",
    help="Register under this name; records are held for it up to a cap.",
)
@click.option(
    "--verify", "proof", is_flag=True, help="Compare both stores at the end; exit with 1 if they differ."
)
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
    """Mirror tables into another store, and keep them equal until stopped.

    The position is stored with the rows, so an interrupted follower resumes exactly where it stopped.
    It ends at --until, with --once, on Ctrl-C or on SIGTERM. It retries while the target is locked by
    another process or its disk is full.

    With --consumer, a name unique to this target, the database tracks its position (`everlog
    consumers`), and archiving keeps the records it lacks.

    \b
    Examples:
      everlog follow --from everlog://db.example.com/flights --to sqlite:flights.sqlite
      everlog -u file:flights.db follow --to sqlite:flights.sqlite --once --verify
      everlog follow --to sqlite:flights.sqlite --consumer mirror
    """
    from everlog.consumers import Follower, open_sink, verify

    if source is not None:
        refuse_idle("url", "env", when="beside --from")
    settings.resume = "the same command resumes exactly where it stopped"
    if consumer is not None:
        register_follower(settings, source, consumer)
    with (
        open_database(settings, url=source, read_only=True) as db,
        closing(open_sink(target)) as sink,
        show_progress() as progress,
        _stopped_by_sigterm() as stop,
    ):
        follower = Follower(
            db, sink, tables=tables, progress=progress, consumer=consumer, retrying=_Retrying()
        )
        beside = db if db.follows_writer else None  # another process writes to it
        done = follower.run(until=until, bounded=once or beside is not None, stop=stop)
        while beside and not (once or stop.is_set() or (until and done.position.seq >= until)):
            pause_and_refresh(beside)
            done = follower.run(until=until, bounded=True, stop=stop)
        if settings.json:
            output.echo(
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
    """Prints that the target refuses writes, at first and then once a minute."""

    def __init__(self) -> None:
        self._said: float | None = None

    def __call__(self, error: Error, seconds: float) -> None:
        now = time.monotonic()
        if self._said is None or seconds == RETRY_FIRST_S or now - self._said >= SAY_EVERY_S:
            self._said = now
            click.echo(f"waiting: {error}; trying again until it succeeds", err=True)


def _prove(
    ctx: click.Context, settings: Settings, differences: list[str], compared: dict[str, object]
) -> None:
    for difference in differences:
        output.echo({"difference": difference}) if settings.json else click.echo(difference)
    if settings.json:
        output.echo({**compared, "differences": len(differences)})
    if differences:
        ctx.exit(1)
    if not settings.json:
        click.echo("Equal: every table, rows and content hash")


@contextmanager
def _stopped_by_sigterm() -> Iterator[threading.Event]:
    """Return an event that SIGTERM sets; the current transaction is finished first."""
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


DAY_S = 86_400


@click.group(invoke_without_command=True)
@common
@pass_settings
@click.pass_context
def consumers(ctx: click.Context, settings: Settings) -> None:
    """List durable consumers: their lag, and the records held for each.

    Archiving keeps the records that a consumer lacks, up to its cap. A consumer beyond its cap reads
    from the archive. A follower registers with `follow --consumer NAME`.

    \b
    Examples:
      everlog -u everlog://db.example.com/flights consumers
      everlog consumers --json | jq 'select(.over != "")'
      everlog consumers remove mirror
    """
    if ctx.invoked_subcommand is not None:
        return
    with open_database(settings, read_only=True) as db:
        found = list(db.consumers)
    for one in found:
        output.echo(_told(one)) if settings.json else click.echo(_line(one))
    if not found and not settings.json:
        click.echo("No consumers are registered")


@consumers.command()
@click.argument("name")
@click.option(
    "--cap-days",
    type=click.FloatRange(0),
    metavar="DAYS",
    help="Hold records for at most DAYS days.  [default: 7]",
)
@click.option(
    "--cap-records", type=click.IntRange(0), metavar="N", help="Hold at most N records.  [default: no limit]"
)
@click.option(
    "--cap-bytes", type=click.IntRange(0), metavar="N", help="Hold about this many bytes.  [default: 10 GiB]"
)
@click.option(
    "--owner",
    default="",
    metavar="NAME",
    help="Identity that owns the consumer: no other may use the name.  [default: the first that follows]",
)
@writes
@common
@pass_settings
def register(
    settings: Settings,
    *,
    name: str,
    owner: str,
    cap_days: float | None,
    cap_records: int | None,
    cap_bytes: int | None,
    actor: str,
    reason: str,
) -> None:
    """Register a consumer in advance, or change its cap or owner; 0 is no limit.

    A new consumer starts before the first record. A running one is not interrupted. At a server, changes to a
    consumer of another identity need the right `remove` and a reason.

    \b
    Examples:
      everlog -u file:flights.db consumers register mirror
      everlog -u everlog://db.example.com/flights consumers register mirror --cap-days 30 --cap-bytes 0
      everlog consumers register mirror --owner ann --reason "ann runs it now"
    """
    with open_database(settings) as db:
        known = next((one.cap for one in db.consumers if one.name == name), None)
        cap = _cap(known, cap_days, cap_records, cap_bytes)
        found = db.consumers.register(name, cap=cap, take=False, owner=owner, actor=actor, reason=reason)
    output.echo(_told(found)) if settings.json else click.echo(f"Registered: {_line(found)}")


@consumers.command()
@click.argument("name")
@writes
@common
@pass_settings
def remove(settings: Settings, *, name: str, actor: str, reason: str) -> None:
    """Remove a consumer: the log holds no more records for it. Its mirrored data is kept.

    \b
    Examples:
      everlog -u everlog://db.example.com/flights consumers remove mirror --reason "moved away"
    """
    with open_database(settings) as db:
        db.consumers.remove(name, actor=actor, reason=reason)
    output.echo({"removed": name}) if settings.json else click.echo(f"Removed: {name}")


def _cap(known: Cap | None, days: float | None, records: int | None, size: int | None) -> Cap | None:
    """Return the known cap with the given limits replaced; None: none was given."""
    from everlog.store.upkeep.consumers import Cap

    if days is None and records is None and size is None:
        return None
    before = known or Cap()
    return Cap(
        before.records if records is None else records,
        before.seconds if days is None else round(days * DAY_S),
        before.bytes if size is None else size,
    )


def _line(one: Consumer) -> str:
    lag = f"{one.lag_records:,} behind, for {output.span(one.lag_s)}" if one.lag_records else "caught up"
    held = f"holds {quantity(one.held_records, 'record')}, {output.size(one.held_bytes)}"
    if one.over:
        held = f"beyond its cap, {one.over}: nothing is held"
    owner = f"; of {one.owner}" if one.owner else ""
    return f"{one.name}: at {one.position.seq:,}, {lag}; {held}; cap {_shown(one.cap)}{owner}"


def _shown(cap: Cap) -> str:
    words = [quantity(cap.records, "record")] if cap.records else []
    words += [output.span(cap.seconds)] if cap.seconds else []
    words += [output.size(cap.bytes)] if cap.bytes else []
    return ", ".join(words) or "none"


def _told(one: Consumer) -> dict[str, Any]:
    return {
        "name": one.name,
        "seq": one.position.seq,
        "lag_records": one.lag_records,
        "lag_s": one.lag_s,
        "held_records": one.held_records,
        "held_bytes": one.held_bytes,
        "cap": {"records": one.cap.records, "seconds": one.cap.seconds, "bytes": one.cap.bytes},
        "over": one.over,
        "registered_ns": one.registered_ns,
        "moved_ns": one.moved_ns,
        "owner": one.owner,
    }
