"""Rollback: the return to an earlier schema, after saying what would be lost."""

from __future__ import annotations

import copy
import sys
import time
from typing import TYPE_CHECKING, Any

import click
import msgspec

from everlog.console import migrating, schema, text
from everlog.console.opening import open_database
from everlog.console.progress import shown
from everlog.console.settings import Settings, common, pass_settings, to_version, writes
from everlog.store.errors import Error

if TYPE_CHECKING:
    from everlog.migrations import MigrationInfo, PlannedRollback


@click.command()
@click.argument("count", type=click.IntRange(min=1), metavar="[N]", required=False)
@to_version("Back to this migration, which stays; 0: to before the first.")
@click.option("--dry-run", is_flag=True, help="Only print what would be done, and what would be lost.")
@click.option("--yes", is_flag=True, help="Do not ask, though something would be lost.")
@click.option(
    "--rate",
    type=click.FloatRange(min=1),
    metavar="ROWS",
    help="Take back at most so many rows a second.  [default: as many as can be]",
)
@writes
@common
@pass_settings
def rollback(settings: Settings, /, **options: Any) -> None:
    """Rolls back the last migration, or the last N: the schema before it is in force again.

    Rows stay where they are, or go through `down` where the migration rewrote them. If anything
    would be lost, it says what, and asks; where nobody can answer it wants --yes. What was
    rolled back is pending again.

    \b
    Examples:
      everlog rollback --dry-run
      everlog rollback 2 --yes --actor ann --reason "release 12 was a slip"
      everlog rollback --to-version 20260105093000
    """
    _roll_back(settings, **options)


def _roll_back(
    settings: Settings,
    *,
    count: int | None,
    to: int | None,
    dry_run: bool,
    yes: bool,
    **how: Any,
) -> None:
    with open_database(settings, read_only=dry_run) as db, shown() as progress:
        planned = migrating.plan_rollback(db, settings, count, to=to)
        if dry_run or settings.verbose or not settings.json:
            _print(settings, planned, dry_run=dry_run)
        if dry_run:
            return
        _ask(planned, yes=yes)
        began = time.perf_counter()

        def told(info: MigrationInfo) -> None:
            nonlocal began
            took, began = time.perf_counter() - began, time.perf_counter()
            if settings.json:
                text.echo({"version": info.version, "name": info.name, "state": info.state, "seq": info.seq})
            else:
                click.echo(f"Rolled back: {info.title} in {took * 1000:,.0f}ms (commit {info.seq})")

        settings.resume = "each migration was rolled back whole or not at all; run it again"
        with schema.kept(settings, db):
            done = migrating.rollback(db, settings, count, to=to, **how, progress=progress, rolled_back=told)
        if not done and not settings.json:
            click.echo("Nothing to roll back: the database is at that version")


def _print(settings: Settings, planned: list[PlannedRollback], *, dry_run: bool) -> None:
    for one in planned:
        if settings.json:
            steps = [msgspec.structs.replace(step, private="") for step in one.steps]
            text.echo({"state": "planned", **msgspec.to_builtins(msgspec.structs.replace(one, steps=steps))})
            continue
        if dry_run or settings.verbose:
            click.echo(f"{'Would roll back' if dry_run else 'Rolling back'}: {one.title}")
            for step in one.steps:
                click.echo(f"  {step.text}{settings.private(step.private)}")
        for lost in one.lost:
            click.echo(f"  lost: {lost}")


def _ask(planned: list[PlannedRollback], *, yes: bool) -> None:
    lost = [sentence for one in planned for sentence in one.lost]
    if yes or not lost:
        return
    if not sys.stdin.isatty():
        raise Error(f"this would lose {'; and '.join(lost)}; say --yes if that is meant")
    click.confirm("Roll back all the same?", abort=True, err=True)


down = copy.copy(rollback)  # the word of other tools for it
down.name = "down"
