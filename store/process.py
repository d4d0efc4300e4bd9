"""Process: open databases when their process forks, and when it ends.

    fork   before ─▶ RocksDB is idle, its threads end   a child has none, and would wait for them forever;
                                                        it would run the queued jobs before its own
           child  ─▶ descriptors closed, objects kept   RocksDB's destructors write to the parent's files
                     RocksDB's lead to /dev/null
           parent ─▶ RocksDB's threads again
    end    atexit ─▶ clients, servers and databases are closed, the newest first

A forked child has nothing of its parent's databases: neither locks nor directories, and calls on them
are refused. It may open databases of its own. If RocksDB did not become idle in time, because it
compacted or its disk is full, or another thread wrote at the moment of the fork, the child may only read.

A thread that returns from RocksDB after the interpreter has ended aborts the process: Python ends such a
thread by an exception that cannot cross Rust code. So no thread may be in RocksDB by then.

Invariants
  (1) a child neither keeps a lock of its parent nor releases it;
  (2) no RocksDB object of a parent is destroyed in its child;
  (3) every open database is closed before the interpreter ends.

The long story: docs/deployment.md.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import itertools
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from rocksdict import Env

from everlog.store.errors import ClosedError, OpenError

LARGE_BLOCK_BYTES = 1 << 20
OPENING_S = 10.0  # how long the end of a process waits for threads that open a database
PARK_S = 1.0  # how long a fork waits for a running flush or compaction
END_S = 0.1  # how long a fork waits for the end of RocksDB's threads
AGAIN_S = 0.002  # after that RocksDB is looked at again: a thread that ended a job takes the next one

_M_MMAP_THRESHOLD = -3  # of mallopt(3)
_TASKS = Path("/proc/self/task")
_POOLS = {
    "rocksdb:low": Env.set_low_priority_background_threads,
    "rocksdb:high": Env.set_high_priority_background_threads,
    "rocksdb:bottom": Env.set_bottom_priority_background_threads,
}


class Closing(Protocol):
    """An object that `close_at_end` closes."""

    def close(self) -> None: ...


class Working(Protocol):
    """An object whose work runs on RocksDB's threads."""

    def is_idle(self) -> bool:
        """Whether it has no such work, and starts none by itself."""

    def has_worked(self) -> bool:
        """Whether it may have such work since the last `is_idle`. Called in a forked child."""


class Forking(Protocol):
    """An object that is notified in a forked child."""

    def forked(self) -> None: ...


class Held:
    """An open descriptor that a forked child closes at once.

    `below`: it is a directory, and the child redirects it, and all descriptors of files below it, to
    /dev/null.
    """

    def __init__(self, descriptor: int, *, below: bool = False) -> None:
        self._descriptor = descriptor
        self.below = below
        _held.add(self)

    def forked(self) -> None:
        """Close or redirect it, in a forked child. Raises OSError."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0 and self.below:
            _disconnect(descriptor)
        elif descriptor >= 0:
            os.close(descriptor)

    def fileno(self) -> int:
        """Return the descriptor; -1 after it was closed."""
        return self._descriptor

    def close(self) -> None:
        """Close it; may be called twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Lock:
    """A lock of a module. A forked child gets a new one: a thread of the parent, which the child lacks, may
    have held the old one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        notify_in_child(self)

    def forked(self) -> None:
        """Create a new lock, in a forked child."""
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def close_at_end(thing: Closing) -> None:
    """Close `thing` before the process ends; without effect if it was closed before."""
    _closing[thing] = next(_order)


def keep_in_child(thing: object) -> None:
    """Keep `thing`, and everything it refers to, from being destroyed in forked children."""
    _kept.add(thing)


def quiesce_before_fork(thing: Working) -> None:
    """Make forks wait until `thing` is idle, PARK_S seconds at most."""
    _working.add(thing)


def notify_in_child(thing: Forking) -> None:
    """Call `thing.forked()` in forked children."""
    _forking.add(thing)


@contextlib.contextmanager
def opening(engine: Closing, path: Path, *, read_only: bool) -> Iterator[None]:
    """Around the opening of RocksDB at `path` for `engine`, which is closed before the process ends. Raises
    ClosedError in any but the main thread once it ends, and OpenError in a forked child that lacks RocksDB's
    threads, unless `read_only`."""
    with _State.openings:
        if _State.ending and threading.current_thread() is not threading.main_thread():
            raise ClosedError(f"{path}: this process is ending, and its threads open no database any more")
        _State.used = True
        if _State.unfit and not read_only:
            raise OpenError(
                f"{path}: this process was forked while RocksDB wrote in its parent, and has none of the"
                " threads that write to disk. Start it with spawn instead of fork, or open the database"
                " read_only"
            )
        _State.opening += 1
    _return_large_blocks()
    try:
        yield
        close_at_end(engine)
    finally:
        with _State.openings:
            _State.opening -= 1
            _State.openings.notify_all()


def _return_large_blocks() -> None:
    """Make glibc map each block of 1 MiB or more by itself, and so return it to the system when it is freed.
    By default glibc keeps blocks of up to 32 MiB in an arena for each thread: with rows of 4 MiB up to
    three times the memory in use. A setting in the environment takes precedence."""
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or "mmap_threshold" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


class _State:
    used = False  # whether RocksDB has run in this process, or in one that it was forked from
    unfit = False  # whether this is a forked child without RocksDB's threads
    resting = True  # whether RocksDB's threads had stopped before the last fork
    pools: ClassVar[dict[str, int]] = {}  # threads of each pool that were ended for the fork
    forking = threading.Lock()
    openings = threading.Condition()
    opening = 0  # how many threads open RocksDB now
    ending = False


_held: weakref.WeakSet[Held] = weakref.WeakSet()
_kept: weakref.WeakSet[Any] = weakref.WeakSet()
_forking: weakref.WeakSet[Forking] = weakref.WeakSet()
_working: weakref.WeakSet[Working] = weakref.WeakSet()
_closing: weakref.WeakKeyDictionary[Closing, int] = weakref.WeakKeyDictionary()
_order = itertools.count()


def _threads() -> dict[Path, str]:
    """Return the threads of RocksDB's pools, with the names of the pools. Raises OSError without /proc."""
    found: dict[Path, str] = {}
    for task in _TASKS.iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            name = (task / "comm").read_text(encoding="utf-8", errors="replace").strip()
            if name in _POOLS:
                found[task] = name
    return found


