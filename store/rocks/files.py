"""Files: the small files beside RocksDB, temporary directories, and links to files that cannot be written.

    EVERLOG := {"format": 1, "database": "<uuid>"}                     written once, at creation
    HEAD    := {"seq": 812, "checksum": 3735928559}                    every second, and on closing
    OWNER   := {"pid": 4711, "host": "…", "since": "…"}                on opening for writing
    LOCK    := empty; locked by the writer (rocks/ownership.py)         once

Other modules own ARCHIVE and HOLDS (everlog.audit), BOOKMARKS (upkeep/consumers.py) and KEYS
(crypto/key_store.py), and `reads/` (upkeep/read_audit.py).

RocksDB can lose the end of its write-ahead log silently: a missing file opens as empty. On opening, the
log is compared with HEAD, so that a loss is an error.

`Temporary` is a directory that is removed with its process, however that ends:

    Temporary(prefix) ─▶ /tmp/everlog-reading-x1y2z3   locked while it is held
                            ├─ remove() ─────▶ removed
                            └─ SIGKILL ──────▶ no longer locked ─▶ removed by the next process
                                                                   that creates one

The lock is the operating system's (flock) on the directory itself, and ends with its holder. Where a
file system has no locks, nothing is swept.

`link` gives a reader the files of a RocksDB in a place that cannot be written, in a directory that can:

    db/CURRENT          ◀── link ──  scratch/CURRENT
    db/000012.sst       ◀── link ──  scratch/000012.sst
    db/rocksdict-config.json ─ copied ─▶ scratch/…        written by every opening, a reader's as well

The reader opens the scratch directory: evidence on read-only media, a mount, or a database of another
user, who may be writing it. New files get links when the reader catches up.

Invariants
  (1) HEAD never states more than was on disk when it was written;
  (2) each file is replaced as a whole: it is the old one or the new one, never a part;
  (3) a read-modify-write of one of these files holds the lock (`locked`), or updates would be lost;
  (4) no directory of a living process is swept, nor one that is just being created: its creator has it only
      once it is locked and still exists;
  (5) nothing is written to a linked place, and no link leads to a file that would be written;
  (6) no column family is dropped while a reader opens RocksDB (`hold_families`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import stat
import tempfile
import time
import weakref
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from everlog.store.environment import without_waiting
from everlog.store.errors import DiskError, OpenError
from everlog.store.process import Held, Lock
from everlog.store.rocks.errors import reason

FORMAT = 1
MARKER, HEAD, OWNER = "EVERLOG", "HEAD", "OWNER"
ARCHIVE, BOOKMARKS, HOLDS, KEYS = "ARCHIVE", "BOOKMARKS", "HOLDS", "KEYS"
FAMILIES_S = 10.0  # a process that was stopped, and holds the column families, delays others for this long
READS, READS_SUFFIX = "reads", ".reads"  # the directory of the read audit, and the names of its files

REMEDY = "Restore a copy of it, or make it again from the log with `everlog repair`"


class Marker(msgspec.Struct):
    """Identifies the directory as a database."""

    format: int
    database: str


class Head(msgspec.Struct):
    """The last record that was known to be on disk."""

    seq: int
    checksum: int


class Owner(msgspec.Struct):
    """The process that has the database open for writing."""

    pid: int
    host: str
    since: str


Known = Annotated[int, msgspec.Meta(ge=1, le=FORMAT)]  # a format that this version supports
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
T = TypeVar("T", bound=msgspec.Struct)


def write(path: Path, value: msgspec.Struct, *, sync: bool) -> None:
    """Replace the file as a whole: after a power failure it is the old one or the new one.

    `sync` waits until it is the new one. Raises DiskError.
    """
    try:
        _replace(path, value, sync=sync)
    except OSError as error:
        raise DiskError(
            f"{real_path(path)} could not be written: {reason(error, path)}", outcome="nothing written"
        ) from error


def _replace(path: Path, value: msgspec.Struct, *, sync: bool) -> None:
    temporary = path.with_name(path.name + ".new")
    with open(temporary, "wb", opener=private) as file:
        file.write(msgspec.json.encode(value) + b"\n")
        file.flush()
        os.fsync(file.fileno())  # first: otherwise the name could be on disk without the content
    temporary.replace(path)
    if sync:
        sync_directory(path.parent)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other threads and processes out of this database's small files for the block: read one, then
    write it.

    Raises OpenError if there is no database.
    """
    try:
        held = Held(os.open(directory / MARKER, os.O_RDONLY))
    except OSError as error:
        raise OpenError(
            f"there is no database at {real_path(directory)}: {MARKER}: {error.strerror}"
        ) from None
    with held:
        fcntl.flock(held.fileno(), fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def hold_families(database: Path, *, alone: bool) -> Iterator[None]:
    """Keep the column families of a database for the block: readers together, while they open it; `alone`:
    the writer, while it drops one.

    RocksDB's reader crashes if a column family that it opens is dropped meanwhile, and only a part of its
    files deleted. The first of the two locks, which a reader has for a moment, lets a writer in although more
    readers come. Waits at most FAMILIES_S, and not where there are no locks: then a crash remains possible.
    """
    kind, until = (fcntl.LOCK_EX if alone else fcntl.LOCK_SH), time.monotonic() + FAMILIES_S
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            gate, families = (
                stack.enter_context(Held(os.open(path, os.O_RDONLY | os.O_DIRECTORY)))
                for path in (database, database / "db")
            )
            for held in (gate, families):
                while not locks(held, kind) and time.monotonic() < until:
                    time.sleep(0.001)
            if not alone:
                gate.close()
        yield


def locks(held: Held, kind: int) -> bool:
    try:
        fcntl.flock(held.fileno(), kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def make_directory(path: Path) -> None:
    """Create a directory for its user only, and its parents, durably. An existing one keeps its mode.
    Raises OSError."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    path.mkdir(0o700, parents=True, exist_ok=True)
    for one in missing:
        sync_directory(one.parent)


def matching(directory: Path, pattern: str) -> list[Path]:
    """Return the files in a directory whose names match a pattern; none if it does not exist.

    Raises OSError if it cannot be read: `Path.glob` returns nothing then, since Python 3.13.
    """
    try:
        return [file for file in directory.iterdir() if fnmatchcase(file.name, pattern)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def below(directory: Path) -> Iterator[Path]:
    """Yield all files and directories in a directory. One that goes meanwhile has none. Raises OSError."""

    def failed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for path, directories, names in os.walk(directory, onerror=failed):
        for name in (*directories, *names):
            yield Path(path, name)


def file_mode(directory: os.stat_result) -> int:
    """Return the mode of files in a directory with this mode: the same without execution."""
    return stat.S_IMODE(directory.st_mode) & 0o666


def private(path: str, flags: int) -> int:
    """Opener for `open`: new files are no more accessible than their directory."""
    return os.open(path, flags, file_mode(Path(path).parent.stat()))


def real_path(path: Path) -> Path:
    """Return the real path of a file that is reached through a descriptor, for messages."""
    if not str(path).startswith("/proc/self/fd/"):
        return path
    try:
        return Path(*path.parts[:5]).readlink().joinpath(*path.parts[5:])
    except OSError:
        return path


def sync_directory(path: Path) -> None:
    """Wait until the entries of a directory are on disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path, kind: type[T], remedy: str = "") -> T | None:
    """Return the file's value; None if there is no file. Raises OpenError if it cannot be read and, with
    the `remedy`, if it is invalid."""
    try:
        with open(path, "rb", opener=without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OpenError(f"{real_path(path)} cannot be read: expected a regular file")
            return msgspec.json.decode(file.read(), type=kind)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        above = next(one for one in path.parents if one.exists())
        raise OpenError(f"{real_path(above)} is a file; an everlog database is a directory") from None
    except OSError as error:
        raise OpenError(f"{real_path(path)} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OpenError(
            f"{real_path(path)} is not a valid {path.name} file of everlog: {error}"
            + (f". {remedy}" if remedy else ""),
            invalid=True,
        ) from None


def read_head(path: Path) -> Head | None:
    """Return the content of HEAD; None if there is no file. Raises OpenError."""
    return read(path / HEAD, Head, REMEDY)


def read_marker(path: Path) -> Marker | None:
    """Return the marker of a database's directory; None if it has none. Raises OpenError if its format is
    newer."""
    marker = read(path / MARKER, Marker, REMEDY)
    if marker is not None and marker.format > FORMAT:
        raise OpenError(
            f"{real_path(path)} has format {marker.format}, this version of everlog supports up to {FORMAT};"
            " open it with a newer version",
            format=marker.format,
        )
    return marker


def this_process() -> Owner:
    """Return this process as the owner of a database."""
    return Owner(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%dT%H:%M:%S%z"))


MEMORY = "/dev/shm"  # noqa: S108  a private directory is made in it

_swept: set[tuple[Path, str]] = set()
_lock = Lock()


class Temporary:
    """A new, empty directory in `parent`, or in the directory for temporary files. Raises DiskError.

    It is removed at the latest when the process exits, also after an interrupt. The first one of a process
    also removes directories with the same prefix that killed processes left behind. `swept`: also those of
    processes that exited, because files in it may be in use until then.
    """

    def __init__(self, prefix: str, parent: str | Path | None = None, *, swept: bool = False) -> None:
        try:
            where = Path(parent or tempfile.gettempdir())
            with _lock:
                if (where, prefix) not in _swept:
                    _swept.add((where, prefix))
                    sweep(where, prefix)
            self.path, descriptor = _made(where, prefix)
        except OSError as error:
            raise DiskError(
                "no temporary directory could be created:"
                f" {reason(error, Path(parent or os.environ.get('TMPDIR', '/')))}; TMPDIR names another"
                " place for it",
                outcome="nothing written",
            ) from error
        self._held = Held(descriptor)
        end = self._held.close if swept else partial(_discard, self.path, self._held)
        self._end = weakref.finalize(self, end)

    def remove(self) -> None:
        """Remove it with its content; may be called twice. Does nothing in a forked child."""
        _discard(self.path, self._held)
        self._end.detach()


def _discard(path: Path, held: Held) -> None:
    """Remove a temporary directory, unless this process inherited it."""
    if held.fileno() >= 0:
        shutil.rmtree(path, ignore_errors=True)
    held.close()


def in_memory(prefix: str) -> Temporary:
    """Return a temporary directory in memory, if the system has such a place. Raises DiskError."""
    return Temporary(prefix, MEMORY if os.access(MEMORY, os.W_OK) else None, swept=True)


def sweep(where: Path, prefix: str) -> list[Path]:
    """Remove and return the directories that ended processes left behind."""
    found = []
    for path in sorted(where.glob(f"{prefix}*")):
        try:
            descriptor = lock_directory(path)
        except OSError:  # in use, or another user's
            continue
        try:
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)
        found.append(path)
    return found


def _made(where: Path, prefix: str) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=where))
        try:
            descriptor = lock_directory(path)
        except (BlockingIOError, FileNotFoundError):  # another process sweeps it as an abandoned one
            continue
        except OSError:  # this file system has no locks
            return path, os.open(path, os.O_RDONLY)
        if path.exists():
            return path, descriptor
        os.close(descriptor)


def lock_directory(path: Path) -> int:
    """Open and lock a directory. Raises BlockingIOError if another process has the lock, OSError if there
    are no locks."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


COPIED = "rocksdict-config.json"


def needs_links(source: Path) -> bool:
    """Whether this process cannot write to a directory, or its disk is full."""
    return source.is_dir() and (not os.access(source, os.W_OK) or not os.statvfs(source).f_bavail)


def link(source: Path, target: Path) -> None:
    """Make `target` contain the current files of `source`. Raises OSError."""
    target.mkdir(exist_ok=True)
    there, here = (
        {entry.name for entry in os.scandir(path) if entry.name != "LOCK"} for path in (source, target)
    )
    for name in here - there - {COPIED}:
        (target / name).unlink()
    for name in there - here:
        with contextlib.suppress(FileNotFoundError):  # RocksDB deletes what it has compacted
            if name == COPIED:
                shutil.copyfile(source / name, target / name)
            else:
                (target / name).symlink_to((source / name).absolute())
