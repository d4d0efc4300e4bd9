"""Hosting: the databases that a server has, and the threads in which it calls them.

    gRPC's event loop ──run──▶ a few threads ──▶ store (blocks: disk, group commit)

Readers and writers have threads of their own, so that a reader never waits behind those who wait
for the disk. Writers are more: all that wait together share one fsync.

Invariants
  (1) the event loop never calls what may block.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from everlog.store.database import Database
from everlog.store.errors import OpenError

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

    async def told(self, fn: Callable[[Callable[[T], None]], None]) -> AsyncIterator[T]:
        """Runs what takes long in a writer's thread, and yields all that it tells meanwhile."""
        loop, told = asyncio.get_running_loop(), asyncio.Queue[T | None]()

        def tell(item: T | None) -> None:
            loop.call_soon_threadsafe(told.put_nowait, item)

        def run() -> None:
            try:
                fn(tell)
            finally:
                tell(None)

        done = loop.run_in_executor(self._writers, run)
        while (item := await told.get()) is not None:
            yield item
        await done

    def begin(self, fn: Callable[[], None]) -> None:
        """Begins what takes long in a writer's thread; closing waits for its end."""
        self._writers.submit(fn)

    def close(self) -> None:
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._writers.shutdown(wait=True, cancel_futures=True)
