"""Wal: sync RocksDB's write-ahead log to disk, without RocksDB.

    committing thread  append, then RocksDB's own sync     nobody else appends meanwhile
    any other thread   fdatasync of the files, here        concurrently with appends

If RocksDB syncs a log whose last append failed, it takes a full disk for a failed sync, and never writes
again. A thread that syncs concurrently with appends may do that at any time; this sync does not touch
RocksDB's state.

Invariants
  (1) everything appended before `sync` began is on disk when it returns. RocksDB passes each append to the
      operating system at once, and removes a file only when its records are on disk in other files;
  (2) files only grow: one whose size has not changed since its last sync has nothing new.
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
                    with contextlib.suppress(FileNotFoundError):  # its records are in other files now
                        synced[name] = self._sync(self._directory / name, self._synced.get(name, -1))
            if not synced.keys() <= self._synced.keys():
                sync_directory(self._directory)  # so that new files survive a power failure
            self._synced = synced

    @staticmethod
    def _sync(path: Path, known: int) -> int:
        """Sync a file unless its size is `known`. Return its size."""
        if path.stat().st_size == known:
            return known
        descriptor = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            if sys.platform == "darwin":  # where fsync leaves data in the drive's cache
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            else:
                os.fdatasync(descriptor)
            return size
        finally:
            os.close(descriptor)
