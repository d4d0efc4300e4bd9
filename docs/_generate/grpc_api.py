"""Every service, message and enumeration of the contract, from the comments of the .proto files."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

import everlog.proto
from _generate.markdown import cell, escaped

FOLDER = Path(everlog.proto.__file__ or "").parent
PACKAGE = "everlog/proto"
OURS = ".everlog.v1."

# Field numbers of descriptor.proto: the steps of a path in a file's source_code_info.
MESSAGE, ENUM, SERVICE = 4, 5, 6
FIELD, NESTED, NESTED_ENUM = 2, 3, 4
VALUE, METHOD = 2, 2

SYNTAX, DECLARED_PACKAGE = 12, 2


def markdown() -> str:
    """The reference of the contract, as Markdown: the services first, then the record of the log."""
    files = sorted(_parsed().file, key=lambda file: (not file.service, file.name))
    return "\n".join(line for file in files if file.name.startswith(PACKAGE) for line in _File(file).lines())


def _parsed() -> FileDescriptorSet:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "contract"
        names = [f"{PACKAGE}/{path.name}" for path in sorted(FOLDER.glob("*.proto"))]
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PACKAGE}={FOLDER}", *names]
        subprocess.run([*command, "--include_source_info", f"--descriptor_set_out={out}"], check=True)
        return FileDescriptorSet.FromString(out.read_bytes())


class _File:
    def __init__(self, file: FileDescriptorProto) -> None:
        self.file = file
        self.places = {tuple(place.path): place for place in file.source_code_info.location}

    def lines(self) -> Iterator[str]:
        yield f"\n## {Path(self.file.name).name}\n"
        yield from self._opening()
        for number, service in enumerate(self.file.service):
            yield from self._service(service, (SERVICE, number))
        for number, message in enumerate(self.file.message_type):
            yield from self._message(message, (MESSAGE, number), message.name)
        for number, enum in enumerate(self.file.enum_type):
            yield from self._enum(enum, (ENUM, number), enum.name)

    def _opening(self) -> Iterator[str]:
        place = self.places.get((SYNTAX,))
        for comment in [*place.leading_detached_comments, place.leading_comments] if place else []:
            yield from _prose(comment)

    def _comment(self, path: Sequence[int]) -> str:
        place = self.places.get(tuple(path))
        return f"{place.leading_comments}\n{place.trailing_comments}".strip("\n") if place else ""

    def _service(self, service: ServiceDescriptorProto, path: tuple[int, ...]) -> Iterator[str]:
        yield f"\n### service {service.name}\n"
        yield from _prose(self._comment(path))
        yield "| call | request | answer | |\n|---|---|---|---|"
        for number, method in enumerate(service.method):
            asked = _stream(method.client_streaming, method.input_type)
            given = _stream(method.server_streaming, method.output_type)
            yield f"| `{method.name}` | {asked} | {given} | {cell(self._comment((*path, METHOD, number)))} |"
        yield ""

    def _message(self, message: DescriptorProto, path: tuple[int, ...], name: str) -> Iterator[str]:
        yield f"\n### {name}\n"
        yield from _prose(self._comment(path))
        if message.field:
            yield "| number | field | type | |\n|---|---|---|---|"
        entries = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
        for number, field in enumerate(message.field):
            kind = _kind(field, entries)
            about = cell(self._comment((*path, FIELD, number)))
            yield f"| {field.number} | `{field.name}` | {kind} | {about} |"
        yield ""
        for number, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                yield from self._message(nested, (*path, NESTED, number), f"{name}.{nested.name}")
        for number, enum in enumerate(message.enum_type):
            yield from self._enum(enum, (*path, NESTED_ENUM, number), f"{name}.{enum.name}")

    def _enum(self, enum: EnumDescriptorProto, path: tuple[int, ...], name: str) -> Iterator[str]:
        yield f"\n### enum {name}\n"
        yield from _prose(self._comment(path))
        yield "| number | value | |\n|---|---|---|"
        for number, value in enumerate(enum.value):
            yield f"| {value.number} | `{value.name}` | {cell(self._comment((*path, VALUE, number)))} |"
        yield ""


def _kind(field: FieldDescriptorProto, entries: dict[str, DescriptorProto]) -> str:
    """The type of a field, with a link to its section."""
    if (entry := entries.get(field.type_name.rpartition(".")[2])) is not None:
        key, value = (_short(part.type_name) or _scalar(part) for part in entry.field)
        return f"`map<{key}, {value}>`"
    label = ""
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        label = "repeated "
    elif field.proto3_optional:
        label = "optional "
    if not field.type_name:
        return f"`{label}{_scalar(field)}`"
    section = "enum-" if field.type == FieldDescriptorProto.TYPE_ENUM else ""
    return _linked(field.type_name, label, section)


def _scalar(field: FieldDescriptorProto) -> str:
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def _stream(streaming: bool, name: str) -> str:
    return _linked(name, "stream " if streaming else "")


def _linked(full: str, label: str, section: str = "") -> str:
    """A name as code, with a link if it is of the contract."""
    shown = f"`{label}{_short(full)}`"
    if not full.startswith(OURS):
        return shown
    return f"[{shown}](#{section}{_short(full).replace('.', '').lower()})"


def _short(name: str) -> str:
    return name.removeprefix(OURS).removeprefix(".")


def _prose(comment: str) -> Iterator[str]:
    """A comment as Markdown: paragraphs that are drawn stay as they are drawn."""
    for paragraph in re.split(r"\n\s*\n", comment.strip("\n")):
        lines = paragraph.split("\n")
        if any(line.startswith("   ") for line in lines):
            yield "```text\n" + "\n".join(line.removeprefix(" ") for line in lines) + "\n```\n"
        elif paragraph.strip():
            yield escaped(" ".join(paragraph.split())) + "\n"
