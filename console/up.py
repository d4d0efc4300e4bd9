"""Up: pending migrations are applied; `up` makes the database first, where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from everlog.console import migrating, schema, text
from everlog.console.opening import directory_of, is_remote, open_database
from everlog.console.progress import shown
from everlog.console.settings import (
    Settings,
    check_common,
    common,
    pass_settings,
    refuse_idle,
    to_version,
    writes,
)
from everlog.feed.embedded import EmbeddedDatabase
from everlog.store.errors import MigrationError
from everlog.store.removal import unmade_if_failed

if TYPE_CHECKING:
    from everlog.console.opening import AnyDatabase
    from everlog.migrations import MigrationInfo

F = TypeVar("F", bound=Callable[..., Any])


def _chooses(command: F) -> F:
    """Which migrations."""
    for option in (
        to_version("Up to this migration, and with it.  [default: all]"),
        click.option(
            "--strict",
            is_flag=True,
            hidden=True,  # for users of dbmate: it is so unless --out-of-order
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
        click.option("--dry-run", is_flag=True, help="Only print what would be done."),
        click.option(
            "--hold",
            is_flag=True,
            help="Where rows are rewritten, serve the version before as well, until `everlog complete`.",
        ),
        click.option(
            "--rate",
            type=click.FloatRange(min=1),
            metavar="ROWS",
            help="Build at most so many rows a second.  [default: as many as can be]",
        ),
    ):
        command = option(command)
    return writes(_chooses(command))


@click.command()
@_migrates
@common
@pass_settings
def up(settings: Settings, /, **options: Any) -> None:
    """Creates the database if there is none, and applies pending migrations.

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
    """Applies pending migrations to a database that is there.

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
    """Shows what `up` would do, tried on the real rows, and changes nothing. Exits with 1 if `up`
    would stop.

    \b
    Examples:
      everlog plan
      everlog -u everlog://db.example.com/flights plan --json
    """
    _apply(settings, create=True, dry_run=True, **options)


def _check_options(settings: Settings, *, strict: bool, out_of_order: bool) -> None:
    """Raises UsageError for those that have no effect, or exclude each other."""
    check_common(settings, folders=True, dumps=True)
    if is_remote(settings.url):
        refuse_idle("migrations_dir", when="at a server, which was started with its migrations")
    if strict and out_of_order:
        raise click.UsageError("--strict and --out-of-order exclude each other")


def _apply(settings: Settings, /, *, create: bool, dry_run: bool, strict: bool, **how: Any) -> None:
    _check_options(settings, strict=strict, out_of_order=how["out_of_order"])
    which = {name: how[name] for name in ("to", "out_of_order", "hold") if name in how}
    new = create and not dry_run and not is_remote(settings.url)
    with (
        unmade_if_failed(directory_of(settings.url)) if new else nullcontext(),
        _opened(settings, create=create, dry_run=dry_run) as db,
        shown() as progress,
    ):
        if dry_run or settings.verbose:
            problems = 0
            for planned in migrating.plan(db, settings, **which, try_rows=dry_run):
                problems += sum(step.problem for step in planned.steps)
                if settings.json:
                    text.echo({"state": "planned", **_planned(planned)})
                    continue
                click.echo(f"{'Pending' if dry_run else 'Applying'}: {planned.title}")
                for step in planned.steps:
                    click.echo(f"  {step.text}{settings.private(step.private)}")
            if problems:
                raise MigrationError("it would stop there; nothing was changed")
        if dry_run:
            return
        began = time.perf_counter()

        def applied(info: MigrationInfo) -> None:
            nonlocal began
            took, began = time.perf_counter() - began, time.perf_counter()
            if settings.json:
                text.echo({"version": info.version, "name": info.name, "state": info.state, "seq": info.seq})
            else:
                click.echo(f"Applied: {info.title} in {took * 1000:,.0f}ms (commit {info.seq})")

        settings.resume = "each migration was applied whole or not at all; run it again"
        before = db.schema.proto
        with schema.kept(settings, db):
            done = migrating.apply(db, settings, **how, progress=progress, applied=applied)
        if done:
            _say_readable(settings, db, before)
        if not done and not settings.json:
            click.echo("Nothing to apply: the database is up to date")


def _say_readable(settings: Settings, db: AnyDatabase, before: Any) -> None:
    """Where a table was sealed: what of its rows stays readable."""
    from everlog.migrations import people

    now = db.schema.proto if isinstance(db, EmbeddedDatabase) else db.refresh_schema().proto
    if not people.sealed(before, now):
        return
    for one in db.readable_people():
        if settings.json:
            text.echo({"state": "readable", **msgspec.to_builtins(one)})
        else:
            click.echo(f"Still readable: {one.text}")


def _opened(settings: Settings, *, create: bool, dry_run: bool) -> AnyDatabase:
    if not dry_run:
        return open_database(settings, create=create)
    if create and not is_remote(settings.url) and not directory_of(settings.url).exists():
        return open_database(settings, url="memory:", create=True)  # what `up` would begin with
    return open_database(settings, read_only=True)


def _planned(planned: Any) -> dict[str, Any]:
    steps = [msgspec.to_builtins(msgspec.structs.replace(step, private="")) for step in planned.steps]
    return {"version": planned.version, "name": planned.name, "steps": steps}
