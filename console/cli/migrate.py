"""Migrate: the commands up, migrate, plan, complete, prepare, commit-prepared, abort-prepared and rollback
(down)."""

from __future__ import annotations

import copy
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from everlog.console import output
from everlog.console.cli import project
from everlog.console.cli.connect import directory_of, is_remote, open_database
from everlog.console.cli.options import (
    Settings,
    common,
    dry_run,
    pass_settings,
    refuse_idle,
    to_version,
    writes,
)
from everlog.console.output import show_progress
from everlog.store.errors import Error, MigrationError
from everlog.store.rocks.ownership import removed_if_failed
from everlog.store.tx.transaction import new_commit_id

if TYPE_CHECKING:
    from everlog.console.cli.connect import AnyDatabase
    from everlog.migrations import Decision, MigrationInfo, PlannedMigration, PlannedRollback


F = TypeVar("F", bound=Callable[..., Any])


def _chooses(command: F) -> F:
    """Which migrations."""
    for option in (
        to_version("Last migration to apply.  [default: all]"),
        click.option(
            "--strict",
            is_flag=True,
            hidden=True,  # for users of dbmate: the default here
        ),
        click.option(
            "--out-of-order",
            is_flag=True,
            help="Also apply migrations older than an applied one; status lists them.",
        ),
    ):
        command = option(command)
    return command


def _migrates(command: F) -> F:
    for option in (
        click.option("--dry-run", is_flag=True, help="Print what would be done; change nothing."),
        click.option(
            "--hold",
            is_flag=True,
            help="If rows are rewritten, also serve the previous version, until `everlog complete`.",
        ),
        click.option(
            "--rate",
            type=click.FloatRange(min=1),
            metavar="ROWS",
            help="Build at most N rows per second.  [default: no limit]",
        ),
    ):
        command = option(command)
    return writes(_chooses(command))


@click.command()
@_migrates
@common
@pass_settings
def up(settings: Settings, /, **options: Any) -> None:
    """Create the database if it does not exist, and apply pending migrations.

    \b
    Examples:
      everlog -u file:flights.db -d flights/migrations up
      everlog up --dry-run
      everlog up --to-version 20260105093000 --actor ann --reason "release 12"
      everlog up --hold --rate 10000
    """
    _apply(settings, create=True, **options)


@click.command()
@_migrates
@common
@pass_settings
def migrate(settings: Settings, /, **options: Any) -> None:
    """Apply pending migrations to an existing database.

    \b
    Examples:
      everlog migrate
      everlog migrate --wait --wait-timeout 30s
    """
    _apply(settings, create=False, **options)


@click.command()
@_chooses
@common
@pass_settings
def plan(settings: Settings, /, **options: Any) -> None:
    """Print what `up` would do, tested on the real rows, and change nothing. Exit with 1 if `up` would
    fail.

    \b
    Examples:
      everlog plan
      everlog -u everlog://db.example.com/flights plan --json
    """
    _apply(settings, create=True, dry_run=True, **options)


def _refuse_folders(settings: Settings) -> None:
    """Raise UsageError for a directory of migrations with the URL of a server."""
    if is_remote(settings.url):
        refuse_idle("migrations_dir", when="at a server, which was started with its migrations")


def _check_options(settings: Settings, *, strict: bool, out_of_order: bool) -> None:
    """Raise UsageError for options that have no effect or exclude each other."""
    _refuse_folders(settings)
    if strict and out_of_order:
        raise click.UsageError("--strict and --out-of-order exclude each other")


def _apply(settings: Settings, /, *, create: bool, dry_run: bool, strict: bool, **how: Any) -> None:
    _check_options(settings, strict=strict, out_of_order=how["out_of_order"])
    which = {name: how[name] for name in ("to", "out_of_order", "hold") if name in how}
    new = create and not dry_run and not is_remote(settings.url)
    with (
        removed_if_failed(directory_of(settings.url)) if new else nullcontext(),
        _opened(settings, create=create, dry_run=dry_run) as db,
        show_progress() as progress,
    ):
        if dry_run or settings.verbose:
            found = db.migrations.plan(**which, try_rows=dry_run)
            _print_plan(settings, found, "Pending" if dry_run else "Applying")
        if dry_run:
            return
        began = time.perf_counter()

        def applied(info: MigrationInfo) -> None:
            nonlocal began
            took, began = time.perf_counter() - began, time.perf_counter()
            if settings.json:
                output.echo(
                    {"version": info.version, "name": info.name, "state": info.state, "seq": info.seq}
                )
            else:
                click.echo(f"Applied: {info.title} in {took * 1000:,.0f}ms (commit {info.seq})")

        settings.resume = "each migration was applied whole or not at all; run it again"
        before = db.schema.proto
        with project.kept(settings, db):
            done = db.migrations.apply(**how, progress=progress, applied=applied)
        if done:
            _say_readable(settings, db, before)
        if not done and not settings.json:
            click.echo("Nothing to apply: the database is up to date")


