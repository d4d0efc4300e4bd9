"""Clock: what the clock of the database's machine reads, and whether the log is ahead of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from everlog.console import text
from everlog.console.opening import open_database
from everlog.console.settings import Settings, common, pass_settings, writes

if TYPE_CHECKING:
    from everlog.store.status import ClockStatus


@click.command()
@click.option("--correct", is_flag=True, help="The clock is right: the log says so from here on.")
@writes
@common
@pass_settings
def clock(settings: Settings, *, correct: bool, actor: str, reason: str) -> None:
    """Shows the clock of the machine that writes, and by how much the newest commit is ahead of it.

    The time of commits never goes back. After a commit by a clock that was ahead, later commits have the same
    time until the clock gets there. --correct records in the log that the clock is right now: reads as of a
    time then use the clock's reading at each commit, and rows expire again after a jump.

    \b
    Examples:
      everlog clock
      everlog -u everlog://db.example.com/shop clock --correct --reason "NTP was down"
    """
    with open_database(settings, read_only=not correct) as db:
        seq = db.correct_clock(actor=actor, reason=reason) if correct else 0
        found = db.status().clock
    if settings.json:
        text.echo(msgspec.structs.asdict(found))
        return
    click.echo(f"The clock reads {text.moment(found.reading_ns)}")
    click.echo(ahead_of(found) or "The newest commit is not ahead of it")
    if correct and not seq:
        click.echo("Nothing to correct in the log")


def ahead_of(found: ClockStatus) -> str:
    """Return a sentence about how far the log is ahead; empty if it is not."""
    if found.ahead_s < 1:
        return ""
    ahead = f"The newest commit is {found.ahead_s:,.0f} s ahead of the clock: "
    if found.corrected:
        return f"{ahead}known since commit {found.corrected:,}, which says that the clock is right"
    return f"{ahead}commits have its time until then; if the clock is right, run `everlog clock --correct`"
