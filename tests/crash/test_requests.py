"""Untrusted requests: every method of a live server, with random messages and with damaged bytes.

Methods are found in the contract, so a new one is tested automatically.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor

import everlog.proto
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from tests.crash.test_kill_creating import campaign
from tests.store.models import ITEMS, TABLES, airport, declare, items

FD = FieldDescriptor
REQUESTS = 150
ANSWERS = 3  # messages of a stream that are read
PATIENCE_S = 60.0
DEEP = 4
WORDS = (
    "",
    "x",
    "items",
    "airports",
    "seats",
    "by_city",
    "by_icao",
    "JFK",
    "\0",
    "ü",
    "a" * 300,
    "2026-01-05",
)
RAW = (b"", b"\0", bytes(8), b"\xff" * 16, b"JFK\0\x01", b"\x80" * 20, bytes(7) + b"\x01")
NUMBERS = (0, 1, 2, 3, 7, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, -1, -(2**31), -(2**63))
FLOATS = (0.0, -1.0, 1e300, float("nan"), float("inf"))


def methods() -> Iterator[MethodDescriptor]:
    for module in pkgutil.iter_modules(everlog.proto.__path__):
        if module.name.endswith("_pb2"):
            services = importlib.import_module(f"everlog.proto.{module.name}").DESCRIPTOR.services_by_name
            for service in services.values():
                yield from service.methods


METHODS = {method.full_name: method for method in methods()}


def fill(message: Any, chance: random.Random, depth: int = 0) -> Any:
    """Set some fields of a message, and of its messages."""
    for field in message.DESCRIPTOR.fields:
        if field.name == "database" and field.type == FD.TYPE_STRING:
            message.database = "x" if chance.random() < 0.97 else chance.choice(WORDS)
        elif chance.random() < 0.45:
            for _ in range(chance.randrange(1, 4) if field.is_repeated else 1):
                _set(message, field, chance, depth)
    return message


def _set(message: Any, field: Any, chance: random.Random, depth: int) -> None:
    name = field.name
    if field.type == FD.TYPE_MESSAGE:
        if depth < DEEP and not field.message_type.GetOptions().map_entry:
            inner = getattr(message, name)
            fill(inner.add() if field.is_repeated else inner, chance, depth + 1)
            if not field.is_repeated:
                inner.SetInParent()
        return
    try:
        value = _value(field, chance)
        getattr(message, name).append(value) if field.is_repeated else setattr(message, name, value)
    except ValueError:
        pass  # a number that is too large for this field


def _value(field: Any, chance: random.Random) -> Any:
    match field.type:
        case FD.TYPE_STRING:
            return chance.choice(WORDS)
        case FD.TYPE_BYTES:
            return chance.choice((*RAW, chance.randbytes(chance.randrange(30))))
        case FD.TYPE_BOOL:
            return chance.random() < 0.5
        case FD.TYPE_FLOAT | FD.TYPE_DOUBLE:
            return chance.choice(FLOATS)
        case FD.TYPE_ENUM:
            return chance.choice((0, 1, 2, 3, 99))
        case _:
            return chance.choice(NUMBERS[: 6 if chance.random() < 0.6 else None])


def damaged(raw: bytes, chance: random.Random) -> bytes:
    out = bytearray(raw)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(out) + 1)
        if chance.random() < 0.5 and at < len(out):
            out[at] ^= 1 << chance.randrange(8)
        else:
            out[at : at + chance.randrange(4)] = chance.randbytes(chance.randrange(4))
    return bytes(out)


def ask(channel: grpc.Channel, method: MethodDescriptor, requests: list[bytes]) -> str:
    """Call a method, read some responses, and return the status."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    stub: Any = channel.stream_stream(path)
    call = stub(iter(requests), timeout=PATIENCE_S)
    try:
        for _, _ in zip(range(ANSWERS if method.name != "Subscribe" else 1), call, strict=False):
            pass
    except grpc.RpcError as error:
        status: Any = error
        assert "a fault in the server" not in status.details(), (path, requests, status.details())
        assert status.code() != grpc.StatusCode.DEADLINE_EXCEEDED, (path, requests, "hangs")
        return str(status.code())
    finally:
        call.cancel()
    return "OK"


@pytest.mark.timeout(0)
def test_whatever_is_asked_the_answer_is_everlogs_and_the_database_whole(tmp_path: Path) -> None:
    for turn in campaign(1):
        seed = int(os.environ.get("EVERLOG_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
        print(f"EVERLOG_SEED={seed}")  # noqa: T201  shown where it fails
        chance = random.Random(seed)
        with EmbeddedDatabase(tmp_path / str(turn)) as db:
            declare(db, *TABLES)
            db.load(ITEMS, items(0, 50))
            db.put(TABLES[0], airport("JFK", "New York"))
            with Server({"x": db}) as server, grpc.insecure_channel(server.address) as channel:
                for _ in range(REQUESTS):
                    method = METHODS[chance.choice(list(METHODS))]
                    model = message_factory.GetMessageClass(method.input_type)
                    many = chance.randrange(1, 4) if method.client_streaming else 1
                    requests = [fill(model(), chance).SerializeToString() for _ in range(many)]
                    if chance.random() < 0.25:
                        requests[-1] = damaged(requests[-1], chance)
                    ask(channel, method, requests)
                describe = METHODS["everlog.v1.Store.Describe"]
                assert ask(channel, describe, [b"\x0a\x01x"]) == "OK"
            assert list(db.admin.check()) == []
