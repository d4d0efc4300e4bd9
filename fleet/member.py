"""Member: a database in a fleet: the rules of `protocol`, carried out by its migrations.

    order ─▶ protocol ─▶ prepare, commit_prepared, abort_prepared, complete ─▶ its log ─▶ report

What a member has on disk is its own log. The newest record with a decision gives its phase:

    STARTED      PREPARING       FINISHED                       CONTRACTED
    PREPARED     PREPARED        FAILED, ROLLED_BACK, ABORTED   ABORTED
    SWITCHED     COMMITTED

Invariants
  (1) A report says what is in the log: it is read again after each order.
  (2) If the database refuses to prepare, that is in its log before it is reported, also if nothing had been
      built.
  (3) One thread builds at a time. An order to abort ends its build.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from everlog.feed import cursor
from everlog.fleet import protocol
from everlog.fleet.protocol import HELD, Holding, Member, Order, Phase, Report, Verb
from everlog.migrations.prepared import Decision
from everlog.migrations.status import MigrationInfo, State
from everlog.proto import log_pb2
from everlog.store.errors import ClosedError, DiskError, Error, UnavailableError
from everlog.store.history.query import Entry
from everlog.store.progress import OnProgress

ACTOR = "fleet"  # of a member's commits

PHASES = {
    log_pb2.Migration.STARTED: Phase.PREPARING,
    log_pb2.Migration.PREPARED: Phase.PREPARED,
    log_pb2.Migration.SWITCHED: Phase.COMMITTED,
    log_pb2.Migration.FINISHED: Phase.CONTRACTED,
    log_pb2.Migration.FAILED: Phase.ABORTED,
    log_pb2.Migration.ROLLED_BACK: Phase.ABORTED,
    log_pb2.Migration.ABORTED: Phase.ABORTED,
}

# After these, the build resumes at the next PREPARE: they say nothing about the migration.
INTERRUPTIONS = (ClosedError, DiskError, UnavailableError)


class MemberMigrations(Protocol):
    """The part of `db.migrations`, embedded or remote, that a member needs."""

    def status(self) -> Sequence[MigrationInfo]: ...
    def prepare(
        self,
        decision_id: bytes,
        *,
        fence: int = 0,
        to: int | None = None,
        hold: bool = False,
        rate: float | None = None,
        actor: str = "",
        reason: str = "",
        progress: OnProgress | None = None,
    ) -> Decision: ...
    def commit_prepared(
        self, decision_id: bytes, *, fence: int = 0, actor: str = "", reason: str = ""
    ) -> Decision: ...
    def abort_prepared(
        self, decision_id: bytes, *, fence: int = 0, actor: str = "", reason: str = ""
    ) -> Decision: ...
    def complete(self, *, actor: str = "", reason: str = "") -> MigrationInfo: ...


class MemberPast(Protocol):
    """The part of `db.past`, embedded or remote, that a member needs."""

    def log(self, *, kind: str | None = None, after: int = 0) -> Iterator[Entry]: ...


class MemberDatabase(Protocol):
    """The part of a database, embedded or remote, that a member needs."""

    @property
    def uuid(self) -> bytes: ...
    @property
    def migrations(self) -> MemberMigrations: ...
    @property
    def past(self) -> MemberPast: ...


class Recorded(NamedTuple):
    """What the log says of the run that a database holds or held last. `seq`: of the last record read."""

    phase: Phase = Phase.IDLE
    decision_id: bytes = b""
    fence: int = 0
    reason: str = ""
    seq: int = 0

    def read(self, entries: Iterable[Entry]) -> Recorded:
        """Return the same after these records, oldest first."""
        found = self
        for entry in entries:
            one = entry.about
            assert isinstance(one, log_pb2.Migration)
            found = found._replace(seq=entry.seq, fence=max(found.fence, one.fence))
            phase = PHASES.get(one.step) if one.decision_id else None
            if phase is None or (one.step == log_pb2.Migration.ABORTED and found.phase in HELD):
                continue  # it is not about the run that is held
            why = entry.reason if one.step == log_pb2.Migration.ABORTED else one.error
            found = found._replace(phase=phase, decision_id=one.decision_id, reason=why)
        return found


def version_of(infos: Iterable[MigrationInfo]) -> int:
    """Return the version of the newest migration in force; 0: none."""
    return max(
        (one.version for one in infos if one.held or one.state not in {State.PENDING, State.BUILDING}),
        default=0,
    )


def folder_digest(infos: Iterable[MigrationInfo]) -> bytes:
    """Return the SHA-256 of the versions and digests of all folders that the code of a database has."""
    sha = hashlib.sha256()
    for one in sorted(infos, key=lambda one: one.version):
        if one.folder_digest:
            sha.update(one.version.to_bytes(8) + one.folder_digest)
    return sha.digest()


class FleetMember:
    """A database as a member of a fleet. Safe to use from many threads.

    `rate`: the maximum of rows a second that it builds. `progress`: called while it builds.
    """

    def __init__(
        self, db: MemberDatabase, *, rate: float | None = None, progress: OnProgress | None = None
    ) -> None:
        self._db = db
        self._progress = progress
        self.migrations: Sequence[MigrationInfo] = ()  # as of the last `holding`
        self.held: Holding | None = None  # the last `holding`
        self._rate = rate
        self._member = Member(db.uuid)
        self._recorded = Recorded()
        self._memory = threading.Lock()
        self._building = threading.Lock()

    def holding(self) -> Holding:
        """Return what the database holds: its log, and the folders of its code. Read-only. Raises SchemaError
        for an invalid folder."""
        infos = self.migrations = self._db.migrations.status()
        with self._memory:
            known = self._recorded
            known = self._recorded = known.read(self._db.past.log(kind="migration", after=known.seq))
        found = self.held = Holding(
            version_of(infos),
            folder_digest(infos),
            known.phase,
            known.decision_id,
            known.fence,
            known.reason,
        )
        return found

    def report(self) -> Report:
        """Return its phase, to send when it is opened, when it connects, and repeatedly while in doubt.
        Read-only."""
        return protocol.ask(self.holding(), self._member).reports[0]

    def is_current(self, fence: int) -> bool:
        """Note the fence of a task, and return whether it is not lower than the highest that was seen."""
        with self._memory:
            if fence < max(self._recorded.fence, self._member.fence):
                return False
            self._member = replace(self._member, fence=fence)
        return True

    def obey(self, order: Order) -> Report:
        """Carry out an order, and return the phase afterwards. Writes.

        PREPARE returns when everything is built; others may be given meanwhile, by other threads. Raises
        MigrationError, DiskError, UnavailableError and ClosedError if it could not be carried out: the
        coordinator sends it again.
        """
        found = self.holding()
        with self._memory:
            step = protocol.obey(found, self._member, order)
            self._member = replace(step.member, target=None)
        if step.member.target is not None:
            self._prepare(order)
        elif step.holding != found:
            self._end(order)
        else:
            return step.reports[0]
        return self.report()

    def _prepare(self, order: Order) -> None:
        """Build, or resume. If the database refuses, that is in its log afterwards."""
        if not self._building.acquire(blocking=False):
            return  # another thread builds
        try:
            self._db.migrations.prepare(
                order.decision_id,
                fence=order.fence,
                to=order.target.to_version,
                hold=order.target.hold,
                rate=self._rate,
                actor=ACTOR,
                reason=_reason(order),
                progress=self._progress,
            )
        except INTERRUPTIONS:
            raise
        except Error as error:
            found = self.holding()
            if found.decision_id != order.decision_id or found.phase in HELD:
                self._db.migrations.abort_prepared(
                    order.decision_id, fence=order.fence, actor=ACTOR, reason=str(error)
                )
        finally:
            self._building.release()

    def _end(self, order: Order) -> None:
        """Carry out an order that ends a run, or its time of two versions."""
        migrations, reason = self._db.migrations, _reason(order)
        if order.verb is Verb.COMMIT:
            migrations.commit_prepared(order.decision_id, fence=order.fence, actor=ACTOR, reason=reason)
        elif order.verb is Verb.ABORT:
            migrations.abort_prepared(order.decision_id, fence=order.fence, actor=ACTOR, reason=reason)
        else:
            migrations.complete(actor=ACTOR, reason=reason)


def _reason(order: Order) -> str:
    return f"{order.verb.value} of run {cursor.name(order.decision_id)}"
