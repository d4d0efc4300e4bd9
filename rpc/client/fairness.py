"""Fairness: after many conflicts, `run` gets a lease from the server, exclusive among all of its clients.

    run, 4th try ─▶ Turn {tables that the last try read} ─▶ lease ─▶ the try, its commits with the lease's id
                                                          └ none, or an old server: like other tries

See server/leases.py. The lease belongs to the thread: other commits of `fn` in that thread use it too.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import grpc

from everlog.proto import store_pb2, store_pb2_grpc
from everlog.rpc.client import deadline
from everlog.rpc.client.channel import CALL_S, Channel
from everlog.rpc.client.transaction import RemoteTransaction
from everlog.store.tx.transaction import Fair, Transaction


class RemoteFair(Fair):
    """Lets one `run` proceed alone: on its server, or within this database object if the server has no
    leases."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._mine = threading.local()
        self._known = True  # the server knows turns

    @property
    def held(self) -> bytes:
        """Id of this thread's lease; empty if it has none."""
        return getattr(self._mine, "id", b"")

    @contextlib.contextmanager
    def turn(self, *, alone: bool, last: Transaction | None = None) -> Iterator[None]:
        tables = last.tables_read if alone and not self.held and isinstance(last, RemoteTransaction) else []
        if not self._known:
            with super().turn(alone=alone):
                yield
        elif not tables:
            yield
        else:
            with self._lease(tables):
                yield

    @contextlib.contextmanager
    def _lease(self, tables: list[str]) -> Iterator[None]:
        """Make one try with a lease, or without one if there is none: the try itself reports errors."""
        request = store_pb2.TurnRequest(database=self._channel.address.database, tables=tables)
        until, timeout_s = deadline.until(), CALL_S
        if until is not None:
            timeout_s = min(timeout_s, max(0.0, until - time.monotonic()))
        stub = store_pb2_grpc.StoreStub(self._channel.grpc)
        call = self._channel.started(
            lambda: stub.Turn(request, timeout=timeout_s, metadata=self._channel.metadata)
        )
        try:
            try:
                self._mine.id = next(call).turn
            except StopIteration:
                pass
            except grpc.RpcError as error:
                self._known = error.code() != grpc.StatusCode.UNIMPLEMENTED
            yield
        finally:
            self._mine.id = b""
            call.cancel()
