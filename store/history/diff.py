"""Diff: the rows of a table that differ between two seqs, in key order.

    which rows   ┌ few records between  ─▶ the keys that they changed
                 └ otherwise            ─▶ the versions at both, side by side: a row with the same version
                                           at both is equal, and is not read
    each of them ─▶ its row at both ─▶ added, changed (which fields), deleted; or rewritten unchanged

If a migration rewrote the table in between, all rows of both sides are read and compared.

Invariants
  (1) memory grows neither with the table nor with the number of records in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import Any, Generic, NamedTuple, TypeVar

from google.protobuf.message import Message

from everlog.store import keys
from everlog.store.errors import RowError, SchemaError, SealedError
from everlog.store.history.row_history import Image, changed
from everlog.store.history.schemas import TableLineage
from everlog.store.history.view import PastView, Views
from everlog.store.log import Log
from everlog.store.record import changes
from everlog.store.schema.schema import TableInfo
from everlog.store.schema.table import Table

M = TypeVar("M", bound=Message)

# Limits within which the keys are collected from the records in between.
RECORDS_MAX, KEYS_MAX, KEYS_BYTES = 2000, 50_000, 4 << 20


_KINDS = {(False, True): "added", (True, True): "changed", (True, False): "deleted", (False, False): ""}


class Difference(NamedTuple, Generic[M]):
    """A row that differs.

    `kind` is "added", "changed" or "deleted". `key` holds the values of the primary key. `fields` are the
    names of the fields that differ; for an added row, all fields that are set. If a migration rewrote the
    rows in between, the rows of one side have the model of their time.
    """

    kind: str
    key: tuple[Any, ...]
    before: M | None
    after: M | None
    fields: tuple[str, ...]


class _Side(NamedTuple):
    """The table at one of the two seqs."""

    view: PastView
    info: TableInfo
    model: type[Message]

    def image(self, key: bytes) -> Image:
        value = self.view.get(self.info.row_prefix + key)
        if value is None:
            return Image(self.info, self.model, None)
        try:
            return Image(self.info, self.model, self.info.row_in(key, value))
        except SealedError as error:
            if not error.erased:
                raise
            return Image(self.info, self.model, None, erased=True)

    def keys(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield each key, and the version that it has."""
        start, end = keys.space_range(self.info.space)
        for row, full, _ in self.view.places(start, end):
            yield row[keys.SPACE.size :], full


def diff(
    views: Views, lineage: TableLineage, start: int, end: int, table: Table[Any, Any] | None = None
) -> Iterator[Difference[Any]]:
    """See `Database.diff`. `start` and `end` are seqs up to which versions are known.

    Rows have the model of `table`; without it, the models of their time.
    """
    if start > end:
        raise RowError(f"expected the start before the end, found {start} and {end}")
    before, after = _sides(views, table, lineage, start, end)
    if before and after and list(before.info.proto.key) != list(after.info.proto.key):
        raise SchemaError(
            f"the primary key of table {after.info.name} changed between {start} and {end}: its rows cannot"
            " be compared one by one",
            table=after.info.name,
        )
    return _differences(views.log, before, after)


def _sides(
    views: Views, table: Table[Any, Any] | None, lineage: TableLineage, start: int, end: int
) -> tuple[_Side | None, _Side | None]:
    """Return both sides, in the model of the constant if it can read them, else in that of their time."""
    found, errors = list[_Side | None](), list[SchemaError]()
    for seq in (start, end):
        info = views.schemas.with_id(lineage.id_at(seq), seq)
        model = info.model if info else None
        try:
            if info and table:
                model = views.schemas.bind(table, seq).model
        except SchemaError as error:
            errors.append(error)
        found.append(_Side(views.at(seq), info, model) if info and model else None)
    if errors and len(errors) == len([side for side in found if side]):
        raise errors[-1]
    return found[0], found[1]


def _differences(log: Log, before: _Side | None, after: _Side | None) -> Iterator[Difference[Any]]:
    one = after or before
    if one is None:
        return
    sides = (before, after)
    for key in _keys(log, before, after):
        old, new = (Image(one.info, one.model, None) if side is None else side.image(key) for side in sides)
        fields = changed(old, new)
        kind = _KINDS[old.is_there, new.is_there]
        if kind == "changed" and not fields and old.erased == new.erased:
            continue  # rewritten unchanged
        if kind:
            yield Difference(kind, one.info.decode_key(key), old.row, new.row, fields)


def _keys(log: Log, before: _Side | None, after: _Side | None) -> Iterator[bytes]:
    """Yield the keys that may differ, in order."""
    if before is not None and after is not None and before.info.space == after.info.space:
        found = _between(log, before, after)
        if found is not None:
            return iter(sorted(found))
    return _beside(before, after)


def _between(log: Log, before: _Side, after: _Side) -> set[bytes] | None:
    """Return the keys in the records in between; None: there are too many."""
    start, end, space = before.view.seq, after.view.seq, after.info.space
    if end - start > RECORDS_MAX:
        return None
    found: set[bytes] = set()
    size = 0
    for seq, framed in log.scan(start, end):
        written = [key for at, _, key, _, _ in changes(framed, seq) if at == space]
        found.update(written)
        size += sum(map(len, written))
        if len(found) > KEYS_MAX or size > KEYS_BYTES:
            return None
    return found


def _beside(before: _Side | None, after: _Side | None) -> Iterator[bytes]:
    """Yield the keys on either side, except those with the same version on both."""
    sides = [side.keys() for side in (before, after) if side is not None]
    for key, same in groupby(merge(*sides, key=itemgetter(0)), key=itemgetter(0)):
        versions = [full for _, full in same]
        if len(versions) == 1 or versions[0] != versions[1]:
            yield key
