"""Log: the commits of a database, as people read them or as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click
from google.protobuf import json_format

from everlog.console import text
from everlog.console.following import batches
from everlog.console.opening import open_database
from everlog.console.settings import Settings, common, pass_settings
from everlog.console.tables import TableName
from everlog.proto import log_pb2
from everlog.store.errors import CorruptionError
from everlog.store.schema import Schema, TableInfo

if TYPE_CHECKING:
    from everlog.console.opening import AnyDatabase

CHANGES_SHOWN = 10


@click.command()
@click.option(
    "--after", default="0", metavar="SEQ", help="After this commit, a seq or a cursor.  [default: 0]"
)
@click.option("--until", type=int, metavar="SEQ", help="Up to this commit, and with it.")
@click.option(
    "--table", "tables", type=TableName(), multiple=True, help="Only changes of this table; may be repeated."
)
@click.option("--actor", help="Only commits of this actor.")
@click.option("--limit", type=click.IntRange(1), metavar="COMMITS", help="At most so many.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is committed from now on.")
@common
@pass_settings
def log(
    settings: Settings,
    *,
    after: str,
    until: int | None,
    tables: tuple[str, ...],
    actor: str | None,
    limit: int | None,
    follow: bool,
) -> None:
    """Prints commits, oldest first: when, who, why, and what was changed.

    --verbose prints all changes of a commit, and the rows; --json everything there is.

    \b
    Examples:
      everlog log --table airports --actor ann
      everlog log --after 812 --follow
      everlog -u everlog://db.example.com/flights log --json | jq .reason
    """
    from everlog.feed import cursor

    start = cursor.parse(after)
    settings.resume = "--after with the last seq that you saw goes on from there"
    left = limit or -1
    with open_database(settings, read_only=True) as db:
        for commit, schema in _commits(db, start, until, tables, follow=follow):
            if actor is not None and commit.actor != actor:
                continue
            if settings.json:
                text.echo(_whole(commit, schema))
            else:
                _print(commit, schema, verbose=settings.verbose)
            left -= 1
            if not left:
                return


def _commits(
    db: AnyDatabase, after: log_pb2.Cursor, until: int | None, tables: tuple[str, ...], *, follow: bool
) -> Iterator[tuple[log_pb2.Commit, Schema]]:
    """Commits, each with the schema in force with it."""
    schema = Schema(log_pb2.Schema())
    for batch in batches(db, after, until=until, tables=tables, follow=follow):
        if batch.schema is not None:
            schema = Schema(batch.schema)
        for commit in batch.commits:
            if commit.HasField("migration") and commit.migration.HasField("schema"):
                schema = Schema(commit.migration.schema)
            yield commit, schema


def _print(commit: log_pb2.Commit, schema: Schema, *, verbose: bool) -> None:
    words = [f"{commit.seq:>8}", text.moment(commit.time_ns), commit.actor, commit.reason, _about(commit)]
    click.echo("  ".join(word for word in words if word))
    shown = commit.changes if verbose else commit.changes[:CHANGES_SHOWN]
    for change in shown:
        info = schema.spaces.get(change.space)
        before = f"  (before: commit {change.prior})" if change.prior else ""
        click.echo(f"          {log_pb2.Op.Name(change.op).lower():6} {_name(info, change)}{before}")
        if verbose and change.row and info is not None:
            click.echo(f"                 {text.dump(_row(info, change.row))}")
    more = len(commit.changes) - len(shown)
    if more:
        click.echo(f"          and {more:,} more")


def _about(commit: log_pb2.Commit) -> str:
    match commit.WhichOneof("about"):
        case "created":
            return f"created by {commit.created.software}"
        case "base":
            return "base of a trimmed log"
        case "migration":
            step = log_pb2.Migration.Step.Name(commit.migration.step).lower()
            return f"migration {commit.migration.version}_{commit.migration.name} {step}"
        case "load":
            step = log_pb2.Load.Step.Name(commit.load.step).lower()
            return f"load of {commit.load.table}, {commit.load.rows:,} rows so far, {step}"
        case "notice":
            return f"{commit.notice.kind} {commit.notice.subject}"
        case _:
            return ""


def _whole(commit: log_pb2.Commit, schema: Schema) -> dict[str, Any]:
    """A commit as protobuf's JSON, with rows and keys readable and without descriptors and sources."""
    bare = log_pb2.Commit()
    bare.CopyFrom(commit)
    del bare.changes[:]
    if bare.HasField("migration"):
        bare.migration.ClearField("schema")
        bare.migration.ClearField("sources")
    found = json_format.MessageToDict(bare, preserving_proto_field_name=True)
    found |= {"seq": commit.seq, "time_ns": commit.time_ns, "schema": commit.schema}  # not as text
    found["changes"] = [_change(change, schema) for change in commit.changes]
    return found


def _change(change: log_pb2.Change, schema: Schema) -> dict[str, Any]:
    info = schema.spaces.get(change.space)
    found: dict[str, Any] = {"op": log_pb2.Op.Name(change.op).lower()}
    if info is None:
        found |= {"space": change.space, "key": change.key.hex()}
    else:
        found |= {"table": info.name, "key": [text.plain(part) for part in info.decode_key(change.key)]}
        if change.op == log_pb2.PUT:
            found["row"] = _row(info, change.row)
    if change.prior:
        found["prior"] = change.prior
    return found


def _name(info: TableInfo | None, change: log_pb2.Change) -> str:
    if info is not None:
        with suppress(CorruptionError):
            return "/".join((info.name, *(str(text.plain(part)) for part in info.decode_key(change.key))))
    return f"space {change.space} key {change.key.hex()}"


def _row(info: TableInfo, row: bytes) -> dict[str, Any]:
    return text.row_dict(info.parse(row))
