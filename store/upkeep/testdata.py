"""Test data: which of it a database has, from the ids of its loads.

    id := "test/" version "/seed " seed "/scale " scale "/" part "/" table

A load of test data has several parts, each of one table. The id of a load into a sealed table is hashed
(tx/load.py), so only its table and its rows are known.
"""

from __future__ import annotations

import re
from itertools import chain, islice

import msgspec

from everlog.proto import log_pb2
from everlog.store.core import Core
from everlog.store.keys import NOTE_LOAD
from everlog.store.tx.load import SEALED_LOAD

PREFIX = "test/"
NOTES_MAX = 20_000  # loads that are looked at
_ID = re.compile(r"test/(\d+)/seed (-?\d+)/scale (\d+)/\d+/")


class LoadedTestdata(msgspec.Struct, frozen=True):
    """Test data of one table that a database has, or had: its rows may have been changed since.

    `version`: the migration that it belongs to; 0: unknown, of a sealed table. `finished`: the load has
    reached its end.
    """

    version: int
    seed: int
    scale: int
    table: str
    rows: int
    finished: bool


def id_of(version: int, seed: int, scale: int, part: int, table: str) -> str:
    """Return the id of one part of a load."""
    return f"{PREFIX}{version}/seed {seed}/scale {scale}/{part}/{table}"


def loaded(core: Core) -> list[LoadedTestdata]:
    """Return the test data that was loaded, by version, seed, scale and table. Read-only.

    Looks at NOTES_MAX loads at most.
    """
    found = dict[tuple[int, int, int, str], LoadedTestdata]()
    notes = chain.from_iterable(
        core.tables.notes(NOTE_LOAD + prefix.encode()) for prefix in (PREFIX, SEALED_LOAD)
    )
    for _, value in islice(notes, NOTES_MAX):
        load = log_pb2.Load.FromString(value)
        if load.kind != log_pb2.Load.TEST:
            continue
        known = _ID.match(load.id)
        version, seed, scale = map(int, known.groups()) if known is not None else (0, 0, 0)
        key = version, seed, scale, load.table
        before = found.get(key)
        finished = load.step == log_pb2.Load.FINISHED and (before is None or before.finished)
        rows = load.rows + (before.rows if before is not None else 0)
        found[key] = LoadedTestdata(version, seed, scale, load.table, rows, finished)
    return [found[key] for key in sorted(found)]
