"""Flusher: brings what was committed under `os` to the disk, 20 ms later at the latest.

One thread for each database, made when it is first needed, which sleeps while there is nothing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from everlog.store.errors import DiskError
from everlog.store.log import Log

FLUSH_EVERY_S = 0.020
LOOK_EVERY_S = 1.0  # for room, where the disk was full


class Flusher:
    """`sync` waits for the disk, and raises DiskError. `is_settled` then tries to finish the rest, and
    returns whether it did; it is called again until it does."""

    def __init__(self, sync: Callable[[], None], is_settled: Callable[[], bool], log: Log) -> None:
        self._sync = sync
        self._is_settled = is_settled
        self._log = log
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self.awake = False  # a flush is coming; read without a lock, by those who commit

    def wake(self) -> None:
        """There is something to flush."""
        self.awake = True
        self.look()

    def look(self) -> None:
        """Wake the thread: there is something to flush or to settle. For any thread."""
        if self._thread is None:
            self._start()
        self._wanted.set()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and not self._stopped.is_set():
                thread = threading.Thread(target=self._run, name="everlog-flusher", daemon=True)
                thread.start()
                self._thread = thread  # once it runs: `stop` joins it

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()  # first, or it would undo what `stop` sets after `_stopped` was read
            if self._stopped.wait(FLUSH_EVERY_S):
                return
            self.awake = False  # before the sync: what comes from here on wakes it again
            with contextlib.suppress(DiskError):  # the next commit raises it
                if self._log.head < self._log.written:
                    self._sync()
                    self._log.tell()
            while not self._is_settled():
                if self._stopped.wait(LOOK_EVERY_S):
                    return

    def stop(self) -> None:
        """End the thread; `close` flushes the rest."""
        with self._starting:
            self._stopped.set()
        self._wanted.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def close(self) -> None:
        """Flush the rest, after `stop`. Raises DiskError."""
        if self._log.head < self._log.written:
            self._sync()
            self._log.tell()
