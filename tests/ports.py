"""Ports that a test names before it listens on them, or again after a server has ended."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved_port() -> Iterator[int]:
    """Yield a port of 127.0.0.1 on which servers of the block may listen, in sequence.

    It is bound meanwhile, so no other program receives it, and not listened on, so connections are refused
    while there is no server.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])
