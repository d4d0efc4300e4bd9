"""Head: small files beside RocksDB that say what it should contain.

    EVERLOG := {"format": 1, "database": "<uuid>"}                     written once, at creation
    HEAD    := {"seq": 812, "checksum": 3735928559}                    every second, and on closing
    OWNER   := {"pid": 4711, "host": "…", "since": "…"}                on opening for writing
    LOCK    := nothing; locked by the writer (rocks/ownership.py)         once

and the files of others: ARCHIVE, HOLDS (everlog.audit), BOOKMARKS (upkeep/consumers.py) and KEYS
(crypto/key_store.py).

RocksDB can lose the end of its write-ahead log without a word: a file that is gone opens as
empty. HEAD is what the log is compared with on opening, so that a loss is an error.

Invariants
  (1) HEAD never says more than what was on disk when it was written;
  (2) each file is replaced whole: it is the old one or the new one, never a part;
  (3) whoever changes one by what it says holds the lock, or two would lose what the other wrote.

Temporary: a directory that goes with its process, however that ends.

    Temporary(prefix) ─▶ /tmp/everlog-reading-x1y2z3   locked while it is held
                            ├─ remove() ─────▶ gone
                            └─ SIGKILL ──────▶ not locked any more ─▶ removed by the next process
                                                                      that makes one

The lock is the operating system's (flock) on the directory itself, and ends with whoever has it.
Where a file system knows no locks, nothing is swept.

Invariants
  (1) no directory of a process that lives is swept, nor one that is only just being made: who
      makes one has it only with its lock, and if it is there still.

Linked: the files of a RocksDB in a place that cannot be written, under another directory that can.

    db/CURRENT          ◀── link ──  scratch/CURRENT
    db/000012.sst       ◀── link ──  scratch/000012.sst
    db/rocksdict-config.json ─ copied ─▶ scratch/…        which every opening writes, a reader's as well

A reader opens the scratch one: evidence on read-only media, a mount, or a database of somebody else, who may
be writing it. What that adds gets a link when the reader catches up.

Invariants
  (1) nothing is written to the place itself, and no link leads to what would be written.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import socket
import stat
import tempfile
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from everlog.store.errors import DiskError, OpenError
from everlog.store.process import Held, Lock

FORMAT = 1
MARKER, HEAD, OWNER = "EVERLOG", "HEAD", "OWNER"
ARCHIVE, BOOKMARKS, HOLDS, KEYS = "ARCHIVE", "BOOKMARKS", "HOLDS", "KEYS"


class Marker(msgspec.Struct):
    """What the directory is."""

    format: int
    database: str


class Head(msgspec.Struct):
    """How far the log was on disk."""

    seq: int
    checksum: int


class Owner(msgspec.Struct):
    """Who has it open for writing."""

    pid: int
    host: str
    since: str


Known = Annotated[int, msgspec.Meta(ge=1, le=FORMAT)]  # a format that this everlog knows
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
T = TypeVar("T", bound=msgspec.Struct)


def write(path: Path, value: msgspec.Struct, *, sync: bool) -> None:
    """Replaces the file whole: whenever the power fails, it is the one before or this one. `sync` waits
    until it is this one. Raises DiskError."""
    try:
        _replace(path, value, sync=sync)
    except OSError as error:
        raise DiskError(
            f"{shown(path)} could not be written: {error.strerror}", outcome="nothing written"
        ) from error


def _replace(path: Path, value: msgspec.Struct, *, sync: bool) -> None:
    temporary = path.with_name(path.name + ".new")
    with open(temporary, "wb", opener=private) as file:
        file.write(msgspec.json.encode(value) + b"\n")
        file.flush()
        os.fsync(file.fileno())  # first: or a name that is on disk may lead to nothing
    temporary.replace(path)
    if sync:
        sync_directory(path.parent)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """While it is entered no other thread or process is, for the small files of this database: read one,
    and write what follows. Raises OpenError if there is no database."""
    try:
        held = Held(os.open(directory / MARKER, os.O_RDONLY))
    except OSError as error:
        raise OpenError(f"there is no database at {shown(directory)}: {MARKER}: {error.strerror}") from None
    with held:
        fcntl.flock(held.fileno(), fcntl.LOCK_EX)
        yield


def make_directory(path: Path) -> None:
    """Create a directory for its user alone, and its parents, durably. An existing one keeps its mode. Raises
    OSError."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    path.mkdir(0o700, parents=True, exist_ok=True)
    for one in missing:
        sync_directory(one.parent)


