"""Lint history: compare the folders with the database's migrations and the clock."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from everlog.migrations import withheld_files
from everlog.migrations.folder import Folder, Root, line_of
from everlog.migrations.lint.rules import Findings
from everlog.migrations.status import LoggedMigration
from everlog.proto import log_pb2

_AHEAD = timedelta(days=1)  # clocks and time zones differ
_MIGRATION = re.compile(r"^MIGRATION\b", re.MULTILINE)


class Applied(NamedTuple):
    """A migration that a database has. `sources` are empty if only a server has them."""

    title: str
    digest: bytes
    sources: Sequence[log_pb2.SourceFile] = ()
    logged: LoggedMigration | None = None  # if known: includes accepted edits of the folder

    def matches(self, folder: Folder) -> bool:
        """Whether a folder does the same as the one that ran. Read-only."""
        return (
            self.logged.matches(folder)
            if self.logged is not None
            else folder.is_as(self.digest, self.sources)
        )


def lint_applied(
    root: Root, folders: Sequence[Folder], applied: Mapping[int, Applied], found: Findings
) -> None:
    """Compare folders with the applied migrations of a database. Read-only."""
    newest = max(applied, default=0)
    for folder in folders:
        record = applied.get(folder.version)
        if record is None and folder.version < newest:
            text = f"migration {folder.title} is pending, but the newer {newest} is already applied"
            found.add("history/out-of-order", _init(folder), text)
        elif record is not None and not record.matches(folder):
            where, what = _difference(folder, record.sources)
            text = f"migration {folder.title} was edited after it was applied{what}"
            found.add("history/edited", where, text)
    known = {folder.version for folder in folders}
    for version, record in sorted(applied.items()):
        if version not in known and version < max(known, default=0):
            text = f"migration {record.title} is applied, but its folder is missing"
            found.add("history/missing", f"{root.path / '__init__.py'}:1", text)


def lint_times(folders: Iterable[Folder], now: datetime, found: Findings) -> None:
    """Report timestamps more than a day in the future. Read-only."""
    newest_first = int((now.astimezone(UTC) + _AHEAD).strftime("%Y%m%d%H%M%S"))
    for folder in folders:
        if folder.version > newest_first:
            text = (
                f"the timestamp of {folder.title} is in the future: migrations created until then would be"
                " out of order"
            )
            found.add("history/future", _init(folder), text)


def _difference(folder: Folder, sources: Iterable[log_pb2.SourceFile]) -> tuple[str, str]:
    """Return the place of the first line that differs from the log, and the names of the files that
    differ.
    """
    was, now = withheld_files.contents(sources, folder)
    changed = [path for path in sorted(was.keys() | now.keys()) if was.get(path) != now.get(path)]
    if not was or not changed:
        return _init(folder), ""
    there = next((path for path in changed if path in now), None)
    if there is None:
        return _init(folder), f": {', '.join(changed)} is missing"
    before, after = was.get(there, b"").splitlines(), now[there].splitlines()
    same = next((at for at, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), None)
    line = min(len(before), len(after)) if same is None else same
    line = max(1, min(line + 1, len(after)))
    return f"{folder.path / there}:{line}", f": {', '.join(changed)}"


def _init(folder: Folder) -> str:
    """Return the place where the folder declares its migration."""
    file = folder.path / "__init__.py"
    text = file.read_text(encoding="utf-8", errors="replace")
    said = _MIGRATION.search(text)
    return f"{file}:{line_of(text, said.start()) if said else 1}"
