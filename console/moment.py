"""Moment: when in the past a command is to look, as people type it.

--at 812                     after the record 812
--at 2026-01-05T09:30        at that time, UTC unless a zone is said
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from everlog.console.progress import shown
from everlog.store.errors import CursorError, RowError
from everlog.store.past_time import nanoseconds

if TYPE_CHECKING:
    from everlog.console.opening import AnyDatabase
    from everlog.rpc.remote_past import RemoteMoment
    from everlog.store.past import Moment

    AnyMoment = Moment | RemoteMoment

F = TypeVar("F", bound=Callable[..., Any])

_AT = click.option(
    "--at", metavar="SEQ|TIME", help="As of this commit, or of this time, as 2026-01-05T09:30Z."
)


def at_option(command: F) -> F:
    """Gives a command that reads the option `--at`."""
    return _AT(command)


def position(text: str) -> int | str:
    """Return the seq, or the time as text, that a command line names. Raises CursorError for neither."""
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        nanoseconds(text)
    except RowError:
        raise CursorError(f"expected a seq, or a time like 2026-01-05T09:30:00Z, found {text!r}") from None
    return text


def moment(db: AnyDatabase, text: str) -> AnyMoment:
    """The database as it was then. Raises CursorError, RowError."""
    where = position(text)
    with shown() as progress:
        if isinstance(where, int):
            return db.at(seq=where, progress=progress)
        return db.at(time=where, progress=progress)


@contextmanager
def reading(db: AnyDatabase, text: str | None) -> Iterator[Any]:
    """What to read from: the database now, or as it was."""
    if text is None:
        yield db
        return
    with moment(db, text) as found:
        yield found