def file_mode(directory: os.stat_result) -> int:
    """Return the mode of files in a directory with this mode: the same without execution."""
    return stat.S_IMODE(directory.st_mode) & 0o666


def private(path: str, flags: int) -> int:
    """An opener for `open`: new files are no more open than their directory."""
    return os.open(path, flags, file_mode(Path(path).parent.stat()))


def read_secret(path: Path, what: str) -> bytes:
    """Return the content of a file that only its owner can read: a key, or tokens (`what`). The group may
    read one of root's as well; a pipe has no mode that counts. Read-only. Raises OpenError, without showing
    anything of it."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            others = 0o037 if found.st_uid == 0 else 0o077
            if stat.S_ISREG(found.st_mode) and found.st_mode & others:
                raise OpenError(
                    f"{path}: {what} can be read by others (mode {stat.S_IMODE(found.st_mode):04o}): expected"
                    f" a file that only its owner can read. Run `chmod 600 {shlex.quote(str(path))}`, and"
                    " replace what is in it if somebody may have read it",
                    path=str(path),
                )
            return file.read()
    except OSError as error:
        raise OpenError(f"{path}: {what} cannot be read: {error.strerror}") from None


def shown(path: Path) -> Path:
    """Return the real path of a file that is reached through a descriptor, for messages."""
    if not str(path).startswith("/proc/self/fd/"):
        return path
    try:
        return Path(*path.parts[:5]).readlink().joinpath(*path.parts[5:])
    except OSError:
        return path


def sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path, kind: type[T], remedy: str = "") -> T | None:
    """The file's value; None if there is no file. Raises OpenError if it is not one, with the `remedy`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
        raise OpenError(
            f"{shown(path)}: expected everlog's {path.name} file, found something else: {error}"
            + (f". {remedy}" if remedy else "")
        ) from None


def read_marker(path: Path) -> Marker | None:
    """What this directory is. Raises OpenError if it is of a newer everlog."""
    marker = read(path / MARKER, Marker)
    if marker is not None and marker.format > FORMAT:
        raise OpenError(
            f"{shown(path)} has format {marker.format}, this everlog knows up to {FORMAT}; open it with a"
            " newer one",
            format=marker.format,
        )
    return marker


def this_process() -> Owner:
    return Owner(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%dT%H:%M:%S%z"))


MEMORY = "/dev/shm"  # noqa: S108  a private directory is made in it

_swept: set[tuple[Path, str]] = set()
_lock = Lock()


class Temporary:
    """A new, empty directory in `parent`, or where temporary files are. The first of a process also
    removes those that others with the same prefix left behind. Raises OSError."""

    def __init__(self, prefix: str, parent: str | Path | None = None) -> None:
        where = Path(parent or tempfile.gettempdir())
        with _lock:
            if (where, prefix) not in _swept:
                _swept.add((where, prefix))
                sweep(where, prefix)
        self.path, descriptor = _made(where, prefix)
        self._held = Held(descriptor)
        self._unlock = weakref.finalize(self, self._held.close)

    def remove(self) -> None:
        """Remove it with its content; may be called twice. Does nothing in a forked child."""
        if self._held.fileno() >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            self._unlock()


def in_memory(prefix: str) -> Temporary:
    """One in memory, where there is such a place. Raises OSError."""
    return Temporary(prefix, MEMORY if os.access(MEMORY, os.W_OK) else None)


def sweep(where: Path, prefix: str) -> list[Path]:
    """Removes the directories there that nobody has any more; returns them."""
    found = []
    for path in sorted(where.glob(f"{prefix}*")):
        try:
            descriptor = _locked(path)
        except OSError:  # somebody has it, or it is not ours
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
            descriptor = _locked(path)
        except (BlockingIOError, FileNotFoundError):  # somebody sweeps, and took it for one that was left
            continue
        except OSError:  # no locks here
            return path, os.open(path, os.O_RDONLY)
        if path.exists():
            return path, descriptor
        os.close(descriptor)


def _locked(path: Path) -> int:
    """Raises BlockingIOError if another has the lock, OSError if it cannot be had."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


COPIED = "rocksdict-config.json"


def needs_links(source: Path) -> bool:
    """Whether a directory cannot be written, by this process or by anybody, or its disk is full."""
    return source.is_dir() and (not os.access(source, os.W_OK) or not os.statvfs(source).f_bavail)


def link(source: Path, target: Path) -> None:
    """Makes a directory have what another has now. Raises OSError."""
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
