"""Status: the command status, which prints migrations, tables and the state of the database."""

from __future__ import annotations

import textwrap
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
import msgspec

from everlog.console import output
from everlog.console.cli.check import ahead_of
from everlog.console.cli.connect import open_database
from everlog.console.cli.options import Settings, common, pass_settings
from everlog.rpc.address import without_secrets
from everlog.store.errors import Error, quantity
from everlog.store.upkeep.sizes import DAY_S

if TYPE_CHECKING:
    from everlog.console.cli.connect import AnyDatabase
    from everlog.migrations.status import MigrationInfo
    from everlog.store.upkeep.sizes import LogGrowth
    from everlog.store.upkeep.status import ArchiveStatus, ExpiryStatus, Status

ALL = 0  # no migration has this version
WIDTH, NAME_WIDTH = 100, 40  # columns
GROWTH_S = 60  # growth over a shorter time says nothing
# Lines of a status without --verbose, so that it fits on a screen.
MIGRATIONS, TABLES, FOLLOWERS, WARNINGS = 6, 6, 4, 2

_MARKS = {
    "applied": "[X]",
    "pending": "[ ]",
    "building": "[~]",
    "edited": "[E]",
    "missing": "[?]",
    "ahead": "[>]",
}
_SAYS = {
    "edited": "was edited after it ran",
    "missing": "was applied, but its folder is missing",
    "ahead": "was applied by newer code",
}


@click.command()
@click.option(
    "--exit-code",
    is_flag=True,
    help="Exit with 1 unless every migration is applied and its folder unchanged.",
)
@click.option("--quiet", is_flag=True, help="Print nothing; implies --exit-code.")
@click.option(
    "--diff",
    is_flag=False,
    flag_value=ALL,
    type=int,
    metavar="[VERSION]",
    help="Show the edits of this migration's folder, or of all.",
)
@common
@pass_settings
@click.pass_context
def status(ctx: click.Context, settings: Settings, *, exit_code: bool, quiet: bool, diff: int | None) -> None:
    """Print the state of a database on one screen: health, migrations and their progress, sizes and
    growth, how far each follower is behind.

    --verbose prints all migrations, tables and followers; --json prints all fields.

    \b
    Examples:
      everlog status
      everlog status --diff
      everlog status --exit-code --quiet || everlog up
      everlog -u everlog://db.example.com/flights status --json
    """
    with open_database(settings, read_only=True) as db:
        migrations, what = db.migrations.status(), db.admin.status()
        problem = db.migrations.problem()
        known = [info.version for info in migrations]
        if diff not in (None, ALL, *known):
            versions = ", ".join(map(str, known)) or "none"
            raise Error(f"there is no migration {diff}; the versions are: {versions}")
        if diff is not None and not quiet:
            _print_diffs(settings, db.migrations.differences(), diff)
        elif not quiet:
            _print(settings, db, migrations, what, problem)
    done = not problem and all(info.state == "applied" and not info.rolling_back for info in migrations)
    if (exit_code or quiet) and not done:
        ctx.exit(1)


def _print(
    settings: Settings, db: AnyDatabase, infos: list[MigrationInfo], what: Status, problem: str
) -> None:
    count = {state: sum(info.state == state for info in infos) for state in _MARKS}
    if settings.json:
        output.echo(
            {
                "url": without_secrets(db.url),
                "database": str(uuid.UUID(bytes=what.uuid)),
                "seq": what.head,
                "time_ns": what.head_time_ns,
                "schema_version": what.schema_version,
                "disk_bytes": what.disk_bytes,
                "health": msgspec.structs.asdict(what.health),
                "log_bytes": what.log_bytes,
                "log_growth": msgspec.to_builtins(what.log_growth),
                "grown_s": what.grown_s,
                "tables": msgspec.to_builtins(what.tables),
                "subscriptions": msgspec.to_builtins(what.subscriptions),
                "expiry": msgspec.structs.asdict(what.expiry),
                "clock": msgspec.structs.asdict(what.clock),
                "archive": msgspec.structs.asdict(what.archive),
                "consumers": msgspec.to_builtins(what.consumers),
                "production": what.production,
                "durability": what.durability,
                "warnings": what.warnings,
                "writes": msgspec.structs.asdict(what.writes),
                "migrations": [_migration(info) for info in infos],
                "migrations_problem": problem,
                **count,
            }
        )
        return
    verbose = settings.verbose
    _print_migrations(infos, count, verbose=verbose)
    if problem:
        _say(f"Pending migrations cannot be applied, and version {what.schema_version} is served: {problem}")
    click.echo()
    _say(
        f"{without_secrets(db.url)}: {what.health.state}, commit {what.head:,} of"
        f" {output.moment(what.head_time_ns)}, {output.size(what.disk_bytes)} on disk"
    )
    if what.writes.error:
        since = f" since {output.moment(what.writes.since_ns)}" if what.writes.since_ns else ""
        _say(f"  Writes refused{since}: {what.writes.error}")
    elif what.health.reason and not problem:
        _say(f"  {what.health.state.capitalize()}: {what.health.reason}")
    for sentence in _first([f"  Warning: {sentence}" for sentence in what.warnings], WARNINGS, verbose):
        _say(sentence)
    _say(f"  Log: {output.size(what.log_bytes)}{', '.join(['', *map(_grown, what.log_growth)])}")
    _print_tables(what, verbose=verbose)
    if line := ahead_of(what.clock):
        _say(f"  {line}")
    _print_expiry(what.expiry)
    _print_archive(what.archive)
    _print_followers(what, verbose=verbose)


