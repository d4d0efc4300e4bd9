"""Connect: the database, table and point in time that a command line names.

    file:PATH                      embedded: only this process writes to it
    everlog://HOST:PORT/NAME       on a server

    --at 812                       as of commit 812
    --at 2026-01-05T09:30          as of that time, local unless it names a zone
    --at "yesterday 14:00"         the same
    --at 1h                        as of an hour ago

A command that only reads opens the database read-only, and so works beside a process that writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem
from google.protobuf.message import Message

from everlog.console.cli.options import Settings
from everlog.console.output import show_progress
from everlog.rpc import address, connect
from everlog.rpc.address import without_secrets
from everlog.store import urls
from everlog.store.errors import AccessError, Error, OpenError, UnavailableError
from everlog.store.schema.arguments import position
from everlog.store.schema.reflect import table_of
from everlog.store.schema.schema import TableInfo
from everlog.store.schema.table import Table

if TYPE_CHECKING:
    from everlog.rpc.client.database import RemoteDatabase
    from everlog.rpc.embedded import EmbeddedDatabase
    from everlog.store.crypto.master_key import MasterKey
    from everlog.store.progress import OnProgress

    AnyDatabase = EmbeddedDatabase | RemoteDatabase
    from everlog.rpc.client.history import RemoteMoment
    from everlog.store.history.past import Moment

    AnyMoment = Moment | RemoteMoment


LEDGER = "everlog.fleet."  # package of the models of a fleet's ledger
TRY_EVERY_S = 0.25
TRY_S = 1.0  # minimum time of an attempt
# The status codes after which waiting may help. A refused token, for example, stays refused.
_COMES_LATER = ("UNAVAILABLE", "DEADLINE_EXCEEDED")


def open_database(
    settings: Settings,
    *,
    url: str | None = None,
    create: bool = False,
    read_only: bool = False,
    edits: bool = False,
    master_key: MasterKey | None = None,
    progress: OnProgress | None = None,
) -> AnyDatabase:
    """Return the database of the settings, or of `url`; with --wait, wait until it is available. `edits`: for
    a command that changes rows or the schema, which a fleet's ledger refuses. Raises AccessError then."""
    db = _opened(settings, url, create=create, read_only=read_only, master_key=master_key, progress=progress)
    if edits and not read_only and not is_remote(db.url) and _is_ledger(db):
        db.close()
        raise AccessError(
            f"{without_secrets(db.url)} is the ledger of a fleet, and only its coordinator writes there; use"
            " `everlog fleet`, with the URL of its server"
        )
    return db


def _is_ledger(db: AnyDatabase) -> bool:
    """Whether a database has the tables of a fleet's coordinator."""
    epochs = db.schema.tables.get("epochs")
    return epochs is not None and epochs.proto.model.startswith(LEDGER)


def _opened(
    settings: Settings,
    url: str | None,
    *,
    create: bool,
    read_only: bool,
    master_key: MasterKey | None,
    progress: OnProgress | None,
) -> AnyDatabase:
    where = settings.with_token(url) if url else settings.url
    how: dict[str, Any] = {
        "create": create,
        "read_only": read_only,
        "master_key": master_key,
        "migrations": settings.migrations_or_none,
        "migrate": False,
        "fleet": "",  # a command is no member
        "progress": progress,
    }
    if not settings.wait:
        return connect.open(where, **how)
    check_url(where)
    until = time.monotonic() + settings.wait_timeout_s
    while True:
        try:
            return _tried(where, until - time.monotonic(), **how)
        except (UnavailableError, OpenError) as error:
            if not _comes_later(error, where, create=create):
                raise
            if time.monotonic() >= until:
                waited = f"{error} (waited {settings.wait_timeout_s:g} s)"
                raise type(error)(waited, **error.facts) from None
            time.sleep(TRY_EVERY_S)


def _comes_later(error: Error, where: str, *, create: bool) -> bool:
    """Return whether waiting helps: for a server, or for a file that another process holds or creates."""
    if is_remote(where):
        return error.facts.get("code", _COMES_LATER[0]) in _COMES_LATER
    path = directory_of(where)
    made = (path / "db" / "CURRENT").exists() or path.is_file()
    return "owner" in error.facts or not (create or made)


def _tried(where: str, left_s: float, *, read_only: bool, **how: Any) -> AnyDatabase:
    """Open the database. Waits for a server's response at most `left_s`, in seconds."""
    if not is_remote(where):
        return connect.open(where, read_only=read_only, **how)
    from everlog.rpc.client.channel import deadline
    from everlog.rpc.client.database import RemoteDatabase

    with deadline(max(TRY_S, left_s)):
        db = RemoteDatabase(where, read_only=read_only, connect_s=0)
    db.folders = how["migrations"]
    return db


def check_url(url: str) -> None:
    """Raise OpenError for a URL that can never be opened, however long the command waits."""
    if is_remote(url):
        address.parse(url)
    else:
        directory_of(url)


def is_remote(url: str) -> bool:
    return address.is_url(url)


def directory_of(url: str) -> Path:
    """Return the directory of an embedded database. Raises OpenError for another kind of URL."""
    if is_remote(url):
        raise OpenError(
            f"{without_secrets(url)} is on a server; this command needs a database on this machine, file:PATH"
        )
    return urls.directory(url, expected="a database on this machine, file:PATH")


class Directory(click.ParamType[Any]):
    """The directory of a database on this machine, as a path or as file:PATH, like --url."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return value if isinstance(value, Path) else directory_of(value)


def named(db: AnyDatabase | AnyMoment, name: str) -> tuple[Table[Message, Any], TableInfo]:
    """Return the table with this name, in the model in the log. Raises SchemaError."""
    info = db.schema.table(name)
    return table_of(info), info


class TableName(click.ParamType[str]):
    """The name of a table; a shell completes it from the database."""

    name = "table"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        try:
            with open_database(ctx.ensure_object(Settings), read_only=True) as db:
                return [
                    CompletionItem(name) for name in sorted(db.schema.tables) if name.startswith(incomplete)
                ]
        except Error:
            return []  # no database, no names; the command itself reports the error


table_argument = click.argument("table", type=TableName())


F = TypeVar("F", bound=Callable[..., Any])


class SeqOrTime(click.ParamType[Any]):
    """A seq, or a time as people write it (store/schema/times.py), local unless it names a zone."""

    name = "seq or time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        return value if isinstance(value, int) else position(value, zone=None)


def at_option(help_: str = "As of this commit, or of this time, as 02:13 or 1h ago.") -> Callable[[F], F]:
    """Add the option `--at` to a command."""
    return click.option("--at", type=SeqOrTime(), metavar="SEQ|TIME", help=help_)


def by_keyword(where: int | str) -> dict[str, Any]:
    """Return a seq or a time as a keyword argument for calls such as `db.at`."""
    return {"seq" if isinstance(where, int) else "time": where}


def moment(db: AnyDatabase, where: int | str) -> AnyMoment:
    """Return the database as of a seq or a time. Raises CursorError."""
    with show_progress() as progress:
        return db.at(**by_keyword(where), progress=progress)


@contextmanager
def reading(db: AnyDatabase, where: int | str | None) -> Iterator[Any]:
    """Yield the database to read from: as it is now, or as of a seq or a time."""
    if where is None:
        yield db
        return
    with moment(db, where) as found:
        yield found
