"""Migration: the constant in which a folder declares what it does to the database.

    MIGRATION = Migration(tables=[AIRPORTS, AIRLINES], drop=["carriers"])

    def up(old: AirportV1) -> Airport: …
    MIGRATION = Migration(tables=[AIRPORTS], transforms=[Transform(AIRPORTS, AirportV1, up, down)])

    def split(db: Reader) -> Iterator[Row]: …
    MIGRATION = Migration(tables=[PEOPLE, ADDRESSES], drop=["persons"], up=Remake([PEOPLE, ADDRESSES], split))

    tables      complete declarations: the model, key and indexes as of this version. Tables of earlier
                versions that are not named stay unchanged. A new folder is a copy of the newest, so it
                usually declares all tables.
    drop        tables to drop, and parts of tables to drop or to declare differently: an index as
                "airports.by_city", the time to live as "airports.ttl". A folder that omits a part without
                naming it here is refused (`compatible.undeclared`).
    rename      old name -> new name
    transforms  for tables whose rows change shape: pure functions of one row, from the previous model to
                the new one, and back if both versions are to be served
    up, down    for changes that no function of one row can make: splitting, joining or moving rows, or
                changing a primary key. They read the whole database while writers wait.

Further parts of a migration are files in its folder: bootstrap data (`everlog.migrations.bootstrap`), test
data, checks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NoReturn, TypeAlias, TypeVar

from google.protobuf.message import Message

from everlog.migrations.folder import Folder
from everlog.store.errors import SchemaError
from everlog.store.schema.table import Table
from everlog.store.tx import dual_write
from everlog.store.tx.reader import Reader

Row: TypeAlias = tuple[Table[Any, Any], Message]  # a table and a row of it
Key: TypeAlias = tuple[Table[Any, Any], Any]  # a table and the key of a row of it


Old = TypeVar("Old", bound=Message)
New = TypeVar("New", bound=Message)


class Transform(Generic[Old, New]):
    """Converts each row of a table to its new model, and back if there is a `down`.

    `table` is the new constant and `old` the previous model. `up` and `down` are pure functions of one row
    and must keep the primary key. Without `down`, two versions cannot be served at once, and a finished
    migration cannot be rolled back.

        Transform(AIRPORTS, AirportV1, up, down)
    """

    def __init__(
        self,
        table: Table[New, Any],
        old: type[Old],
        up: Callable[[Old], New],
        down: Callable[[New], Old] | None = None,
    ) -> None:
        self.where = _caller()
        self.table: Table[New, Any] = _expected(
            table, Table, "a Table as first argument of Transform", self.where
        )
        self.old: type[Old] = _model(old, "the model of the rows as second argument of Transform", self.where)
        self.up = up
        self.down = down

    def directions(self) -> dual_write.Transform:
        """Return the transform in the form that the store applies."""
        new = self.table.model
        down = None if self.down is None else dual_write.Direction(new, self.old, self.down, "down")
        return dual_write.Transform(dual_write.Direction(self.old, new, self.up), down)


class Remake:
    """Rebuilds tables from scratch: `rows` reads the old database and yields each row with its table.

    As `up`, `tables` are tables of this migration, and the database is read through the constants of earlier
    folders; as `down`, the other way round. Writers wait while it runs; `everlog up --dry-run` says for how
    long. Afterwards the tables contain the yielded rows and nothing else.

        def split(db: Reader) -> Iterator[Row]:
            for old in db.scan(BEFORE):
                yield PEOPLE, Person(id=old.id, first=old.first)

        Remake([PEOPLE], split)
    """

    def __init__(self, tables: Iterable[Table[Any, Any]], rows: Callable[[Reader], Iterable[Row]]) -> None:
        self.where = _caller()
        self.tables: tuple[Table[Any, Any], ...] = _all(
            tables, Table, "a list of tables as first argument of Remake", self.where
        )
        self.rows = rows

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tables."""
        return tuple(table.name for table in self.tables)


class Migration:
    """What one migration does to the database.

    `tables`: complete declarations as of this version; unnamed tables stay unchanged. `drop`: names of tables
    and of their parts (`"airports.by_city"`, `"airports.ttl"`) to drop or to declare differently. `rename`:
    old name to new name. `transforms`: conversions of rows that change shape. `up`, `down`: for changes that
    need the whole database. `folder` is set when the migration is loaded.

        MIGRATION = Migration(tables=[STAFF], rename={"people": "staff"}, drop=["families"])
    """

    folder: Folder
    overruled: frozenset[str] = frozenset()  # tables that newer, applied migrations define
    rules: int = 0  # edition of the rules when the folder was first built (`build.RULES`)

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
        self.where = where = _caller()
        self.tables: tuple[Table[Any, Any], ...] = _all(tables, Table, "`tables` as a list of tables", where)
        names: tuple[str, ...] = _all(drop, str, "`drop` as a list of names", where)
        self.drop = tuple(name for name in names if "." not in name)
        self.dropped_parts = frozenset(name for name in names if "." in name)
        self.rename = dict(_expected(rename or {}, Mapping, "`rename` as a dict of names", where))
        found: tuple[Transform[Any, Any], ...] = _all(
            transforms, Transform, "`transforms` as a list of Transform", where
        )
        self.transforms = {one.table.name: one for one in found}
        self.up: Remake | None = None if up is None else _expected(up, Remake, "`up` as a Remake", where)
        self.down: Remake | None = (
            None if down is None else _expected(down, Remake, "`down` as a Remake", where)
        )

    @property
    def version(self) -> int:
        """The timestamp of the folder, as a number YYYYMMDDHHMMSS."""
        return self.folder.version

    @property
    def name(self) -> str:
        """The folder's name without its timestamp."""
        return self.folder.name

    @property
    def title(self) -> str:
        """Version and name, as in 20260105093000_create_airports."""
        return self.folder.title

    def table(self, name: str) -> Table[Any, Any] | None:
        """Return the declared table of this name, or None."""
        return next((table for table in self.tables if table.name == name), None)

    def __repr__(self) -> str:
        folder = f"{self.folder.title}: " if hasattr(self, "folder") else ""
        return f"Migration({folder}{', '.join(table.name for table in self.tables)})"


def _caller() -> str:
    """Return file and line of the call of the caller."""
    frame = sys._getframe(2)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _expected(value: Any, kind: type[Any], what: str, where: str) -> Any:
    """Return `value` if it is of this kind. Raises SchemaError."""
    return value if isinstance(value, kind) else _refuse(value, what, where)


def _model(value: Any, what: str, where: str) -> Any:
    """Return `value` if it is a class of messages. Raises SchemaError."""
    return value if isinstance(value, type) and issubclass(value, Message) else _refuse(value, what, where)


def _all(values: Any, kind: type[Any], what: str, where: str) -> tuple[Any, ...]:
    """Return `values` as a tuple if all are of this kind. Raises SchemaError."""
    if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
        _refuse(values, what, where)
    return tuple(_expected(one, kind, what, where) for one in values)


def _refuse(value: Any, what: str, where: str) -> NoReturn:
    shown = f"{type(value).__name__} {value!r:.60}" if isinstance(value, (str, int)) else type(value).__name__
    raise SchemaError(f"{where}: expected {what}, found {shown}", where=where)
