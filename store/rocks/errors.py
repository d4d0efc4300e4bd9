"""Errors: translate RocksDB's errors, and distinguish the end of an iteration from an error.

A `Refusal` knows why the disk refuses writes, and from which time. Reads continue.

    a write fails: the disk is full   ─▶ Refusal.begin ─▶ one line in the program's log ─▶ listeners
    there is space and a write works  ─▶ Refusal.end   ─▶ one line                      ─▶ listeners

RocksDB checks for free space every five seconds, and then writes its memory to new files. Until then
nothing may sync its log through it: a failed sync turns the error into one that RocksDB never resumes
from (rocks/wal.py).

Invariants
  (1) no exception of rocksdict leaves the store;
  (2) iteration never ends silently at a damaged block: rocksdict's `items` does, so every caller that
      reaches its end calls `verify_end` (tests/store/rocks/test_engine_facts.py holds the facts).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from everlog.store.errors import ClosedError, CorruptionError, DiskError, Error, OpenError
from everlog.store.program_log import about

logger = logging.getLogger("everlog")


def verify_end(cursor: Any, last: bytes | None, start: bytes, end: bytes, *, reverse: bool = False) -> None:
    """Check that an iteration that ended after `last` (None: without any item) reached its end. Read-only.

    Raises CorruptionError if an unreadable block hid more items.
    """
    try:
        with translated("reading"):
            at = last if last is not None else end if reverse else start
            if reverse:
                cursor.seek_for_prev(at)
            else:
                cursor.seek(at)
            if cursor.valid() and (cursor.key() == last or (reverse and cursor.key() == end)):
                cursor.prev() if reverse else cursor.next()
            if not cursor.valid():
                cursor.status()
                return
            key = cursor.key()
    finally:
        del cursor  # otherwise a kept traceback would keep the database locked
    if key >= start if reverse else key < end:
        raise CorruptionError(f"a block at key {at.hex()} could not be read", place=at.hex())


_THROUGH = re.compile(r"/proc/self/fd/\d+")  # the directory of a database, by its descriptor

# the file that RocksDB could not write
_FILE = re.compile(r"\bWhile [^:]+: (/.+): No space left on device", re.IGNORECASE)

# a link to a file of a database that cannot be written (files.link)
_LINKED = re.compile(r"/[^\s:]*/everlog-reading-[^/\s:]+/db/[^/\s:]+")


_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # of rocksdict, which writes a file of its own on opening
_WRITE_REFUSED = {errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM}


def is_write_refused(error: Exception) -> bool:
    """Return whether rocksdict could not write its own file where a database is opened for reading."""
    found = _OS_ERROR.search(str(error))
    return found is not None and int(found[1]) in _WRITE_REFUSED


def _named(found: re.Match[str]) -> str:
    try:
        return str(Path(found[0]).readlink())
    except OSError:
        return found[0]


class Gone:
    """Replaces an object of RocksDB: every use raises ClosedError."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __getattr__(self, _: str) -> Any:
        raise ClosedError(self._why)

    def __getitem__(self, _: Any) -> Any:
        raise ClosedError(self._why)

    def __setitem__(self, _: Any, __: Any) -> None:
        raise ClosedError(self._why)

    def __iter__(self) -> Iterator[Any]:
        raise ClosedError(self._why)

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise ClosedError(self._why)


CLOSED: Any = Gone("the database is closed")
FORKED: Any = Gone("this was opened before this process was forked; open it in the child")


class StoppedError(Exception):
    """Raised instead of calling RocksDB after writing has ended."""

    def __init__(self, why: DiskError) -> None:
        super().__init__(str(why))
        self.why = why  # each caller gets an error of its own, because a kept error keeps its frames alive


NO_INODES = "the disk has no inode left, which each new file needs"


def lacks_inodes(path: Path) -> bool:
    """Whether the file system of a path, which need not exist, has space but no inode for another file. A
    write fails as on a full disk then."""
    for place in (path, *path.parents):
        try:
            found = os.statvfs(place)
        except OSError:
            continue
        return bool(found.f_files and not found.f_favail)  # some file systems, such as btrfs, count none
    return False


def reason(error: OSError, path: Path) -> str:
    """Return in words why the operating system refused to write `path`."""
    if error.errno == errno.ENOSPC and lacks_inodes(path):
        return f"{NO_INODES}: remove files from it"
    return str(error.strerror or error)


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Translate RocksDB's errors raised in the block."""
    try:
        yield
    except Error:
        raise
    except Exception as error:
        raise translate(error, doing) from error


