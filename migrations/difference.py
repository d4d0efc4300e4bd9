"""Difference: what was edited in a migration's folder after it ran, as a diff of its source.

the log   the files as they were when it ran ┐
                                             ├─▶ unified diff
the disk  the files as they are now          ┘
"""

from __future__ import annotations

from everlog.migrations import withheld
from everlog.migrations.folder import SOURCE, Folder, Source, find, folders
from everlog.migrations.history import lives
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.vault import Vault


def differences(db: Database, source: Source = SOURCE) -> dict[int, str]:
    """The diff of each migration whose folder is not what ran, by version. Read-only; runs no code."""
    by_version = {folder.version: folder for folder in folders(find(source))}
    there = lives(db.migrations())
    return {
        version: difference(life.newest_sources, by_version[version], db.tables.vault)
        for version, life in sorted(there.items())
        if version in by_version and not life.fits(by_version[version], db.tables.vault)
    }


def difference(ran: list[log_pb2.SourceFile], folder: Folder, vault: Vault | None = None) -> str:
    """The diff from the files that ran to those of the folder; binary ones are only named, and so are those
    whose content the log does not keep."""
    if not ran:
        return f"{folder.path.name} was adopted, not run: the log has no source of it\n"
    import difflib  # noqa: PLC0415  only for messages

    was, now = withheld.contents(ran, folder, vault)
    out: list[str] = []
    for path in sorted(was.keys() | now.keys()):
        if was.get(path) == now.get(path):
            continue
        try:
            old, new = (files.get(path, b"").decode().splitlines(keepends=True) for files in (was, now))
        except UnicodeDecodeError:
            out.append(f"Binary file {path} differs\n")
            continue
        before = f"applied/{path}" if path in was else "/dev/null"
        after = f"{folder.path.name}/{path}" if path in now else "/dev/null"
        out += map(_ended, difflib.unified_diff(old, new, before, after))
    return "".join(out)


def _ended(line: str) -> str:
    return line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
