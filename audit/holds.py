"""Holds: what is not to be archived away, by name: the file HOLDS beside EVERLOG.

    HOLDS := {"format": 1, "holds": {"<name>": <seq>, …}}       the record at seq, and all after it, stay

Whoever holds or releases may be any process of this machine, beside the one that writes the database.
Consumers that registered hold by their bookmarks, up to a cap (store/upkeep/consumers.py).

Invariants
  (1) two who hold or release at once lose nothing of one another: they take turns;
  (2) what is gone already is not held: who asks for it is told;
  (3) a file that is none is an error that says so: nobody archives what it may have held.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec

from everlog.store.database import Database
from everlog.store.errors import RowError
from everlog.store.rocks import files
from everlog.store.schema import arguments

REMEDY = (
    "Put a copy of it back; or delete it, and hold again what is to be held (`everlog archive --add-hold`)."
    " Until then nothing is archived; rows are read and written"
)


class Holds(msgspec.Struct):
    """What the file says."""

    format: files.Known
    holds: dict[str, Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]]


def read(path: Path) -> dict[str, int]:
    """Names and the first records that they hold. Read-only. Raises OpenError."""
    found = files.read(path / files.HOLDS, Holds, REMEDY)
    return found.holds if found else {}


def hold(path: Path, name: str, seq: int, *, oldest: Callable[[], int] = lambda: 1) -> None:
    """Holds a database's log from the record at `seq` on, under a name; again moves it. `oldest` tells the
    first record that the log has; it is called while nobody archives. Writes. Raises RowError for what is no
    name or record, and for a record that was archived and removed already."""
    if not arguments.text(name, "name") or arguments.counted(seq, "a seq") < 1:
        raise RowError(f"expected a name and a record of the log to hold, found {name!r} and {seq}")
    with files.locked(path):
        if seq < (first := oldest()):
            raise RowError(
                f"record {seq:,} cannot be held: it was archived, and the log starts at record {first:,}."
                f" Hold that (`everlog archive --add-hold {name}={first}`), and keep the archive",
                seq=seq,
                oldest=first,
            )
        files.write(path / files.HOLDS, Holds(files.FORMAT, {**read(path), name: seq}), sync=True)


def hold_in(db: Database, name: str, seq: int) -> None:
    """The same of an open database, which tells itself what it has."""

    def oldest() -> int:
        db.refresh()
        return db.log.trimmed.base + 1

    hold(db.directory, name, seq, oldest=oldest)


def release(path: Path, name: str) -> None:
    """Lets go of it. Writes. Raises RowError if there is no hold of that name."""
    with files.locked(path):
        holds = read(path)
        if name not in holds:
            raise RowError(
                f"there is no hold {name!r}; there are: {', '.join(sorted(holds)) or 'none'}", name=name
            )
        del holds[name]
        files.write(path / files.HOLDS, Holds(files.FORMAT, holds), sync=True)
