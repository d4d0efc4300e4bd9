"""Merger: the files of the log stay few. Small ones are made one, while others read and write.

    each flush, each closing ─▶ one more file of the log ─▶ eight or more ─▶ one

RocksDB merges files whose keys overlap, and moves others as they are. Those of the log never overlap, so a
database that is opened for one commit, and closed, would have one file more each time, for ever, and a
reader beside a writer opens all there are.

What was removed (archived records, dropped tables and indexes, deleted rows) stays on disk as long as a
snapshot sees it. RocksDB's files say how much of that they have. Once no snapshot sees it they are written
anew: when the snapshot is released, with the next look, or when the database is closed or opened.

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
from everlog.store.trimmed import edge

LEAST = 8  # files
LARGEST = 4  # a file of more than this part of the whole is left as it is
EVERY_S = 30.0
FIRST_S = 1.0  # from opening to the first look: programs with one commit need not wait for it
HELD_S = 1.0  # between two looks whether a snapshot still sees what was removed
LEAST_DELETED, PART = 16, 10  # so many entries must be deletions, and such a part of all
AT_CLOSE_BYTES = 64 << 20  # closing frees tables of this size at most


class Merger:
    """Merges the files of one open database's log, and frees removed entries. The committer calls `look`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._looked_at = time.monotonic() - EVERY_S  # what was killed again and again left files, too
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._left: dict[bool, tuple[int, int, int]] = {}  # what the last compaction left, of log and tables

    def look(self) -> None:
        """Check from time to time whether there is work, and start the thread that does it."""
        now = time.monotonic()
        if now - self._looked_at < EVERY_S:
            return
        self._looked_at = now
        self.start()

    def begin(self) -> None:
        """Check for the first time, on another thread, shortly after the opening."""
        self._thread = threading.Thread(target=self._first, name="everlog-merger", daemon=True)
        self._thread.start()

    def _first(self) -> None:
        if not self._closed.wait(FIRST_S):
            self._run()

    def start(self) -> threading.Thread | None:
        """The thread that merges and frees, where there is something to do."""
        with self._lock:
            idle = self._thread is None or not self._thread.is_alive()
            if idle and not self._closed.is_set() and (self._found() is not None or self._removed()):
                self._thread = threading.Thread(target=self._run, name="everlog-merger", daemon=True)
                self._thread.start()
            return self._thread

    def _run(self) -> None:
        with contextlib.suppress(Error):  # all is as it was, and the next look tries again
            self._merge()
            while removed := self._removed():
                sequence = self._engine.sequence
                while self._engine.holds_before(sequence):
                    if self._closed.wait(HELD_S):
                        return
                    self._merge()
                for log in removed:
                    self._free(log=log)

    def _merge(self) -> None:
        while not self._closed.is_set() and (found := self._found()) is not None:
            self._engine.merge_log(*found)

    def _removed(self) -> list[bool]:
        """Return which have removed entries on disk: the log (True), the tables (False)."""
        found = []
        for log in (True, False):
            entries, deletions, ranges = counted = self._engine.removed(log=log)
            many = ranges or deletions >= max(LEAST_DELETED, entries // PART)
            if many and counted != self._left.get(log):
                found.append(log)
        return found

    def _free(self, *, log: bool) -> None:
        if log:
            first = edge(self._engine, first=True)
            self._engine.compact_log(first[0] if first else b"\xff")
        else:
            self._engine.compact_data(b"", b"\xff" * 16)
        self._left[log] = self._engine.removed(log=log)

    def _found(self) -> tuple[bytes, bytes] | None:
        """The keys of the first and the last record of what is to become one file."""
        files = self._engine.log_files()
        run = to_merge([size for size, _, _ in files])
        return (files[run.start][1], files[run.stop - 1][2]) if run else None

    def close(self) -> None:
        """Wait for the running merge, and free the rest, as no snapshot is open any more. Raises Error."""
        with self._lock:
            self._closed.set()
        if self._thread is not None:
            self._thread.join()
        if (found := self._found()) is not None:
            self._engine.merge_log(*found)
        for log in self._removed():
            if log or self._engine.data_bytes() <= AT_CLOSE_BYTES:
                self._free(log=log)


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
