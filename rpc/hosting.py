"""Hosting: the databases that a server has, and the threads in which it calls them.

    gRPC's event loop ──run──▶ a few threads ──▶ store (blocks: disk, group commit)

Readers and writers have threads of their own, so that a reader never waits behind those who wait
for the disk. Writers are more: all that wait together share one fsync.

Invariants
  (1) the event loop never calls what may block.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from everlog.store.database import Database
from everlog.store.errors import ClosedError, OpenError

READERS = 4
WRITERS = 16

T = TypeVar("T")


class Hosting:
    """Databases by name. They are opened and closed by whoever made the server."""

    def __init__(self, databases: Mapping[str, Database]) -> None:
        self.databases = dict(databases)
        self.subscribers = dict.fromkeys(self.databases, 0)
        self._readers = ThreadPoolExecutor(READERS, "everlog-read")
        self._writers = ThreadPoolExecutor(WRITERS, "everlog-write")

    def database(self, name: str) -> Database:
        """Raises OpenError for a name that this server does not host."""
        try:
            return self.databases[name]
        except KeyError:
            known = ", ".join(sorted(self.databases)) or "none"
            raise OpenError(
                f"this server hosts no database {name!r}; it hosts: {known}", database=name
            ) from None

    async def read(self, fn: Callable[..., T], *args: Any) -> T:
        """Runs what may wait for the disk to read."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, fn, *args)

    async def write(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Runs what may wait for the disk to write."""
        call = functools.partial(fn, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._writers, call)

    async def told(
        self, fn: Callable[[Callable[[T], None]], None], *, goes_on: bool = True
    ) -> AsyncIterator[T]:
        """Runs what takes long in a writer's thread, and yields all that it tells meanwhile.

        Without its client it `goes_on`, or ends when it next has something to tell.
        """
        loop, told, left = asyncio.get_running_loop(), asyncio.Queue[T | None](), threading.Event()

        def tell(item: T | None) -> None:
            if not left.is_set():
                loop.call_soon_threadsafe(told.put_nowait, item)
            elif not goes_on:
                raise ClosedError("nobody waits for this any more")

        def run() -> None:
            try:
                fn(tell)
            finally:
                with contextlib.suppress(ClosedError, RuntimeError):  # nobody waits; the loop is closed
                    tell(None)

        done = loop.run_in_executor(self._writers, run)
        try:
            while (item := await told.get()) is not None:
                yield item
            await done
        finally:
            left.set()
            done.add_done_callback(lambda it: it.cancelled() or it.exception())  # or asyncio complains

    def begin(self, fn: Callable[[], None]) -> asyncio.Future[None]:
        """Begins what takes long in a writer's thread; closing waits for its end."""
        return asyncio.get_running_loop().run_in_executor(self._writers, fn)

    def close(self) -> None:
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._writers.shutdown(wait=True, cancel_futures=True)
