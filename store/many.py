"""Many: the rows of a table, some hundred of them in one message, for what costs more by itself.

    many := (0x0A length:varint row)*          `repeated Row rows = 1`

Parsing and serialising so many at once is done in one call each, in C.

Invariants
  (1) what is said of many is what would be said of each.
"""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakKeyDictionary

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.message import DecodeError, EncodeError, Message

from everlog.store.fields import descriptor_of
from everlog.store.record import varint
from everlog.store.schema import TableInfo

_HEADS = [b"\x0a" + varint(size) for size in range(4096)]
_MODELS: WeakKeyDictionary[TableInfo, type[Message]] = WeakKeyDictionary()


def are_canonical(info: TableInfo, rows: Iterable[bytes]) -> bool:
    """Whether each row is what it would be serialised as (`hashing.canonical`). False as well for what is no
    row: whoever looks at them one by one is told which."""
    framed = b"".join([part for row in rows for part in (_head(len(row)), row)])
    try:
        message = _model(info).FromString(framed)
        message.DiscardUnknownFields()
        return message.SerializeToString(deterministic=True) == framed
    except (DecodeError, EncodeError):
        return False


def _head(size: int) -> bytes:
    return _HEADS[size] if size < len(_HEADS) else b"\x0a" + varint(size)


def _model(info: TableInfo) -> type[Message]:
    """The message whose one field is rows of a table. Made once, in the pool of its schema."""
    found = _MODELS.get(info)
    if found is None:
        row, name = descriptor_of(info.model), f"Rows{info.space}"
        file = descriptor_pb2.FileDescriptorProto(
            name=f"everlog/rows/{info.space}.proto",
            package="everlog.rows",
            syntax="proto3",
            dependency=[row.file.name],
        )
        field = file.message_type.add(name=name).field.add(
            name="rows", number=1, type_name=f".{row.full_name}"
        )
        field.type, field.label = field.TYPE_MESSAGE, field.LABEL_REPEATED
        pool = row.file.pool
        pool.Add(file)
        found = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"everlog.rows.{name}"))
        _MODELS[info] = found
    return found
