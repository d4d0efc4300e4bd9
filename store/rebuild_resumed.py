"""Rebuild, resumed: a rebuild that was killed goes on from where it was, if it is of the same log.

    begun tables ─▶ `applied`: seq, checksum ─▶ has the record at seq that checksum? ─▶ go on after it

Tables are not in the write-ahead log: a kill takes the last of them, and `applied` with it, for both are
written in one batch. So what is left is what the first records make, up to `applied`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from everlog.proto import log_pb2
from everlog.store.engine import Engine
from everlog.store.errors import Error
from everlog.store.log import Log
from everlog.store.projection import Pending, Target
from everlog.store.projector import Projector
from everlog.store.schema import Schema
from everlog.store.tables import read_applied, read_counts, schema_of
from everlog.store.target import FamilyTarget
from everlog.store.vault import Vault

# Framed records after a seq, in order.
Source = Callable[[int], Iterable[bytes]]


def from_nothing(target: Target, vault: Vault | None = None) -> Projector:
    """A projector for records from the first on. Without keys sealed rows have no index entries."""
    return Projector(Pending(target, {}), Schema(log_pb2.Schema(), vault), 0, 0)


def going_on(log: Log, target: Target, vault: Vault | None = None) -> Projector | None:
    """A projector for the records after those that made what is in the target; None if it has nothing,
    or not of this log. Read-only."""
    applied, checksum = read_applied(target.view)
    if not log.oldest <= applied <= log.written or log.checksum_at(applied) != checksum:
        return None
    pending, schema = Pending(target, read_counts(target.view)), Schema(schema_of(target.view, log), vault)
    return Projector(pending, schema, applied, checksum)


def begun(
    engine: Engine, log: Log, source: Source, last: int, vault: Vault | None = None
) -> Projector | None:
    """As `going_on`, of a directory: the last record of its log must be that of the source as well. None:
    it is of no use."""
    try:
        target = FamilyTarget(engine)
        if not 0 < log.written <= last or log.oldest > 1:
            return None
        if next(iter(source(log.written - 1)), None) != log.get(log.written):
            return None
        has_some = read_applied(target.view)[0]
        return going_on(log, target, vault) if has_some else from_nothing(target, vault)
    except Error:
        return None
