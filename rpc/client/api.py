"""Api: calls of any method of a server, and the same call as a line for a shell.

    Api(channel) ─ services ─▶ what the caller may call
                 ─ request ──▶ a message of text or JSON (requests.py)
                 ─ call ─────▶ responses, one by one ─ shown ─▶ JSON values

    api = Api(channel)
    method = api.services.method("Store", "Count")
    for answer in api.call(method, [api.request(method, {"table": "books"})]):
        print(api.shown(method, answer))

Invariants
  (1) a call has the rights of the channel's token, and passes the gate of the server as every other call;
  (2) a line contains no secret.
"""

from __future__ import annotations

import shlex
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message

from everlog.proto import store_pb2, store_pb2_grpc
from everlog.rpc import errors
from everlog.rpc.address import Address
from everlog.rpc.client import requests
from everlog.rpc.client.channel import Channel
from everlog.rpc.client.methods import Method, Services
from everlog.rpc.client.requests import Tables
from everlog.store.errors import RowError
from everlog.store.schema.schema import Schema

DATABASE = "database"  # the field of a request that names it
LINE_BYTES_MAX = 100_000  # of a request in a line: shells take a little more


class Api:
    """All methods of the server of a channel. Thread-safe."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.tables = Tables(self._schema)

    @cached_property
    def services(self) -> Services:
        """The services of the server that the caller may call. Raises UnavailableError."""
        return Services.of_server(self._channel)

    def request(
        self, method: Method, given: Mapping[str, Any], *, table: str = "", first: bool = True
    ) -> Message:
        """Return the request of a tree of values (requests.py). The database is that of the URL, unless the
        tree names another. `first`: of its stream. Raises RowError and SchemaError."""
        if first:
            given = with_database(method, given, self._channel.address.database)
        return requests.message(method.input, given, self.tables, table=table)

    def shown(self, answer: Message, *, table: str = "") -> dict[str, Any]:
        """Return a response as JSON values. `table`: the one that the request names."""
        return requests.shown(answer, self.tables, table=table)

    def call(self, method: Method, sent: Iterable[Message]) -> Generator[Message, None, None]:
        """Yield the responses of a call, which ends if the iterator is closed. The call is not repeated.

        Raises the error of the server, of `sent`, and UnavailableError.
        """
        running = self.start(method, sent)
        try:
            yield from running
        finally:
            running.cancel()

    def start(self, method: Method, sent: Iterable[Message]) -> Running:
        """Begin a call, and return its responses. Raises RowError."""
        if not method.client_streaming:
            sent = list(sent)
            if len(sent) != 1:
                raise RowError(f"expected one request of {method.name}, found {len(sent)}")
        return Running(self._channel, method, sent)

    def _schema(self) -> Schema:
        stub = store_pb2_grpc.StoreStub(self._channel.grpc)
        request = store_pb2.DescribeRequest(database=self._channel.address.database)
        return Schema(self._channel.call(stub.Describe, request).schema)


class Running:
    """A call that has begun. Iterated once, it yields the responses; `cancel` is for any thread."""

    def __init__(self, channel: Channel, method: Method, sent: Iterable[Message]) -> None:
        self._channel = channel
        self._sent = sent
        self._failed: list[BaseException] = []
        self._call: Any = None
        channel.check_open()
        how: dict[str, Any] = {
            "request_serializer": method.request.SerializeToString,
            "response_deserializer": method.response.FromString,
        }
        path = f"/{method.path}"

        def start() -> Any:
            if method.client_streaming:
                return channel.grpc.stream_stream(path, **how)(self._each(), metadata=channel.metadata)
            (request,) = sent
            return channel.grpc.unary_stream(path, **how)(request, metadata=channel.metadata)

        self._call = channel.started(start)
        if self._failed:  # before the call was known
            self.cancel()

    def _each(self) -> Iterator[Message]:
        """Yield the requests, in a thread of gRPC. Their error is raised in the thread of the caller."""
        try:
            yield from self._sent
        except BaseException as error:  # noqa: BLE001  gRPC would log it
            self._failed.append(error)
            self.cancel()

    def cancel(self) -> None:
        """End the call."""
        if self._call is not None:
            self._call.cancel()

    def __iter__(self) -> Iterator[Message]:
        try:
            yield from self._call
        except grpc.RpcError as error:
            if not self._failed:
                self._channel.check_open()
                raise errors.translate(error, self._channel.url) from None
        finally:
            self.cancel()
        if self._failed:
            raise self._failed[0]


def with_database(method: Method, given: Mapping[str, Any], database: str) -> Mapping[str, Any]:
    """Return a tree of values with the database that a request needs."""
    field = method.fields.get(DATABASE)
    if field is None or field.type != "string" or DATABASE in given or not database:
        return given
    return {DATABASE: database, **given}


def table_of(given: Mapping[str, Any]) -> str:
    """Return the table that a request names."""
    return str(given["table"]) if isinstance(given.get("table"), str) else ""


def grpcurl(address: Address, method: Method, sent: Iterable[Message]) -> str:
    """Return the call as a line of grpcurl. Raises RowError for one that is too long for a shell."""
    words = ["grpcurl"]
    if not address.secure:
        words.append("-plaintext")
    for option, file in (
        *(("-cacert", address.ca), ("-cert", address.cert), ("-key", address.key)),
        ("-servername", address.name),
    ):
        if file:
            words += [option, shlex.quote(file)]
    if address.token:
        words += ["-H", '"authorization: Bearer $EVERLOG_TOKEN"']
    data, size = [], 0
    for one in sent:
        data.append(
            json_format.MessageToJson(
                one,
                preserving_proto_field_name=True,
                indent=None,
                ensure_ascii=False,
                descriptor_pool=method.input.file.pool,
            )
        )
        size += len(data[-1])
        if size > LINE_BYTES_MAX:
            raise RowError(f"expected requests of at most {LINE_BYTES_MAX // 1000} kB for a line, found more")
    words += ["-d", shlex.quote(" ".join(data)), address.target, shlex.quote(method.path)]
    return " ".join(words)


def command(url: str, method: Method, texts: Mapping[str, Sequence[str]], *, json: str = "") -> str:
    """Return the call as a line of `everlog api`. `url` is without secrets."""
    words = ["everlog", "-u", url, "api", method.service.name, method.name]
    for name, given in texts.items():
        words += [f"--{name.replace('_', '-')}={one}" for one in given]
    if json:
        words += ["--json", json]
    return shlex.join(words)
