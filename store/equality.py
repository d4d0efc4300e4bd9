"""Equality: proof that rebuilt tables equal the live ones, and the rows that differ.

A rebuild compares hashes and names the tables. `differences` goes through the rows of both in key order, and
names each that differs: a rebuild finds no difference exactly where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from everlog.store import keys
from everlog.store.errors import CorruptionError
from everlog.store.hashing import TableHash, rows_of, same_hash, same_row
from everlog.store.progress import OnProgress, Progress
from everlog.store.projector import Projector
from everlog.store.schema import TableInfo
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
            " switched. The log is the truth: `everlog check --deep` names the rows, `everlog repair"
            " --tables` takes those of the log",
            seq=seq,
            tables=different,
        )
    return {name: result for name, result in found.items() if result is not None}


def telling(progress: OnProgress | None, step: str, counts: dict[int, int]) -> Callable[[int], None] | None:
    if progress is None:
        return None
    total = sum(rows for space, rows in counts.items() if space != keys.ENDS)
    return lambda done: progress(Progress(step, done, total))


def differences(live: View, fresh: View, info: TableInfo) -> Iterator[str]:
    """Yield a sentence for each row of a table that differs from `fresh`, which was made from the log. The
    sentences have no content of rows. Read-only. Raises CorruptionError."""
    mine, theirs = rows_of(live, info), rows_of(fresh, info)
    here, there = next(mine, None), next(theirs, None)
    while here or there:
        key = min(one[0] for one in (here, there) if one)
        name = _name(info, key)
        if here is None or here[0] != key:
            assert there is not None
            yield f"row {name} is missing: commit {keys.version_of(there[1])} of the log wrote it"
        elif there is None or there[0] != key:
            yield f"row {name} is in the table, and by the log there is no such row"
        elif here[1] != there[1] and not same_row(info, key, here[1], there[1]):
            yield f"row {name} is not what commit {keys.version_of(there[1])} of the log wrote"
        if here and here[0] == key:
            here = next(mine, None)
        if there and there[0] == key:
            there = next(theirs, None)


def _name(info: TableInfo, key: bytes) -> str:
    try:
        return info.show_key(key[len(info.row_prefix) :])
    except CorruptionError:
        return f"{info.name}/{key.hex()}"
