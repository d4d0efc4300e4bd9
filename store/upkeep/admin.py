"""Admin: the calls of operators on one open database: `db.admin`."""

from __future__ import annotations

from collections.abc import Callable

from everlog.proto import log_pb2
from everlog.store.clock import BEHIND_NS, CORRECTED
from everlog.store.core import Core
from everlog.store.history.moment import Past
from everlog.store.tables.projection import PRODUCTION
from everlog.store.tx.transaction import Transaction
from everlog.store.upkeep import expiry


class Admin:
    """Expiry, clock and production mark of one open database. `begin` begins a transaction with metadata,
    which it checks."""

    def __init__(self, core: Core, past: Past, begin: Callable[..., Transaction]) -> None:
        self._core = core
        self._past = past
        self._begin = begin

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
