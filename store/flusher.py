"""Flusher: brings what was committed under `os` to the disk, 20 ms later at the latest.

One thread for each database, made when it is first needed, which sleeps while there is nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from everlog.store.errors import DiskError
from everlog.store.log import Log

FLUSH_EVERY_S = 0.020


class Flusher:
    """`sync` is what waits for the disk; it raises DiskError once, and no more is flushed."""

    def __init__(self, sync: Callable[[], None], log: Log) -> None:
        self._sync = sync
        self._log = log
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.awake = False  # a flush is coming; read without a lock, by those who commit

    def wake(self) -> None:
        """There is something to flush."""
        self.awake = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="everlog-flusher", daemon=True)
            self._thread.start()
        self._wanted.set()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()  # first, or it would undo what `close` sets after `_stopped` was read
            if self._stopped.wait(FLUSH_EVERY_S):
                return
            self.awake = False  # before the sync: what comes from here on wakes it again
            try:
                self._sync()
            except DiskError:
                return  # the next commit raises it
            self._log.tell()

    def close(self) -> None:
        """Flushes what is left. Raises DiskError."""
        self._stopped.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()
        if self._log.head < self._log.written:
            self._sync()
            self._log.tell()
