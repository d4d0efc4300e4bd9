"""Methods: the services of a server with their methods, fields and help, from descriptors.

    contract.binpb ────────────┐
                               ├─▶ Services ─▶ Service ─▶ Method ─▶ Field     name, type, help, choices
    reflection of the server ──┘
                                   allowed ──▶ without what the caller may not call (Access.WhoAmI)

A server describes itself, so a newer server has methods here that this program does not know. Help is the
text of comments in the files. What a method needs is its option `needs`, and what bytes hold is the option
`holds` of their field. Reflection itself is left out.

Invariants
  (1) reading a description calls nothing but reflection and WhoAmI, which change nothing;
  (2) descriptors of a server are in a separate pool: they cannot change those of this program.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]

from everlog.proto import access_pb2, access_pb2_grpc, contract, fields_pb2
from everlog.rpc import errors
from everlog.rpc.client.channel import CALL_S, Channel
from everlog.store.errors import AccessError, Error, SchemaError, UnavailableError
from everlog.store.schema.descriptors import dependencies_first, is_map
from everlog.store.upkeep.roles import RIGHTS

REFLECTION = "grpc.reflection."
DEPTH = 3  # levels of nested messages whose fields have names of their own, such as `load.kind`
FILES_MAX, FILE_BYTES_MAX = 1000, 16 << 20  # of a server's reflection
ROW, KEY, BOUND = fields_pb2.ROW_OF_TABLE, fields_pb2.KEY_OF_TABLE, fields_pb2.BOUND_OF_RANGE
UNITS_NS = {"_ns": 1, "_ms": 1_000_000, "_s": 1_000_000_000}  # of durations, by the end of a name

_NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
    FieldDescriptor.CPPTYPE_DOUBLE,
    FieldDescriptor.CPPTYPE_FLOAT,
}
_TYPES: dict[int, str] = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}
_HELD: dict[int, str] = {ROW: "row", KEY: "key", BOUND: "bound"}
_SENTENCE = re.compile(r"(?<=[.;])\s|:\s*$")


def holds(field: FieldDescriptor) -> int:
    """Return what the bytes of a field hold; see proto/fields.proto."""
    number: int = field.GetOptions().Extensions[fields_pb2.holds]
    return number


def is_time(field: FieldDescriptor) -> bool:
    """Return whether a number is a time, in nanoseconds since the Unix epoch."""
    return field.type == FieldDescriptor.TYPE_FIXED64 and field.name.endswith("_ns")


def unit_ns(field: FieldDescriptor) -> int:
    """Return the unit of a number that is a duration, in nanoseconds; 0 if it is none."""
    if field.cpp_type not in _NUMBERS or is_time(field):
        return 0
    return next((unit for end, unit in UNITS_NS.items() if field.name.endswith(end)), 0)


def type_of(field: FieldDescriptor) -> str:
    """Return the word for the type of one value of a field: `string`, `time`, `row`, `Grant`."""
    if is_map(field):
        entry: Any = field.message_type and field.message_type.fields_by_name
        return f"{type_of(entry['key'])}={type_of(entry['value'])}"
    if field.message_type is not None:
        name = field.message_type.full_name
        return {"google.protobuf.Timestamp": "time", "google.protobuf.Duration": "duration"}.get(
            name, field.message_type.name
        )
    if field.enum_type is not None:
        return field.enum_type.name
    if is_time(field):
        return "time"
    return "duration" if unit_ns(field) else _HELD.get(holds(field), _TYPES[field.type])


def _first_sentence(text: str) -> str:
    return _SENTENCE.split(text.replace("\n", " "), maxsplit=1)[0].rstrip(".;:")


def near(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that suggests the nearest known word; empty if none is near."""
    known = list(known)
    folded = {one.lower(): one for one in reversed(known)}
    found = difflib.get_close_matches(word.lower(), folded, 1)
    return f"; did you mean {folded[found[0]]}?" if found else ""