def _end(threads: dict[Path, str]) -> bool:
    """End RocksDB's threads, which are idle. Return whether they have ended.

    Keeps the interpreter's lock throughout: a thread that writes while RocksDB has no threads could wait
    for them forever, with that lock.
    """
    libc, env = ctypes.PyDLL(None), Env()
    _State.pools = Counter(threads.values())
    for name in _State.pools:
        _POOLS[name](env, 0)
    left, until = [bytes(task) for task in threads], time.monotonic() + END_S
    while left and time.monotonic() < until:
        left = [task for task in left if libc.access(task, os.F_OK) == 0]
        libc.usleep(100)
    return not left


def _is_idle() -> bool:
    return all(one.is_idle() for one in list(_working))


def _is_at_rest() -> bool:
    """Whether RocksDB is idle, and is so again after a moment."""
    if not _is_idle():
        return False
    time.sleep(AGAIN_S)
    return _is_idle()


def _disconnect(directory: int) -> None:
    """Redirect a descriptor of a directory, and all of files below it, to /dev/null. The numbers stay in use:
    RocksDB's objects still hold them, and must not reach other files through them."""
    fds = Path("/proc/self/fd")
    below = f"{(fds / str(directory)).readlink()}/"
    null = os.open(os.devnull, os.O_RDWR)
    for one in list(fds.iterdir()):
        with contextlib.suppress(OSError):
            if one.name == str(directory) or str(one.readlink()).startswith(below):
                os.dup2(null, int(one.name), inheritable=False)
    os.close(null)


def _before_fork() -> None:
    _State.forking.acquire()  # released in the parent
    _State.pools, _State.resting = {}, not _State.used
    if _State.resting or _State.unfit:
        return
    with contextlib.suppress(OSError):
        until = time.monotonic() + PARK_S
        while not (resting := _is_at_rest()) and time.monotonic() < until:
            time.sleep(0.001)
        if resting:
            threads = _threads()
            _State.resting = _is_idle() and _end(threads) and _is_idle()


def _in_parent() -> None:
    try:
        env = Env()
        for name, count in _State.pools.items():
            _POOLS[name](env, count)
    finally:
        _State.forking.release()


def _in_child() -> None:
    _State.forking = threading.Lock()
    _State.openings, _State.opening = threading.Condition(), 0
    _closing.clear()
    if any(one.has_worked() for one in list(_working)):  # of another thread, after the last look
        _State.resting = False
    for held in sorted(_held, key=lambda one: not one.below):  # directories first: their paths are needed
        with contextlib.suppress(OSError, ValueError):
            held.forked()
    _working.clear()
    for thing in list(_kept):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    errors = []
    for one in list(_forking):
        try:
            one.forked()
        except Exception as error:  # noqa: BLE001  the others must be notified as well
            errors.append(error)
    if not _State.resting:
        _State.unfit = True
        _leave_without_destructors()
    if errors:
        raise errors[0]  # Python reports it, and continues


def _leave_without_destructors() -> None:
    """Make the process end before RocksDB's destructors, which would wait for missing threads. Without
    on_exit in the C library (macOS, musl) they may hang."""
    library = ctypes.CDLL(None)
    if hasattr(library, "on_exit"):  # the last to be registered is the first to be called, with the exit code
        library.on_exit(library["_exit"], None)
        library.on_exit(library["fcloseall"], None)


def _at_end() -> None:
    with _State.openings:
        _State.ending = True
        _State.openings.wait_for(lambda: not _State.opening, OPENING_S)
    for thing in sorted(_closing, key=_closing.__getitem__, reverse=True):
        with contextlib.suppress(Exception):  # the log has what could not be flushed
            thing.close()


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
atexit.register(_at_end)
