"""Serve, archived: where the old log of a server's databases goes.

    --archive-to DIR|URL         of the one database that there is
    --archive-to NAME=DIR|URL    of this one

With --keep-days or --keep-records the server archives by itself (everlog.audit.retention); without, when
somebody asks for it (`archive`). A client names no place: the server writes to these alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import click

from everlog.console.archive import DAY_NS
from everlog.store.errors import OpenError

if TYPE_CHECKING:
    from everlog.store.database import Database

F = TypeVar("F", bound=Callable[..., Any])


def archiving_options(command: F) -> F:
    """Gives `serve` the options that say what becomes of old log."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def retained(
    databases: Mapping[str, Database],
    archives: Mapping[str, str],
    keep_days: float | None,
    keep_records: int | None,
    stack: ExitStack,
) -> None:
    """Has those that have a place archived by themselves until the stack is left, if it was said what they
    keep."""
    from everlog.audit.retention import Retention

    if keep_days is None and keep_records is None:
        return
    if not archives:
        raise click.UsageError("Say where to: --archive-to DIR or URL, or leave out what is kept.")
    for name, target in archives.items():
        keep_ns = int((keep_days or 0) * DAY_NS)
        stack.enter_context(
            Retention(databases[name], target, keep_records=keep_records or 0, keep_ns=keep_ns)
        )


def targets(words: Sequence[str], databases: Iterable[str]) -> dict[str, str]:
    """Where each database is archived to. Raises OpenError for a name that is none of them, and for a place
    that would be that of several."""
    names, found = list(databases), dict[str, str]()
    for word in words:
        name, equals, target = word.partition("=")
        if not equals or (name not in names and ("/" in name or ":" in name)):
            name, target = "", word  # a path or a URL with an = in it
        if not name and len(names) > 1:
            raise OpenError(
                f"--archive-to {word}: each database has a place of its own; say whose it is, as"
                f" --archive-to {names[0]}={word}"
            )
        name = name or names[0]
        if name not in names:
            raise OpenError(
                f"--archive-to {word}: this server has no database {name!r}; it has: {', '.join(names)}"
            )
        if not target:
            raise OpenError(f"--archive-to {word}: expected NAME=DIR or NAME=URL, found no place")
        if name in found:
            raise OpenError(f"two places to archive to are given for {name}; give one")
        found[name] = target
    return found


_OPTIONS = [
    click.option(
        "--archive-to",
        multiple=True,
        metavar="[NAME=]DIR|URL",
        help="Where old log goes, of the database or of this one; may be repeated.",
    ),
    click.option(
        "--keep-days",
        type=click.FloatRange(0),
        metavar="DAYS",
        help="Archive by itself all but so many days.",
    ),
    click.option(
        "--keep-records",
        type=click.IntRange(0),
        metavar="N",
        help="Archive by itself all but the last N records.",
    ),
]