class Field(NamedTuple):
    """A field of a request that has a name of its own: `table`, `grant.identity`."""

    name: str
    descriptor: FieldDescriptor
    help: str

    @property
    def type(self) -> str:
        """The word for the type of a value."""
        return type_of(self.descriptor)

    @property
    def repeated(self) -> bool:
        return bool(self.descriptor.is_repeated)

    @property
    def choices(self) -> tuple[str, ...]:
        """The names of an enum, without the one that says nothing."""
        enum = self.descriptor.enum_type
        if enum is None:
            return ("true", "false") if self.type == "bool" else ()
        return tuple(one.name for one in enum.values if not one.name.endswith("UNSPECIFIED"))

    @property
    def oneof(self) -> str:
        """The name of the group of which one field can be set; empty if it is in none."""
        found = self.descriptor.containing_oneof
        if found is None or found.name.startswith("_"):
            return ""
        prefix = self.name.rpartition(".")[0]
        return f"{prefix}.{found.name}" if prefix else str(found.name)


class Need(NamedTuple):
    """A right that a method needs: any of `rights`; none: some right in the database."""

    rights: tuple[str, ...]
    table: str
    when: str
    whole: bool
    dangerous: bool
    server: bool

    def __str__(self) -> str:
        if self.server:
            return "nothing; the response has only what the caller may see"
        words = " or ".join(self.rights) or "any right in the database"
        if self.table:
            words += " on the tables that it names"
        if self.whole:
            words += ", without limits"
        return f"{words}, if {self.when} is set" if self.when else words


class Method:
    """One RPC."""

    def __init__(self, service: Service, descriptor: MethodDescriptor) -> None:
        self.service = service
        self.descriptor = descriptor
        self.name: str = descriptor.name
        self.path = f"{service.full_name}/{descriptor.name}"
        self.help = service.comments.get(descriptor.full_name, "")
        self.input: Descriptor = descriptor.input_type
        self.output: Descriptor = descriptor.output_type
        self.client_streaming = bool(descriptor.client_streaming)
        self.server_streaming = bool(descriptor.server_streaming)

    @cached_property
    def request(self) -> type[Message]:
        return GetMessageClass(self.input)

    @cached_property
    def response(self) -> type[Message]:
        return GetMessageClass(self.output)

    @property
    def summary(self) -> str:
        """The first sentence of the help."""
        return _first_sentence(self.help)

    @cached_property
    def needs(self) -> tuple[Need, ...]:
        words = {number: word for word, number in RIGHTS.items()}
        return tuple(
            Need(
                tuple(words.get(right, f"right {right}") for right in one.right),
                one.table,
                one.when,
                one.whole,
                one.dangerous,
                one.server,
            )
            for one in self.descriptor.GetOptions().Extensions[access_pb2.needs]
        )

    @property
    def needs_reason(self) -> bool:
        """Whether an authenticated caller must give a reason."""
        return any(one.dangerous for one in self.needs)

    @cached_property
    def fields(self) -> dict[str, Field]:
        """The fields of a request by name, those of nested messages after the message itself."""
        return {one.name: one for one in self._fields(self.input, "", DEPTH, ())}

    def _fields(
        self, descriptor: Descriptor, prefix: str, depth: int, around: tuple[str, ...]
    ) -> Iterator[Field]:
        for field in descriptor.fields:
            name = f"{prefix}{field.name}"
            yield Field(name, field, self.service.comments.get(field.full_name, ""))
            inner = field.message_type
            if (
                inner is not None
                and not field.is_repeated
                and not inner.full_name.startswith("google.protobuf.")
                and depth > 1
                and inner.full_name not in around
            ):
                yield from self._fields(inner, f"{name}.", depth - 1, (*around, inner.full_name))


