"""A user's project for tests: a package of migrations in a separate directory.

Each has a unique name, because its packages and models stay loaded in this process.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from textwrap import dedent

from everlog import migrations
from everlog.migrations import Migration

_NUMBERS = count(1)

HEADER = """\
from everlog.migrations import *
from .model_pb2 import *

field = Fields(Airport)
FAA = field("faa", 1, STRING)
NAME = field("name", 2, STRING)
"""

FIELDS = "string faa = 1; string name = 2;"


class Project:
    """`folders` are the added ones, oldest first."""

    def __init__(self, path: Path) -> None:
        self.app = f"app{next(_NUMBERS)}"
        self.path = path / self.app / "migrations"
        self.path.mkdir(parents=True)
        for package in (self.path, self.path.parent):
            (package / "__init__.py").touch()
        self.folders: list[Path] = []

    def add(
        self,
        name: str = "create_airports",
        *,
        version: int | None = None,
        fields: str = FIELDS,
        model: str = "",
        code: str = "",
        table: str = 'Table("airports", Airport, key=FAA)',
        drop: str = "",
        files: dict[str, str] | None = None,
    ) -> Path:
        """Write a folder whose table `airports` has these fields; `code` precedes the table."""
        version = version or 20260101000000 + len(self.folders)
        folder = self.path / f"v{version}_{name}"
        folder.mkdir()
        body = model or f"message Airport {{\n  {fields}\n}}\n"
        (folder / "model.proto").write_text(
            f'syntax = "proto3";\n\npackage {self.app}.v{version};\n\n{body}', encoding="utf-8"
        )
        migration = f"MIGRATION = Migration(tables=[AIRPORTS]{drop})\n"
        (folder / "__init__.py").write_text(f"{HEADER}{dedent(code)}\nAIRPORTS = {table}\n{migration}")
        for path, text in (files or {}).items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(dedent(text))
        self.folders.append(folder)
        return folder

    def build(self) -> Project:
        migrations.build(self.path)
        return self

    def load(self) -> list[Migration]:
        return migrations.load(self.path)


def line_of(path: Path, text: str) -> int:
    """Return the number of the first line with this text."""
    return next(number for number, line in enumerate(path.read_text().splitlines(), 1) if text in line)
