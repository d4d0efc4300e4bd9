"""Data: the commands import, export and testdata.

The id of a load is derived from the content of the file. The same file again changes nothing, and an
interrupted load resumes where it stopped. The formats: everlog.console.export.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
import msgspec
from google.protobuf.message import Message

from everlog.console import output
from everlog.console.cli import connect
from everlog.console.cli.connect import open_database
from everlog.console.cli.options import Settings, common, dry_run, pass_settings, writes
from everlog.console.export import FORMATS, exported
from everlog.console.output import atomic_file, show_progress
from everlog.console.source import format_of, look_at, source_rows
from everlog.proto import log_pb2
from everlog.rpc.address import without_secrets
from everlog.store.errors import Error, quantity
from everlog.store.progress import OnProgress, Progress
from everlog.store.tx import write
from everlog.store.upkeep.testdata import LoadedTestdata

if TYPE_CHECKING:
    from everlog.console.cli.connect import AnyDatabase


STDIN = "-"


def is_stream(name: str) -> bool:
    """Return whether a file can be read only once: standard input, or a pipe."""
    return name == STDIN or not Path(name).is_file()


def read(
    name: str, form: str, model: type[Message], *, null: str, columns: dict[str, str]
) -> Iterator[Message]:
    """Yield the rows of a file. Read-only. Raises LoadError with file, line and column."""
    if name == STDIN:
        yield from source_rows(sys.stdin.buffer, form, model, null=null, columns=columns)
        return
    with Path(name).open("rb") as file:
        yield from source_rows(file, form, model, null=null, columns=columns)


EVERY = 1024


@click.command("import")
@connect.table_argument
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl", "parquet"]),
    help="Format of the file.  [default: from its name]",
)
@click.option(
    "--null", default="", metavar="TEXT", help="CSV text of a field that is not set.  [default: empty]"
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="NAME=FIELD",
    help="Field of a column with another name; without FIELD, the column is skipped. May be repeated.",
)
@click.option("--id", metavar="ID", help="Identity of the load.  [default: from the content of the file]")
@dry_run
@writes
@common
@pass_settings
def import_(
    settings: Settings,
    table: str,
    file: str,
    *,
    form: str | None,
    null: str,
    columns: tuple[str, ...],
    id: str | None,
    dry_run: bool,
    actor: str,
    reason: str,
) -> None:
    """Load the rows of a file into a table, a thousand rows per commit.

    FILE is CSV with a header, JSON Lines or Parquet; - is standard input. An interrupted load resumes,
    and a finished one is not repeated: the same file, or the same --id, is the same load. A pipe needs
    --id to be resumable.

    \b
    Examples:
      everlog import airports airports.csv --null NA --reason "spring data"
      everlog import flights flights.parquet --column tail_number=tailnum --column note=
      zcat flights.jsonl.gz | everlog import flights - --format jsonl --id flights-2013
    """
    form = format_of(file, form)
    flows = is_stream(file)
    if flows and form == "parquet":
        raise Error("Parquet cannot be read from a pipe, because its index is at the end; name a file")
    if columns and form == "jsonl":
        raise click.UsageError("--column has no effect on JSON Lines, whose lines name their fields")
    fields, total = _fields_of(columns), None
    if not flows:
        with Path(file).open("rb") as content:
            known = look_at(content, table, form, null, *columns)
        id, total = id or known.id, known.rows(form)
    settings.resume = (
        "loaded rows stay; run the same command to resume"
        if id
        else "loaded rows stay; only a load with --id can resume"
    )
    with open_database(settings, read_only=dry_run, edits=True) as db, show_progress() as progress:
        handle, _ = connect.named(db, table)
        rows = read(file, form, handle.model, null=null, columns=fields)
        if dry_run:
            binding = db._bind(handle)
            count = 0
            for row in rows:
                write.put(binding, row)
                count += 1
            _would_import(settings, table, count)
            return
        done = db.load(
            handle, rows, id=id, source=file, total=total, progress=progress, actor=actor, reason=reason
        )
    if settings.json:
        output.echo(
            {
                "table": table,
                "id": done.id,
                "rows": done.rows,
                "skipped": done.skipped,
                "commits": done.commits,
                "seconds": round(done.seconds, 3),
            }
        )
        return
    before = f" ({done.skipped:,} of them loaded before)" if done.skipped else ""
    fresh = done.rows - done.skipped
    rate = f", {fresh / done.seconds:,.0f} a second" if fresh and done.seconds else ""
    click.echo(
        f"Imported: {quantity(done.rows, 'row')} of {table}{before} in"
        f" {quantity(done.commits, 'commit')}{rate}"
    )


def _fields_of(words: Iterable[str]) -> dict[str, str]:
    """Return the field of each column. Raises UsageError."""
    found = dict[str, str]()
    for word in words:
        name, equals, field = word.rpartition("=")
        if not equals:
            raise click.UsageError(f"expected --column NAME=FIELD, or NAME= to skip it, found {word!r}")
        found[name] = field
    return found


def _would_import(settings: Settings, table: str, rows: int) -> None:
    if settings.json:
        output.echo({"table": table, "rows": rows, "dry_run": True})
    else:
        click.echo(f"Would import: {quantity(rows, 'row')} of {table}; unique indexes were not checked")


@click.command()
@connect.table_argument
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), default="-")
@click.option(
    "--format", "form", type=click.Choice(FORMATS), help="Format of the file.  [default: from its name]"
)
@click.option(
    "--null", default="", metavar="TEXT", help="CSV text of a field that is not set.  [default: empty]"
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="FIELD",
    help="Field to write; may be repeated.  [default: all]",
)
@common
@pass_settings
def export(
    settings: Settings, table: str, file: str, *, form: str | None, null: str, columns: tuple[str, ...]
) -> None:
    """Write the rows of a table, in key order, from one snapshot.

    `everlog import` reads the file back. FILE appears when it is complete; - is standard output, in
    JSON Lines unless --format is given.

    \b
    Examples:
      everlog export airports airports.csv
      everlog export airports airports.parquet
      everlog export airports places.csv --column faa --column name
      everlog export flights | jq .dest | sort | uniq -c
    """
    form = form or ("jsonl" if file == STDIN else format_of(file, None))
    if form == "parquet" and file == STDIN:
        raise Error("Parquet cannot be written to a pipe, because its index is at the end; name a file")
    with open_database(settings, read_only=True) as db, show_progress() as progress:
        handle, _ = connect.named(db, table)
        rows = _told(db.scan(handle), f"export {table}", db.count(handle), progress if file != "-" else None)
        pieces = exported(rows, form, handle.model, columns=columns, null=null)
        if file == STDIN:
            for piece in pieces:
                sys.stdout.write(piece.decode())
            return
        with atomic_file(file) as out:
            for piece in pieces:
                out.write(piece)
    if settings.json:
        output.echo({"table": table, "file": file})
    else:
        click.echo(f"Exported: {table} to {file}")


def _told(rows: Iterable[Any], step: str, total: int, progress: OnProgress | None) -> Iterator[Any]:
    for done, row in enumerate(rows, 1):
        yield row
        if progress is not None and (not done % EVERY or done == total):
            progress(Progress(step, done, total))


LOOKED_AT = 1000  # commits; with more of them, the command asks without reading them all


@click.command()
@click.option(
    "--scale",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Factor for the number of rows.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random generator.")
@click.option(
    "--version",
    type=click.IntRange(1),
    metavar="VERSION",
    help="Version of the folder.  [default: the newest applied migration]",
)
@click.option("--list", "listed", is_flag=True, help="Print the test data that was loaded, and load none.")
@click.option("--yes", is_flag=True, help="Do not ask, even if the database has other rows.")
@dry_run
@writes
@common
@pass_settings
def testdata(
    settings: Settings,
    *,
    scale: int,
    seed: int,
    version: int | None,
    listed: bool,
    yes: bool,
    dry_run: bool,
    actor: str,
    reason: str,
) -> None:
    """Load the test data of the newest applied migration, or of another one.

    Loading the same seed and scale again changes nothing. Test data of an older migration is refused if
    the rows of its tables were rewritten since. Asks first, or needs --yes, if the database has commits
    other than migrations and test data. A database in production refuses test data (`everlog production
    yes`).

    \b
    Examples:
      everlog testdata --scale 10
      everlog testdata --version 20260126083000
      everlog testdata --list
    """
    from everlog.migrations import load_testdata
    from everlog.migrations.testdata import testdata_at

    settings.resume = "loaded rows stay; run the same command to resume"
    with (
        open_database(settings, read_only=dry_run or listed, edits=True) as db,
        show_progress() as progress,
    ):
        if listed:
            _list(settings, db.admin.testdata())
            return
        if dry_run:
            rows = testdata_at(settings.migrations, db.schema.version, scale, seed, version=version)
            _print(settings, Counter(table.name for table, _ in rows), "Would load")
            return
        if not yes:
            _ask(db)
        counts = load_testdata(
            cast(Any, db),  # a remote database has the needed call as well
            settings.migrations,
            version=version,
            scale=scale,
            seed=seed,
            actor=actor,
            reason=reason or "test data",
            progress=progress,
        )
    _print(settings, counts, "Loaded")


def _print(settings: Settings, counts: dict[str, int], word: str) -> None:
    for name, rows in counts.items():
        if settings.json:
            output.echo({"table": name, "rows": rows})
        else:
            click.echo(f"{word}: {quantity(rows, 'row')} of {name}")


def _list(settings: Settings, found: Sequence[LoadedTestdata]) -> None:
    """Print the test data that was loaded."""
    for one in found:
        if settings.json:
            output.echo(msgspec.structs.asdict(one))
            continue
        of = (
            f"version {one.version}, seed {one.seed}, scale {one.scale:,}"
            if one.version
            else "unknown, because the table is sealed"
        )
        click.echo(
            f"{quantity(one.rows, 'row')} of {one.table} ({of}{'' if one.finished else ', not finished'})"
        )
    if not found and not settings.json:
        click.echo("No test data was loaded")


def _ask(db: AnyDatabase) -> None:
    """Raise Error unless the database is for tests, or the user confirms."""
    if _is_to_test_with(db):
        return
    what = f"{without_secrets(db.url)} has commits that are neither migrations nor test data"
    if not sys.stdin.isatty():
        raise Error(f"{what}: test data may replace its rows; confirm with --yes")
    click.confirm(f"{what}. Load test data, which may replace its rows?", abort=True, err=True)


def _is_to_test_with(db: AnyDatabase) -> bool:
    looked = 0
    try:
        for commit in islice(db.feed(after=0, bounded=True), LOOKED_AT):
            is_test = commit.HasField("load") and commit.load.kind == log_pb2.Load.TEST
            if commit.changes and not is_test and not commit.HasField("migration"):
                return False
            looked += 1
    except Error:  # an archived or unreadable log: a database in use
        return False
    return looked < LOOKED_AT