class Service:
    """A service. `methods` are those that the caller may call, by name; `every` has the others as well."""

    def __init__(
        self, descriptor: ServiceDescriptor, comments: Mapping[str, str], allowed: Collection[str] | None
    ) -> None:
        self.full_name: str = descriptor.full_name
        self.name: str = descriptor.name
        self.comments = comments
        text = comments.get(self.full_name) or comments.get(descriptor.file.name, "")
        self.help = text.removeprefix(f"{self.name}: ")
        self.help = self.help[:1].upper() + self.help[1:]
        self.every = {one.name: Method(self, one) for one in descriptor.methods}
        self.methods = {
            name: one
            for name, one in self.every.items()
            if allowed is None or one.path in allowed or (not one.needs and _is_open(self.full_name))
        }

    @property
    def summary(self) -> str:
        """The first sentence of the help."""
        return _first_sentence(self.help)

    def method(self, name: str) -> Method:
        """Return the method with this name, which the caller may not be allowed to call. Raises
        SchemaError."""
        found = self.every.get(name)
        if found is None:
            raise SchemaError(
                f"service {self.name} has no method {name[:80]!r}{near(name, self.methods)}",
                unknown=name[:80],
            )
        return found

    def may(self, method: Method) -> bool:
        """Return whether the caller may call a method of this service."""
        return method.name in self.methods


class Services:
    """The services of a server, or of the contract. Iterated, it has those of which the caller may call some
    method. `allowed`: paths of methods; None: all."""

    def __init__(
        self,
        files: Iterable[FileDescriptorProto],
        names: Iterable[str],
        allowed: Collection[str] | None = None,
    ) -> None:
        files = list(files)
        pool = DescriptorPool()
        try:
            for file in dependencies_first(_with_dependencies(files)):
                pool.Add(file)
            found = [pool.FindServiceByName(name) for name in names]
        except (TypeError, KeyError) as error:
            raise SchemaError(f"the server describes itself incompletely: {error}") from None
        comments = _comments(files)
        self.every = {one.full_name: Service(one, comments, allowed) for one in found}

    @classmethod
    def of_contract(cls) -> Services:
        """Return the services that this program knows, with all methods."""
        files = contract.files().values()
        names = [f"{file.package}.{service.name}" for file in files for service in file.service]
        return cls(files, sorted(names))

    @classmethod
    def of_server(cls, channel: Channel) -> Services:
        """Return the services of a server that the caller may call. Raises UnavailableError, and Error for a
        server that cannot be described."""
        files, names = reflected(channel)
        return cls(files, names, _allowed(channel))

    def __iter__(self) -> Iterator[Service]:
        return (one for one in self.every.values() if one.methods)

    def service(self, name: str) -> Service:
        """Return the service with this name, full or short. Raises SchemaError."""
        for one in self.every.values():
            if name in {one.name, one.full_name}:
                return one
        raise SchemaError(
            f"there is no service {name[:80]!r}{near(name, (one.name for one in self))}", unknown=name[:80]
        )

    def method(self, service: str, method: str) -> Method:
        """Return a method, which the caller may not be allowed to call. Raises SchemaError."""
        return self.service(service).method(method)


