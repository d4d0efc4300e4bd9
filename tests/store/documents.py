"""Documents: one table whose model has a field of every kind that can make a row hard to read.

DOCUMENTS  a number as key, an index on a text
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)

from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.schema.codec import STRING, UINT64
from everlog.store.schema.evolve import evolve
from everlog.store.schema.schema import Schema
from everlog.store.schema.table import Field, Index, Table
from everlog.store.tx.transaction import CommitResult
from everlog.store.tx.write import PUT, Write

VERSION = 20260105093000
_F = descriptor_pb2.FieldDescriptorProto
_KNOWN = (any_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)
_SCALARS = {
    name.removeprefix("TYPE_").lower(): number
    for name, number in _F.Type.items()
    if name not in {"TYPE_MESSAGE", "TYPE_ENUM", "TYPE_GROUP"}
}
INNER = "number 1 int64, text 2 string?, inner 3 .Inner, at 4 Timestamp, body 5 Value, color 6 Color"
DOCUMENT = """
    id 1 uint64, title 2 string, body 3 Value, text 4 string, note 5 string?, raw 6 bytes, opt_raw 7 bytes?,
    i32 8 int32, i64 9 int64, u32 10 uint32, u64 11 uint64, s64 12 sint64, f32 13 fixed32, sf64 14 sfixed64,
    ratio 15 float, weight 16 double, opt_weight 17 double?, flag 18 bool, opt_flag 19 bool?, color 20 Color,
    opt_color 21 Color?, at 22 Timestamp, took 23 Duration, data 24 Struct, list 25 ListValue, any 26 Any,
    mask 27 FieldMask, big 28 Int64Value, word 29 StringValue, blob 30 BytesValue, inner 31 .Inner,
    numbers 32 int64*, words 33 string*, weights 34 double*, inners 35 .Inner*, times 36 Timestamp*,
    bodies 37 Value*, colors 38 Color*, blobs 39 bytes*, nothing 40 NullValue, ratios 41 float*,
    one_text 50 string|, one_number 51 int64|, one_inner 52 .Inner|, one_empty 53 Empty|, opt_i64 60 int64?,
    by_word 70 string:string, by_number 71 int64:.Inner, by_flag 72 bool:Value, by_time 73 string:Timestamp
"""


def _field(message: Any, package: str, name: str, number: int, word: str) -> None:
    field = message.field.add(name=name, number=number, label=_F.LABEL_OPTIONAL)
    if ":" in word:
        key, word = word.split(":")
        entry = message.nested_type.add(name=f"{''.join(p.title() for p in name.split('_'))}Entry")
        entry.options.map_entry = True
        _field(entry, package, "key", 1, key)
        _field(entry, package, "value", 2, word)
        field.label, field.type = _F.LABEL_REPEATED, _F.TYPE_MESSAGE
        field.type_name = f".{package}.{message.name}.{entry.name}"
        return
    if word.endswith("|"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="choice")
        field.oneof_index = 0
    elif word.endswith("*"):
        field.label = _F.LABEL_REPEATED
    kind = word.rstrip("?*|")
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    elif kind in {"Color", "NullValue"}:
        field.type = _F.TYPE_ENUM
        field.type_name = f".{package}.Color" if kind == "Color" else ".google.protobuf.NullValue"
    else:
        field.type = _F.TYPE_MESSAGE
        field.type_name = f".{package}{kind}" if kind.startswith(".") else f".google.protobuf.{kind}"


def model(package: str, document: str, syntax: str = "proto3") -> Any:
    """Return the class of a message `Document` with these fields, in a separate pool: `name number kind`,
    where `?` is optional, `*` repeated, `|` one of a oneof, and `key:value` a map.
    """
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax=syntax)
    pool = descriptor_pool.DescriptorPool()
    for module in _KNOWN:
        proto = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(proto)
        pool.Add(proto)
        file.dependency.append(proto.name)
    color = file.enum_type.add(name="Color")
    for at, what in enumerate(("RED", "GREEN", "BLUE")):
        color.value.add(name=what, number=at)
    for name, words in (("Inner", INNER), ("Document", document)):
        message = file.message_type.add(name=name)
        optional = []
        for one in words.split(","):
            field_name, number, word = one.split()
            _field(message, package, field_name, int(number), word)
            if word.endswith("?"):
                optional.append(message.field[-1])
        if syntax == "proto3":
            for field in optional:
                field.proto3_optional = True
                field.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field.name}")
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Document"))


def _table(of: Any, name: str) -> Table[Any, int]:
    title = Field(of, "title", 2, STRING)
    return Table(name, of, key=Field(of, "id", 1, UINT64), indexes=(Index("by_title", title),))


Document = model("documents", DOCUMENT)
Document2 = model("documents2", DOCUMENT, "proto2")
DOCUMENTS = _table(Document, "documents")
DOCUMENTS2 = _table(Document2, "documents2")


def deep(id: int, depth: int, of: Any = Document) -> Any:
    """Return a document whose body has this depth: 49 levels can be parsed, 50 cannot."""
    row = of(id=id, title=f"title {id}")
    value = row.body
    for _ in range(depth):
        value = value.list_value.values.add()
    value.string_value = "x"
    return row


def open_documents(path: Path, *tables: Table[Any, Any], at: Any = Database, **options: Any) -> Any:
    """Open a database with these tables, which is created if it is missing."""
    db = at(path, **options)
    if not db.schema.version:
        schema = evolve(log_pb2.Schema(), VERSION, tables or (DOCUMENTS, DOCUMENTS2))
        db.apply_migration(
            log_pb2.Migration(
                step=log_pb2.Migration.FINISHED, version=VERSION, name="documents", schema=schema
            )
        )
    return db


def put_unasked(db: Database, table: Table[Any, Any], row: Any) -> CommitResult:
    """Write a row without the checks of this version, as earlier versions did."""
    schema: Schema = db.schema
    binding = schema.bind(table)
    raw = row.SerializeToString()
    write = Write(binding.info, PUT, binding.key_of(row), raw, binding.values(row, raw))
    tx = db.transaction()
    tx.writes[write.full] = write
    return tx.commit()
