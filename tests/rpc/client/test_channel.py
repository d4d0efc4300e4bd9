"""Channel: how long calls are repeated, and a network on which each answer takes its time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from everlog.rpc.client.channel import Outage, Patience
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.errors import UnavailableError
from tests.rpc.conftest import TLS

RETRY_S = 0.01
DELAY_S = 0.2  # each way: TCP and TLS need several round trips


def fail_slowly(patience: Patience) -> None:
    for _ in range(20):
        patience.after(UnavailableError("gone"))
        time.sleep(2 * RETRY_S)  # the next attempt


def test_attempts_that_take_longer_than_the_patience_end_as_well() -> None:
    with pytest.raises(UnavailableError, match="gone"):
        fail_slowly(Patience(RETRY_S, threading.Event(), "everlog://x", Outage(), None))


@contextmanager
def far_away(port: int) -> Iterator[int]:
    """Yield a port that leads to another one, over a connection on which everything is late."""

    def carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):  # closed at the end
            while data := source.recv(65_536):
                time.sleep(DELAY_S)
                target.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                one = sockets.enter_context(listening.accept()[0])
                other = sockets.enter_context(socket.create_connection(("127.0.0.1", port)))
                for ends in ((one, other), (other, one)):
                    threading.Thread(target=carry, args=ends, daemon=True).start()

    with ExitStack() as sockets:
        listening = sockets.enter_context(socket.create_server(("127.0.0.1", 0)))
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield int(listening.getsockname()[1])
        listening.shutdown(socket.SHUT_RDWR)
        accepting.join(60)


def test_a_client_reaches_a_server_that_is_far_away(db: EmbeddedDatabase) -> None:
    """A connection whose handshake takes longer than gRPC allows is dropped, and begun again."""
    with (
        Server({"x": db}, tls=TLS) as server,
        far_away(server.port) as port,
        RemoteDatabase(f"everlog://127.0.0.1:{port}/x?ca={TLS.certificate}") as remote,
    ):
        assert remote.uuid == db.uuid


def test_who_disagrees_about_tls_is_told_at_once(db: EmbeddedDatabase) -> None:
    with Server({"x": db}, tls=TLS) as secure, Server({"x": db}) as plain:
        for url, said in (
            (f"everlog+insecure://127.0.0.1:{secure.port}/x", "it requires TLS; use everlog://"),
            (f"everlog://127.0.0.1:{plain.port}/x", r"it does not speak TLS; .*use everlog\+insecure://"),
            (f"everlog://127.0.0.1:{secure.port}/x", r"not trusted; pass its authority as \?ca=FILE"),
        ):
            with pytest.raises(UnavailableError, match=said):
                RemoteDatabase(url, connect_s=3600)


def test_who_agreed_about_tls_waits_for_a_server_that_agrees_again(db: EmbeddedDatabase) -> None:
    """As behind a proxy that is being replaced."""
    with (
        Server({"x": db}) as server,
        RemoteDatabase(f"everlog+insecure://127.0.0.1:{server.port}/x") as remote,
    ):
        address = f"127.0.0.1:{server.port}"
        server.stop()
        with Server({"x": db}, address, tls=TLS):
            outage = remote._channel._outage  # noqa: SLF001
            asks = threading.Thread(target=remote.refresh_schema)
            asks.start()
            while outage._since is None:  # noqa: SLF001  its first attempt failed
                time.sleep(0.01)
        with Server({"x": db}, address):
            asks.join(60)
            assert not asks.is_alive()
            assert remote.refresh_schema() == remote.schema
