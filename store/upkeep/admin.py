"""Admin: the calls of operators on one open database: `db.admin`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from everlog.proto import log_pb2
from everlog.store.clock import BEHIND_NS, CORRECTED
from everlog.store.core import Core
from everlog.store.errors import Error
from everlog.store.history.past import Past
from everlog.store.progress import OnProgress, Progress
from everlog.store.schema.arguments import Time
from everlog.store.tables.hashing import TableHash, hashes
from everlog.store.tables.projection import PRODUCTION
from everlog.store.tx.transaction import Transaction
from everlog.store.upkeep import check, expiry, rebuild
from everlog.store.upkeep.consumers import Consumers
from everlog.store.upkeep.status import ArchiveStatus, Health, Status, health, status
from everlog.store.upkeep.testdata import LoadedTestdata, loaded


class Admin:
    """The calls of operators on one open database. `archiving` returns the state of automatic archiving;
    `begin` begins a transaction with metadata, which it checks."""

    def __init__(
        self,
        core: Core,
        past: Past,
        consumers: Consumers,
        archiving: Callable[[], ArchiveStatus],
        begin: Callable[..., Transaction],
    ) -> None:
        self._core = core
        self._past = past
        self._consumers = consumers
        self._archiving = archiving
        self._begin = begin

    def status(self) -> Status:
        """Return the state of the database in numbers. Read-only."""
        self._core.check_open()
        return status(self._core, self._past, self._consumers, self._archiving())

    def health(self) -> Health:
        """Return whether the database takes calls now, and why not. Read-only, and cheap."""
        self._core.check_open()
        return health(self._core)

    def hashes(
        self, progress: OnProgress | None = None, *, seq: int | None = None, sealed: bool = False
    ) -> dict[str, TableHash]:
        """Return the number of rows and the content hash of every table, now or as of `seq`. Read-only.

        `sealed`: hash sealed rows as they are stored, as a copy without keys has them.
        """
        _, now, view = self._core.view()
        with_progress = None if progress is None else lambda done: progress(Progress("hash", done))
        try:
            if seq is None or seq == now:
                return hashes(view, self._core.schema, with_progress, sealed=sealed)
        finally:
            view.close()
        with self._past.at(seq=seq, progress=progress) as then:
            return then.hashes(progress, sealed=sealed)

    def rebuild(self, progress: OnProgress | None = None) -> dict[str, TableHash]:
        """Build all tables again from the log beside the live ones, prove that both are equal, and switch
        to the new ones. Writes.

        A killed rebuild resumes where it stopped. Raises CorruptionError if they differ; nothing is
        switched then.
        """
        self._core.check_writable()
        return rebuild.beside(self._core, progress)

    def rebuild_into(
        self,
        path: Path | str,
        progress: OnProgress | None = None,
        *,
        seq: int | None = None,
        time: Time | None = None,
    ) -> dict[str, TableHash]:
        """Build this database from its log in a new directory, and return the hashes of its tables.

        `seq`: as of this record; `time`: as of this time (as in `at`); neither: as of the newest record. The
        new database has the same UUID: followers that are ahead of it receive an error about this, or about
        diverged histories. A killed run resumes where it stopped. Raises OpenError if the directory has
        other files, CursorError for a position that the log does not have.
        """
        self._core.check_open()
        last = self._past.position(seq=seq, time=time) if seq is not None or time is not None else None
        return rebuild.into(self._core, Path(path), last, progress)

    def check(self, progress: OnProgress | None = None, *, deep: bool = False) -> Iterable[str]:
        """Yield a sentence for each problem with tables, indexes, files and log. Read-only.

        `deep`: also compare every row with the log, for which the tables are built again in a temporary
        directory.
        """
        self._core.check_open()
        return check.problems(self._core, progress, deep=deep)

    def testdata(self) -> list[LoadedTestdata]:
        """Return which test data was loaded, by version, seed, scale and table. Read-only."""
        self._core.check_open()
        return loaded(self._core)

    def samples(
        self,
        since_ns: int = 0,
        *,
        points: int = 0,
        table: str = "",
        consumers: bool = False,
        latency: bool = False,
    ) -> NoReturn:
        """Raise Error: only a server takes samples."""
        self._core.check_open()
        raise Error(
            f"{self._core.url} is open in this process, which takes no samples; open the database at its"
            " server (everlog://HOST:PORT/DATABASE)"
        )

    def calls(self) -> NoReturn:
        """Raise Error: only a server has calls, those of others."""
        raise self._no_server("list")

    def kill(self, id: int, *, reason: str = "") -> NoReturn:
        """Raise Error: only a server has calls, those of others."""
        raise self._no_server("end")

    def _no_server(self, verb: str) -> Error:
        self._core.check_open()
        return Error(
            f"{self._core.url} is open in this process, so there are no calls of others to {verb}; open the"
            " database at its server (everlog://HOST:PORT/DATABASE)"
        )

    def expire(self, *, confirm_time: bool = False) -> int:
        """Delete the rows that have expired, and return their number. Writes.

        A process that writes the database does this automatically, within a minute. `confirm_time`: accept
        the clock as correct after it jumped forward. Raises Error after such a jump that was not confirmed,
        and ReadOnlyError.
        """
        self._core.check_writable()
        return expiry.expire(self._core, confirm_time=confirm_time)

    def correct_clock(self, *, actor: str = "", reason: str = "") -> int:
        """Confirm that the clock of this machine is correct. Writes a Notice if commits are ahead of it.

        Rows expire by the clock again, even if it jumped. If commits carry times ahead of it, the Notice
        records this, and `at` uses the clock's readings of these commits from then on.

        Returns the seq of the Notice, also if an earlier one says the same; 0 if the log is not ahead. Raises
        ReadOnlyError.
        """
        self._core.check_writable()
        told = self._begin(actor=actor, reason=reason)
        self._core.clock.confirm()
        if self._core.clock.last_ns - self._core.clock.read() <= BEHIND_NS:
            return 0
        if known := self._past.corrected():
            return known
        notice = log_pb2.Notice(kind=CORRECTED)
        return self._core.commit(told, lambda commit: commit.notice.CopyFrom(notice)).seq

    @property
    def production(self) -> bool:
        """Whether the log marks the database as production, which refuses test data. Read-only."""
        return self._core.production

    def set_production(self, on: bool, *, actor: str = "", reason: str = "") -> int:
        """Mark the database as production, or clear the mark. Writes a Notice. Returns the seq of the Notice;
        0 if the mark was set this way already. Raises ReadOnlyError."""
        self._core.check_writable()
        told = self._begin(actor=actor, reason=reason)
        if on == self.production:
            return 0
        notice = log_pb2.Notice(kind=PRODUCTION, subject="" if on else "no")
        return self._core.commit(told, lambda commit: commit.notice.CopyFrom(notice)).seq
