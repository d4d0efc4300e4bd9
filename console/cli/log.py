"""Log: the command log, which prints commits as text or JSON, or writes them to a file.

    feed              with --follow, or without filters
    db.past.log(…)    with filters, evaluated where the log is

A CSV or Parquet file has one line per row that a commit wrote:

    seq, time_ns, kind, actor, reason, correlation_id, causation_id, client, op, table, key, row, prior

Key and row are JSON, as in `everlog log --json`. A commit without rows has one line. The file appears when
it is complete.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from itertools import islice
from typing import IO, TYPE_CHECKING, Any
from uuid import UUID

import click
from google.protobuf import json_format

from everlog.console import output
from everlog.console.cli.connect import TableName, at_option, named, open_database, reading
from everlog.console.cli.follow import batches
from everlog.console.cli.options import Moment, Renamed, Settings, common, pass_settings
from everlog.console.export import csv_line
from everlog.console.output import as_text, atomic_file
from everlog.proto import log_pb2
from everlog.store.errors import Error, quantity
from everlog.store.history.query import KINDS, Entry, RowChange, entry_of
from everlog.store.schema import arguments
from everlog.store.schema.schema import Schema
from everlog.store.schema.table import Table
from everlog.store.tx.transaction import marked

if TYPE_CHECKING:
    from everlog.console.cli.connect import AnyDatabase


COLUMNS = (
    "seq", "time_ns", "kind", "actor", "reason", "correlation_id", "causation_id", "client",
    "op", "table", "key", "row", "prior",
)  # fmt: skip
NUMBERS = {"seq", "time_ns", "prior"}
AT_ONCE = 4096


def write_csv(entries: Iterable[Entry], file: str) -> None:
    """Write CSV with a header; - is standard output."""

    def write(out: IO[str]) -> None:
        out.write(csv_line(COLUMNS))
        out.writelines(csv_line(map(str, line)) for line in _lines(entries))

    if file == "-":
        write(sys.stdout)
        return

    with atomic_file(file) as out, as_text(out) as lines:
        write(lines)


def write_parquet(entries: Iterable[Entry], file: str) -> None:
    """Write Parquet. Raises Error without the extra `parquet`."""
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise Error("writing Parquet needs pyarrow: pip install 'everlog[parquet]'") from None
    kinds = [arrow.int64() if name in NUMBERS else arrow.string() for name in COLUMNS]
    schema: Any = arrow.schema(list(zip(COLUMNS, kinds, strict=True)))

    lines = _lines(entries)
    with atomic_file(file) as out, parquet.ParquetWriter(out, schema) as writer:
        while some := list(islice(lines, AT_ONCE)):
            columns = [
                arrow.array(column, kind) for column, kind in zip(zip(*some, strict=True), kinds, strict=True)
            ]
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))


def _lines(entries: Iterable[Entry]) -> Iterator[tuple[Any, ...]]:
    for entry in entries:
        commit = (
            entry.seq, entry.time_ns, entry.kind, entry.actor, entry.reason,
            entry.correlation_id, entry.causation_id, entry.client,
        )  # fmt: skip
        for change in entry.changes:
            key = output.dump([output.plain(part) for part in change.key])
            row = "" if change.row is None else output.dump(output.row_dict(change.row))
            yield (*commit, change.op, change.table, key, row, change.prior)
        if not entry.changes:
            yield (*commit, "", "", "", "", 0)


DECISIONS = ("approved", "rejected")
CHANGES_SHOWN = 10


@click.command()
@click.option(
    "--after", default="0", metavar="SEQ", help="Start after this commit, a seq or a cursor.  [default: 0]"
)
@click.option("--until", type=int, metavar="SEQ", help="End with this commit.  [default: the newest]")
@click.option(
    "--table",
    "tables",
    type=TableName(),
    multiple=True,
    help="Print only changes of this table; may be repeated.",
)
@click.option("--actor", metavar="WHO", help="Print only commits of this actor.")
@click.option(
    "--row",
    "key",
    cls=Renamed,
    was=("--key",),
    multiple=True,
    metavar="VALUE",
    help="Print only changes of the row with this key; once for each field of the key.",
)
@at_option("With --row: resolve the table name as of this commit or time.")
@click.option("--correlation", metavar="ID", help="Print only commits with this correlation id.")
@click.option("--kind", type=click.Choice(KINDS), help="Print only commits of this kind.")
@click.option(
    "--since",
    type=Moment(),
    metavar="TIME",
    help="Print only commits at or after this time, as 02:13 or 1h ago.",
)
@click.option("--before", type=Moment(), metavar="TIME", help="Print only commits before this time.")
@click.option("--csv", metavar="FILE", help="Write CSV, one line per row; - is standard output.")
@click.option("--parquet", metavar="FILE", help="Write Parquet, one line per row.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="COMMITS",
    help="Print at most COMMITS commits.  [default: all]",
)
@click.option("--follow", "-f", is_flag=True, help="Continue with new commits until stopped.")
@common
@pass_settings
def log(
    settings: Settings,
    *,
    after: str,
    until: int | None,
    tables: tuple[str, ...],
    actor: str | None,
    key: tuple[str, ...],
    at: int | str | None,
    correlation: str | None,
    kind: str | None,
    since: str | None,
    before: str | None,
    csv: str | None,
    parquet: str | None,
    limit: int | None,
    follow: bool,
) -> None:
    """Print commits, oldest first: time, actor, reason and changes.

    --verbose prints all changes of a commit with their rows; --json prints all fields.

    \b
    Examples:
      everlog log --table airports --actor ann
      everlog log --after 812 --follow
      everlog log --table airports --row JFK --since 2026-01-05
      everlog log --table terminals --row 4 --at 812
      everlog log --actor ann --parquet ann.parquet
      everlog -u everlog://db.example.com/flights log --json | jq .reason
    """
    from everlog.feed import cursor

    start = cursor.parse(after)
    arguments.text(actor or "", "actor")
    settings.resume = "resume with --after and the last seq printed"
    asks = bool(key or correlation or kind or since or before)
    if follow and (asks or csv or parquet):
        raise click.UsageError(
            "--follow works only with --table and --actor, not with other filters or files"
        )
    if asks and len(tables) > 1:
        raise click.UsageError("expected at most one --table with these filters")
    if csv and parquet:
        raise click.UsageError("expected one of --csv and --parquet")
    if key and not tables:
        raise click.UsageError("--row needs --table")
    if at and not key:
        raise click.UsageError("--at needs --row")
    with open_database(settings, read_only=True) as db:
        found: Iterator[Entry]
        if asks or (not follow and len(tables) <= 1 and _opens_rows(db)):
            table: Table[Any, Any] | str | None = tables[0] if tables else None
            value = None
            if key:
                with reading(db, at) as then:
                    handle, info = named(then, tables[0])
                value = output.values(info.key_fields, key, f"the key of {table}")
                table = handle if at else table
            found = db.past.log(
                actor=actor,
                table=table,
                key=value,
                correlation_id=correlation,
                kind=kind,
                after=start.seq,
                until=until,
                since=since,
                before=before,
            )
        else:
            feed = _commits(db, start, until, tables, follow=follow)
            found = (entry_of(*one) for one in feed if actor is None or one[0].actor == actor)
        found = islice(found, arguments.limit(limit, "commits"))
        if csv or parquet:
            write_csv(found, csv) if csv else write_parquet(found, parquet or "")
            return
        for entry in found:
            if settings.json:
                output.echo(_whole(entry))
            else:
                _print(entry, verbose=settings.verbose)


def _opens_rows(db: AnyDatabase) -> bool:
    """Return whether to use `db.past.log`, which opens sealed rows: the feed of a server does not."""
    schema = db.schema
    return schema.vault is None and any(info.sealed for info in schema.tables.values())


def _commits(
    db: AnyDatabase, after: log_pb2.Cursor, until: int | None, tables: tuple[str, ...], *, follow: bool
) -> Iterator[tuple[log_pb2.Commit, Schema]]:
    """Yield commits, each with the schema in force."""
    vault = db.schema.vault
    schema = Schema(log_pb2.Schema(), vault)
    for batch in batches(db, after, until=until, tables=tables, follow=follow):
        if batch.schema is not None:
            schema = Schema(batch.schema, vault)
        for commit in batch.commits:
            if commit.HasField("migration") and commit.migration.HasField("schema"):
                schema = Schema(commit.migration.schema, vault)
            yield commit, schema


def _print(entry: Entry, *, verbose: bool) -> None:
    actor = f"{entry.actor}{marked(entry.proof)}"
    when = output.moment(entry.time_ns)
    if entry.reading_ns:
        when += f" (clock {output.moment(entry.reading_ns)})"
    words = [f"{entry.seq:>8}", when, actor, entry.reason, _about(entry)]
    click.echo("  ".join(word for word in words if word))
    shown = entry.changes if verbose else entry.changes[:CHANGES_SHOWN]
    for change in shown:
        before = f"  (before: commit {change.prior})" if change.prior else ""
        before += "  (erased)" if change.erased else "  (sealed)" if change.sealed else ""
        name = "/".join((change.table, *(str(output.plain(part)) for part in change.key)))
        click.echo(f"          {change.op:6} {name}{before}")
        if verbose and change.row is not None:
            click.echo(f"                 {output.dump(output.row_dict(change.row))}")
    more = len(entry.changes) - len(shown)
    if more:
        click.echo(f"          and {more:,} more")


def _about(entry: Entry) -> str:
    about: Any = entry.about
    match entry.kind:
        case "created":
            return f"created by {about.software}"
        case "base":
            return "base of a trimmed log"
        case "migration":
            step = log_pb2.Migration.Step.Name(about.step).lower()
            claimed = " (claimed)" if step in DECISIONS and entry.proof == "claimed" else ""
            of = f"migration {about.version}_{about.name} " if about.version else ""
            decision = f", decision {UUID(bytes=about.decision_id)}" if about.decision_id else ""
            return f"{of}{step}{claimed}{decision}"
        case "load":
            step = log_pb2.Load.Step.Name(about.step).lower()
            return f"load of {about.table}, {quantity(about.rows, 'row')} so far, {step}"
        case "notice":
            return f"{about.kind} {about.subject}".rstrip()
        case _:
            return ""


def _whole(entry: Entry) -> dict[str, Any]:
    """Return an entry as JSON values, without descriptors, sources and empty fields."""
    found: dict[str, Any] = {"seq": entry.seq, "time_ns": entry.time_ns, "schema": entry.schema}
    for name in (
        "actor",
        *(("proof",) if entry.actor else ()),
        "reason",
        "correlation_id",
        "causation_id",
        "client",
    ):
        if value := getattr(entry, name):
            found[name] = value
    if entry.reading_ns:
        found["reading_ns"] = entry.reading_ns
    if entry.commit_id:
        found["commit_id"] = output.plain(entry.commit_id)
    found["checksum"] = entry.checksum
    if entry.about is not None:
        about: Any = type(entry.about)()
        about.CopyFrom(entry.about)
        if entry.kind == "migration":
            about.ClearField("schema")
            about.ClearField("sources")
        found[entry.kind] = json_format.MessageToDict(about, preserving_proto_field_name=True)
    found["changes"] = [_change(change) for change in entry.changes]
    return found


def _change(change: RowChange) -> dict[str, Any]:
    found: dict[str, Any] = {"op": change.op, "table": change.table}
    found["key"] = [output.plain(part) for part in change.key]
    if change.row is not None:
        found["row"] = output.row_dict(change.row)
    if change.erased:
        found["erased"] = True
    if change.sealed:
        found["sealed"] = True
    if change.prior:
        found["prior"] = change.prior
    return found
