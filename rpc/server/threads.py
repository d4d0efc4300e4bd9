"""Threads: the threads of a server, and whose work is next.

    call ─▶ queue of its caller ─┐
    call ─▶ queue of its caller ─┴─ in turn ─▶ a free thread ─▶ store (blocks: disk, group commit)

    long reads run in slices:   thread ─▶ SLICE_S ─▶ others wait? ─▶ wait in turn ─▶ SLICE_S ─▶ …

A caller is a name; one without a name is its connection. Callers take turns, so a caller with many calls
delays its own, not those of others. Long reads have a pool of their own, in which a caller has a few threads
at most, and only RUNNING of all these threads run at a time: Python runs one thread at a time, so each one
that runs makes short calls slower.

Invariants
  (1) queues are bounded: what is over is refused with LimitError, and a time to try again;
  (2) a long read whose call has ended raises before it reads its next chunk;
  (3) a long read waits for its slice at most WAIT_MAX_S: it may hold a lock that those that run wait for.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, NamedTuple

from everlog.rpc import traces
from everlog.rpc.http2.grpc import Call
from everlog.store.errors import ClosedError, Error, LimitError
from everlog.store.progress import Progress, interruptible

SLICE_S = 0.02
RUNNING = 1  # more make short calls slower, and long ones hardly faster
WAIT_MAX_S = 0.5
RETRY_S = 1.0  # after which a refused call is repeated
YIELD_S = 1e-6  # long enough for another thread to get its turn


class Bounds(NamedTuple):
    """How many calls may wait: of one caller, and of all."""

    each: int
    all: int


SHORT = Bounds(4096, 16_384)


class Steps:
    """The progress of long work: its current step, and how fast that is. For any thread."""

    __slots__ = ("_began", "_from", "last", "source")

    def __init__(self, source: Callable[[], Progress] | None = None) -> None:
        self.last: Progress | None = None
        self._from, self._began = 0, 0.0
        self.source = source  # of the progress, for work that does not report it
        if source is not None:
            self.note(source())

    def note(self, at: Progress) -> None:
        """Note the progress of a step."""
        if self.last is None or self.last.step != at.step:
            self._from, self._began = at.done, time.perf_counter()
        self.last = at

    def now(self) -> tuple[Progress, float, float] | None:
        """Return the progress, its rate a second, and the seconds that are left; 0: unknown."""
        if self.source is not None:
            self.note(self.source())
        last = self.last
        if last is None:
            return None
        took_s = time.perf_counter() - self._began
        rate = (last.done - self._from) / took_s if took_s > 0 else 0.0
        left = (last.total or 0) - last.done
        return last, rate, left / rate if left > 0 and rate > 0 else 0.0


class Work:
    """A function that a thread runs for a call; `call` is None for the server's own work."""

    __slots__ = (
        *("call", "ended", "future", "granted", "holds", "key", "pool", "progress", "run", "state", "until"),
        *("began", "stops"),
    )

    def __init__(self, call: Call | None, run: Callable[[], Any], *, stops: bool = False) -> None:
        self.call = call
        self.pool: Threads | None = None
        self.progress: Steps | None = None  # without a call; with one, the call has it
        self.began = 0.0 if call is not None else time.perf_counter()
        self.key = "" if call is None else call.caller
        self.run = run
        self.future: Future[Any] = Future()
        self.state = "queued"  # queued, running, paused or done
        self.ended: Error | None = None  # why it should not continue
        self.stops = stops  # between two of its writes, if its call is ended
        self.holds = False  # a slice, until then
        self.until = 0.0
        self.granted: threading.Event | None = None  # while it waits for a slice

    def check(self) -> None:
        """Raise the error with which it should end."""
        if self.ended is not None:
            raise self.ended

    def end(self, error: Error) -> None:
        """Let it end with an error at its next chunk. Does nothing to work that is done."""
        self.ended = error
        if (granted := self.granted) is not None:
            granted.set()


class _Thread(threading.local):
    work: Work | None = None
    own: tuple[Slices, Work] | None = None  # its work, if that runs in slices


_thread = _Thread()


def current() -> Work | None:
    """Return the work of this thread."""
    return _thread.work


