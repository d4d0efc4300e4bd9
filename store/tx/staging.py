"""Staging: turn a valid transaction into the changes of its record and the edits of the tables.

    Transaction ─▶ Validator ─▶ Valid ─┬─▶ encode  ─▶ the changes of a record, in bytes
                                       └─▶ project ─▶ Staged: edits of rows, index entries and counts

Nothing here reads the database, and nothing is written.
"""

from __future__ import annotations

from everlog.store import keys
from everlog.store.keys import HEADER, seq_of
from everlog.store.record import (
    REQUIRES_EXPIRY,
    REQUIRES_REWRITTEN,
    REQUIRES_SEALED,
    change,
    with_expiry,
    with_version,
)
from everlog.store.tables.projection import Edits, Staged, edit_row
from everlog.store.tx.write import Write

# A write, the value that it replaces (None: no row), and the row's expiry in nanoseconds since the Unix epoch
# (0: never; None: the row has neither an expiry nor a key nor a version of its own).
Row = tuple[Write, bytes | None, int | None]


class Valid:
    """The effect of a valid transaction."""

    __slots__ = ("missing", "rows", "uniques")

    def __init__(self, rows: list[Row], uniques: Edits, missing: int) -> None:
        self.rows = rows
        self.uniques = uniques  # values of a unique index -> key of their row; None: free
        self.missing = missing  # the number of rows that it deletes and that do not exist


def encode(head: bytes, rows: list[Row]) -> list[bytes]:
    """Return the parts of a record: its head, its changes, and the features they require of readers."""
    parts = [head]
    requires: set[bytes] = set()
    for write, old, ends_ns in rows:
        body = write.body if ends_ns is None else _with_own(write, ends_ns, requires)
        parts += change(body, 0 if old is None else seq_of(old))
    if requires:
        parts += sorted(requires)
    return parts


def project(rows: list[Row], uniques: Edits, seq: int) -> Staged:
    """Return the edits of the tables by the commit at `seq`."""
    edits: Edits = {}
    deltas: dict[int, int] = {}
    header = HEADER.pack(0, seq)
    for write, old, ends_ns in rows:
        if write.op:
            value = None
        elif ends_ns is None:
            value = header + write.row
        else:
            value = keys.pack_value(
                seq, write.stored, version=write.as_of, expires_ns=ends_ns, key_id=write.key_id
            )
        edit_row(edits, deltas, write.info, write.full, value, old, write.values)
    return Staged(edits, uniques, deltas)


def _with_own(write: Write, ends_ns: int, requires: set[bytes]) -> bytes:
    """Return the change of a row with an expiry, a key or a version of its own."""
    body = write.body
    if write.key_id:
        requires.add(REQUIRES_SEALED)
    if write.as_of:
        requires.add(REQUIRES_REWRITTEN)
        body = with_version(body, write.as_of)
    if ends_ns:
        requires.add(REQUIRES_EXPIRY)
        body = with_expiry(body, ends_ns)
    return body
