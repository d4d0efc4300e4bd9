"""Plain server: Calls over HTTP/2 without a database, in a thread, for tests of the protocol alone."""

from __future__ import annotations

import asyncio
import gc
import ssl
import sys
import threading
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

from everlog.rpc.http2.connection import Connection
from everlog.rpc.http2.grpc import Calls
from everlog.rpc.http2.limits import CHECK_S, Turns
from everlog.rpc.http2.listener import Listener

ECHO = "/plain.Plain/Echo"
COLLECT = "/plain.Plain/Collect"
ANSWER = "/h2spec.Spec/Answer"
STALL = "/plain.Plain/Stall"
MANY = "/plain.Plain/Many"
OPEN = "/grpc.health.v1.Health/Check"


class Method:
    """A method as generated code would register it; messages are bytes."""

    def __init__(self, run: Any, *, requests: bool = False, responses: bool = False) -> None:
        self.request_streaming, self.response_streaming = requests, responses
        self.unary_unary = self.stream_unary = self.unary_stream = self.stream_stream = run

    @staticmethod
    def request_deserializer(data: bytes) -> Any:
        return Message(data)

    @staticmethod
    def response_serializer(data: Any) -> bytes:
        return bytes(data)


class Message(bytes):
    """A request that has no fields."""

    class DESCRIPTOR:
        full_name = "plain.Bytes"
        fields = ()


async def _echo(request: bytes, _: Any) -> bytes:
    return request


async def _collect(requests: AsyncIterator[bytes], _: Any) -> bytes:
    """Answer with the sizes of all messages."""
    sizes = [len(one) async for one in requests]
    return ",".join(map(str, sizes)).encode()


async def _answer(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
    """Answer at once, and read to the end."""
    yield b"an answer"
    async for _ in requests:
        pass


async def _stall(_: AsyncIterator[bytes], __: Any) -> bytes:
    """Never read, never answer."""
    await asyncio.Event().wait()
    return b""


async def _many(request: bytes, _: Any) -> AsyncIterator[bytes]:
    """Answer with as many messages as the request says."""
    for number in range(int(request)):
        yield b"%d" % number


class PlainServer:
    """Serves Echo, Collect, Many, Answer and Stall on a free port."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, observer: Any = None) -> None:
        self._tls, self._observer = tls, observer
        self.connections: set[Connection] = set()
        self.errors: list[dict[str, Any]] = []  # of the event loop
        self.loop: Any = None
        self.port = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def _serve(self) -> None:
        self.loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        calls = Calls(self._observer)
        calls.add_registered_method_handlers(
            "plain.Plain",
            {
                "Echo": Method(_echo),
                "Collect": Method(_collect, requests=True),
                "Stall": Method(_stall, requests=True),
                "Many": Method(_many, responses=True),
            },
        )
        calls.add_registered_method_handlers(
            "h2spec.Spec", {"Answer": Method(_answer, requests=True, responses=True)}
        )
        calls.add_registered_method_handlers("grpc.health.v1.Health", {"Check": Method(_echo)})
        turns = Turns()
        listener = Listener(
            "127.0.0.1",
            0,
            lambda client: Connection(calls.answer, self.connections, turns, client),
            self.connections,
            tls=self._tls,
            greeting_s=CHECK_S,
        )
        self.port = listener.port
        self._ready.set()
        await self._stop.wait()
        listener.close()
        for one in list(self.connections):
            one.abort()
        await asyncio.sleep(0)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        assert not self.errors, self.errors


def main() -> None:
    """Serve until standard input ends; print the port."""
    with PlainServer() as server:
        gc.collect()
        gc.freeze()  # as `everlog serve`
        print(server.port, flush=True)  # noqa: T201  for the parent process
        sys.stdin.read()


if __name__ == "__main__":
    main()
