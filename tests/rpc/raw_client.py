"""Raw client: a peer that sends HTTP/2 frame by frame, valid or not, for tests of a server."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

import hpack

from everlog.rpc.http2 import frames as http2
from everlog.rpc.http2.headers import header_block


class RawClient:
    """A connection over which a test sends arbitrary bytes. It sends the preface by default."""

    def __init__(self, address: str, *, greet: bool = True, settings: dict[int, int] | None = None) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        if greet:
            self.send(http2.PREFACE + http2.settings(settings or {}))

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def call(self, stream: int, path: str, body: bytes, **headers: str) -> None:
        """Send one complete request."""
        self.send(self.headers(stream, path, http2.END_HEADERS, **headers))
        self.send(http2.frame(http2.DATA, http2.END_STREAM, stream, http2.message(body)))

    def headers(self, stream: int, path: str, flags: int = http2.END_HEADERS, /, **more: str) -> bytes:
        known = {":method": "POST", ":scheme": "http", ":path": path, "te": "trailers"}
        known |= {"content-type": "application/grpc"} | {
            name.replace("_", "-"): value for name, value in more.items()
        }
        return http2.frame(http2.HEADERS, flags, stream, header_block(known.items()))

    def frames(self, *kinds: int) -> list[tuple[int, int, int, bytes]]:
        """Yield frames up to the first of one of these kinds, which is included."""
        found: list[tuple[int, int, int, bytes]] = []
        while True:
            for one in http2.frames(self._buffer):
                found.append(one)
                if one[0] in kinds:
                    return found
            data = self.socket.recv(1 << 16)
            if not data:
                raise ConnectionResetError("the server closed the connection")
            self._buffer += data

    def next(self, kind: int) -> tuple[int, int, int, bytes]:
        return self.frames(kind)[-1]

    def trailers(self) -> dict[str, str]:
        """Return the status at the end of a call."""
        blocks = []
        while True:
            _, flags, _, payload = self.next(http2.HEADERS)
            blocks.append(payload)
            if flags & http2.END_STREAM:
                decoder = hpack.Decoder()
                headers = [header for block in blocks for header in decoder.decode(block)]
                return {str(name): str(value) for name, value in headers}

    def goaway(self) -> tuple[http2.Code, str]:
        """Return the server's reason for ending the connection, which it must then close."""
        payload = self.next(http2.GOAWAY)[3]
        while self.socket.recv(1 << 16):
            pass
        return http2.Code(int.from_bytes(payload[4:8], "big")), payload[8:].decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
