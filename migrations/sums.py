"""Sums: a line for each migration, in a file beside their folders that is checked in with them.

    everlog.sum   v20260105093000_create_airports 5f3c… 77d0…
                  v20260209110000_add_airlines 91ab… 12fe…

    line   := name of the folder  sum  [ meaning of the folder ]
    sum[n] := SHA-256( sum[n-1]  name of the folder  0x0A  digest of the folder )      sum[0]: empty

Whoever adds a migration adds the last line, so two branches that each add one are a conflict for
the version control system, where otherwise both would be merged without a word. A sum is made of
the one before, so a folder that is edited or put in between changes every line from there on. A
folder whose digest is another and whose meaning is the same is no edit: a comment was changed.

`new` and `build` write the file; where it is there, it is checked when migrations are loaded. The
digest of a folder, and a worked example: docs/format.md, "Digest of a migration".
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
    """The lines of the file for these folders, which are in order; `written` are those that it has.
    Read-only."""
    before, made, same = b"", list[str](), True
    for at, folder in enumerate(found):
        name = folder.path.name
        before = _sum(before, name, folder.digest)
        line = written[at] if same and at < len(written) else ""
        same = line.split()[:2] == [name, before.hex()]
        # Tokens are slow to find, and of a folder that is as it was they are known.
        made.append(
            line if same and len(line.split()) == 3 else f"{name} {before.hex()} {folder.meaning.hex()}"
        )
    return made


def _sum(before: bytes, name: str, folder_digest: bytes) -> bytes:
    return hashlib.sha256(before + name.encode() + b"\n" + folder_digest).digest()


def write(root: Root, found: Iterable[Folder]) -> Path | None:
    """Writes the file as it must be; returns its path, or None if it was so already."""
    path = root.path / NAME
    was = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    text = "".join(f"{line}\n" for line in lines(found, was.splitlines()))
    if path.exists() and was == text:
        return None
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


class Line(NamedTuple):
    """A line of the file. `meaning` is empty in files of versions before there was one."""

    number: int
    name: str
    sum: bytes
    meaning: bytes


def check_names(root: Root, found: Iterable[Folder]) -> list[Line] | None:
    """The lines of the file; None: there is none. Read-only. Raises SchemaError, with the line, for
    a conflict of two branches, and for a folder that is in the file and not there."""
    path = root.path / NAME
    if not path.exists():
        return None
    read, there = [], {folder.path.name for folder in found}
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if text.startswith(_CONFLICT):
            raise _error(
                path,
                number,
                "two branches have each added a migration; see that they go together, give yours a timestamp"
                " after the other's, and run `everlog build`",
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
                f"there is no folder {name}; restore it (from version control, or with"
                f" `everlog restore-folder {name.partition('_')[0].removeprefix('v')}`), or run `everlog"
                " build` if it is meant to go",
                missing=name,
            )
        read.append(Line(number, name, one, meaning))
    return read


def check(root: Root, found: Iterable[Folder], written: Sequence[Line] | None) -> None:
    """Compares the folders with lines that `check_names` gave. Read-only. Raises SchemaError, with the
    line, for a folder that is another or not in the file."""
    path = root.path / NAME
    if written is None:
        return
    before, known = b"", {line.name for line in written}
    for number, folder in enumerate(found, start=1):
        name, line = folder.path.name, written[number - 1] if number <= len(written) else None
        if line is None or line.name != name:
            what = (
                "is not where it was in the order of the folders" if name in known else "is not in this file"
            )
            raise _error(
                path,
                number,
                f"the folder {name} {what}; if that is meant, run `everlog build` and check it in",
            )
        if line.sum not in _sums(before, folder) and line.meaning != folder.meaning:
            raise _error(
                path,
                number,
                f"the folder {name} was edited; if that is meant, run `everlog build` and check it in",
            )
        before = line.sum  # as it is written, so that an edit is told of the folder that has it


def _sums(before: bytes, folder: Folder) -> Iterator[bytes]:
    yield _sum(before, folder.path.name, folder.digest)
    yield from (_sum(before, folder.path.name, one) for one in folder.digests)


def _error(path: Path, number: int, text: str, **facts: str) -> SchemaError:
    where = f"{path}:{number}"
    return SchemaError(f"{where}: {text}", where=where, **facts)
