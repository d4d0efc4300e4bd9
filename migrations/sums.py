"""Sums: a line for each migration, in a file beside their folders that is checked in with them.

    everlog.sum   v20260105093000_create_airports 5f3c…
                  v20260209110000_add_airlines 91ab…

    sum[n] := SHA-256( sum[n-1]  name of the folder  0x0A  digest of the folder )      sum[0]: empty

Whoever adds a migration adds the last line, so two branches that each add one are a conflict for
the version control system, where otherwise both would be merged without a word. A sum is made of
the one before, so a folder that is edited or put in between changes every line from there on.

`new` and `build` write the file; where it is there, it is checked when migrations are loaded. The
digest of a folder, and a worked example: docs/format.md, "Digest of a migration".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from everlog.migrations.folder import Folder, Root
from everlog.store.errors import SchemaError

NAME = "everlog.sum"

_CONFLICT = ("<<<<<<<", "=======", ">>>>>>>")


def lines(found: Iterable[Folder]) -> list[str]:
    """The lines of the file for these folders, which are in order. Read-only."""
    before, made = b"", []
    for folder in found:
        name = folder.path.name
        before = hashlib.sha256(before + name.encode() + b"\n" + folder.digest).digest()
        made.append(f"{name} {before.hex()}")
    return made


def write(root: Root, found: Iterable[Folder]) -> Path | None:
    """Writes the file as it must be; returns its path, or None if it was so already."""
    path, text = root.path / NAME, "".join(f"{line}\n" for line in lines(found))
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return None
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def check(root: Root, found: list[Folder]) -> None:
    """Read-only. Raises SchemaError, with the line, if the file is there and is not of these folders."""
    path = root.path / NAME
    if not path.exists():
        return
    written = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(written, start=1):
        if line.startswith(_CONFLICT):
            raise _error(
                path,
                number,
                "two branches have each added a migration; see that they go together, give yours a timestamp"
                " after the other's, and run `everlog build`",
            )
    names, expected = {line.partition(" ")[0] for line in written}, lines(found)
    for number, line in enumerate(expected, start=1):
        if number <= len(written) and written[number - 1] == line:
            continue
        name = line.partition(" ")[0]
        what = "is another than it was" if name in names else "is not in this file"
        raise _error(
            path, number, f"the folder {name} {what}; if that is meant, run `everlog build` and check it in"
        )
    if len(written) > len(expected):
        number = len(expected) + 1
        name = written[number - 1].partition(" ")[0]
        raise _error(path, number, f"there is no folder {name}; restore it, or run `everlog build`")


def _error(path: Path, number: int, text: str) -> SchemaError:
    where = f"{path}:{number}"
    return SchemaError(f"{where}: {text}", where=where)
