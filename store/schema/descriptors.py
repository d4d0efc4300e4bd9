"""Descriptors: the descriptor files in a schema, by which anyone can read its rows.

    models of the tables ─▶ their files, and the files these import ─▶ Schema.models

A model's version is in its package: `<app>.v<YYYYMMDDHHMMSS>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.message import Message

from everlog.proto import log_pb2
from everlog.store.schema.fields import descriptor_of

_VERSION = re.compile(r"(?:^|\.)v(\d{14})\.")


def version_of(model: type[Message]) -> int:
    """Return the version in a model's package, `<app>.v<YYYYMMDDHHMMSS>`; 0 if there is none."""
    found = _VERSION.search(descriptor_of(model).full_name)
    return int(found[1]) if found else 0


def dependencies_first(files: Iterable[Any]) -> Iterable[Any]:
    """Yield the files, each after the files it imports."""
    by_name = {file.name: file for file in files}
    done: set[str] = set()

    def visit(name: str) -> Iterable[Any]:
        if name in done or name not in by_name:
            return
        done.add(name)
        for dependency in by_name[name].dependency:
            yield from visit(dependency)
        yield by_name[name]

    for name in by_name:
        yield from visit(name)


def add_models(schema: log_pb2.Schema, other: log_pb2.Schema) -> None:
    """Add the files of `other` that `schema` lacks."""
    names = {file.name for file in schema.models.file}
    schema.models.file.extend(file for file in other.models.file if file.name not in names)


def collect_models(schema: log_pb2.Schema, models: dict[str, Descriptor]) -> None:
    """Keep the files of all tables' models and everything they import; drop the others."""
    files = {file.name: file for file in schema.models.file}
    for file in {descriptor.file.name: descriptor.file for descriptor in models.values()}.values():
        _add_file(files, file)
    owners = {
        f"{file.package}.{message}" if file.package else message: file.name
        for file in files.values()
        for message in _message_names(file)
    }
    needed: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def need(name: str) -> None:
        if name not in needed:
            for dependency in files[name].dependency:
                need(dependency)
            needed[name] = files[name]

    for table in (*schema.tables, *schema.building, *schema.retiring):
        need(owners[table.model])
    kept = list(needed.values())
    del schema.models.file[:]
    schema.models.file.extend(kept)


def _message_names(file: descriptor_pb2.FileDescriptorProto) -> Iterable[str]:
    pending = [(message.name, message) for message in file.message_type]
    while pending:
        name, message = pending.pop()
        yield name
        pending += [(f"{name}.{inner.name}", inner) for inner in message.nested_type]


def _add_file(files: dict[str, descriptor_pb2.FileDescriptorProto], file: FileDescriptor) -> None:
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    files[file.name] = proto
    for dependency in file.dependencies:
        _add_file(files, dependency)
