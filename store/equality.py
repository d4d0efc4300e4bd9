"""Equality: what a rebuild must prove before its tables become the live ones."""

from __future__ import annotations

from collections.abc import Callable

from everlog.store.errors import CorruptionError
from everlog.store.hashing import TableHash, same_hash
from everlog.store.keys import ENDS
from everlog.store.progress import OnProgress, Progress
from everlog.store.projector import Projector
from everlog.store.view import View


def compare(
    live: View, fresh: View, projector: Projector, seq: int, progress: OnProgress | None
) -> dict[str, TableHash]:
    """The hashes that the live and the rebuilt tables share. Raises CorruptionError naming the
    tables that differ."""
    tell = telling(progress, "compare tables", projector.pending.counts)
    found = {
        name: same_hash(fresh, live, info, tell) for name, info in sorted(projector.schema.tables.items())
    }
    different = [name for name, result in found.items() if result is None]
    if different:
        raise CorruptionError(
            f"at record {seq} the live tables are not what the log says: {', '.join(different)}; nothing was"
            " switched. The log is the truth: `everlog check` tells which rows, `everlog repair --tables`"
            " takes those of the log",
            seq=seq,
            tables=different,
        )
    return {name: result for name, result in found.items() if result is not None}


def telling(progress: OnProgress | None, step: str, counts: dict[int, int]) -> Callable[[int], None] | None:
    if progress is None:
        return None
    total = sum(rows for space, rows in counts.items() if space != ENDS)
    return lambda done: progress(Progress(step, done, total))
