"""Write refusal: why and from which time the disk refuses writes. Reads continue.

    a write fails: the disk is full   ─▶ begin ─▶ one line in the program's log ─▶ listeners
    there is space and a write works  ─▶ end   ─▶ one line                      ─▶ listeners

RocksDB checks for free space every five seconds, and then writes its memory to new files. Until then
nothing may sync its log through it: a failed sync turns the error into one that RocksDB never resumes
from (rocks/wal.py).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from everlog.store.errors import DiskError

logger = logging.getLogger("everlog")


class Refusal:
    """Whether the disk of one open database refuses writes. Safe to use from many threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self.since_ns = 0  # nanoseconds since the Unix epoch; 0: writes work
        self.error = ""
        self.is_full = False  # the disk is full: writing resumes automatically
        self._ended = threading.Event()

    def begin(self, error: DiskError) -> None:
        """Note a refused write. The first one writes a line to the program's log."""
        with self._lock:
            if self.since_ns:
                return
            self._ended.clear()
            self.is_full = bool(error.facts.get("full"))
            self.since_ns, self.error = time.time_ns(), str(error)
        logger.warning("%s: writes are refused from now on, reads continue: %s", self._path, error)
        self._notify()

    def end(self) -> None:
        """Note that writes work again. The first call writes a line to the program's log."""
        with self._lock:
            if not self.since_ns:
                return
            took_s = (time.time_ns() - self.since_ns) / 1e9
            self.since_ns, self.error, self.is_full = 0, "", False
            self._ended.set()
        logger.warning("%s: writes are accepted again, after %.0f s", self._path, took_s)
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
