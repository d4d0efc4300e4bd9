"""History: every version of a row, as people read it or as JSON."""

from __future__ import annotations

from typing import Any

import click

from everlog.console import tables, text
from everlog.console.moment import reading
from everlog.console.opening import open_database
from everlog.console.settings import Settings, common, pass_settings
from everlog.store.history import Version
from everlog.store.transaction import marked


@click.command()
@tables.table_argument
@click.argument("key", nargs=-1, required=True)
@click.option("--oldest-first", is_flag=True, help="From the first version on.")
@click.option("--limit", type=click.IntRange(1), metavar="VERSIONS", help="At most so many.")
@click.option("--at", metavar="SEQ|TIME", help="The table of this name at that time, where it is gone.")
@common
@pass_settings
def history(
    settings: Settings,
    table: str,
    key: tuple[str, ...],
    *,
    oldest_first: bool,
    limit: int | None,
    at: str | None,
) -> None:
    """Prints every version of a row, newest first: when, who, why, and which fields were changed.

    --verbose prints the rows as well; --json everything there is. Each field of the KEY is a word.

    \b
    Examples:
      everlog history airports JFK
      everlog history flights 2013 1 1 UA 1545 EWR --oldest-first --verbose
      everlog history airports JFK --json | jq .actor
      everlog history terminals 4 --at 812
    """
    with open_database(settings, read_only=True) as db, reading(db, at) as then:
        handle, info = tables.named(then, table)
        value = text.values(info.key_fields, key, f"the key of {table}")
        for version in db.history(handle, value, newest_first=not oldest_first, limit=limit):
            if settings.json:
                text.echo(as_json(version))
            else:
                _print(version, verbose=settings.verbose)


def _print(version: Version[Any], *, verbose: bool) -> None:
    made = f"migration {version.migration}" if version.migration else ""
    what = ", ".join(version.fields) or ("erased" if version.erased else "sealed" if version.sealed else "")
    words = [
        f"{version.seq:>8}",
        text.moment(version.time_ns),
        f"{version.op:6}",
        f"{version.actor}{marked(version.proof)}",
        version.reason,
        made,
    ]
    line = "  ".join(word for word in words if word.strip())
    click.echo(f"{line}{what and f'  ({what})'}")
    if verbose and version.row is not None:
        click.echo(f"          {text.dump(text.row_dict(version.row))}")


def as_json(version: Version[Any]) -> dict[str, Any]:
    """A version as JSON values; what is empty is left out."""
    found: dict[str, Any] = version._asdict()  # noqa: SLF001  a named tuple's own
    found["row"] = None if version.row is None else text.row_dict(version.row)
    found["fields"] = list(version.fields)
    if not version.actor:
        del found["proof"]
    always = ("seq", "time_ns", "op", "row", "fields")
    return {name: value for name, value in found.items() if value or name in always}