def _say(line: str) -> None:
    """Print a line; one that is longer than a screen is broken."""
    wrap = textwrap.TextWrapper(WIDTH, subsequent_indent="    ")
    wrap.break_long_words = wrap.break_on_hyphens = False  # paths and commands stay whole
    for part in wrap.wrap(line) or [line]:
        click.echo(part)


def _first(lines: list[str], most: int, verbose: bool) -> list[str]:
    """Return the first lines, and how many are left out."""
    if verbose or len(lines) <= most:
        return lines
    return [*lines[: most - 1], f"  … and {len(lines) - most + 1:,} more (--verbose)"]


def _grown(one: LogGrowth) -> str:
    days = one.seconds / DAY_S
    span = "24 h" if days == 1 else f"{days:g} days"
    return f"+{output.size(one.bytes)} in {span} ({quantity(one.records, 'commit')})"


def _print_tables(what: Status, *, verbose: bool) -> None:
    """Print the tables by name; if they are too many, the largest."""
    tables = list(what.tables)
    if not verbose and len(tables) > TABLES:
        tables.sort(key=lambda one: (-one.bytes - sum(one.index_bytes), -one.rows, one.name))
    width = min(max((len(table.name) for table in what.tables), default=0), NAME_WIDTH)
    lines = []
    for table in tables:
        sizes = table.index_bytes if verbose else []
        indexes = [
            f"{name} ({output.size(sizes[nth])})" if nth < len(sizes) else name
            for nth, name in enumerate(table.indexes)
        ]
        size = output.size(table.bytes + sum(table.index_bytes))
        number, noun = quantity(table.rows, "row").split()
        line = f"  {table.name:{width}}  {number:>11} {noun:4}  {size:>8}"
        if what.grown_s >= GROWTH_S and table.grown_bytes:
            sign = "-" if table.grown_bytes < 0 else "+"
            line += f"  {sign}{output.size(abs(table.grown_bytes))} in {output.span(what.grown_s)}"
        line += f"  indexes: {', '.join(indexes)}" if indexes else ""
        lines.append(line if verbose or len(line) <= WIDTH else f"{line[: WIDTH - 1]}…")
    for line in _first(lines, TABLES, verbose):
        click.echo(line)


def _print_followers(what: Status, *, verbose: bool) -> None:
    if what.consumers.error:
        _say(f"  The positions of consumers are unknown: {what.consumers.error}")
    for name in what.consumers.over[: None if verbose else FOLLOWERS]:
        _say(f"  Consumer {name} is beyond its cap: nothing is held for it (`everlog consumers`)")
    lines = []
    for one in what.consumers.lags:
        behind = f"{quantity(one.records, 'commit')} behind, for {output.span(one.seconds)}"
        lines.append(f"  Consumer {one.name}: {behind if one.records else 'caught up'}")
    for line in _first(lines, FOLLOWERS, verbose):
        click.echo(line)
    lines = []
    for sub in what.subscriptions:
        whose = f" of {sub.identity}" if sub.identity else ""
        behind = f"{quantity(sub.records, 'commit')} behind" if sub.records else "caught up"
        lines.append(f"  Subscription{whose} ({sub.peer}), since {output.moment(sub.since_ns)}: {behind}")
    for line in _first(lines, FOLLOWERS, verbose):
        click.echo(line)


