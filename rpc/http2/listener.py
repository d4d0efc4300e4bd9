"""Listener: the sockets on which a server accepts connections, and their number.

    accept ─▶ connection ─▶ protocol
       │
       └─ too many, or no descriptor left ─▶ pause: further peers wait in the kernel's queue

Invariants
  (1) connections never use the descriptors that the databases need: their number is capped below the limit
      of the process, which is raised to what the system allows;
  (2) a full listener logs at most one line a minute, however many peers connect;
  (3) at most HANDSHAKES_MAX TLS handshakes run at once. Further ones wait, and one that takes longer than
      GIVES_WAY_S ends when another waits: stalled handshakes cost neither memory nor the time of others;
  (4) only a proxy that is named says where its clients are.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import AsyncIterator, Callable, Iterable, Sized
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from everlog.rpc.address import host_port
from everlog.rpc.http2 import frames, limits, proxy
from everlog.store.errors import OpenError
from everlog.store.program_log import About, about

BACKLOG = 1024
PAUSE_S = 0.1
SAY_EVERY_S = 60.0
HANDSHAKE_BUFFER_BYTES, TLS_BUFFER_BYTES = 512, 64 << 10
RECORD_HEADER_BYTES, RECORD_BYTES_MAX = 5, 17 << 10
HANDSHAKE = b"\x16"  # type of the first record
PLAIN = "expected TLS: this server accepts no connections without it"
HANDSHAKES_MAX, GIVES_WAY_S = 400, 1.0  # OpenSSL keeps 44 KiB for each
FILES_MAX = 65_536  # highest limit that is requested
RESERVED = 2048  # descriptors for databases (each opens up to 512 files), the console, logs and own clients
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

logger = logging.getLogger("everlog")


class Listener:
    """Accepts connections on HOST:PORT, up to `connections_max` in `connections`.

    `protocol` makes the protocol of a connection; it gets the address of a client of a proxy, as HOST:PORT,
    and an empty text for other connections. `proxied`: whether a host is a proxy, whose connections may begin
    with the header of the PROXY protocol. `greeting_s`: the time for this header, and for the TLS handshake.
    `sockets`: listen already, and take the place of HOST:PORT. Raises OpenError if the address is not
    available.
    """

    def __init__(
        self,
        host: str,
        port: int,
        protocol: Callable[[str], asyncio.Protocol],
        connections: Sized,
        *,
        tls: ssl.SSLContext | None,
        greeting_s: float,
        proxied: Callable[[str], bool] = lambda _: False,
        on_full: Callable[[], None] = lambda: None,
        sockets: Iterable[socket.socket] = (),
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._protocol, self._connections = protocol, connections
        self._tls, self._greeting_s, self._proxied = tls, greeting_s, proxied
        self._greeting: set[asyncio.Task[None]] = set()
        self._handshakes: dict[asyncio.Task[Any], float] = {}  # when each began, the oldest first
        self._next = asyncio.Lock()  # of the handshake that begins next
        self.connections_max = _connections_max()
        self._said = dict[str, float]()  # when each event was logged
        self._on_full = on_full
        self._sockets = list(sockets) or _listening(host, port)
        self.port: int = self._sockets[0].getsockname()[1]
        for one in self._sockets:
            self._listen(one)

    def close(self) -> None:
        """Accept no more connections. Open ones stay."""
        for one in self._sockets:
            self._loop.remove_reader(one)
            one.close()
        self._sockets = []

    def _listen(self, listening: socket.socket) -> None:
        if listening in self._sockets:  # not closed meanwhile
            self._loop.add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        if len(self._connections) + len(self._greeting) >= self.connections_max:
            self._pause(listening, f"{self.connections_max} connections are open")
            return
        try:
            peer, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._pause(listening, str(error.strerror))
            return
        peer.setblocking(False)
        task = self._loop.create_task(self._greet(peer))
        self._greeting.add(task)
        task.add_done_callback(self._greeting.discard)

    async def _greet(self, peer: socket.socket) -> None:
        transport: asyncio.BaseTransport | None = None
        try:
            async with asyncio.timeout(self._greeting_s):
                client = await self._client(peer) if self._proxied(_host(peer)) else ""
                if self._tls is None:
                    await self._loop.connect_accepted_socket(lambda: self._protocol(client), peer)
                    return
                await self._hello(peer)
                async with self._handshake():
                    shaken: asyncio.Future[None] = self._loop.create_future()
                    protocol = _Tls(self._loop, self._protocol(client), self._tls, shaken, server_side=True)
                    transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, peer)
                    await shaken
                    protocol.grow()
        except _PlainError:
            await self._refuse(peer, PLAIN)
        except proxy.ProxyError as error:
            self._say(f"a proxy, {_host(peer)}, was refused: {error}", about("proxy.refused"))
            await self._refuse(peer, str(error))
        except (OSError, ssl.SSLError, TimeoutError):
            _close(peer, transport)  # a port scanner, or a client that does not trust the certificate
        except asyncio.CancelledError:  # the server stops, or another handshake waits
            _close(peer, transport)
            raise

    @asynccontextmanager
    async def _handshake(self) -> AsyncIterator[None]:
        """Wait for a place among the handshakes that run, and keep it."""
        task = asyncio.current_task()
        assert task is not None
        async with self._next:
            while len(self._handshakes) >= HANDSHAKES_MAX:
                oldest, began = next(iter(self._handshakes.items()))
                left = began + GIVES_WAY_S - self._loop.time()
                if left > 0:
                    await asyncio.wait([oldest], timeout=left)
                else:
                    del self._handshakes[oldest]
                    oldest.cancel()
            self._handshakes[task] = self._loop.time()
        try:
            yield
        finally:
            self._handshakes.pop(task, None)

    async def _client(self, peer: socket.socket) -> str:
        """Take the header of the PROXY protocol, and return the address of the client in it; empty: there is
        none. What follows the header stays in the kernel."""
        head = b""
        while (wanted := proxy.wanted(head)) > len(head):
            await self._readable(peer, wanted)
            more = peer.recv(max(wanted, proxy.LINE_MAX), socket.MSG_PEEK)
            if len(more) < wanted:
                raise ConnectionResetError
            head = more
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        client = proxy.client_of(head[:wanted]) if wanted else ""
        peer.recv(wanted)
        return client

    async def _readable(self, peer: socket.socket, size: int) -> None:
        """Wait until `size` bytes can be read, or the peer has ended the connection."""
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
        ready = self._loop.create_future()
        self._loop.add_reader(peer, _set, ready)
        try:
            await ready
        finally:
            self._loop.remove_reader(peer)

    async def _hello(self, peer: socket.socket) -> None:
        """Wait for the first TLS record, or for the end of the connection. The kernel keeps the record: peers
        that do not send it cost no memory of TLS."""
        wanted = 0
        whole = RECORD_HEADER_BYTES
        while wanted < whole <= RECORD_BYTES_MAX:
            wanted = whole
            await self._readable(peer, wanted)
            head = peer.recv(RECORD_HEADER_BYTES, socket.MSG_PEEK)
            if head[:1] not in (b"", HANDSHAKE):
                raise _PlainError
            if len(head) == RECORD_HEADER_BYTES:
                whole += int.from_bytes(head[3:]) if wanted == RECORD_HEADER_BYTES else 0
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    async def _refuse(self, peer: socket.socket, why: str) -> None:
        """Let a peer read what is expected here, and close."""
        with peer, contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(limits.LINGER_S):
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
                left, part = limits.LINGER_BYTES, await self._loop.sock_recv(peer, RECORD_BYTES_MAX)
                if why is PLAIN and proxy.begins(part):
                    why = proxy.UNNAMED
                await self._loop.sock_sendall(peer, frames.refusal(part, why))
                peer.shutdown(socket.SHUT_WR)
                while part and left > 0:
                    part = await self._loop.sock_recv(peer, RECORD_BYTES_MAX)
                    left -= len(part)

    def _pause(self, listening: socket.socket, why: str) -> None:
        self._on_full()
        self._loop.remove_reader(listening)
        self._loop.call_later(PAUSE_S, partial(self._listen, listening))
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._say(
            f"new connections wait: {why}; the limit of open files of this process is {files} (ulimit -n)",
            about("connections.full", connections=len(self._connections)),
        )

    def _say(self, text: str, extra: dict[str, About]) -> None:
        """Log an event at most once in SAY_EVERY_S."""
        event, now = extra["everlog"].event, self._loop.time()
        if now - self._said.get(event, -SAY_EVERY_S) >= SAY_EVERY_S:
            self._said[event] = now
            logger.warning("%s", text, extra=extra)


class _PlainError(Exception):
    """Raised when a peer does not begin with TLS."""


class _Tls(SSLProtocol):
    """TLS with a smaller buffer: asyncio's has 256 KiB for each connection, and fills it with zeros."""

    max_size = HANDSHAKE_BUFFER_BYTES

    def grow(self) -> None:
        """Read more at once from now on."""
        vars(self)["max_size"] = TLS_BUFFER_BYTES