def note(at: Progress) -> None:
    """Note the progress of this thread's work."""
    work = _thread.work
    if work is None:
        return
    whose = work.call or work
    if whose.progress is None:
        whose.progress = Steps()
    whose.progress.note(at)


@contextmanager
def waiting() -> Iterator[None]:
    """Let other long reads run while this one waits in the block, for its client for example."""
    own = _thread.own
    if own is None:
        yield
        return
    slices, work = own
    slices.leave(work)
    try:
        yield
    finally:
        slices.enter(work)


class Slices:
    """Lets `most` threads with long reads run at a time, in turns of their callers."""

    def __init__(self, most: int = RUNNING) -> None:
        self._free = most
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[Work]] = {}  # by caller, in the order of their turns

    def run(self, work: Work) -> Any:
        """Run the work in slices. Raises what it raises, and its `ended`."""
        _thread.own = self, work
        try:
            self.enter(work)
            with interruptible(functools.partial(self._between, work)):
                return work.run()
        finally:
            _thread.own = None
            self.leave(work)

    def _between(self, work: Work) -> None:
        """Called by the store between two chunks."""
        work.check()
        if time.perf_counter() < work.until:
            time.sleep(0)
        elif self._waiting:
            self.enter(work)
        else:
            time.sleep(YIELD_S)
            work.until = time.perf_counter() + SLICE_S

    def enter(self, work: Work) -> None:
        """Wait for a slice; for another one, if it has one. Raises `ended` of the work."""
        with self._lock:
            granted = work.granted = threading.Event()
            self._waiting.setdefault(work.key, deque()).append(work)
            self._free += work.holds
            work.holds = False
            self._next()
            work.state = "running" if granted.is_set() else "paused"
        granted.wait(WAIT_MAX_S)
        with self._lock:
            work.granted = None
            if not work.holds:  # it waited too long, or has ended: it runs beside the others
                self._take(work.key, work)
                self._free -= 1
                work.holds = True
        work.state = "running"
        work.until = time.perf_counter() + SLICE_S
        work.check()

    def leave(self, work: Work) -> None:
        """Give the rest of its slice to others."""
        with self._lock:
            if work.holds:
                work.holds = False
                self._free += 1
                self._next()

    def _next(self) -> None:
        """Give free slices to those that wait, one caller after the other."""
        while self._free > 0 and self._waiting:
            key = next(iter(self._waiting))
            work = self._take(key, self._waiting[key][0])
            self._free -= 1
            work.holds = True
            if work.granted is not None:
                work.granted.set()

    def _take(self, key: str, work: Work) -> Work:
        """Remove waiting work; the others of its caller are last."""
        queue = self._waiting.pop(key)
        queue.remove(work)
        if queue:
            self._waiting[key] = queue
        return work


