"""Calling: raw calls by named callers over a socket, for tests of what they may do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server


class Callers:
    """The callers of a server: the token of `ann` is `token-of-ann`."""

    def __init__(self, channel: grpc.Channel, server: Server) -> None:
        self.channel, self.server = channel, server

    def call(self, who: str, method: Any, request: Any) -> Any:
        """Return the response, or all responses, to a call of `who`."""
        answer = method(request, metadata=(("authorization", f"Bearer token-of-{who}"),), timeout=20)
        return list(answer) if hasattr(answer, "__next__") else answer

    def refused(self, who: str, method: Any, request: Any) -> tuple[grpc.StatusCode, str]:
        """Return status and text of a call that must fail."""
        with pytest.raises(grpc.RpcError) as caught:
            self.call(who, method, request)
        error: Any = caught.value
        return error.code(), str(error.details())


@contextmanager
def callers(db: EmbeddedDatabase, *names: str, **how: Any) -> Iterator[Callers]:
    """Serve a database as `x` to these callers, which have the roles that the log grants."""
    with (
        Server({"x": db}, tokens={name: f"token-of-{name}" for name in names}, **how) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield Callers(channel, server)