def _print_migrations(infos: list[MigrationInfo], count: dict[str, int], *, verbose: bool) -> None:
    shown = infos
    if not verbose and len(infos) > MIGRATIONS:  # all that are not simply applied, and the newest
        open_ones = [info for info in infos if info.state != "applied" or info.rolling_back][-MIGRATIONS:]
        newest = [info for info in infos if info not in open_ones][len(open_ones) - MIGRATIONS :]
        kept = open_ones if len(open_ones) >= MIGRATIONS else [*newest, *open_ones]
        shown = [info for info in infos if info in kept]
        click.echo(f"… {len(infos) - len(shown):,} more (--verbose)")
    for info in shown:
        when = ""
        if verbose and info.applied_ns:
            when = f"  {output.moment(info.applied_ns)}  commit {info.seq}"
        notes = "".join(f"  ({note})" for note in _notes(info))
        _say(f"{_MARKS[info.state]} {info.title}{when}{notes}")
        if info.prepared:
            click.echo("    `everlog commit-prepared ID` or `everlog abort-prepared ID` ends it")
    if infos:
        click.echo()
    held = sum(info.held for info in infos)
    prepared = sum(info.prepared for info in infos)
    building = count["building"] - held - prepared
    for state, number in {**count, "building": building, "prepared": prepared, "held": held}.items():
        if number or state in ("applied", "pending"):
            click.echo(f"{state.capitalize()}: {number}")


def _print_expiry(what: ExpiryStatus) -> None:
    if what.rows:
        _say(
            f"  {quantity(what.rows, 'row')} with an expiry, {what.due:,} of them due; the next is due at"
            f" {output.moment(what.next_ns)}"
        )
    if what.jumped_s:
        _say(
            f"  The clock jumped forward by {what.jumped_s:,.0f} s: nothing expires until it is correct, or"
            " confirmed by `everlog expire --trust-clock`"
        )


def _print_archive(what: ArchiveStatus) -> None:
    if what.base:
        _say(f"  Records up to {what.base:,} are archived, the last at {output.moment(what.archived_ns)}")
    if what.error:
        _say(
            f"  Records could not be archived to {what.target} since {output.moment(what.error_ns)}:"
            f" {what.error}; it is tried again"
        )


def _notes(info: MigrationInfo) -> Iterator[str]:
    if info.state in _SAYS:
        yield _SAYS[info.state]
    if info.held:
        yield "two versions are served until `everlog complete`"
    elif info.decision_id:
        yield _decision(info)
    elif info.state == "building":
        yield f"since {output.moment(info.started_ns)}, {_progress(info)}; {_resumed_by(info, 'up')}"
    if info.rolling_back:
        yield (
            f"being rolled back since {output.moment(info.started_ns)}, {_progress(info)};"
            f" {_resumed_by(info, 'rollback')}, `everlog up` gives the rollback up"
        )
    if info.late:
        yield "out of order: a newer one is applied" if info.state == "pending" else "applied out of order"


def _decision(info: MigrationInfo) -> str:
    if info.prepared:
        return f"prepared, waits for decision {info.decision}"
    return (
        f"being prepared for decision {info.decision} since {output.moment(info.started_ns)},"
        f" {_progress(info)}; `everlog prepare {info.decision}` resumes it"
    )


def _progress(info: MigrationInfo) -> str:
    done = (
        f"{info.rows:,} of {quantity(info.total, 'row')} done"
        if info.total
        else f"{quantity(info.rows, 'row')} done"
    )
    if info.left_s:
        rate = (info.total - info.rows) / info.left_s
        ends_ns = time.time_ns() + int(info.left_s * 1e9)
        done += (
            f", {rate:,.0f} a second, about {output.span(info.left_s)} left, until"
            f" {output.moment(ends_ns).partition('.')[0]}Z"
        )
    return done + (f", stopped: {info.stopped}" if info.stopped else "")


def _resumed_by(info: MigrationInfo, verb: str) -> str:
    """Return what resumes the migration, as a clause."""
    if info.stopped == "disk full":
        return "it resumes when the disk has space"
    return f"`everlog {verb}` resumes it"


def _print_diffs(settings: Settings, diffs: dict[int, str], version: int) -> None:
    for one, diff in diffs.items():
        if version in (ALL, one):
            output.echo({"version": one, "diff": diff}) if settings.json else click.echo(diff, nl=False)


def _migration(info: MigrationInfo) -> dict[str, Any]:
    return {
        "version": info.version,
        "name": info.name,
        "state": str(info.state),
        "applied_ns": info.applied_ns,
        "late": info.late,
        "started_ns": info.started_ns,
        "rows": info.rows,
        "total": info.total,
        "left_s": info.left_s,
        "stopped": info.stopped,
        "held": info.held,
        "rolling_back": info.rolling_back,
        "prepared": info.prepared,
        "decision_id": info.decision,
        "fence": info.fence,
        "seq": info.seq,
        "actor": info.actor,
        "digest": info.digest.hex(),
    }
