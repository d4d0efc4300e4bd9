"""Host: the databases of a server, the threads that call them, and streams of responses.

    gRPC's event loop ──run──▶ a few threads ──▶ store (blocks: disk, group commit)

    read    short reads                          write   waits for the disk, and shares its fsync
    survey  reads of whole tables: hashes, counts, checks, plans

Each kind has its own threads, so a short read never waits behind a long one, or behind calls that wait for
the disk.

    thread ─ send ─▶ a bounded queue ─▶ event loop ─▶ client, as fast as it reads

Progress is dropped while a client does not keep up. Results are kept: work that continues without its client
has few of them; otherwise the thread waits for the client, and gives up after STALL_S.

Invariants
  (1) the event loop never makes a call that may block;
  (2) once the server stops, calls that can be repeated end soon;
  (3) the queue for a client is bounded, however slow the client is.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from everlog.rpc import traces
from everlog.rpc.server.auth import Auth
from everlog.rpc.server.rights import Rights, Tokens
from everlog.store.database import Database
from everlog.store.errors import ClosedError, OpenError

QUEUED_MAX, QUEUED_BYTES_MAX = (
    64,
    1 << 20,
)  # queued messages and bytes; the message that reaches a limit is the last
STALL_S = 60.0

T = TypeVar("T")


class ResponseStream(Generic[T]):
    """The responses of one call. Made in the event loop; the working thread sends."""

    def __init__(self, stopped: threading.Event, *, goes_on: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = stopped
        self._goes_on = goes_on
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._arrived = asyncio.Event()
        self._left = self._ended = False

    def send(self, item: T) -> None:
        """Queue a result. Raises ClosedError if the client is gone and the work should stop with it."""
        with self._changed:
            if not self._goes_on and not self._changed.wait_for(self._has_room, STALL_S):
                raise ClosedError(f"the client has read nothing of this call for {STALL_S:g} s")
            self._check()
            if not self._left:
                size = item.ByteSize() if isinstance(item, Message) and not self._goes_on else 0
                self._items.append((item, size))
                self._bytes += size
        self._wake()

    def send_progress(self, item: T) -> None:
        """Queue progress, or drop it if the queue is full. Raises ClosedError as for results, and once the
        server stops."""
        if self._stopped.is_set():
            raise ClosedError("the server is stopping, and ended this call; repeat it later")
        with self._changed:
            self._check()
            if self._left or len(self._items) >= QUEUED_MAX:
                return
            self._items.append((item, 0))
        self._wake()

    def end(self) -> None:
        """Mark the end of the responses."""
        with self._changed:
            self._ended = True
        self._wake()

    def leave(self) -> None:
        """Drop the queue: the client is gone."""
        with self._changed:
            self._left = True
            self._items.clear()
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """The number of queued responses."""
        return len(self._items)

    def __aiter__(self) -> ResponseStream[T]:
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
        return self._left or (len(self._items) < QUEUED_MAX and self._bytes < QUEUED_BYTES_MAX)

    def _check(self) -> None:
        if self._left and not self._goes_on:
            raise ClosedError("the client of this call is gone")

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:  # the loop is closed, and with it the client's call
            self.leave()


READERS = 4
WRITERS = 16
SURVEYORS = 2


class Threads:
    """Up to `most` threads, which work until they are closed. A ThreadPoolExecutor accepts nothing after the
    main thread has ended, while other threads, and other processes, still call the server."""

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def start(self) -> None:
        """Start the first thread: from Python 3.12 on, no thread can start after the main thread has
        ended."""
        with self._lock:
            if not self._threads:
                self._begin()
                self._idle.release()

    def submit(self, fn: Callable[..., T], *args: Any) -> Future[T]:
        """Call `fn(*args)` as soon as a thread is free. Raises ClosedError after `close`."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise ClosedError("the server is stopping and accepts no more calls; repeat it later")
            if not self._idle.acquire(blocking=False) and len(self._threads) < self._most:
                try:
                    self._begin()
                except RuntimeError:
                    if not self._threads:
                        raise
            self._work.put((future, traces.in_context(functools.partial(fn, *args))))
        return future

    def close(self) -> None:
        """Cancel calls that have not begun, and wait for the others. May be called twice."""
        with self._lock:
            self._closed = True
            with contextlib.suppress(Empty):
                while (waiting := self._work.get_nowait()) is not None:
                    waiting[0].cancel()
            for _ in self._threads:
                self._work.put(None)
        for thread in self._threads:
            thread.join()

    def _begin(self) -> None:
        thread = threading.Thread(target=self._run, name=f"{self._name}_{len(self._threads)}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _run(self) -> None:
        while (waiting := self._work.get()) is not None:
            future, call = waiting
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # noqa: BLE001  raised in the caller
                    future.set_exception(error)
            del waiting, future, call  # otherwise they would stay alive until the next call
            self._idle.release()


class Hosting:
    """Databases by name. The creator of the server opens and closes them."""

    def __init__(
        self, databases: Mapping[str, Database], auth: Auth | None = None, rights: Rights | None = None
    ) -> None:
        self.databases = dict(databases)
        self.auth = auth or Auth()
        self.rights = rights or Rights(databases, Tokens({}, {}), ())
        self.warnings: list[str] = []  # for operators of the server
        self.subscribers = dict.fromkeys(self.databases, 0)
        self._stopped = threading.Event()
        self._readers = Threads(READERS, "everlog-read")
        self._writers = Threads(WRITERS, "everlog-write")
        self._surveyors = Threads(SURVEYORS, "everlog-survey")

    def start(self) -> None:
        """Start the threads, before the first call."""
        for pool in (self._readers, self._surveyors, self._writers):
            pool.start()

    def database(self, name: str) -> Database:
        """Return a database. Raises OpenError for a name that this server does not host."""
        try:
            return self.databases[name]
        except KeyError:
            known = ", ".join(sorted(self.databases)) or "none"
            raise OpenError(
                f"this server hosts no database {name!r}; it hosts: {known}", database=name
            ) from None

    async def read(self, fn: Callable[..., T], *args: Any) -> T:
        """Run a short call that may wait for the disk to read."""
        return await asyncio.wrap_future(self._readers.submit(fn, *args))

    async def survey(self, fn: Callable[..., T], *args: Any) -> T:
        """Run a call that reads much. It calls `check_going`."""
        return await asyncio.wrap_future(self._surveyors.submit(fn, *args))

    async def write(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a call that may wait for the disk to write."""
        return await asyncio.wrap_future(self._writers.submit(functools.partial(fn, *args, **kwargs)))

    async def stream(
        self, fn: Callable[[ResponseStream[T]], None], *, goes_on: bool = True, stops: bool = False
    ) -> AsyncIterator[T]:
        """Run a long call in a thread, and yield the responses that it sends.

        `goes_on`: it continues if its client disconnects; otherwise it ends at its next response. `stops`: it
        ends with the server, at its next progress report.
        """
        never = threading.Event()
        responses = ResponseStream[T](self._stopped if stops else never, goes_on=goes_on)

        def run() -> None:
            try:
                fn(responses)
            finally:
                responses.end()

        pool = self._writers if goes_on else self._surveyors
        done = asyncio.wrap_future(pool.submit(run))
        try:
            async for item in responses:
                yield item
            await done
        finally:
            responses.leave()
            done.add_done_callback(lambda it: it.cancelled() or it.exception())  # mark as retrieved

    def begin(self, fn: Callable[[], None]) -> asyncio.Future[None]:
        """Start a long call in a writer's thread; `close` waits for its end."""
        return asyncio.wrap_future(self._writers.submit(fn))

    def check_going(self, *_: object) -> None:
        """Raise ClosedError once the server stops: for calls that can be repeated."""
        if self._stopped.is_set():
            raise ClosedError("the server is stopping, and ended this call; repeat it later")

    def stop(self) -> None:
        """End calls that can be repeated soon."""
        self._stopped.set()

    def close(self) -> None:
        self.stop()
        for pool in (self._readers, self._surveyors, self._writers):
            pool.close()
