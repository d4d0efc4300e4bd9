"""Binding: a table seen through one model class: how its rows become keys and index values.

The class may be the log's own, or generated from an older or a newer version of the model. What
is called for every row is composed here once, from the descriptors.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from everlog.store.admission import doubts
from everlog.store.errors import RowError, SchemaError
from everlog.store.fields import Path, descriptor_of, dotted, has, present, resolve
from everlog.store.kinds import kind_of

if TYPE_CHECKING:
    from everlog.store.index_info import IndexInfo
    from everlog.store.schema import TableInfo

KeyOf = Callable[[Any], bytes]


class Binding:
    """A table seen through one model class: how its rows become keys and entries."""

    def __init__(self, info: TableInfo, model: type[Message]) -> None:
        self.info = info
        self.model = model
        descriptor = descriptor_of(model)
        _check_model(info, descriptor)
        self.doubts = doubts(model, info.model)
        # Rows with fewer bytes are written without being parsed again; with most models all of them.
        self.doubtful_bytes = min((doubt.bytes_min for doubt in self.doubts), default=sys.maxsize)
        parts = [_key_part(info, resolve(descriptor, path.numbers)) for path in info.proto.key]
        self.key_of: KeyOf = (
            parts[0] if len(parts) == 1 else lambda row: b"".join([part(row) for part in parts])
        )
        # An older model may not have a field that is indexed since: then the row is read again
        # through the log's own model, which has.
        self._entry_ofs: list[KeyOf] | None = None  # None: an index is over a field it does not have
        if all(
            has(descriptor, path.numbers) for index in info.indexes.values() for path in index.proto.fields
        ):
            self._entry_ofs = [_entry_of(index, descriptor) for index in info.indexes.values()]

    @property
    def entry_ofs(self) -> list[KeyOf]:
        """For each index: what makes its prefix and values of a row. Of the log's own model."""
        assert self._entry_ofs is not None
        return self._entry_ofs

    def values(self, row: Message, raw: bytes) -> list[bytes]:
        """For each index of the table: its prefix and the row's values, without the key."""
        if self._entry_ofs is None:
            return self.info.own.values(self.info.parse(raw), raw)
        return [entry_of(row) for entry_of in self._entry_ofs]


def _key_part(info: TableInfo, path: Path) -> KeyOf:
    """One field of the primary key: present, and not empty where it cannot tell empty from absent."""
    leaf, get, encode = path[-1], attrgetter(dotted(path)), kind_of(path[-1]).encode
    assert encode is not None
    checked = [step for step in path if step.has_presence]
    is_float = leaf.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)
    is_text = not leaf.has_presence and leaf.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    if not checked and not is_text and not is_float:
        return lambda row: encode(get(row))

    def part(row: Any) -> bytes:
        if not all(present(row, path)):
            raise RowError(
                f"a row of {info.name} lacks its key field {dotted(path)}; set it", table=info.name
            )
        value = get(row)
        if is_text and not value:
            raise RowError(
                f"a row of {info.name} lacks its key field {dotted(path)}; set it, or declare the field"
                " `optional` if an empty key is meant",
                table=info.name,
            )
        if is_float and math.isnan(value):
            raise RowError(f"a row of {info.name} has NaN in its key field {dotted(path)}", table=info.name)
        return encode(value)

    return part


def person_part(info: TableInfo, path: Path) -> KeyOf:
    """The field that says whose a row is: a row of nobody cannot be sealed."""
    get, encode, name = attrgetter(dotted(path)), kind_of(path[-1]).encode, dotted(path)
    assert encode is not None

    def part(row: Any) -> bytes:
        value = get(row)
        if not all(present(row, path)) or value in ("", b""):
            raise RowError(
                f"a row of {info.name} does not say whose it is: it lacks {name}; set it", table=info.name
            )
        return encode(value)

    return part


def _entry_of(index: IndexInfo, descriptor: Descriptor) -> KeyOf:
    """The index's prefix and a row's values in it."""
    paths = [resolve(descriptor, path.numbers) for path in index.proto.fields]
    parts = [_index_part(path) for path in paths]
    if index.hashes:
        hashes = index.hash
        return lambda row: index.prefix + b"".join([hashes(at, part(row)) for at, part in enumerate(parts)])
    if len(parts) == 1 and not any(step.has_presence for step in paths[0]):
        get, encode, prefix = (
            attrgetter(dotted(paths[0])),
            kind_of(paths[0][-1]).encode,
            index.prefix + b"\x01",
        )
        assert encode is not None
        return lambda row: prefix + encode(get(row))
    return lambda row: index.prefix + b"".join([part(row) for part in parts])


def _index_part(path: Path) -> KeyOf:
    get, encode = attrgetter(dotted(path)), kind_of(path[-1]).encode
    assert encode is not None
    if not any(step.has_presence for step in path):
        return lambda row: b"\x01" + encode(get(row))
    return lambda row: b"\x01" + encode(get(row)) if all(present(row, path)) else b"\x00"


def _check_model(info: TableInfo, descriptor: Descriptor) -> None:
    """Whether rows of the table can be read and written through this model."""
    own = descriptor_of(info.model)
    if descriptor is own:
        return
    for path in info.proto.key:
        if not has(descriptor, path.numbers):
            name = dotted(resolve(own, path.numbers))
            raise SchemaError(
                f"table {info.name} has {name} in its key at schema version {info.schema.version},"
                f" but the model {descriptor.full_name} has no such field; use the tables of that version",
                table=info.name,
            )
    for field in descriptor.fields:
        mine = own.fields_by_number.get(field.number)
        if mine is not None and (mine.type != field.type or mine.is_repeated != field.is_repeated):
            raise SchemaError(
                f"table {info.name} holds {mine.full_name} = {mine.number} as {kind_of(mine).name} at schema"
                f" version {info.schema.version}, but the model {descriptor.full_name} says"
                f" {kind_of(field).name}; use the tables of that version",
                table=info.name,
            )