def _close(peer: socket.socket, transport: Any) -> None:
    """Close a socket, by its transport if it has one: the event loop watches it."""
    if transport is None:
        peer.close()
    else:
        transport.abort()


def _host(peer: socket.socket) -> str:
    """Return the address of a peer; empty: it is gone."""
    try:
        found = peer.getpeername()
    except OSError:
        return ""
    return str(found[0]) if isinstance(found, tuple) else ""


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _listening(host: str, port: int) -> list[socket.socket]:
    """Return sockets on all addresses of the host, on one port."""
    found: list[socket.socket] = []
    try:
        for family, kind, proto, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            try:
                one = socket.socket(family, kind, proto)
            except OSError:
                continue  # a machine without IPv6
            port = found[0].getsockname()[1] if found else port
            found.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.setblocking(False)
            one.bind((address[0], port, *address[2:]))
            one.listen(BACKLOG)
        if not found:
            raise OSError(errno.EAFNOSUPPORT, "no address of this host can be used")
    except OSError as error:
        for one in found:
            one.close()
        where = host_port(host, port)
        raise OpenError(
            f"cannot serve on {where}: {error.strerror or error}; choose another address", address=where
        ) from None
    return found


def _connections_max() -> int:
    """Return how many connections fit, after raising the limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if 0 <= soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # macOS has a second limit
            logger.info("the limit of open files stays at %d", soft, extra=about("files.limit", files=soft))
    return max(files_max() // 2, files_max() - RESERVED)


def files_max() -> int:
    """Return how many files this process may open, at most FILES_MAX."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return FILES_MAX if soft == resource.RLIM_INFINITY else min(soft, FILES_MAX)
