"""Rows: the commands get, scan, history and diff."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import click

from everlog.console import output
from everlog.console.cli import connect
from everlog.console.cli.connect import SeqOrTime, at_option, moment, open_database, reading
from everlog.console.cli.options import Settings, common, pass_settings
from everlog.store.errors import CorruptionError, Error, RowError, quantity
from everlog.store.history.diff import Difference
from everlog.store.history.row_history import Version
from everlog.store.tx.transaction import marked


@click.command()
@connect.table_argument
@click.argument("key", nargs=-1, required=True)
@at_option()
@common
@pass_settings
def get(settings: Settings, table: str, key: tuple[str, ...], *, at: int | str | None) -> None:
    """Print one row as JSON. Each field of the KEY is an argument.

    Exit with 1 if no row has this key. Put a value that starts with - after `--`.

    \b
    Examples:
      everlog get airports JFK
      everlog get flights 2013 1 1 UA 1545 EWR
      everlog get airports JFK --at 2026-01-05T09:30Z
    """
    with open_database(settings, read_only=True) as now, reading(now, at) as db:
        handle, info = connect.named(db, table)
        value = output.values(info.key_fields, key, f"the key of {table}")
        row = db.get(handle, value)
        if row is None:
            raise Error(f"there is no row {table}/{'/'.join(key)}")
        output.echo(output.row_dict(row), indent=not settings.json)


@click.command()
@connect.table_argument
@click.argument("equals", nargs=-1)
@click.option("--index", metavar="NAME", help="Scan in the order of this index, not of the key.")
@click.option("--start", metavar="VALUE", multiple=True, help="First value, included; once for each field.")
@click.option("--end", metavar="VALUE", multiple=True, help="Last value, excluded; once for each field.")
@click.option("--starts-with", metavar="TEXT", help="Only rows whose next text field starts with this.")
@click.option("--reverse", is_flag=True, help="Scan in reverse order.")
@click.option(
    "--limit", type=click.IntRange(0), metavar="ROWS", help="Print at most ROWS rows.  [default: all]"
)
@click.option("--resume", metavar="TOKEN", help="Resume a scan that ended at its limit.")
@click.option("--count", is_flag=True, help="Print the number of rows, not the rows.")
@at_option()
@common
@pass_settings
def scan(
    settings: Settings,
    table: str,
    equals: tuple[str, ...],
    *,
    index: str | None,
    start: tuple[str, ...],
    end: tuple[str, ...],
    starts_with: str | None,
    reverse: bool,
    limit: int | None,
    resume: str | None,
    count: bool,
    at: int | str | None,
) -> None:
    """Print rows in order, as JSON, one per line.

    EQUALS are values of the first fields of the key, or of the index.

    \b
    Examples:
      everlog scan airports --limit 10
      everlog scan flights 2013 12 24
      everlog scan flights --index by_route JFK LAX --count
      everlog scan airports --start J --end K
      everlog scan airports --at 812 --count
    """
    if count and (limit is not None or resume is not None):
        raise click.UsageError("--count counts all rows: leave out --limit and --resume")
    with open_database(settings, read_only=True) as now, reading(now, at) as db:
        handle, info = connect.named(db, table)
        fields = info.key_fields if index is None else info.index(index).fields
        what = handle if index is None else handle.indexes[index]
        role = f"the key of {table}" if index is None else f"index {table}.{index}"
        first, low, high = (output.values(fields, words, role) for words in (equals, start, end))
        if count:
            number = db.count(what, first, start=low, end=high, starts_with=starts_with)
            output.echo({"rows": number}) if settings.json else click.echo(number)
            return
        token = None if resume is None else _token(resume)
        found = db.scan(
            what,
            first,
            start=low,
            end=high,
            starts_with=starts_with,
            reverse=reverse,
            limit=limit,
            resume=token,
        )
        unreadable = 0
        while True:
            try:
                for row in found:
                    output.echo(output.row_dict(row))
                break
            except CorruptionError as error:
                if not isinstance(error.facts.get("row"), bytes):
                    raise
                unreadable += 1
                click.echo(f"error: {error}", err=True)
        if found.resume is not None:
            again = base64.urlsafe_b64encode(found.resume).decode()
            click.echo(f"more rows: --resume={again}", err=True)
        if unreadable:
            raise Error(
                f"{quantity(unreadable, 'row')} of {table} could not be read; all others were printed"
            )


def _token(resume: str) -> bytes:
    try:
        return base64.b64decode(resume, altchars="-_", validate=True)
    except binascii.Error as error:
        raise RowError(f"expected --resume with the token of a scan, found {resume!r} ({error})") from None


@click.command()
@connect.table_argument
@click.argument("key", nargs=-1, required=True)
@click.option("--oldest-first", is_flag=True, help="Print the oldest version first.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="VERSIONS",
    help="Print at most VERSIONS versions.  [default: all]",
)
@at_option("Resolve the table name as of this commit or time.")
@common
@pass_settings
def history(
    settings: Settings,
    table: str,
    key: tuple[str, ...],
    *,
    oldest_first: bool,
    limit: int | None,
    at: int | str | None,
) -> None:
    """Print every version of a row, newest first: time, actor, reason and changed fields.

    --verbose also prints the rows; --json prints all fields. Each field of the KEY is an argument.

    \b
    Examples:
      everlog history airports JFK
      everlog history flights 2013 1 1 UA 1545 EWR --oldest-first --verbose
      everlog history airports JFK --json | jq .actor
      everlog history terminals 4 --at 812
    """
    with open_database(settings, read_only=True) as db, reading(db, at) as then:
        handle, info = connect.named(then, table)
        value = output.values(info.key_fields, key, f"the key of {table}")
        for version in db.history(handle, value, newest_first=not oldest_first, limit=limit):
            if settings.json:
                output.echo(as_json(version))
            else:
                _print_versions(version, verbose=settings.verbose)


def _print_versions(version: Version[Any], *, verbose: bool) -> None:
    made = f"migration {version.migration}" if version.migration else ""
    what = ", ".join(version.fields) or ("erased" if version.erased else "sealed" if version.sealed else "")
    words = [
        f"{version.seq:>8}",
        output.moment(version.time_ns),
        f"{version.op:6}",
        f"{version.actor}{marked(version.proof)}",
        version.reason,
        made,
    ]
    line = "  ".join(word for word in words if word.strip())
    click.echo(f"{line}{what and f'  ({what})'}")
    if verbose and version.row is not None:
        click.echo(f"          {output.dump(output.row_dict(version.row))}")


def as_json(version: Version[Any]) -> dict[str, Any]:
    """Return a version as JSON values, without empty fields."""
    found: dict[str, Any] = version._asdict()  # noqa: SLF001  a named tuple's own
    found["row"] = None if version.row is None else output.row_dict(version.row)
    found["fields"] = list(version.fields)
    if not version.actor:
        del found["proof"]
    always = ("seq", "time_ns", "op", "row", "fields")
    return {name: value for name, value in found.items() if value or name in always}


_SIGNS = {"added": "+", "changed": "~", "deleted": "-"}


@click.command()
@connect.table_argument
@click.argument("start", type=SeqOrTime())
@click.argument("end", type=SeqOrTime(), required=False)
@common
@pass_settings
def diff(settings: Settings, table: str, start: int | str, end: int | str | None) -> None:
    """Print the rows of a table that differ between two points of the log, in key order.

    START and END are seqs or times, as 2026-01-05T09:30Z; the default END is the newest commit.
    --verbose prints the rows before and after; --json prints all fields.

    \b
    Examples:
      everlog diff airports 812
      everlog diff airports 2026-01-05 2026-01-06 --verbose
    """
    with open_database(settings, read_only=True) as db:
        last = db.head if end is None else end
        with moment(db, last) as then:
            handle, _ = connect.named(then, table)
        counts = dict.fromkeys(_SIGNS, 0)
        for one in db.past.diff(handle, start, last):
            counts[one.kind] += 1
            if settings.json:
                output.echo(_as_json(one))
            else:
                _print_differences(table, one, verbose=settings.verbose)
        if not settings.json:
            click.echo(", ".join(f"{number:,} {kind}" for kind, number in counts.items()))


def _print_differences(table: str, one: Difference[Any], *, verbose: bool) -> None:
    name = "/".join((table, *(str(output.plain(part)) for part in one.key)))
    fields = f"  ({', '.join(one.fields)})" if one.kind == "changed" else ""
    click.echo(f"{_SIGNS[one.kind]} {name}{fields}")
    if verbose:
        for sign, row in (("-", one.before), ("+", one.after)):
            if row is not None:
                click.echo(f"    {sign} {output.dump(output.row_dict(row))}")


def _as_json(one: Difference[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": one.kind, "key": [output.plain(part) for part in one.key]}
    found["fields"] = list(one.fields)
    for name, row in (("before", one.before), ("after", one.after)):
        if row is not None:
            found[name] = output.row_dict(row)
    return found
