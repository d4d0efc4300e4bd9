"""Leases: short exclusive use of some tables for a caller whose transaction met many conflicts.

    Turn ─▶ queue ─▶ running commits to these tables end ─▶ lease, LEASE_S at most ─▶ pause, as long
                                                              │
                          other commits to these tables wait ┘ then proceed

A lease delays commits and never refuses them; log and validation do not know it. It ends with its call, so a
client that is gone has none.

Invariants
  (1) a database has one lease at a time;
  (2) a commit waits for one lease at most, and no longer than LEASE_S;
  (3) after each lease is a pause as long as the lease: a caller that requests turns without end takes at most
      half of the time of these tables.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator

from everlog.rpc.http2.grpc import running

LEASE_S = 1.0
WAIT_S = 10.0  # for a turn; then the caller continues without a lease
WAITING_MAX = 256  # waiting callers of one database


class Lease:
    """A lease on tables, by name. Only its holder knows `id`."""

    def __init__(self, tables: Iterable[str]) -> None:
        self.tables = frozenset(tables)
        self.holder = running.get()
        self.id = secrets.token_bytes(16)
        self.began = 0.0  # a monotonic time
        self.over = asyncio.Event()


@contextlib.contextmanager
def _waiting(lease: Lease | None) -> Iterator[None]:
    """Note in the running call that it waits for a lease."""
    call = running.get()
    if call is None:
        yield
        return
    call.waits = lease or True
    try:
        yield
    finally:
        call.waits = None


class Leases:
    """The leases of one database. Use it in the event loop."""

    def __init__(self, on_limit: Callable[[str], None] = lambda _: None) -> None:
        """`on_limit` is called for each caller that gets no lease because too many wait."""
        self._on_limit = on_limit
        self._one = asyncio.Lock()  # first come, first served
        self._waiting = 0
        self._lease: Lease | None = None
        self._next_at = 0.0  # a monotonic time
        self._running = dict[object, tuple[frozenset[str], asyncio.Event]]()

    @property
    def holder(self) -> int:
        """The id of the call that has the lease; 0: none."""
        lease = self._lease
        return lease.holder.id if lease is not None and lease.holder is not None else 0

    async def turn(self, tables: Iterable[str]) -> AsyncGenerator[bytes, None]:
        """Yield the id of the lease when it begins, and return when it is over. Yield nothing if too many
        wait, or for too long. Closing the iterator ends the lease."""
        if self._waiting >= WAITING_MAX:
            self._on_limit("leases")
            return
        self._waiting += 1
        try:
            with _waiting(self._lease):
                async with asyncio.timeout(WAIT_S):
                    await self._one.acquire()
        except TimeoutError:
            return
        finally:
            self._waiting -= 1
        lease = Lease(tables)
        try:
            await asyncio.sleep(self._next_at - time.monotonic())
            self._lease, lease.began = lease, time.monotonic()
            asyncio.get_running_loop().call_later(
                LEASE_S, self._end, lease
            )  # even if the client stops reading
            for written, ended in list(self._running.values()):
                if written & lease.tables:
                    await ended.wait()
            if not lease.over.is_set():
                yield lease.id
                await lease.over.wait()
        finally:
            self._end(lease)

    def _end(self, lease: Lease) -> None:
        if not lease.over.is_set():
            lease.over.set()
            self._lease = None
            now = time.monotonic()
            self._next_at = now + (now - (lease.began or now))
            self._one.release()

    @contextlib.asynccontextmanager
    async def commit(self, tables: Iterable[str], turn: bytes) -> AsyncIterator[None]:
        """Enter a commit to these tables: it waits while another caller has a lease on one of them."""
        written, lease = frozenset(tables), self._lease
        if lease is not None and lease.id != turn and lease.tables & written:
            with _waiting(lease):
                await lease.over.wait()
        me, ended = object(), asyncio.Event()
        self._running[me] = written, ended
        try:
            yield
        finally:
            del self._running[me]
            ended.set()
