"""Admin: what operators do to one open database: `db.admin`."""

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
    """Expiry, clock and production of one open database. `begin` begins a transaction with metadata, which it
    checks."""

    def __init__(self, core: Core, past: Past, begin: Callable[..., Transaction]) -> None:
        self._core = core
        self._past = past
        self._begin = begin

    def expire(self, *, confirm_time: bool = False) -> int:
        """Deletes the rows whose life is over now, and returns how many; what writes the database does so
        by itself, within a minute. `confirm_time`: the clock is right, though it jumped forward.

        Raises Error after such a jump, which nobody has confirmed, and ReadOnlyError.
        """
        self._core.check_writable()
        return expiry.expire(self._core, confirm_time=confirm_time)

    def correct_clock(self, *, actor: str = "", reason: str = "") -> int:
        """Say that the clock of this machine is right: rows expire by it again, though it jumped; and where
        commits carry a time that is ahead of it, a Notice in the log says so. From then on `at` goes by
        what the clock read at these commits.

        Returns the seq of the Notice, also where an
        earlier one says the same; 0 where the log is not ahead. Writes that Notice. Raises ReadOnlyError.
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
        """Whether the log says that this is a database in production: test data is refused."""
        return self._core.production

    def set_production(self, on: bool, *, actor: str = "", reason: str = "") -> int:
        """Say in the log whether this is a database in production. Returns the seq of the Notice, 0 where
        that was said already. Writes that Notice. Raises ReadOnlyError."""
        self._core.check_writable()
        told = self._begin(actor=actor, reason=reason)
        if on == self.production:
            return 0
        notice = log_pb2.Notice(kind=PRODUCTION, subject="" if on else "no")
        return self._core.commit(told, lambda commit: commit.notice.CopyFrom(notice)).seq
