"""Slice: some rows of one generation of a table, and what becomes of them in the next.

    row, version ─▶ convert ─▶ row, index values ─▶ its change in a record
                                                 ─▶ its edits of the tables

All of it but the seq of the record is worked out before anybody waits for it. What is made of a row
stands at the same place in each column: lists of bytes cost less than an object for each row.

Invariants
  (1) a row keeps the version that it had, and the end of its life;
  (2) a row that was written since the migration started is left out: who wrote it wrote both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from everlog.store import keys, record
from everlog.store.projection import Edits
from everlog.store.schema import TableInfo
from everlog.store.transform import Converted
from everlog.store.view import Item


class Slice:
    """What becomes of rows of the generation before `newer`."""

    def __init__(self, newer: TableInfo) -> None:
        self.newer = newer
        self.keys: dict[bytes, bytes] = {}  # whole key of the row -> that of the one it becomes
        self.changes: list[bytes] = []  # as the record has them
        self._rows: list[bytes] = []  # version and row, as the tables have them behind the header
        self._entries: list[bytes] = []  # of each row as many as there are indexes
        self.ends: dict[bytes, int] = {}  # whole key of a row with a life -> the end of it

    def make(self, rows: Iterable[Item], convert: Callable[[bytes, bytes], Converted], *, since: int) -> None:
        """Converts rows, but those that were written by record `since` or later. Raises what
        `convert` raises. The hottest loop of a migration."""
        prefix, head = self.newer.row_prefix, self.newer.put_head
        skip, header_size = len(prefix), keys.HEADER_SIZE
        unpack, change_body, change = keys.HEADER.unpack_from, record.change_body, record.change
        mine, add_change, add_row, add_entry = (
            self.keys,
            self.changes.append,
            self._rows.append,
            self._entries.append,
        )
        join, known, packed, tail = b"".join, -1, b"", b""
        older, sealing = self.newer.twin, self.newer.sealing
        sealed = older is not None and older.sealed
        for full, value in rows:
            flags, version = unpack(value)
            if version >= since:
                continue
            if flags:
                version = keys.version_of(value)
                old = keys.row_of(older.opened(full[skip:], value) if older and sealed else value)
            else:
                old = value[header_size:]
            if version != known:  # rows that lie together were often written together
                known, packed, tail = version, keys.SEQ.pack(version), record.with_version(b"", version)
            key = full[skip:]
            row, values = convert(key, old)
            mine[full] = prefix + key
            if sealing is None:
                body = change_body(head, key, row) + tail
            else:
                key_id, row = sealing.seal(key, row)
                body = record.with_key(change_body(head, key, row) + tail, key_id)
                row = key_id + row
            if flags & keys.HAS_EXPIRY:
                end = self.ends[full] = keys.expires_of(value)
                body = record.with_expiry(body, end)
            add_change(join(change(body, 0)))
            add_row(packed + row)
            for one in values:
                add_entry(one + key)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def size(self) -> int:
        """Bytes of the new rows, and of their versions."""
        return sum(map(len, self._rows))

    def drop(self, full: bytes) -> None:
        """Leaves out one row after all."""
        at, each = list(self.keys).index(full), len(self.newer.indexes)
        self.ends.pop(full, None)
        del self.keys[full], self.changes[at], self._rows[at], self._entries[at * each : (at + 1) * each]

    def edits(self, seq: int) -> Edits:
        """What the record at `seq` does to the tables."""
        sealed = self.newer.sealed
        header = keys.HEADER.pack(keys.HAS_VERSION | keys.HAS_KEY_ID * sealed, seq)
        edits: Edits = dict(zip(self.keys.values(), [header + row for row in self._rows], strict=True))
        edits.update(dict.fromkeys(self._entries, b""))
        if sealed:
            skip = len(self.newer.row_prefix)
            for full, row in zip(self.keys.values(), self._rows, strict=True):
                key_id = row[keys.SEQ.size : keys.SEQ.size + keys.KEY_ID_SIZE]
                edits[keys.NOTE_OF_KEY + key_id + full[: keys.SPACE.size] + full[skip:]] = b""
        for old, end in self.ends.items():
            full = self.keys[old]
            value = edits[full]
            assert value is not None
            edits[full] = keys.pack_value(
                seq,
                keys.row_of(value),
                version=keys.version_of(value),
                expires_ns=end,
                key_id=keys.key_id_of(value),
            )
            edits[keys.end_note(end, full)] = b""
        return edits

    def values(self, at: int) -> dict[bytes, bytes]:
        """The values in the index at a place among the table's, by the key of the row."""
        skip, entries = len(self.newer.row_prefix), self._entries[at :: len(self.newer.indexes)]
        found = zip([full[skip:] for full in self.keys], entries, strict=True)
        return {key: entry[: len(entry) - len(key)] for key, entry in found}
