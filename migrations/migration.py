"""Migration: the constant in which a folder says what it does to the database.

    MIGRATION = Migration(tables=[AIRPORTS, AIRLINES], drop=["carriers"])

    def up(old: AirportV1) -> Airport: …
    MIGRATION = Migration(tables=[AIRPORTS], transforms=[Transform(AIRPORTS, AirportV1, up, down)])

`tables` declares each of its tables whole: the model of its rows, the key and the indexes, as
they are from this version on. Tables of earlier versions that are not named stay as they are;
`drop` names those that go, `rename` those that stay under another name. A folder is made by copying
the newest, so it usually declares all. `transforms` are for tables whose rows change shape: pure
functions of one row, from the model of the version before, and back where both are to be served.

What a migration does beyond that lies beside the constant, in files of the folder: bootstrap data
(`everlog.migrations.bootstrap`), test data, checks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeAlias, TypeVar

from google.protobuf.message import Message

from everlog.migrations.folder import Folder
from everlog.store import transform
from everlog.store.table import Table

Row: TypeAlias = tuple[Table[Any, Any], Message]  # a row, and the table that it is of
Key: TypeAlias = tuple[Table[Any, Any], Any]  # the key of a row, and the table that it is of


Old = TypeVar("Old", bound=Message)
New = TypeVar("New", bound=Message)


class Transform(Generic[Old, New]):
    """How the rows of a table become those of its new model, and with `down` the other way round.

    Both are pure functions of one row, and leave the primary key as it is. Without `down` there
    can be no two versions at once, and no way back once the migration is finished.
    """

    def __init__(
        self,
        table: Table[New, Any],
        old: type[Old],
        up: Callable[[Old], New],
        down: Callable[[New], Old] | None = None,
    ) -> None:
        self.table = table
        self.old = old
        self.up = up
        self.down = down
        frame = sys._getframe(1)
        self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"

    def directions(self) -> transform.Transform:
        """As the store applies it."""
        new = self.table.model
        down = None if self.down is None else transform.Direction(new, self.old, self.down)
        return transform.Transform(transform.Direction(self.old, new, self.up), down)


class Migration:
    """What one migration does. Its folder is known once it was loaded."""

    folder: Folder
    overruled: frozenset[str] = frozenset()  # tables that newer migrations have decided on (`order`)

    def __init__(
        self,
        tables: Iterable[Table[Any, Any]],
        *,
        drop: Iterable[str] = (),
        rename: Mapping[str, str] | None = None,
        transforms: Iterable[Transform[Any, Any]] = (),
    ) -> None:
        self.tables = tuple(tables)
        self.drop = tuple(drop)
        self.rename = dict(rename or {})
        self.transforms = {one.table.name: one for one in transforms}
        frame = sys._getframe(1)
        self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"

    @property
    def version(self) -> int:
        return self.folder.version

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def title(self) -> str:
        return self.folder.title

    def table(self, name: str) -> Table[Any, Any] | None:
        return next((table for table in self.tables if table.name == name), None)

    def __repr__(self) -> str:
        folder = f"{self.folder.title}: " if hasattr(self, "folder") else ""
        return f"Migration({folder}{', '.join(table.name for table in self.tables)})"
