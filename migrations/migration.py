"""Migration: the constant in which a folder says what it does to the database.

    MIGRATION = Migration(tables=[AIRPORTS, AIRLINES], drop=["carriers"])

`tables` declares each of its tables whole: the model of its rows, the key and the indexes, as
they are from this version on. Tables of earlier versions that are not named stay as they are;
`drop` names those that go. A folder is made by copying the newest, so it usually declares all.

What a migration does beyond that lies beside the constant, in files of the folder: bootstrap data
today (`everlog.migrations.bootstrap`). Row transforms (`up` and `down`) and checks will be more.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TypeAlias

from google.protobuf.message import Message

from everlog.migrations.folder import Folder
from everlog.store.table import Table

Row: TypeAlias = tuple[Table[Any, Any], Message]  # a row, and the table that it is of


class Migration:
    """What one migration does. Its folder is known once it was loaded."""

    folder: Folder

    def __init__(self, tables: Iterable[Table[Any, Any]], *, drop: Iterable[str] = ()) -> None:
        self.tables = tuple(tables)
        self.drop = tuple(drop)
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
