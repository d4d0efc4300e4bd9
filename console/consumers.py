"""Consumers: who follows a database under a durable name, how far each is, and what is held for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from everlog.console import text
from everlog.console.opening import open_database
from everlog.console.settings import Settings, common, pass_settings, writes

if TYPE_CHECKING:
    from everlog.store.consumers import Cap, Consumer

DAY_S = 86_400


@click.group(invoke_without_command=True)
@common
@pass_settings
@click.pass_context
def consumers(ctx: click.Context, settings: Settings) -> None:
    """Lists who follows the database under a durable name: how far behind, and what is held for each.

    Archiving leaves what a consumer lacks, up to its cap; beyond that nothing is held for it, and it reads
    on from the archive. A follower registers with `follow --consumer NAME`.

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
        text.echo(_told(one)) if settings.json else click.echo(_line(one))
    if not found and not settings.json:
        click.echo("Nobody is registered")


@consumers.command()
@click.argument("name")
@click.option("--cap-days", type=click.FloatRange(0), metavar="DAYS", help="Hold so long.  [default: 7]")
@click.option(
    "--cap-records", type=click.IntRange(0), metavar="N", help="Hold so many records.  [default: no limit]"
)
@click.option(
    "--cap-bytes", type=click.IntRange(0), metavar="N", help="Hold about so much.  [default: 10 GiB]"
)
@writes
@common
@pass_settings
def register(
    settings: Settings,
    *,
    name: str,
    cap_days: float | None,
    cap_records: int | None,
    cap_bytes: int | None,
    actor: str,
    reason: str,
) -> None:
    """Registers a consumer before it comes, or gives it another cap; 0 is no limit.

    A new one stands before the first record. One that is at work under the name goes on.

    \b
    Examples:
      everlog -u file:flights.db consumers register mirror
      everlog -u everlog://db.example.com/flights consumers register mirror --cap-days 30 --cap-bytes 0
    """
    with open_database(settings) as db:
        known = next((one.cap for one in db.consumers if one.name == name), None)
        cap = _cap(known, cap_days, cap_records, cap_bytes)
        found = db.consumers.register(name, cap=cap, take=False, actor=actor, reason=reason)
    text.echo(_told(found)) if settings.json else click.echo(f"Registered: {_line(found)}")


@consumers.command()
@click.argument("name")
@writes
@common
@pass_settings
def remove(settings: Settings, *, name: str, actor: str, reason: str) -> None:
    """Removes a consumer: nothing is held for it any more. What it has followed stays where it is.

    \b
    Examples:
      everlog -u everlog://db.example.com/flights consumers remove mirror --reason "moved away"
    """
    with open_database(settings) as db:
        db.consumers.remove(name, actor=actor, reason=reason)
    text.echo({"removed": name}) if settings.json else click.echo(f"Removed: {name}")


def _cap(known: Cap | None, days: float | None, records: int | None, size: int | None) -> Cap | None:
    """What was said, over what is known; None: nothing was."""
    from everlog.store.consumers import Cap

    if days is None and records is None and size is None:
        return None
    before = known or Cap()
    return Cap(
        before.records if records is None else records,
        before.seconds if days is None else round(days * DAY_S),
        before.bytes if size is None else size,
    )


def _line(one: Consumer) -> str:
    lag = f"{one.lag_records:,} behind, for {_duration(one.lag_s)}" if one.lag_records else "nothing behind"
    held = f"{one.held_records:,} records are held, {text.size(one.held_bytes)}"
    if one.over:
        held = f"beyond its cap, {one.over}: nothing is held"
    return f"{one.name}: at {one.position.seq:,}, {lag}; {held}; cap {_shown(one.cap)}"


def _shown(cap: Cap) -> str:
    words = [f"{cap.records:,} records"] if cap.records else []
    words += [_duration(cap.seconds)] if cap.seconds else []
    words += [text.size(cap.bytes)] if cap.bytes else []
    return ", ".join(words) or "none"


def _duration(seconds: float) -> str:
    for unit, length in (("days", DAY_S), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


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
    }