def translate(error: Exception, doing: str) -> Error:  # noqa: PLR0911  one return for each kind of error
    """Return RocksDB's error as everlog's. For code that runs for every row: an except clause costs
    nothing."""
    if isinstance(error, Error):
        return error
    if isinstance(error, StoppedError):
        return DiskError(str(error.why), **error.why.facts)
    plain = isinstance(error, OSError) and error.strerror
    text = _THROUGH.sub(_named, _LINKED.sub(_named, plain or str(error)))
    low = text.lower()
    if type(error).__name__ == "DbClosedError" or "already mutably borrowed" in low:  # being closed
        return ClosedError(f"{doing}: the database is closed")
    if "disk quota" in low:  # RocksDB treats this as a failing disk
        return DiskError(
            f"{doing}: the disk quota is used up; nothing was written. Free some space, or remove files if"
            " the quota is of their number, and open the database again: nothing more is written until then",
            outcome="nothing written",
        )
    if "file too large" in low:
        return DiskError(
            f"{doing}: the limit of the size of files (ulimit -f) is reached; nothing was written. Raise it,"
            " and open the database again: nothing more is written until then",
            outcome="nothing written",
        )
    if "no space left" in low:
        return _full(error, doing)
    if "corruption:" in low:
        return CorruptionError(
            f"{doing}: RocksDB found damage: {text}. Restore a backup, or salvage the rest with `everlog"
            " repair`",
            place=text,
        )
    if "while lock file" in low or "lock hold by" in low:
        return OpenError(f"{doing}: another process has the database open: {text}", locked=True)
    if "column family not found" in low:
        return CorruptionError(f"{doing}: a part of the database is missing: {text}", place=text)
    if "no such file" in low:
        return CorruptionError(f"{doing}: a file of the database is missing: {text}", place=text)
    if "too many open files" in low:
        return DiskError(
            f"{doing}: no file descriptors are left ({text}); raise `ulimit -n`, and open the database again"
            " if writes stay refused",
            outcome="nothing written",
        )
    return DiskError(f"{doing}: {text}", outcome="nothing written")


def _full(error: Exception, doing: str) -> DiskError:
    """Return the error for a full disk, or for one without inodes: from that RocksDB never resumes, because
    it could not begin its next write-ahead log."""
    found = _FILE.search(str(error))
    file = getattr(error, "filename", None) or (found and found[1])
    if file and lacks_inodes(Path(file)):
        return DiskError(
            f"{doing}: {NO_INODES}; nothing was written. Remove at least {FILES} files from it, and open the"
            " database again: nothing more is written until then",
            outcome="nothing written",
        )
    return DiskError(
        f"{doing}: the disk is full; nothing was written. Free at least 40 MB: writing resumes some"
        " seconds later",
        outcome="nothing written",
        full=True,
    )


# Errors that say nothing about a file's content: no descriptors, no permission, no memory.
_NOT_DAMAGE = (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EPERM, errno.ENOMEM)


def check_damage(error: Exception, doing: str) -> None:
    """Raise DiskError if the operating system's `error` says nothing about a file's content, so that the file
    is not reported as damaged."""
    if isinstance(error, OSError) and error.errno in _NOT_DAMAGE:
        raise translate(error, doing) from error


FILES = 20  # that RocksDB creates to open a database, and more
DESCRIPTORS = 8  # files that RocksDB opens at a time to create a column family or to flush; gRPC, to start


def check_descriptors(doing: str) -> None:
    """Raise DiskError if a few files could not be opened: RocksDB would end writing until it is opened again,
    and gRPC would abort the process."""
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(DESCRIPTORS):
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise translate(error, doing) from error


ADDRESS_BYTES = 512 << 20  # of address space that RocksDB's threads and their heaps reserve, not memory


def check_address_space(path: Path) -> None:
    """Raise OpenError if `ulimit -v` leaves too little for RocksDB's threads: RocksDB would abort the
    process."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):  # no /proc
        return
    if limit - used < ADDRESS_BYTES:
        raise OpenError(
            f"{path} cannot be opened: RocksDB needs {ADDRESS_BYTES >> 20} MiB of address space, and"
            f" {max(0, limit - used) >> 20} MiB are left of {limit >> 20}; raise `ulimit -v`"
        )


class Refusal:
    """Whether the disk of one open database refuses writes. Safe to use from many threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self.since_ns = 0  # nanoseconds since the Unix epoch; 0: writes work
        self.error = ""
        self.is_full = False  # the disk is full: writing resumes automatically
        self.ended_s = 0.0  # when writes worked again, by the steady clock; 0: they never were refused
        self._ended = threading.Event()

    def begin(self, error: DiskError) -> None:
        """Note a refused write. The first one writes a line to the program's log."""
        with self._lock:
            if self.since_ns:
                return
            self._ended.clear()
            self.is_full = bool(error.facts.get("full"))
            self.since_ns, self.error = time.time_ns(), str(error)
        extra = about("writes.refused", database=str(self._path), full=self.is_full)
        logger.warning(
            "%s: writes are refused from now on, reads continue: %s", self._path, error, extra=extra
        )
        self._notify()

    def end(self) -> None:
        """Note that writes work again. The first call writes a line to the program's log."""
        with self._lock:
            if not self.since_ns:
                return
            took_s = (time.time_ns() - self.since_ns) / 1e9
            self.since_ns, self.error, self.is_full = 0, "", False
            self.ended_s = time.monotonic()
            self._ended.set()
        extra = about("writes.accepted", database=str(self._path), seconds=round(took_s, 3))
        logger.warning("%s: writes are accepted again, after %.0f s", self._path, took_s, extra=extra)
        self._notify()

    def wait(self, seconds: float) -> None:
        """Wait at most `seconds` until writes work again."""
        if self.since_ns:
            self._ended.wait(seconds)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each `begin` and `end`, on the calling thread. It must return quickly."""
        self._listeners = [*self._listeners, listener]

    def off_change(self, listener: Callable[[], None]) -> None:
        """Stop calling `listener`."""
        self._listeners = [known for known in self._listeners if known != listener]

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()
