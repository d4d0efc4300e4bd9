"""Hosting: the databases that a server has, and the threads in which it calls them.

    gRPC's event loop ──run──▶ a few threads ──▶ store (blocks: disk, group commit)

    read    what takes a moment          write   what waits for the disk, and shares its fsync
    survey  what reads a whole table, or all of them: hashes, counts, checks, plans

Each has threads of its own, so that a short read never waits behind a long one, nor behind those who
wait for the disk.

Invariants
  (1) the event loop never calls what may block;
  (2) once the server stops, what can be asked for again ends soon.

Telling: what a thread that works tells the client who asked, and no more of it than can wait.

    thread ─ tell ─▶ at most MOST wait ─▶ event loop ─▶ client, as fast as it takes them

What passes (progress) is left out while a client does not keep up. What counts is kept: of work that
goes on without its client there is little of it; else the thread waits for the client, and gives up
after STALL_S.

Invariants
  (1) what waits for a client is bounded, however slow it is.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from everlog.rpc.server.auth import Callers
from everlog.store.database import Database
from everlog.store.errors import ClosedError, OpenError

MOST, BYTES_MOST = 64, 1 << 20  # messages that wait, and bytes: no more after the one that brings them there
STALL_S = 60.0

T = TypeVar("T")


class Telling(Generic[T]):
    """One call's. Made in the event loop; `tell` and `passing` are the thread's."""

    def __init__(self, stopped: threading.Event, *, goes_on: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = stopped
        self._goes_on = goes_on
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._arrived = asyncio.Event()
        self._left = self._ended = False

    def tell(self, item: T) -> None:
        """Tells what counts. Raises ClosedError where nobody waits for it and it does not go on."""
        with self._changed:
            if not self._goes_on and not self._changed.wait_for(self._has_room, STALL_S):
                raise ClosedError(f"whoever asked for this has taken nothing of it for {STALL_S:g} s")
            self._check()
            if not self._left:
                size = item.ByteSize() if isinstance(item, Message) and not self._goes_on else 0
                self._items.append((item, size))
                self._bytes += size
        self._wake()

    def passing(self, item: T) -> None:
        """Tells what is soon out of date: not at all, if too much waits already. Raises ClosedError
        as `tell`, and once the server stops."""
        if self._stopped.is_set():
            raise ClosedError("the server stops, and what was asked for with it; ask again")
        with self._changed:
            self._check()
            if self._left or len(self._items) >= MOST:
                return
            self._items.append((item, 0))
        self._wake()

    def end(self) -> None:
        """The thread tells no more."""
        with self._changed:
            self._ended = True
        self._wake()

    def leave(self) -> None:
        """The client is gone."""
        with self._changed:
            self._left = True
            self._items.clear()
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """How many wait for the client."""
        return len(self._items)

    def __aiter__(self) -> Telling[T]:
        return self

    async def __anext__(self) -> T:
        while True:
            self._arrived.clear()
            with self._changed:
                if self._items:
                    item, size = self._items.popleft()
                    self._bytes -= size
                    self._changed.notify_all()
                    return item
                if self._ended:
                    raise StopAsyncIteration
            await self._arrived.wait()

    def _has_room(self) -> bool:
        return self._left or (len(self._items) < MOST and self._bytes < BYTES_MOST)

    def _check(self) -> None:
        if self._left and not self._goes_on:
            raise ClosedError("nobody waits for this any more")

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:  # the loop is closed, and with it whoever waited
            self.leave()


READERS = 4
WRITERS = 16
SURVEYORS = 2


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
