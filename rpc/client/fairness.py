"""Remote fair: `run` on a server goes alone after many conflicts, among all clients of that server.

    run, 4th try ─▶ Turn {tables that the last try read} ─▶ lease ─▶ the try, its commits with the lease's id
                                                          └ none, or an old server: as other tries

See server/leases.py. The lease belongs to the thread: what `fn` commits beside its transaction goes through.
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
    """Lets one `run` go alone, on its server. With a server that knows no turns, in this database object."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._mine = threading.local()
        self._known = True  # the server knows turns

    @property
    def held(self) -> bytes:
        """Id of the lease that this thread has; empty: none."""
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
        """One try with a lease, or without where there is none: the try itself says what is wrong."""
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
