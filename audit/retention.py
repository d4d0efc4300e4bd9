"""Retention: archive a database automatically, on a thread beside its readers and writers.

    look, once a minute ─▶ is there enough to archive? ─▶ archive ─▶ …
                             64 MB of log, or an hour since the last time

    with Retention(db, "s3://archive/flights", keep_ns=90 * DAY_NS): …

Invariants
  (1) failures are visible: the error and its time are in the program's log and in the status until archiving
      works again. Records that were not archived stay in the database, and the next look tries again, after
      twice the time, an hour at most; a success resets it;
  (2) it ends with its database, or when it is closed, at the next progress report;
  (3) while the clock is one that jumped, no record is archived because of its age.

`archive` decides which records stay.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from os import PathLike
from types import TracebackType
from typing import Self

from everlog.audit.archive import Archival, archive, removable
from everlog.store.database import Database
from everlog.store.errors import ClosedError, Error, OpenError, ReadOnlyError, RowError
from everlog.store.process import Lock
from everlog.store.program_log import about
from everlog.store.progress import OnProgress, Progress
from everlog.store.upkeep.status import ArchiveStatus
from everlog.store.urls import without_secrets

LOOK_S, AGAIN_S, EVERY_S, ENOUGH_BYTES = 60.0, 3600.0, 3600.0, 64 << 20

_BEGINNING = Lock()  # of two that start at once, one archives the database

logger = logging.getLogger("everlog")


class Retention:
    """Archives a database, on its own thread, from its start (`with`, or `start`) until it is closed.

    Archives to `target` all but the last `keep_records` records and those of the last `keep_ns` nanoseconds,
    as soon as `enough_bytes` are removable or `every_s` seconds have passed; looks every `look_s` seconds.
    Raises ReadOnlyError; RowError for a negative amount to keep; Error if the database is already archived
    automatically."""

    def __init__(
        self,
        db: Database,
        target: str | PathLike[str],
        *,
        keep_records: int = 0,
        keep_ns: int = 0,
        every_s: float = EVERY_S,
        enough_bytes: int = ENOUGH_BYTES,
        look_s: float = LOOK_S,
        progress: OnProgress | None = None,
    ) -> None:
        if db.read_only:
            raise ReadOnlyError(f"{db.url} was opened for reading; open it without read_only to archive")
        if keep_records < 0 or keep_ns < 0:
            raise RowError("expected to keep 0 records or more, and 0 seconds or more")
        self._db = weakref.ref(db)
        self._path = str(db.path)
        self._target = str(target)
        self._keep_records, self._keep_ns = keep_records, keep_ns
        self._every_s, self._enough_bytes, self._look_s = every_s, enough_bytes, look_s
        self._progress = progress
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._worked()
        with _BEGINNING:
            if db.retention is not None:
                raise Error(f"{db.url} is already archived automatically; close that Retention first")
            db.retention = self

    def start(self) -> Self:
        """Start the thread, which looks at once; return immediately."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="everlog-retention", daemon=True)
            self._thread.start()
        return self

    def look(self) -> Archival | None:
        """Archive, in this thread, if there is enough to archive; return None if not. Raises as `archive`."""
        db = self._db()
        if db is None or not self._is_due(db):
            return None
        done = archive(
            db,
            self._target,
            keep_records=self._keep_records,
            keep_ns=self._keep_ns,
            progress=self._going,
        )
        self._worked()
        return done

    def status(self) -> ArchiveStatus:
        """Return the target, and the current error if archiving fails. Read-only."""
        return ArchiveStatus(target=without_secrets(self._target), error=self._error, error_ns=self._error_ns)

    def close(self) -> None:
        """Stop, and wait for the thread. A running archiving either completes or has no effect.
        Idempotent."""
        self._stopped.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        db = self._db()
        if db is not None and db.retention is self:
            db.retention = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_due(self, db: Database) -> bool:
        if self._keep_ns and db.clock.look():
            return False
        return all(self._is_enough(db, repeatable=exactly) for exactly in (False, True))

    def _is_enough(self, db: Database, *, repeatable: bool) -> bool:
        base, head = db.log.trimmed.base, db.head
        last, _ = removable(db, self._keep_records, self._keep_ns, repeatable=repeatable)
        if last <= max(base, 1):
            return False
        size = db.engine.log_bytes() * (last - base) // max(1, head - base)
        if size >= self._enough_bytes:
            return True
        age_ns = time.time_ns() - db.archived_ns()
        return age_ns < 0 or age_ns >= self._every_s * 1e9  # a future time comes from a wrong clock

    def _going(self, at: Progress) -> None:
        if self._progress is not None:
            self._progress(at)
        if self._stopped.is_set():
            raise ClosedError("archiving was stopped; records that were not archived are in the database")

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.look()
            except ClosedError:
                return
            except OpenError as error:
                if not error.facts.get("busy"):  # another archiving runs: that is enough
                    self._failed(error)
            except Exception as error:  # noqa: BLE001  any error of an fsspec backend; reported in the status
                self._failed(error)
            if self._db() is None:
                return
            self._stopped.wait(self.wait_s)

    @property
    def wait_s(self) -> float:
        """Seconds from one look to the next."""
        return max(self._look_s, min(self._look_s * 2.0**self._failures, AGAIN_S))

    def _worked(self) -> None:
        self._error, self._error_ns, self._failures = "", 0, 0

    def _failed(self, error: Exception) -> None:
        self._error, self._error_ns = str(error) or type(error).__name__, self._error_ns or time.time_ns()
        self._failures = min(self._failures + 1, 30)
        logger.warning(
            "cannot archive old log to %s: %s; the next attempt is in %.0f s",
            *(without_secrets(self._target), self._error, self.wait_s),
            extra=about("archive.failed", database=self._path),
        )
