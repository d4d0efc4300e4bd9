"""Rows: one is got by its key, or many are scanned in an order."""

from __future__ import annotations

import base64
import binascii

import click

from everlog.console import tables, text
from everlog.console.moment import at_option, reading
from everlog.console.opening import open_database
from everlog.console.settings import Settings, common, pass_settings
from everlog.store.errors import CorruptionError, Error, RowError


@click.command()
@tables.table_argument
@click.argument("key", nargs=-1, required=True)
@at_option
@common
@pass_settings
def get(settings: Settings, table: str, key: tuple[str, ...], *, at: str | None) -> None:
    """Prints one row as JSON. Each field of the KEY is a word.

    Exits with 1 if there is no such row. A value that starts with - comes after `--`.

    \b
    Examples:
      everlog get airports JFK
      everlog get flights 2013 1 1 UA 1545 EWR
      everlog get airports JFK --at 2026-01-05T09:30Z
    """
    with open_database(settings, read_only=True) as now, reading(now, at) as db:
        handle, info = tables.named(db, table)
        value = text.values(info.key_fields, key, f"the key of {table}")
        row = db.get(handle, value)
        if row is None:
            raise Error(f"there is no row {table}/{'/'.join(key)}")
        text.echo(text.row_dict(row), indent=not settings.json)


@click.command()
@tables.table_argument
@click.argument("equals", nargs=-1)
@click.option("--index", metavar="NAME", help="In the order of this index, not of the key.")
@click.option("--start", metavar="VALUE", multiple=True, help="From this value on; once for each field.")
@click.option(
    "--end", metavar="VALUE", multiple=True, help="Up to this value, without it; once for each field."
)
@click.option("--starts-with", metavar="TEXT", help="Where the text, after EQUALS, begins like this.")
@click.option("--reverse", is_flag=True, help="Last first.")
@click.option("--limit", type=click.IntRange(0), metavar="ROWS", help="At most so many rows.")
@click.option("--resume", metavar="TOKEN", help="Go on where a scan with a limit ended.")
@click.option("--count", is_flag=True, help="Print how many there are, not the rows.")
@at_option
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
    at: str | None,
) -> None:
    """Prints rows in order, as JSON, one a line.

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
        raise click.UsageError("--count counts all of them: leave --limit and --resume out")
    with open_database(settings, read_only=True) as now, reading(now, at) as db:
        handle, info = tables.named(db, table)
        fields = info.key_fields if index is None else info.index(index).fields
        what = handle if index is None else handle.indexes[index]
        role = f"the key of {table}" if index is None else f"index {table}.{index}"
        first, low, high = (text.values(fields, words, role) for words in (equals, start, end))
        if count:
            number = db.count(what, first, start=low, end=high, starts_with=starts_with)
            text.echo({"rows": number}) if settings.json else click.echo(number)
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
                    text.echo(text.row_dict(row))
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
            raise Error(f"{unreadable:,} rows of {table} could not be read; all others were printed")


def _token(resume: str) -> bytes:
    try:
        return base64.b64decode(resume, altchars="-_", validate=True)
    except binascii.Error as error:
        raise RowError(f"expected --resume as a scan printed it, found {resume!r} ({error})") from None
