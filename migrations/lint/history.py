"""Lint history: what the database and the clock say of the folders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from everlog.migrations import withheld
from everlog.migrations.folder import Folder, Root, line_of
from everlog.migrations.lint.rules import Findings
from everlog.migrations.status import Life
from everlog.proto import log_pb2

_AHEAD = timedelta(days=1)  # clocks and time zones differ
_MIGRATION = re.compile(r"^MIGRATION\b", re.MULTILINE)


class Applied(NamedTuple):
    """A migration that a database has. `sources` are empty where only a server knows them."""

    title: str
    digest: bytes
    sources: Sequence[log_pb2.SourceFile] = ()
    life: Life | None = None  # where it is known, with the edits of the folder that were accepted

    def fits(self, folder: Folder) -> bool:
        """Whether a folder does what ran. Read-only."""
        return self.life.fits(folder) if self.life is not None else folder.is_as(self.digest, self.sources)


def lint_applied(
    root: Root, folders: Sequence[Folder], applied: Mapping[int, Applied], found: Findings
) -> None:
    """Folders beside the migrations that a database has, as it recorded them. Read-only."""
    newest = max(applied, default=0)
    for folder in folders:
        record = applied.get(folder.version)
        if record is None and folder.version < newest:
            text = f"migration {folder.title} is pending, but {newest} is newer and applied already"
            found.add("history/out-of-order", _init(folder), text)
        elif record is not None and not record.fits(folder):
            where, what = _difference(folder, record.sources)
            text = f"migration {folder.title} was edited after it was applied{what}"
            found.add("history/edited", where, text)
    known = {folder.version for folder in folders}
    for version, record in sorted(applied.items()):
        if version not in known and version < max(known, default=0):
            text = f"migration {record.title} is applied, but its folder is gone"
            found.add("history/missing", f"{root.path / '__init__.py'}:1", text)


def lint_times(folders: Iterable[Folder], now: datetime, found: Findings) -> None:
    """Timestamps that are more than a day away. Read-only."""
    latest = int((now.astimezone(UTC) + _AHEAD).strftime("%Y%m%d%H%M%S"))
    for folder in folders:
        if folder.version > latest:
            text = f"the timestamp of {folder.title} is in the future: what is made meanwhile is out of order"
            found.add("history/future", _init(folder), text)


def _difference(folder: Folder, sources: Iterable[log_pb2.SourceFile]) -> tuple[str, str]:
    """The first line that differs from what the log holds, and how many files do."""
    was, now = withheld.contents(sources, folder)
    changed = [path for path in sorted(was.keys() | now.keys()) if was.get(path) != now.get(path)]
    if not was or not changed:
        return _init(folder), ""
    there = next((path for path in changed if path in now), None)
    if there is None:
        return _init(folder), f": {', '.join(changed)} is gone"
    before, after = was.get(there, b"").splitlines(), now[there].splitlines()
    same = next((at for at, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), None)
    line = min(len(before), len(after)) if same is None else same
    line = max(1, min(line + 1, len(after)))
    return f"{folder.path / there}:{line}", f": {', '.join(changed)}"


def _init(folder: Folder) -> str:
    """Where the folder says what it does."""
    file = folder.path / "__init__.py"
    text = file.read_text(encoding="utf-8", errors="replace")
    said = _MIGRATION.search(text)
    return f"{file}:{line_of(text, said.start()) if said else 1}"
