"""Holds: what is not to be archived away, by name: the file HOLDS beside EVERLOG.

    HOLDS := {"format": 1, "holds": {"<name>": <seq>, …}}       the record at seq, and all after it, stay

Registered consumers will have theirs here by their own names.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from everlog.store import head
from everlog.store.errors import RowError

HOLDS = "HOLDS"


class Holds(msgspec.Struct):
    """What the file says."""

    format: int = 1
    holds: dict[str, int] = {}


def read(path: Path) -> dict[str, int]:
    """Names and the first records that they hold. Read-only. Raises OpenError."""
    found = head.read(path / HOLDS, Holds)
    return found.holds if found else {}


def hold(path: Path, name: str, seq: int) -> None:
    """Holds a database's log from the record at `seq` on, under a name; again moves it. Writes."""
    if not name or seq < 1:
        raise RowError(f"expected a name and a record of the log to hold, found {name!r} and {seq}")
    head.write(path / HOLDS, Holds(holds={**read(path), name: seq}), sync=True)


def release(path: Path, name: str) -> None:
    """Lets go of it. Writes. Raises RowError if there is no hold of that name."""
    holds = read(path)
    if name not in holds:
        raise RowError(
            f"there is no hold {name!r}; there are: {', '.join(sorted(holds)) or 'none'}", name=name
        )
    del holds[name]
    head.write(path / HOLDS, Holds(holds=holds), sync=True)
