"""Status: the command status, which prints migrations, tables and the state of the database."""

from __future__ import annotations

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

if TYPE_CHECKING:
    from everlog.console.cli.connect import AnyDatabase
    from everlog.migrations.status import MigrationInfo
    from everlog.store.upkeep.status import ArchiveStatus, ExpiryStatus, Status

ALL = 0  # no migration has this version

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
    """List the migrations and the tables.

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
                "tables": [{"name": t.name, "rows": t.rows, "indexes": list(t.indexes)} for t in what.tables],
                "expiry": msgspec.structs.asdict(what.expiry),
                "clock": msgspec.structs.asdict(what.clock),
                "archive": msgspec.structs.asdict(what.archive),
                "consumers": msgspec.structs.asdict(what.consumers),
                "production": what.production,
                "warnings": what.warnings,
                "writes": msgspec.structs.asdict(what.writes),
                "migrations": [_migration(info) for info in infos],
                "migrations_problem": problem,
                **count,
            }
        )
        return
    _print_migrations(infos, count, verbose=settings.verbose)
    if problem:
        click.echo(
            f"Pending migrations cannot be applied, and version {what.schema_version} is served: {problem}"
        )
    click.echo(
        f"\n{without_secrets(db.url)}: commit {what.head:,} of {output.moment(what.head_time_ns)},"
        f" {output.size(what.disk_bytes)} on disk"
    )
    if what.writes.error:
        since = f" since {output.moment(what.writes.since_ns)}" if what.writes.since_ns else ""
        click.echo(f"  Writes refused{since}: {what.writes.error}")
    for sentence in what.warnings:
        click.echo(f"  Warning: {sentence}")
    width = max((len(table.name) for table in what.tables), default=0)
    for table in what.tables:
        indexes = f"  indexes: {', '.join(table.indexes)}" if table.indexes else ""
        number, noun = quantity(table.rows, "row").split()
        click.echo(f"  {table.name:{width}}  {number:>11} {noun:4}{indexes}".rstrip())
    if line := ahead_of(what.clock):
        click.echo(f"  {line}")
    _print_expiry(what.expiry)
    _print_archive(what.archive)
    if what.consumers.error:
        click.echo(f"  The positions of consumers are unknown: {what.consumers.error}")
    for name in what.consumers.over:
        click.echo(f"  Consumer {name} is beyond its cap: nothing is held for it (`everlog consumers`)")


def _print_migrations(infos: list[MigrationInfo], count: dict[str, int], *, verbose: bool) -> None:
    for info in infos:
        when = ""
        if verbose and info.applied_ns:
            when = f"  {output.moment(info.applied_ns)}  commit {info.seq}"
        notes = "".join(f"  ({note})" for note in _notes(info))
        click.echo(f"{_MARKS[info.state]} {info.title}{when}{notes}")
    if infos:
        click.echo()
    held = sum(info.held for info in infos)
    for state, number in {**count, "building": count["building"] - held, "held": held}.items():
        if number or state in ("applied", "pending"):
            click.echo(f"{state.capitalize()}: {number}")


def _print_expiry(what: ExpiryStatus) -> None:
    if what.rows:
        click.echo(
            f"  {quantity(what.rows, 'row')} with an expiry, {what.due:,} of them due; the next is due at"
            f" {output.moment(what.next_ns)}"
        )
    if what.jumped_s:
        click.echo(
            f"  The clock jumped forward by {what.jumped_s:,.0f} s: nothing expires until it is correct, or"
            " confirmed by `everlog expire --trust-clock`"
        )


def _print_archive(what: ArchiveStatus) -> None:
    if what.base:
        click.echo(
            f"  Records up to {what.base:,} are archived, the last at {output.moment(what.archived_ns)}"
        )
    if what.error:
        click.echo(
            f"  Records could not be archived to {what.target} since {output.moment(what.error_ns)}:"
            f" {what.error}; it is tried again"
        )


def _notes(info: MigrationInfo) -> Iterator[str]:
    if info.state in _SAYS:
        yield _SAYS[info.state]
    if info.held:
        yield "two versions are served until `everlog complete`"
    elif info.state == "building":
        yield f"since {output.moment(info.started_ns)}, {_progress(info)}; {_resumed_by(info, 'up')}"
    if info.rolling_back:
        yield (
            f"being rolled back since {output.moment(info.started_ns)}, {_progress(info)};"
            f" {_resumed_by(info, 'rollback')}, `everlog up` gives the rollback up"
        )
    if info.late:
        yield "out of order: a newer one is applied" if info.state == "pending" else "applied out of order"


def _progress(info: MigrationInfo) -> str:
    done = (
        f"{info.rows:,} of {quantity(info.total, 'row')} done"
        if info.total
        else f"{quantity(info.rows, 'row')} done"
    )
    left = f", about {info.left_s:,.0f} s left" if info.left_s else ""
    return f"{done}{left}" + (f", stopped: {info.stopped}" if info.stopped else "")


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
        "seq": info.seq,
        "actor": info.actor,
        "digest": info.digest.hex(),
    }
