"""Migration: the constant in which a folder says what it does to the database.

    MIGRATION = Migration(tables=[AIRPORTS, AIRLINES], drop=["carriers"])

    def up(old: AirportV1) -> Airport: …
    MIGRATION = Migration(tables=[AIRPORTS], transforms=[Transform(AIRPORTS, AirportV1, up, down)])

`tables` declares each of its tables whole: the model of its rows, the key and the indexes, as
they are from this version on. Tables of earlier versions that are not named stay as they are;
`drop` names those that go, `rename` those that stay under another name. A folder is made by copying
the newest, so it usually declares all. `drop` also names parts of a table that go, or that the folder
declares anew: an index as `"airports.by_city"`, the life as `"airports.life"`. A folder that leaves
something out without naming it is refused (`compatible.undeclared`). `transforms` are for tables whose rows
change shape: pure functions of one row, from the model of the version before, and back where both are to
be served.

    def split(db: Reader) -> Iterator[Row]: …
    MIGRATION = Migration(tables=[PEOPLE, ADDRESSES], drop=["persons"], up=Remake([PEOPLE, ADDRESSES], split))

`up` and `down` are for what no function of one row can do: to split, join or move rows, or to change
a primary key. They read the whole database, and nobody writes while they run.

What a migration does beyond that lies beside the constant, in files of the folder: bootstrap data
(`everlog.migrations.bootstrap`), test data, checks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeAlias, TypeVar

from google.protobuf.message import Message

from everlog.migrations.folder import Folder
from everlog.store.schema.table import Table
from everlog.store.tx import dual_write
from everlog.store.tx.reader import Reader

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

    def directions(self) -> dual_write.Transform:
        """As the store applies it."""
        new = self.table.model
        down = None if self.down is None else dual_write.Direction(new, self.old, self.down, "down")
        return dual_write.Transform(dual_write.Direction(self.old, new, self.up), down)


class Remake:
    """Tables whose rows are made anew, by a function that reads the database as it was and yields
    each row with its table: `yield PEOPLE, Person(…)`.

    As `up` of a migration the tables are its own, and are read through those of the folders before;
    as `down` it is the other way round. While it runs nobody writes; `everlog up --dry-run` says for
    how long. Whatever the tables held is not in them afterwards, unless it is yielded.
    """

    def __init__(self, tables: Iterable[Table[Any, Any]], rows: Callable[[Reader], Iterable[Row]]) -> None:
        self.tables = tuple(tables)
        self.rows = rows
        frame = sys._getframe(1)
        self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(table.name for table in self.tables)


class Migration:
    """What one migration does. Its folder is known once it was loaded."""

    folder: Folder
    overruled: frozenset[str] = frozenset()  # tables that newer migrations have decided on (`order`)
    rules: int = 0  # the edition of the rules that the folder was first built under (`build.RULES`)

    def __init__(
        self,
        tables: Iterable[Table[Any, Any]],
        *,
        drop: Iterable[str] = (),
        rename: Mapping[str, str] | None = None,
        transforms: Iterable[Transform[Any, Any]] = (),
        up: Remake | None = None,
        down: Remake | None = None,
    ) -> None:
        self.tables = tuple(tables)
        drop = tuple(drop)
        self.drop = tuple(name for name in drop if "." not in name)
        self.dropped_parts = frozenset(name for name in drop if "." in name)
        self.rename = dict(rename or {})
        self.transforms = {one.table.name: one for one in transforms}
        self.up = up
        self.down = down
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
