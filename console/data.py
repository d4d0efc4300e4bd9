"""Data: rows come in from files by the bulk load, and go out into files."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click

from everlog.console import sources, tables, targets, text
from everlog.console.atomic_file import as_text, atomic_file
from everlog.console.opening import open_database
from everlog.console.progress import shown
from everlog.console.settings import Settings, common, dry_run, pass_settings, writes
from everlog.store import write
from everlog.store.errors import Error
from everlog.store.progress import OnProgress, Progress

EVERY = 1024


@click.command("import")
@tables.table_argument
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--format", "form", type=click.Choice(["csv", "jsonl", "parquet"]), help="If the name does not say it."
)
@click.option("--null", default="", metavar="TEXT", help="A cell of CSV that is not set.  [default: empty]")
@click.option("--id", metavar="ID", help="Name of the load.  [default: follows from the file's content]")
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
    id: str | None,
    dry_run: bool,
    actor: str,
    reason: str,
) -> None:
    """Loads the rows of a file into a table, as many commits of a thousand rows.

    FILE is CSV with a header, JSON Lines or Parquet; - is standard input. A load that was
    interrupted goes on where it stopped, and one that is done does nothing: the same file is the
    same load, and so is the same --id. What comes through a pipe has no id but that of --id.

    \b
    Examples:
      everlog import airports airports.csv --null NA --reason "spring data"
      everlog import flights flights.parquet
      zcat flights.jsonl.gz | everlog import flights - --format jsonl --id flights-2013
    """
    form = sources.format_of(file, form)
    flows = sources.is_stream(file)
    if flows and form == "parquet":
        raise Error("Parquet is not read from front to back, so it cannot come from a pipe; name a file")
    total = None
    if not flows:
        known = sources.look_at(file, table, form, null)
        id = id or known.id
        total = {"csv": max(0, known.lines - 1), "jsonl": known.lines}.get(form)
    settings.resume = (
        "loaded rows stay; the same command continues"
        if id
        else "loaded rows stay; with an --id the same command would continue"
    )
    with open_database(settings, read_only=dry_run) as db, shown() as progress:
        handle, _ = tables.named(db, table)
        rows = sources.read(file, form, handle.model, null=null)
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
        text.echo(
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
    before = f" ({done.skipped:,} of them before)" if done.skipped else ""
    fresh = done.rows - done.skipped
    rate = f", {fresh / done.seconds:,.0f} a second" if fresh and done.seconds else ""
    click.echo(f"Imported: {done.rows:,} rows of {table}{before} in {done.commits:,} commits{rate}")


def _would_import(settings: Settings, table: str, rows: int) -> None:
    if settings.json:
        text.echo({"table": table, "rows": rows, "dry_run": True})
    else:
        click.echo(f"Would import: {rows:,} rows of {table}; unique indexes were not looked at")


@click.command()
@tables.table_argument
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), default="-")
@click.option("--format", "form", type=click.Choice(targets.FORMATS), help="If the name does not say it.")
@click.option("--null", default="", metavar="TEXT", help="A cell of CSV that is not set.  [default: empty]")
@common
@pass_settings
def export(settings: Settings, table: str, file: str, *, form: str | None, null: str) -> None:
    """Writes the rows of a table, in the order of its key, as they are at one moment.

    `everlog import` reads the file back. FILE appears when it is whole; - is standard output,
    where the format is JSON Lines unless --format says otherwise.

    \b
    Examples:
      everlog export airports airports.csv
      everlog export airports airports.parquet
      everlog export flights | jq .dest | sort | uniq -c
    """
    form = form or ("jsonl" if file == sources.STDIN else sources.format_of(file, None))
    if form == "parquet" and file == sources.STDIN:
        raise Error("Parquet is not written from front to back, so it cannot go to a pipe; name a file")
    with open_database(settings, read_only=True) as db, shown() as progress:
        handle, _ = tables.named(db, table)
        rows = _told(db.scan(handle), f"export {table}", db.count(handle), progress if file != "-" else None)
        if file == sources.STDIN:
            targets.write(rows, form, handle.model, sys.stdout, null=null)
            return
        with atomic_file(file) as out:
            if form == "parquet":
                targets.write_parquet(rows, handle.model, out)
            else:
                with as_text(out) as lines:
                    targets.write(rows, form, handle.model, lines, null=null)
    if settings.json:
        text.echo({"table": table, "file": file})
    else:
        click.echo(f"Exported: {table} to {file}")


def _told(rows: Iterable[Any], step: str, total: int, progress: OnProgress | None) -> Iterator[Any]:
    for done, row in enumerate(rows, 1):
        yield row
        if progress is not None and (not done % EVERY or done == total):
            progress(Progress(step, done, total))
