"""Sums: `everlog.sum`, one line for each migration, checked in beside the folders.

    everlog.sum   v20260105093000_create_airports 5f3c… 77d0…
                  v20260209110000_add_airlines 91ab… 12fe…

    line   := name of the folder  sum  [ meaning of the folder ]
    sum[n] := SHA-256( sum[n-1]  name of the folder  0x0A  digest of the folder )      sum[0]: empty

Adding a migration adds a last line. So two branches that each add a migration conflict in version control,
where they would otherwise merge silently. Each sum covers the previous one, so a folder that is edited or
inserted changes every line from there on. A folder with a new digest but the same meaning is not an edit:
only comments changed.

`new` and `build` write the file. If it exists, it is checked when migrations are loaded. For the digest of a
folder, and a worked example, see docs/format.md, "Digest of a migration".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from everlog.migrations.folder import Folder, Root
from everlog.store.errors import SchemaError

NAME = "everlog.sum"

_CONFLICT = ("<<<<<<<", "=======", ">>>>>>>")


def lines(found: Iterable[Folder], written: Sequence[str] = ()) -> list[str]:
    """Return the lines of the file for these folders, which must be in order. Read-only.

    `written` are the existing lines; those that are still right are kept.
    """
    before, made, same = b"", list[str](), True
    for at, folder in enumerate(found):
        name = folder.path.name
        before = _sum(before, name, folder.digest)
        line = written[at] if same and at < len(written) else ""
        same = line.split()[:2] == [name, before.hex()]
        # The meaning is slow to compute; an unchanged line already has it.
        made.append(
            line if same and len(line.split()) == 3 else f"{name} {before.hex()} {folder.meaning.hex()}"
        )
    return made


def _sum(before: bytes, name: str, folder_digest: bytes) -> bytes:
    return hashlib.sha256(before + name.encode() + b"\n" + folder_digest).digest()


def write(root: Root, found: Iterable[Folder]) -> Path | None:
    """Write the file if it is missing or out of date. Return its path, or None if nothing was written."""
    path = root.path / NAME
    was = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    text = "".join(f"{line}\n" for line in lines(found, was.splitlines()))
    if path.exists() and was == text:
        return None
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


class Line(NamedTuple):
    """A line of the file. `meaning` is empty in files of earlier versions."""

    number: int
    name: str
    sum: bytes
    meaning: bytes


def check_names(root: Root, found: Iterable[Folder]) -> list[Line] | None:
    """Return the lines of the file, or None if there is no file. Read-only.

    Raises SchemaError, with the line, for a merge conflict, and for a folder that is listed but missing.
    """
    path = root.path / NAME
    if not path.exists():
        return None
    read, there = [], {folder.path.name for folder in found}
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if text.startswith(_CONFLICT):
            raise _error(
                path,
                number,
                "two branches each added a migration; check that they fit together, give yours a"
                " timestamp after the other's, and run `everlog build`",
            )
        name, *sums = text.split()
        try:
            one, meaning = (bytes.fromhex(word) for word in [*sums, "", ""][:2])
        except ValueError:
            raise _error(path, number, f"expected a folder and its sums, found {text!r:.80}") from None
        if name not in there:
            raise _error(
                path,
                number,
                f"folder {name} is missing; restore it (from version control, or with `everlog"
                f" restore-folders {name.partition('_')[0].removeprefix('v')}`), or run `everlog build` if"
                " it was removed on purpose",
                missing=name,
            )
        read.append(Line(number, name, one, meaning))
    return read


def check(root: Root, found: Iterable[Folder], written: Sequence[Line] | None) -> None:
    """Compare the folders with the lines from `check_names`. Read-only.

    Raises SchemaError, with the line, for a folder that was edited, moved, or is not listed.
    """
    path = root.path / NAME
    if written is None:
        return
    before, known = b"", {line.name for line in written}
    for number, folder in enumerate(found, start=1):
        name, line = folder.path.name, written[number - 1] if number <= len(written) else None
        if line is None or line.name != name:
            what = (
                "is not at its former place in the order of the folders"
                if name in known
                else "is not in this file"
            )
            raise _error(
                path,
                number,
                f"folder {name} {what}; if this is intended, run `everlog build` and check in everlog.sum",
            )
        if line.sum not in _sums(before, folder) and line.meaning != folder.meaning:
            raise _error(
                path,
                number,
                f"folder {name} was edited; if this is intended, run `everlog build` and check in"
                " everlog.sum",
            )
        before = line.sum  # as written, so that an edit is reported for the edited folder only


def _sums(before: bytes, folder: Folder) -> Iterator[bytes]:
    yield _sum(before, folder.path.name, folder.digest)
    yield from (_sum(before, folder.path.name, one) for one in folder.digests)


def _error(path: Path, number: int, text: str, **facts: str) -> SchemaError:
    where = f"{path}:{number}"
    return SchemaError(f"{where}: {text}", where=where, **facts)
