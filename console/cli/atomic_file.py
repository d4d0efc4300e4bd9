"""Atomic file: an output file that appears only when it is complete.

    FILE.part, mode 0600, locked ─▶ written and synced ─▶ renamed to FILE, with the mode of the previous FILE

The next run overwrites a FILE.part left by a kill. A named pipe or a device is written to directly. A link
is kept: its target is replaced.

Invariants
  (1) FILE is the previous file or a complete one, even after a kill;
  (2) two processes never write one FILE.part.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from everlog.store.errors import Error


@contextlib.contextmanager
def atomic_file(file: str) -> Iterator[IO[bytes]]:
    """A file to write into in the block; it is FILE once that has ended well, and is gone if it raises.

    Raises OSError with the name of the file, and Error if another process writes it.
    """
    path = Path(os.path.realpath(file))
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as out:
                yield out
            return
        with _locked(Path(f"{path}.part"), file) as (out, part):
            yield out
            out.flush()
            os.fsync(out.fileno())  # first: or the name may lead to nothing after a power failure
            os.fchmod(out.fileno(), _mode(path))
            part.replace(path)
    except OSError as error:
        error.filename = file  # a full disk does not say where
        raise


@contextlib.contextmanager
def _locked(part: Path, file: str) -> Iterator[tuple[IO[bytes], Path]]:
    while True:
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as out:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Error(f"{file} is being written by another process; wait for it") from None
            if not _is(part, handle):  # it took its name, or was removed, in the moment before
                continue
            try:
                os.fchmod(handle, 0o600)
                os.ftruncate(handle, 0)
                yield out, part
            finally:
                if _is(part, handle):
                    part.unlink()
            return


def _is(part: Path, handle: int) -> bool:
    """Return whether the path leads to the open file."""
    try:
        return os.path.samestat(part.lstat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _mode(path: Path) -> int:
    """That of the file that is replaced, or of a new one."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        os.umask(mask := os.umask(0o077))
        return 0o666 & ~mask


@contextlib.contextmanager
def as_text(out: IO[bytes]) -> Iterator[IO[str]]:
    """A file to write UTF-8 into, with line ends as they are given. It stays open."""
    lines = io.TextIOWrapper(out, encoding="utf-8", newline="")
    try:
        yield lines
        lines.flush()
    finally:
        with contextlib.suppress(OSError):  # of what failed before: it is raised already
            lines.detach()
