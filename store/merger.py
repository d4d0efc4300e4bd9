"""Merger: the files of the log stay few. Small ones are made one, while others read and write.

    each flush, each closing ─▶ one more file of the log ─▶ eight or more ─▶ one

RocksDB merges files whose keys overlap, and moves others as they are. Those of the log never overlap, so a
database that is opened for one commit, and closed, would have one file more each time, for ever, and a
reader beside a writer opens all there are.

Invariants
  (1) what is merged is no more than LOG_FILE_BYTES, and its largest file no more than a quarter of it: each
      record is copied again some few times at most, and closing takes no longer than that;
  (2) one merge at a time, and none after `close`.
"""

from __future__ import annotations

import contextlib
import threading
import time

from everlog.store.engine import LOG_FILE_BYTES, Engine
from everlog.store.errors import Error

LEAST = 8  # files
LARGEST = 4  # a file of more than this part of the whole is left as it is
EVERY_S = 30.0


class Merger:
    """Merges the files of one open database's log. `look` is for who has just committed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._looked_at = time.monotonic() - EVERY_S  # what was killed again and again left files, too
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False

    def look(self) -> None:
        """Now and then, a look whether there is something to merge, which another thread then does."""
        now = time.monotonic()
        if now - self._looked_at < EVERY_S:
            return
        self._looked_at = now
        self.start()

    def start(self) -> threading.Thread | None:
        """The thread that merges, where there is something to merge."""
        with self._lock:
            idle = self._thread is None or not self._thread.is_alive()
            if idle and not self._closed and self._found() is not None:
                self._thread = threading.Thread(target=self._merge, name="everlog-merger", daemon=True)
                self._thread.start()
            return self._thread

    def _merge(self) -> None:
        with contextlib.suppress(Error):  # all is as it was, and the next look tries again
            while not self._closed and (found := self._found()) is not None:
                self._engine.merge_log(*found)

    def _found(self) -> tuple[bytes, bytes] | None:
        """The keys of the first and the last record of what is to become one file."""
        files = self._engine.log_files()
        run = to_merge([size for size, _, _ in files])
        return (files[run.start][1], files[run.stop - 1][2]) if run else None

    def close(self) -> None:
        """Waits for what is under way, and does once more what is to be done. Raises Error."""
        with self._lock:
            self._closed = True
        if self._thread is not None:
            self._thread.join()
        if (found := self._found()) is not None:
            self._engine.merge_log(*found)


def to_merge(sizes: list[int]) -> range:
    """Which files become one: the newest that may, as many as may be."""
    for end in range(len(sizes), LEAST - 1, -1):
        found = whole = largest = 0
        for count, size in enumerate(reversed(sizes[:end]), 1):
            whole, largest = whole + size, max(largest, size)
            if whole > LOG_FILE_BYTES:
                break
            if count >= LEAST and largest * LARGEST <= whole:
                found = count
        if found:
            return range(end - found, end)
    return range(0)
