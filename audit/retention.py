"""Retention: a database that archives by itself, beside those who read and write it.

    look, once a minute ─▶ is there enough to go? ─▶ archive ─▶ …
                             64 MB of log, or an hour since it was last done

    with Retention(db, "s3://archive/flights", keep_ns=90 * DAY_NS): …

Invariants
  (1) it fails loudly: what went wrong, and since when, is in the log of the program and in the status, until
      it works again; what was not archived is in the database, and the next look tries again: twice as
      late each time, an hour later at most, and as ever once it works;
  (2) it ends with its database, or when it is closed, at the next sign of progress;
  (3) while the clock is one that jumped, nothing goes because of its age.

What goes, and what stays, is `archive`'s to say.
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
from everlog.audit.place import shown
from everlog.store.database import Database
from everlog.store.errors import ClosedError, Error, OpenError, ReadOnlyError, RowError
from everlog.store.progress import OnProgress, Progress
from everlog.store.upkeep.status import ArchiveStatus

LOOK_S, AGAIN_S, EVERY_S, ENOUGH_BYTES = 60.0, 3600.0, 3600.0, 64 << 20

_BEGINNING = threading.Lock()  # of two who begin at once one archives the database

logger = logging.getLogger("everlog")


class Retention:
    """Archives a database, on a thread of its own, from when it is started (`with`, or `start`) until it is
    closed: all but the last `keep_records` records and those of the last `keep_ns` nanoseconds, to
    `target`, as soon as `enough_bytes` may go or `every_s` seconds have passed. Raises ReadOnlyError, and
    RowError for less than nothing that is kept; Error where it archives by itself already."""

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
        self._target = str(target)
        self._keep_records, self._keep_ns = keep_records, keep_ns
        self._every_s, self._enough_bytes, self._look_s = every_s, enough_bytes, look_s
        self._progress = progress
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._worked()
        with _BEGINNING:
            if db.retention is not None:
                raise Error(f"{db.url} archives by itself already; close that first")
            db.retention = self

    def start(self) -> Self:
        """Returns at once. What goes first is looked for now."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="everlog-retention", daemon=True)
            self._thread.start()
        return self

    def look(self) -> Archival | None:
        """Archives, in this thread, if there is enough to go; None: there was not. Raises as `archive`."""
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
        """Where it archives to, and what went wrong, if it does not work now. Read-only."""
        return ArchiveStatus(target=shown(self._target), error=self._error, error_ns=self._error_ns)

    def close(self) -> None:
        """Ends it, and waits for that. What is under way ends whole, or is as if it had not begun. Twice is
        once."""
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
        return age_ns < 0 or age_ns >= self._every_s * 1e9  # a time to come is of a clock that was wrong

    def _going(self, at: Progress) -> None:
        if self._progress is not None:
            self._progress(at)
        if self._stopped.is_set():
            raise ClosedError("archiving was ended; what was not archived is in the database")

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.look()
            except ClosedError:
                return
            except OpenError as error:
                if not error.facts.get("busy"):  # somebody archives it by hand: then it is done
                    self._failed(error)
            except Exception as error:  # noqa: BLE001  of whatever fsspec has behind the URL: it is told
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
            "old log could not be archived to %s: %s; it is tried again in %.0f s",
            *(shown(self._target), self._error, self.wait_s),
        )
