"""Index info: one index as the schema says it is: its prefix, and values of it by hand.

entry := prefix values key        what lies where: keys.py
"""

from __future__ import annotations

import struct
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from everlog.proto import log_pb2
from everlog.store import codec, keys
from everlog.store.errors import RowError
from everlog.store.fields import Path, descriptor_of, dotted, encode_values, resolve
from everlog.store.kinds import kind_of
from everlog.store.vault import HASH_SIZE

if TYPE_CHECKING:
    from everlog.store.schema import TableInfo


class IndexInfo:
    """One index as the schema says it is."""

    def __init__(self, table: TableInfo, proto: log_pb2.IndexSchema) -> None:
        self.table = table
        self.proto = proto
        self.name = proto.name
        self.id = proto.id
        self.unique = proto.unique
        self.building = proto.building
        self.hashed = proto.hashed
        self.hashes = proto.hashed and table.sealing is not None  # here, and not at a server
        self.prefix = keys.prefix(table.space, proto.id)

    @cached_property
    def fields(self) -> tuple[Path, ...]:
        return tuple(resolve(descriptor_of(self.table.model), path.numbers) for path in self.proto.fields)

    @cached_property
    def _first(self) -> tuple[type, Any]:
        """The type and the encoder of the first field, for `encode`."""
        kind = kind_of(self.fields[0][-1])
        return kind.types[0], kind.encode

    def hash(self, at: int, value: bytes) -> bytes:
        """What stands in a hashed index for the encoded value of its field number `at`."""
        sealing = self.table.sealing
        if value == b"\x00" or sealing is None:
            return value
        sealing.check()
        return b"\x01" + sealing.vault.hash(self.prefix, bytes((at,)), value[1:])

    def hash_plain(self, values: bytes) -> bytes:
        """The same of whole values, one behind the other; what follows them stays as it is."""
        parts, at = [], 0
        for number, path in enumerate(self.fields):
            if at >= len(values):
                break
            skip = cast(codec.Skip, kind_of(path[-1]).skip)
            end = skip(values, at + 1) if values[at] else at + 1
            parts.append(self.hash(number, values[at:end]))
            at = end
        return b"".join((*parts, values[at:]))

    def hash_span(self, start: bytes, end: bytes) -> tuple[bytes, bytes]:
        """A range of plain values, as who has no keys says it, over the hashes. Raises RowError where it
        would be one of an order."""
        ends, at = list[int](), 0
        try:
            for path in self.fields:
                if at >= len(start):
                    break
                at = cast(codec.Skip, kind_of(path[-1]).skip)(start, at + 1) if start[at] else at + 1
                ends.append(at)
        except (ValueError, IndexError):
            ends = []
        if not ends:
            raise RowError(f"index {self.table.name}.{self.name} holds hashes, which have no order")
        for at in reversed(ends):
            if end == codec.after(start[:at]):
                return self.hash_plain(start), codec.after(self.hash_plain(start[:at]))
        return self.hash_plain(start), self.hash_plain(end)

    def encode(self, value: Any, *, partial: bool = True) -> bytes:
        """Values to look for, given by hand. Raises RowError and SealedError."""
        plain = self._encode(value, partial=partial)
        if not self.hashes:
            return plain
        assert self.table.sealing is not None
        self.table.sealing.check()
        return self.hash_plain(plain)

    def _encode(self, value: Any, *, partial: bool) -> bytes:
        expected, encode = self._first
        if type(value) is expected and (partial or len(self.fields) == 1):
            try:
                return b"\x01" + cast(bytes, encode(value))
            except (struct.error, OverflowError, UnicodeEncodeError):
                pass  # said below, with the field's name
        role = f"index {self.table.name}.{self.name}"
        return encode_values(value, self.fields, role, partial=partial, optional=True)

    @cached_property
    def nullable(self) -> bool:
        """Whether one of its fields can be absent from a row."""
        return any(step.has_presence for path in self.fields for step in path)

    def has_null(self, values: bytes) -> bool:
        """Whether a field is absent in these values (without prefix): such rows are not unique."""
        at = 0
        for skip in self._skips:
            if not values[at]:
                return True
            at = skip(values, at + 1)
        return False

    @property
    def over(self) -> str:
        """The names of its fields, for people."""
        return ", ".join(dotted(path) for path in self.fields)

    def show(self, values: bytes) -> str:
        """`("New York", None)`: values (without prefix) for people."""
        if self.hashed:  # also where there are no keys, and the values are those of rows
            return f"the same {self.over}"
        shown, at = [], 0
        for path in self.fields:
            at += 1
            if not values[at - 1]:
                shown.append("None")
                continue
            decode = kind_of(path[-1]).decode
            assert decode is not None
            value, at = decode(values, at)
            shown.append(repr(value))
        return ", ".join(shown)

    def key_in(self, entry: bytes) -> bytes:
        """The primary key at the end of an entry (given without its prefix)."""
        at = 0
        for skip in self._skips:
            at = skip(entry, at + 1) if entry[at] else at + 1
        return entry[at:]

    @cached_property
    def _skips(self) -> list[codec.Skip]:
        if self.hashes:
            return [codec.skip_fixed(HASH_SIZE)] * len(self.fields)
        return [cast(codec.Skip, kind_of(path[-1]).skip) for path in self.fields]
