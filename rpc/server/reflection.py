"""Reflection: which services a server has, with their files and the comments in them.

    list_services, file_containing_symbol … ─▶ grpcio's servicer ─▶ each file as `make proto` described it

Descriptors of generated code have no comments. Files of the contract, and of services that a program adds,
are sent as they were compiled, so that clients show the help of a newer server.

Invariants
  (1) only the files of these services are sent, and those that they import: the process also has the models
      of the databases, which a caller may see by its rights alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from grpc_health.v1 import health  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha._async import ReflectionServicer  # type: ignore[import-untyped]

from everlog.proto import contract

NAME, FILE = "grpc.reflection.v1.ServerReflection", "grpc/reflection/v1/reflection.proto"


class Service(NamedTuple):
    """A service that a program adds to a server.

    `add` registers it through the interface that generated code expects. `files`: its files with their
    comments. The gate admits its calls as those of the contract, by their option `needs`.
    """

    descriptor: ServiceDescriptor
    add: Callable[[Any], None]
    files: Sequence[descriptor_pb2.FileDescriptorProto] = ()


class Commented(ReflectionServicer):  # type: ignore[misc]
    """grpcio's servicer, with comments in the files that have them here."""

    def __init__(self, services: Sequence[str], files: Mapping[str, bytes]) -> None:
        super().__init__(services, _pool_of(services))
        self._files = files

    async def ServerReflectionInfo(
        self, request_iterator: AsyncIterator[Any], unused_context: Any
    ) -> AsyncIterator[Any]:
        asked: Any = None

        async def each() -> AsyncIterator[Any]:
            nonlocal asked
            async for asked in request_iterator:
                yield self._of_service(asked)

        async for answer in super().ServerReflectionInfo(each(), unused_context):
            found = answer.file_descriptor_response.file_descriptor_proto
            for at, raw in enumerate(found):
                found[at] = self._files.get(descriptor_pb2.FileDescriptorProto.FromString(raw).name, raw)
            answer.original_request.CopyFrom(asked)
            yield answer

    def _of_service(self, request: Any) -> Any:
        """Return a request for the file of a method as one for the file of its service: pools do not find
        methods."""
        name = request.file_containing_symbol
        if name:
            try:
                self._pool.FindFileContainingSymbol(name)
            except KeyError:
                return type(request)(host=request.host, file_containing_symbol=name.rpartition(".")[0])
        return request


def _pool_of(services: Sequence[str]) -> descriptor_pool.DescriptorPool:
    """Return the files of these services, and those that they import."""
    found, added = descriptor_pool.DescriptorPool(), set[str]()

    def add(file: FileDescriptor) -> None:
        if file.name not in added:
            added.add(file.name)
            for needed in file.dependencies:
                add(needed)
            found.AddSerializedFile(file.serialized_pb)

    for name in services:
        add(descriptor_pool.Default().FindFileContainingSymbol(name))
    return found


def register(calls: Any, services: Sequence[str], more: Sequence[Service]) -> None:
    """Register reflection in both versions. Their messages are the same bytes; grpcio has the older one."""
    old = reflection_pb2.DESCRIPTOR
    file = descriptor_pb2.FileDescriptorProto()
    old.CopyToProto(file)
    text = str(file).replace(old.package, NAME.rpartition(".")[0]).replace(old.name, FILE)
    file = text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
    with contextlib.suppress(TypeError):  # another package has it
        descriptor_pool.Default().Add(file)
    files = [*contract.files().values(), *(file for one in more for file in one.files)]
    names = (*services, *(one.descriptor.full_name for one in more))
    servicer = Commented(
        (*names, health.SERVICE_NAME, reflection.SERVICE_NAME, NAME),
        {file.name: file.SerializeToString() for file in files},
    )
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, calls)
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    calls.add_registered_method_handlers(NAME, {"ServerReflectionInfo": method})