def _print_plan(settings: Settings, found: list[PlannedMigration], word: str) -> None:
    """Print planned migrations. Raises MigrationError if one would fail."""
    for planned in found:
        if settings.json:
            output.echo({"state": "planned", **_planned(planned)})
            continue
        click.echo(f"{word}: {planned.title}")
        for step in planned.steps:
            click.echo(f"  {step.text}{settings.private(step.private)}")
        if planned.estimate is not None and not planned.estimate.small:
            click.echo(f"  {output.cost(planned.estimate)}")
    if any(step.problem for planned in found for step in planned.steps):
        raise MigrationError("this migration would fail; nothing was changed")


def _say_readable(settings: Settings, db: AnyDatabase, before: Any) -> None:
    """Print the data of people that stays readable, if a table was sealed."""
    from everlog.migrations import people

    if not people.sealed(before, db.schema.proto):
        return
    for one in db.people.readable():
        if settings.json:
            output.echo({"state": "readable", **msgspec.to_builtins(one)})
        else:
            click.echo(f"Still readable: {one.text}")


def _opened(settings: Settings, *, create: bool, dry_run: bool) -> AnyDatabase:
    if not dry_run:
        return open_database(settings, create=create, edits=True)
    if create and not is_remote(settings.url) and not directory_of(settings.url).exists():
        return open_database(settings, url="memory:", create=True)  # `up` would create it, empty
    return open_database(settings, read_only=True)


def _planned(planned: Any) -> dict[str, Any]:
    steps = [msgspec.to_builtins(msgspec.structs.replace(step, private="")) for step in planned.steps]
    found = {"version": planned.version, "name": planned.name, "steps": steps}
    return found | {"estimate": msgspec.to_builtins(planned.estimate)}


@click.command()
@dry_run
@writes
@common
@pass_settings
def complete(settings: Settings, *, dry_run: bool, actor: str, reason: str) -> None:
    """Stop serving the previous schema version, which `up --hold` kept.

    Clients of that version are refused from then on. Until then `rollback` is instant.

    \b
    Examples:
      everlog up --hold
      everlog complete --actor ann --reason "all clients are new"
    """
    if dry_run:
        _would_complete(settings)
        return
    with open_database(settings) as db, project.kept(settings, db):
        done = db.migrations.complete(actor=actor, reason=reason)
    if settings.json:
        output.echo({"version": done.version, "name": done.name, "seq": done.seq})
    else:
        click.echo(f"Completed: {done.title} (commit {done.seq})")


def _would_complete(settings: Settings) -> None:
    from everlog.migrations.in_progress import NOT_HELD

    with open_database(settings, read_only=True) as db:
        held = next((info for info in db.migrations.status() if info.held), None)
    if held is None:
        raise MigrationError(NOT_HELD)
    if settings.json:
        output.echo({"version": held.version, "name": held.name, "dry_run": True})
    else:
        click.echo(f"Would complete: {held.title}; clients of the previous version would be refused")


def _decides(command: F) -> F:
    option = click.option(
        "--fence",
        type=click.IntRange(min=0),
        default=0,
        metavar="N",
        help="Refuse the order if the log has a higher one.  [default: 0, never refused]",
    )
    return writes(option(command))


@click.command()
@click.argument("decision", type=click.UUID, metavar="[ID]", required=False)
@to_version("The migration, if several are pending.")
@click.option(
    "--hold",
    is_flag=True,
    help="If rows are rewritten, also serve the previous version after the switch, until `everlog complete`.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=1),
    metavar="ROWS",
    help="Build at most N rows per second.  [default: no limit]",
)
@dry_run
@_decides
@common
@pass_settings
def prepare(settings: Settings, /, decision: uuid.UUID | None, *, dry_run: bool, **how: Any) -> None:
    """Build the pending migration, and let it wait for a decision.

    Clients read and write the previous version until `everlog commit-prepared ID` or `everlog
    abort-prepared ID`; nothing else ends the migration. ID is a UUID; without one, a new one is made
    and printed. Run it again with the same ID to resume it.

    \b
    Examples:
      everlog prepare --dry-run
      everlog prepare 01980f3e-0000-7000-8000-000000000001 --fence 3 --reason "release 12"
    """
    _refuse_folders(settings)
    if dry_run:
        with open_database(settings, read_only=True) as db:
            found = db.migrations.plan(to=how["to"], hold=how["hold"], try_rows=True, prepare=True)
        _print_plan(settings, found, "Would prepare")
        return
    decision = decision or uuid.UUID(bytes=new_commit_id())
    settings.resume = f"`everlog prepare {decision}` resumes it"
    began = time.perf_counter()
    with open_database(settings) as db, show_progress() as progress:
        done = db.migrations.prepare(decision.bytes, progress=progress, **how)
    took = f"in {(time.perf_counter() - began) * 1000:,.0f}ms "
    _print_decision(settings, done, took)


