"""Host: the databases of a server, the threads that call them, and streams of responses.

    event loop ──▶ threads ──▶ store (blocks: disk, group commit)

    read       short reads                       write       waits for the disk, and shares its fsync
    long_read  reads of whole tables: hashes,    long_write  rebuilds, migrations, archiving, erasure: what
               counts, checks, plans, history                reads whole tables, or waits for a long lock
                                                 load        chunks of bulk loads

Each kind has its own threads (threads.py), so a short call never waits behind a long one, or behind calls
that wait for the disk.

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
import functools
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.message import Message

from everlog.migrations.lock import guarded
from everlog.rpc.http2.grpc import running
from everlog.rpc.server.auth import Auth
from everlog.rpc.server.rights import Rights, Tokens, unknown_database
from everlog.rpc.server.threads import Bounds, Slices, Threads, Work, note, waiting
from everlog.store.database import Database
from everlog.store.errors import ClosedError, Error
from everlog.store.progress import Progress, interruptible
from everlog.store.upkeep.samples import Samples

# Queued messages and bytes; the message that reaches a limit is the last.
QUEUED_MAX, QUEUED_BYTES_MAX = 64, 1 << 20
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
        self._killed: Error | None = None

    def send(self, item: T) -> None:
        """Queue a result. Raises ClosedError if the client is gone and the work should stop with it."""
        if not self._goes_on and not self._has_room():
            self._wait_for_room()
        with self._changed:
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

    def kill(self, error: Error) -> None:
        """Let the work raise an error at its next response or progress, even if it continues without its
        client."""
        self._killed = error
        self.leave()

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

    def _wait_for_room(self) -> None:
        with waiting(), self._changed:
            if not self._changed.wait_for(self._has_room, STALL_S):
                raise ClosedError(f"the client has read nothing of this call for {STALL_S:g} s")

    def _has_room(self) -> bool:
        return self._left or (len(self._items) < QUEUED_MAX and self._bytes < QUEUED_BYTES_MAX)

    def _check(self) -> None:
        if self._killed is not None:
            raise self._killed
        if self._left and not self._goes_on:
            raise ClosedError("the client of this call is gone")

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:  # the loop is closed, and with it the client's call
            self.leave()


READERS, WRITERS = 4, 16
LONG_READERS, LONG_READERS_EACH = 32, 4  # of all callers, and of each; RUNNING of them run at a time
WORKERS, WORKERS_EACH = 32, 4
LOADERS, LOADERS_EACH = 4, 2  # a chunk takes as long as many short commits
LONG = Bounds(64, 512)  # of waiting long calls


class Behind(Protocol):
    """A position in a log: `lag` records are after it."""

    @property
    def lag(self) -> int: ...


@dataclass(slots=True)
class Following:
    """A running subscription. `behind`: where it is; None: at the newest record."""

    database: str
    identity: str
    peer: str
    since_ns: int
    behind: Behind | None = None


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
        self.following: dict[int, Following] = {}  # by id; of the thread of the event loop
        self.samples = {
            name: Samples(db.core, db.consumers, db.measure) for name, db in self.databases.items()
        }
        # Of a name and an address HOST:PORT: the limits of the server for this caller.
        self.limits_of: Callable[[str, str], dict[str, float]] = lambda *_: {}
        self.on_limit: Callable[[str], None] = lambda _: None  # counts a limit that a call has reached
        self._stopped = threading.Event()
        self._readers = Threads(READERS, "short reads")
        self._writers = Threads(WRITERS, "short writes")
        self._long_threads = Threads(
            LONG_READERS, "long reads", each=LONG_READERS_EACH, queues=LONG, slices=Slices()
        )
        self._workers = Threads(WORKERS, "long writes", each=WORKERS_EACH, queues=LONG)
        self._loaders = Threads(LOADERS, "loads", each=LOADERS_EACH)
        self.pools = (self._readers, self._long_threads, self._writers, self._workers, self._loaders)

    def limit_heavy(self, each: Callable[[Work], int]) -> None:
        """Let `each` say how many long calls of the caller of some work may run, reads and writes apart."""
        self._long_threads.each = self._workers.each = each

    def start(self) -> None:
        """Start the threads, before the first call."""
        for pool in self.pools:
            pool.start()

    def database(self, name: str) -> Database:
        """Return a database. Raises OpenError for a name that this server does not host."""
        try:
            return self.databases[name]
        except KeyError:
            raise unknown_database(name, self.databases) from None

    async def read(self, fn: Callable[..., T], *args: Any) -> T:
        """Run a short call that may wait for the disk to read."""
        found: T = await self._run(self._readers, functools.partial(fn, *args))
        return found

    async def long_read(self, fn: Callable[..., T], *args: Any) -> T:
        """Run a call that reads much. It ends with its client, its deadline and the server."""
        work = _work(functools.partial(fn, *args))
        try:
            found: T = await asyncio.wrap_future(self._long_threads.submit(work))
        except asyncio.CancelledError:
            work.end(_why(work))
            raise
        return found

    async def write(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a call that may wait for the disk to write."""
        found: T = await self._run(self._writers, functools.partial(fn, *args, **kwargs))
        return found

    async def long_write(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a call that writes, and may take long. Once it has begun, it continues if its client
        disconnects."""

        def run() -> T:
            with guarded(functools.partial(_check_allowed, work)):
                return fn(*args, **kwargs)

        work = _work(run)
        found: T = await asyncio.wrap_future(self._workers.submit(work))
        return found

    async def chunked_write(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """As `long_write`, of a call that commits in chunks. If it is killed, it stops before the next."""

        def run() -> T:
            with interruptible(work.check):
                return fn(*args, **kwargs)

        work = _work(run, stops=True)
        try:
            found: T = await asyncio.wrap_future(self._workers.submit(work))
        except asyncio.CancelledError:
            if (why := _killed(work)) is not None:
                work.end(why)
            raise
        return found

    async def load(self, fn: Callable[..., T], *args: Any) -> T:
        """Run a part of a bulk load."""
        found: T = await self._run(self._loaders, functools.partial(fn, *args))
        return found

    @staticmethod
    def _run(pool: Threads, fn: Callable[[], Any]) -> asyncio.Future[Any]:
        return asyncio.wrap_future(pool.submit(_work(fn)))

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
                with guarded(functools.partial(_check_allowed, work)):
                    fn(responses)
            finally:
                responses.end()

        work = _work(run, stops=True)
        done = asyncio.wrap_future((self._workers if goes_on else self._long_threads).submit(work))
        try:
            async for item in responses:
                yield item
            await done
        finally:
            responses.leave()
            if (why := _killed(work)) is not None:
                responses.kill(why)
            if not goes_on or why is not None:
                done.cancel()  # if it has not begun
                work.end(why or _gone())
            done.add_done_callback(lambda it: it.cancelled() or it.exception())  # mark as retrieved

    def begin(self, fn: Callable[[], None]) -> asyncio.Future[None]:
        """Start long work of the server itself in a thread; `close` waits for its end."""
        return asyncio.wrap_future(self._workers.submit(Work(None, fn)))

    @property
    def long_reads(self) -> set[Work]:
        """A copy of the long reads that run, or wait for a slice."""
        return set(self._long_threads.busy)

    def check_going(self, at: object = None) -> None:
        """Note the progress, and raise ClosedError once the server stops: for calls that can be repeated."""
        if isinstance(at, Progress):
            note(at)
        if self._stopped.is_set():
            raise _stopping()

    def stop(self) -> None:
        """End calls that can be repeated soon."""
        self._stopped.set()
        self._long_threads.end(_stopping())

    def close(self) -> None:
        self.stop()
        self.rights.close()
        for pool in self.pools:
            pool.close()


def _work(fn: Callable[[], Any], *, stops: bool = False) -> Work:
    """Return the work of the running call. What has to run before its method precedes its first work."""
    call = running.get()
    if call is not None and call.before is not None:
        fn, call.before = _following(call.before, fn), None
    work = Work(call, fn, stops=stops)
    if call is not None:
        call.work = work
    return work


def _following(before: Callable[[], Any], fn: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        before()
        return fn()

    return run


def _killed(work: Work) -> Error | None:
    """Return the error with which somebody has ended the call of some work."""
    return None if work.call is None else work.call.ends_with


def _check_allowed(work: Work) -> None:
    """Raise ClosedError if the call of some work was ended meanwhile, such as by a revoked right."""
    if work.call is not None and work.call.ended_as:
        raise ClosedError(f"the call was ended while it waited, and nothing was done: {work.call.ended_as}")


def _why(work: Work) -> Error:
    return _killed(work) or _gone()


def _gone() -> ClosedError:
    return ClosedError("the client of this call is gone, or its deadline has passed")


def _stopping() -> ClosedError:
    return ClosedError("the server is stopping, and ended this call; repeat it later")
