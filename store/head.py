"""Head: small files beside RocksDB that say what it should contain.

    EVERLOG := {"format": 1, "database": "<uuid>"}                     written once, at creation
    HEAD    := {"seq": 812, "checksum": 3735928559}                    every second, and on closing
    OWNER   := {"pid": 4711, "host": "…", "since": "…"}                on opening for writing
    LOCK    := nothing; locked by the writer (ownership.py)         once

and the files of others: ARCHIVE, HOLDS (everlog.audit), BOOKMARKS (bookmarks.py), KEYS (slots.py).

RocksDB can lose the end of its write-ahead log without a word: a file that is gone opens as
empty. HEAD is what the log is compared with on opening, so that a loss is an error.

Invariants
  (1) HEAD never says more than what was on disk when it was written;
  (2) each file is replaced whole: it is the old one or the new one, never a part;
  (3) whoever changes one by what it says holds the lock, or two would lose what the other wrote.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from everlog.store.errors import DiskError, OpenError
from everlog.store.process import Held

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