@click.command("commit-prepared")
@click.argument("decision", type=click.UUID, metavar="ID")
@_decides
@common
@pass_settings
def commit_prepared(settings: Settings, /, decision: uuid.UUID, **how: Any) -> None:
    """Put the migration that waits for decision ID in force.

    Needs no folders. It can be repeated.

    \b
    Examples:
      everlog commit-prepared 01980f3e-0000-7000-8000-000000000001 --reason "all are prepared"
    """
    with open_database(settings) as db, project.kept(settings, db):
        done = db.migrations.commit_prepared(decision.bytes, **how)
    _print_decision(settings, done)


@click.command("abort-prepared")
@click.argument("decision", type=click.UUID, metavar="ID")
@_decides
@common
@pass_settings
def abort_prepared(settings: Settings, /, decision: uuid.UUID, **how: Any) -> None:
    """Give up the migration that waits for decision ID, or is being prepared for it.

    Nothing of it remains. It can be repeated. An unknown ID is recorded, so that it cannot be prepared
    later.

    \b
    Examples:
      everlog abort-prepared 01980f3e-0000-7000-8000-000000000001 --reason "one of them refused"
    """
    with open_database(settings) as db:
        done = db.migrations.abort_prepared(decision.bytes, **how)
    _print_decision(settings, done)


def _print_decision(settings: Settings, done: Decision, took: str = "") -> None:
    if settings.json:
        found = {**msgspec.to_builtins(done), "state": str(done.state), "decision_id": done.shown}
        output.echo(found)
        return
    if not done.title:
        click.echo(
            f"Aborted: decision {done.shown} (commit {done.seq}); no migration was prepared for it here"
        )
        return
    waits = (
        f"; it waits for decision {done.shown}" if done.state == "prepared" else f", decision {done.shown}"
    )
    click.echo(f"{done.state.capitalize()}: {done.title} {took}(commit {done.seq}){waits}")


@click.command()
@click.argument("count", type=click.IntRange(min=1), metavar="[N]", required=False)
@to_version("Roll back all migrations after this one; 0: all of them.")
@click.option("--dry-run", is_flag=True, help="Print what would be done and lost; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask, even if data would be lost.")
@click.option(
    "--rate",
    type=click.FloatRange(min=1),
    metavar="ROWS",
    help="Convert at most N rows per second.  [default: no limit]",
)
@writes
@common
@pass_settings
def rollback(settings: Settings, /, **options: Any) -> None:
    """Roll back the last migration, or the last N, and restore the previous schema.

    Rows stay in place, or are converted by `down` if the migration rewrote them. If data would be lost,
    it is listed, and the command asks first, or needs --yes. Migrations that were rolled back are
    pending again.

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
    with open_database(settings, read_only=dry_run, edits=True) as db, show_progress() as progress:
        planned = db.migrations.plan_rollback(count, to=to)
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
                output.echo(
                    {"version": info.version, "name": info.name, "state": info.state, "seq": info.seq}
                )
            else:
                click.echo(f"Rolled back: {info.title} in {took * 1000:,.0f}ms (commit {info.seq})")

        settings.resume = "each migration was rolled back whole or not at all; run it again"
        with project.kept(settings, db):
            done = db.migrations.rollback(count, to=to, **how, progress=progress, rolled_back=told)
        if not done and not settings.json:
            click.echo("Nothing to roll back: the database is at that version")


def _print(settings: Settings, planned: list[PlannedRollback], *, dry_run: bool) -> None:
    for one in planned:
        if settings.json:
            steps = [msgspec.structs.replace(step, private="") for step in one.steps]
            output.echo(
                {"state": "planned", **msgspec.to_builtins(msgspec.structs.replace(one, steps=steps))}
            )
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
        raise Error(f"this would lose {'; and '.join(lost)}; confirm with --yes")
    click.confirm("Roll back nevertheless?", abort=True, err=True)


down = copy.copy(rollback)  # its name in other tools
down.name = "down"
