"""Temporary: a directory that goes with its process, however that ends.

    Temporary(prefix) ─▶ /tmp/everlog-reading-x1y2z3   locked while it is held
                            ├─ remove() ─────▶ gone
                            └─ SIGKILL ──────▶ not locked any more ─▶ removed by the next process
                                                                      that makes one

The lock is the operating system's (flock) on the directory itself, and ends with whoever has it.
Where a file system knows no locks, nothing is swept.

Invariants
  (1) no directory of a process that lives is swept, nor one that is only just being made: who
      makes one has it only with its lock, and if it is there still.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
import weakref
from pathlib import Path

from everlog.store.process import Held

MEMORY = "/dev/shm"  # noqa: S108  a private directory is made in it

_swept: set[tuple[Path, str]] = set()
_lock = threading.Lock()


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
