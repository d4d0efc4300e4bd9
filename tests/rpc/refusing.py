"""A database that refuses writes, as after an error of its disk."""

from __future__ import annotations

from everlog.store.database import Database
from everlog.store.errors import DiskError

REASON = "the files moved"


def refuse(db: Database) -> None:
    """Refuse writes until `db.engine.refusal.end()`."""
    refusal = db.engine.refusal
    refusal.off_change(db.committer._flusher.look)  # noqa: SLF001  it would find that the disk works
    refusal.begin(DiskError(REASON, outcome="nothing written"))
