"""Diff: what of a table differs between two moments, as people read it or as JSON."""

from __future__ import annotations

from typing import Any

import click

from everlog.console import tables, text
from everlog.console.moment import moment, position
from everlog.console.opening import open_database
from everlog.console.settings import Settings, common, pass_settings
from everlog.store.past_diff import Difference

_SIGNS = {"added": "+", "changed": "~", "deleted": "-"}


@click.command()
@tables.table_argument
@click.argument("start")
@click.argument("end", required=False)
@common
@pass_settings
def diff(settings: Settings, table: str, start: str, end: str | None) -> None:
    """Prints the rows of a table that differ between two moments, in the order of its key.

    START and END are seqs or times, as 2026-01-05T09:30Z; without END it is what was changed since.
    --verbose prints the rows before and after; --json everything there is.

    \b
    Examples:
      everlog diff airports 812
      everlog diff airports 2026-01-05 2026-01-06 --verbose
    """
    with open_database(settings, read_only=True) as db:
        last = str(db.head) if end is None else end
        with moment(db, last) as then:
            handle, _ = tables.named(then, table)
        counts = dict.fromkeys(_SIGNS, 0)
        for one in db.diff(handle, position(start), position(last)):
            counts[one.kind] += 1
            if settings.json:
                text.echo(_as_json(one))
            else:
                _print(table, one, verbose=settings.verbose)
        if not settings.json:
            click.echo(", ".join(f"{number:,} {kind}" for kind, number in counts.items()))


def _print(table: str, one: Difference[Any], *, verbose: bool) -> None:
    name = "/".join((table, *(str(text.plain(part)) for part in one.key)))
    fields = f"  ({', '.join(one.fields)})" if one.kind == "changed" else ""
    click.echo(f"{_SIGNS[one.kind]} {name}{fields}")
    if verbose:
        for sign, row in (("-", one.before), ("+", one.after)):
            if row is not None:
                click.echo(f"    {sign} {text.dump(text.row_dict(row))}")


def _as_json(one: Difference[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": one.kind, "key": [text.plain(part) for part in one.key]}
    found["fields"] = list(one.fields)
    for name, row in (("before", one.before), ("after", one.after)):
        if row is not None:
            found[name] = text.row_dict(row)
    return found
