"""Wal: wait for the disk for RocksDB's write-ahead log, without RocksDB.

    committing thread  append, then RocksDB's own sync     nobody else appends meanwhile
    any other thread   fdatasync of the files, here        beside the appends

Where RocksDB syncs a log whose last append failed, it takes a full disk for a failed sync, and never writes
again. A thread that syncs beside appends may do that at any time; this sync does not touch RocksDB's state.

Invariants
  (1) what was appended before `sync` began is on disk when it returns. RocksDB gives each append to the
      operating system at once, and removes a file only when its records are on disk in other files;
  (2) files only grow: one of the size that it had when it was last synced has nothing new.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import threading
from pathlib import Path

from everlog.store.rocks.files import sync_directory

SUFFIX = ".log"


class Wal:
    """The files of one RocksDB's write-ahead log. Safe to use from many threads."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._synced: dict[str, int] = {}  # bytes of each file when it was last synced
        self._lock = threading.Lock()

    def sync(self) -> None:
        """Wait until all that was appended is on disk. Releases the interpreter's lock. Raises OSError."""
        with self._lock:
            synced: dict[str, int] = {}
            for name in os.listdir(self._directory):  # noqa: PTH208  a tenth of the time of iterdir
                if name.endswith(SUFFIX):
                    with contextlib.suppress(FileNotFoundError):  # its records are in other files by now
                        synced[name] = self._sync(self._directory / name, self._synced.get(name, -1))
            if not synced.keys() <= self._synced.keys():
                sync_directory(self._directory)  # a new file is there after a power failure, too
            self._synced = synced

    @staticmethod
    def _sync(path: Path, known: int) -> int:
        """Sync a file that has not `known` bytes. Return its bytes."""
        if path.stat().st_size == known:
            return known
        descriptor = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            if sys.platform == "darwin":  # there fsync leaves it in the drive's cache
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            else:
                os.fdatasync(descriptor)
            return size
        finally:
            os.close(descriptor)
