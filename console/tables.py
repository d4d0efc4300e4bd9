"""Tables: those of a database, by the names that are typed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem
from google.protobuf.message import Message

from everlog.console.opening import open_database
from everlog.console.settings import Settings
from everlog.store.errors import Error
from everlog.store.reflect import table_of
from everlog.store.schema import TableInfo
from everlog.store.table import Table

if TYPE_CHECKING:
    from everlog.console.moment import AnyMoment
    from everlog.console.opening import AnyDatabase


def named(db: AnyDatabase | AnyMoment, name: str) -> tuple[Table[Message, Any], TableInfo]:
    """The table of this name, in the model that the log carries. Raises SchemaError."""
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
            return []  # no database, no names; the command itself will say so


table_argument = click.argument("table", type=TableName())
