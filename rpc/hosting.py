"""Hosting: the databases that a server has, and the threads in which it calls them.

    gRPC's event loop ──run──▶ a few threads ──▶ store (blocks: disk, group commit)

    read    what takes a moment          write   what waits for the disk, and shares its fsync
    survey  what reads a whole table, or all of them: hashes, counts, checks, plans

Each has threads of its own, so that a short read never waits behind a long one, nor behind those who
wait for the disk.

Invariants
  (1) the event loop never calls what may block;
  (2) once the server stops, what can be asked for again ends soon.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from everlog.rpc.callers import Callers
from everlog.rpc.telling import Telling
from everlog.store.database import Database
from everlog.store.errors import ClosedError, OpenError

READERS = 4
WRITERS = 16
SURVEYORS = 2

T = TypeVar("T")


class Hosting:
    """Databases by name. They are opened and closed by whoever made the server."""

    def __init__(self, databases: Mapping[str, Database], callers: Callers | None = None) -> None:
        self.databases = dict(databases)
        self.callers = callers or Callers()
        self.warnings: list[str] = []  # what operators of the server must do
        self.subscribers = dict.fromkeys(self.databases, 0)
        self._stopped = threading.Event()
        self._readers = ThreadPoolExecutor(READERS, "everlog-read")
        self._writers = ThreadPoolExecutor(WRITERS, "everlog-write")
        self._surveyors = ThreadPoolExecutor(SURVEYORS, "everlog-survey")

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
        """Runs what may wait for the disk to read, and takes a moment."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, fn, *args)

    async def survey(self, fn: Callable[..., T], *args: Any) -> T:
        """Runs what reads much. It minds `check_going`."""
        return await asyncio.get_running_loop().run_in_executor(self._surveyors, fn, *args)

    async def write(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Runs what may wait for the disk to write."""
        call = functools.partial(fn, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._writers, call)

    async def told(
        self, fn: Callable[[Telling[T]], None], *, goes_on: bool = True, stops: bool = False
    ) -> AsyncIterator[T]:
        """Runs what takes long in a thread, and yields all that it tells meanwhile.

        Without its client it `goes_on`, or ends when it next has something to tell. `stops`: it
        ends with the server, the next time that it tells how far it is.
        """
        never = threading.Event()
        telling = Telling[T](self._stopped if stops else never, goes_on=goes_on)

        def run() -> None:
            try:
                fn(telling)
            finally:
                telling.end()

        pool = self._writers if goes_on else self._surveyors
        done = asyncio.get_running_loop().run_in_executor(pool, run)
        try:
            async for item in telling:
                yield item
            await done
        finally:
            telling.leave()
            done.add_done_callback(lambda it: it.cancelled() or it.exception())  # or asyncio complains

    def begin(self, fn: Callable[[], None]) -> asyncio.Future[None]:
        """Begins what takes long in a writer's thread; closing waits for its end."""
        return asyncio.get_running_loop().run_in_executor(self._writers, fn)

    def check_going(self, *_: object) -> None:
        """Raises ClosedError once the server stops: for what can be asked for again."""
        if self._stopped.is_set():
            raise ClosedError("the server stops, and what was asked for with it; ask again")

    def stop(self) -> None:
        """What can be asked for again ends soon."""
        self._stopped.set()

    def close(self) -> None:
        self.stop()
        for pool in (self._readers, self._surveyors, self._writers):
            pool.shutdown(wait=True, cancel_futures=True)