class Threads:
    """Up to `most` threads, which work until they are closed, for one caller after the other. A
    ThreadPoolExecutor accepts nothing after the main thread has ended, while other threads, and other
    processes, still call the server.

    `each`: threads of one caller; 0: all. `Threads.each` may be replaced by a function of the work.
    `queues`: how many calls may wait. `slices`: the threads run in these.
    """

    def __init__(
        self,
        most: int,
        name: str,
        *,
        each: int = 0,
        queues: Bounds = SHORT,
        slices: Slices | None = None,
    ) -> None:
        self._most, self.name = most, name
        self.each: Callable[[Work], int] = lambda _: each  # threads of one caller; 0: all
        self._bounds = queues
        self._slices = slices
        self._tickets: SimpleQueue[bool] = SimpleQueue()  # one for each call; False: end
        self._queues: dict[str, deque[Work]] = {}  # by caller, in the order of their turns
        self._running: dict[str, int] = {}  # threads by caller
        self._waiting = 0  # calls in the queues
        self._due = 0  # tickets that no thread has taken yet
        self._held = 0  # tickets of calls whose callers have all of their threads
        self.on_limit: Callable[[str], None] = lambda _: None  # called for each refusal
        self.busy: set[Work] = set()  # its work that has begun
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def start(self) -> None:
        """Start the first thread: from Python 3.12 on, no thread can start after the main thread has
        ended."""
        with self._lock:
            if not self._threads:
                self._begin()

    def submit(self, work: Work) -> Future[Any]:
        """Run the work as soon as it is its caller's turn and a thread is free. Raises ClosedError after
        `close`, and LimitError if too many calls wait."""
        work.run = traces.in_context(work.run)
        work.pool, key = self, work.key
        with self._lock:
            if self._closed:
                raise ClosedError("the server is stopping and accepts no more calls; repeat it later")
            queue = self._queues.get(key)
            if queue is None:
                queue = self._queues[key] = deque()
            if len(queue) >= self._bounds.each or self._waiting >= self._bounds.all:
                if not queue:
                    del self._queues[key]
                raise self._too_many(len(queue))
            queue.append(work)
            self._waiting += 1
            self._due += 1
            if len(self.busy) + self._due > len(self._threads) and len(self._threads) < self._most:
                try:
                    self._begin()
                except RuntimeError:
                    if not self._threads:
                        raise
        self._tickets.put(True)
        return work.future

    def end(self, error: Error) -> None:
        """Let the work that runs in slices end with an error."""
        with self._lock:
            for work in self.busy:
                work.end(error)

    def close(self) -> None:
        """Cancel calls that have not begun, and wait for the others. May be called twice."""
        with self._lock:
            self._closed = True
            waiting = [work for queue in self._queues.values() for work in queue]
            self._queues.clear()
            self._waiting = 0
        for work in waiting:
            work.future.cancel()
        for _ in self._threads:
            self._tickets.put(False)
        for thread in self._threads:
            thread.join()

    def before(self, work: Work) -> tuple[int, list[Work]]:
        """Return how many calls of its caller are before waiting work, and the running work that it waits
        for."""
        with self._lock:
            queue = self._queues.get(work.key)
            if queue is None or work not in queue:
                return 0, []
            own = [one for one in self.busy if one.key == work.key]
            full = len(own) >= (self.each(work) or self._most)
            return queue.index(work), own if full else list(self.busy)

    @property
    def waiting(self) -> int:
        """The number of calls that have not begun."""
        return self._waiting

    def _too_many(self, own: int) -> LimitError:
        self.on_limit("queue")
        full = own >= self._bounds.each
        whose = f"{self._bounds.each:,} of one caller" if full else f"{self._bounds.all:,} of all callers"
        return LimitError(
            f"the server is busy: expected fewer than {whose} to wait; try again after {RETRY_S:g} s",
            limit="queue",
            retry_s=RETRY_S,
        )

    def _begin(self) -> None:
        thread = threading.Thread(
            target=self._work, name=f"everlog {self.name} {len(self._threads)}", daemon=True
        )
        thread.start()
        self._threads.append(thread)

    def _next(self) -> Work | None:
        """Return the next work, of the caller whose turn it is."""
        with self._lock:
            self._due -= 1
            for key in self._queues:
                running = self._running.get(key, 0)
                if running < (self.each(self._queues[key][0]) or self._most):
                    queue = self._queues.pop(key)
                    work = queue.popleft()
                    if queue:
                        self._queues[key] = queue  # at the end
                    self._waiting -= 1
                    self._running[key] = running + 1
                    self.busy.add(work)
                    return work
            if self._queues:
                self._held += 1
            return None

    def _done(self, work: Work) -> None:
        key, call = work.key, work.call
        work.state = "done"
        if call is not None and call.work is work:
            call.work = None  # no cycle: the collector would have to find each
            if call.stream.call is not call:  # it has ended, and was listed for its work
                call.request = None
        with self._lock:
            self.busy.discard(work)
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]
            if not self._held:
                return
            self._held -= 1
            self._due += 1
        self._tickets.put(True)

    def _work(self) -> None:
        while self._tickets.get():
            work = self._next()
            if work is None:
                continue
            if work.future.set_running_or_notify_cancel():
                _thread.work = work
                try:
                    if self._slices is None:
                        work.state = "running"
                        work.future.set_result(work.run())
                    else:
                        work.future.set_result(self._slices.run(work))
                except BaseException as error:  # noqa: BLE001  raised in the caller
                    work.future.set_exception(error)
                _thread.work = None
            self._done(work)
            del work  # otherwise it would stay alive until the next call
