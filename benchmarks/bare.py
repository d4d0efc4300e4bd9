"""Bare: the raw limit for benches over the network: gRPC and RocksDB alone.

    Tail     an empty message, then records as they are committed, joined per message
    Replay   a message of 1,000 joined records, the requested number of times
    Commit   one commit, on disk before the response

It uses `grpc.aio` and bytes without serialisers. A subscriber at the tail receives all new records as soon as
its previous message is written.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from benchmarks.raw_items import Puts, commit, open_raw, write
from benchmarks.rows import row

REPLAYED = 1000

_SIZES = struct.Struct("<II")


def pack(puts: Puts) -> bytes:
    return b"".join(_SIZES.pack(len(key), len(value)) + key + value for key, value in puts)


def unpack(data: bytes) -> Puts:
    puts, at = [], 0
    while at < len(data):
        key_size, value_size = _SIZES.unpack_from(data, at)
        middle = at + _SIZES.size + key_size
        puts.append((data[at + _SIZES.size : middle], data[middle : middle + value_size]))
        at = middle + value_size
    return puts


class BareServer:
    """A server on its own thread, as everlog's. Any thread may commit."""

    def __init__(self, folder: Path) -> None:
        self.port = 0
        self._db = open_raw(folder)
        self._records: list[bytes] = []
        self._loop = asyncio.new_event_loop()
        self._moved = asyncio.Event()
        self._stopping = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def commit(self, puts: Puts) -> None:
        """Write one commit, wait for the disk, and notify followers."""
        write(self._db, puts)
        self._db.flush_wal(True)
        self._loop.call_soon_threadsafe(self._tell, puts[0][1])

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._loop.close()
        self._db.close()

    def _tell(self, record: bytes) -> None:
        self._records.append(record)
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def _serve(self) -> None:
        server = grpc.aio.server()
        methods: dict[str, Any] = {
            "Tail": grpc.unary_stream_rpc_method_handler(self._tail),
            "Replay": grpc.unary_stream_rpc_method_handler(self._replay),
            "Commit": grpc.unary_unary_rpc_method_handler(self._commit),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare.Bare", methods),))
        self.port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._ready.set()
        await self._stopping.wait()
        await server.stop(0)

    async def _tail(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        records, at = self._records, len(self._records)
        yield b""
        while True:
            head = len(records)
            if at == head:
                await self._moved.wait()
            else:
                yield records[at] if head == at + 1 else b"".join(records[at:head])
                at = head

    async def _replay(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        joined = b"".join(commit(seq, [row(seq)])[0][1] for seq in range(1, REPLAYED + 1))
        for _ in range(int(request)):
            yield joined

    async def _commit(self, request: bytes, context: Any) -> bytes:
        await self._loop.run_in_executor(None, self.commit, unpack(request))
        return b""