def reflected(channel: Channel) -> tuple[list[FileDescriptorProto], list[str]]:
    """Return the files of a server's services, and the names of the services. Read-only."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel.grpc)
    made = reflection_pb2.ServerReflectionRequest

    def ask(requests: list[Any]) -> list[Any]:
        call = channel.started(
            lambda: stub.ServerReflectionInfo(iter(requests), timeout=CALL_S, metadata=channel.metadata)
        )
        try:
            return list(call)
        except grpc.RpcError as error:
            raise errors.translate(error, channel.url) from None

    channel.check_open()
    patience, listed = channel.patience(), list[Any]()
    while not listed:  # reflection changes nothing, so it may be repeated
        try:
            listed = ask([made(list_services="")])
        except Error as error:
            if "refused" in error.facts:  # nothing listens there
                raise
            patience.after(error)
    names = [
        one.name
        for answer in listed
        for one in answer.list_services_response.service
        if not one.name.startswith(REFLECTION)
    ]
    files: dict[str, FileDescriptorProto] = {}
    asked, wanted = set[str](), [made(file_containing_symbol=name) for name in names]
    while wanted:
        for answer in ask(wanted):
            for raw in answer.file_descriptor_response.file_descriptor_proto:
                _add(files, raw, channel.url)
        missing = {name for file in files.values() for name in file.dependency} - files.keys() - asked
        asked |= missing
        wanted = [made(file_by_filename=name) for name in sorted(missing)]
    return list(files.values()), names


def _add(files: dict[str, FileDescriptorProto], raw: bytes, url: str) -> None:
    try:
        file = FileDescriptorProto.FromString(raw)
    except DecodeError as error:
        raise UnavailableError(f"{url}: the server describes itself with invalid bytes: {error}") from None
    files.setdefault(file.name, file)
    if len(files) > FILES_MAX or len(raw) > FILE_BYTES_MAX:
        raise UnavailableError(
            f"{url}: the server describes itself with more than {FILES_MAX} files, or one of more than"
            f" {FILE_BYTES_MAX >> 20} MiB"
        )


def _allowed(channel: Channel) -> frozenset[str] | None:
    """Return the paths that the caller may call; None if the server does not say. A caller without rights in
    the database may call what is of the server."""
    stub = access_pb2_grpc.AccessStub(channel.grpc)
    for database in (channel.address.database, ""):
        try:
            found = channel.call(stub.WhoAmI, access_pb2.WhoAmIRequest(database=database))
        except AccessError:
            continue
        return frozenset(found.methods) or None
    return frozenset()


def _is_open(service: str) -> bool:
    """Return whether a service answers to every caller, as health does."""
    return service.startswith("grpc.")


def _with_dependencies(files: list[FileDescriptorProto]) -> list[FileDescriptorProto]:
    """Return the files with those of google.protobuf that they import, from this program."""
    have = {file.name: file for file in files}
    wanted = [name for file in files for name in file.dependency]
    while wanted:
        name = wanted.pop()
        if name not in have and name.startswith("google/protobuf/"):
            file = FileDescriptorProto()
            Default().FindFileByName(name).CopyToProto(file)
            have[name] = file
            wanted += file.dependency
    return list(have.values())


def _comments(files: Iterable[FileDescriptorProto]) -> dict[str, str]:
    """Return the comments by the full name of what they describe, of a file by its name. A file without any
    has those of the contract, where it has the same name."""
    found: dict[str, str] = {}
    for file in files:
        told = file.source_code_info.location or (
            contract.files()[file.name].source_code_info.location if file.name in contract.files() else ()
        )
        for one in told:
            text = one.leading_comments or one.trailing_comments
            lines = [line.removeprefix(" ").rstrip() for line in text.strip("\n").splitlines()]
            name = _named(file, tuple(one.path))
            if name:
                found.setdefault(name, "\n".join(lines).strip())
    return found


_SYNTAX = (12,)  # of FileDescriptorProto
# The repeated fields of descriptors that a path goes through, by the message that has them.
_INNER = {
    "FileDescriptorProto": {4: "message_type", 5: "enum_type", 6: "service", 7: "extension"},
    "DescriptorProto": {2: "field", 3: "nested_type", 4: "enum_type", 8: "oneof_decl"},
    "EnumDescriptorProto": {2: "value"},
    "ServiceDescriptorProto": {2: "method"},
}


def _named(file: FileDescriptorProto, path: tuple[int, ...]) -> str:
    """Return the full name of what a path of a file's source info leads to; empty if it has none."""
    if path == _SYNTAX:
        return str(file.name)
    at: Any = file
    names = [file.package] if file.package else []
    for number, index in zip(path[::2], path[1::2], strict=False):
        inner = _INNER.get(type(at).__name__, {}).get(number)
        if inner is None or index >= len(getattr(at, inner)):
            return ""
        at = getattr(at, inner)[index]
        names.append(at.name)
    return ".".join(names) if len(path) % 2 == 0 and len(path) > 0 else ""
