"""Tasks: what a coordinator asks of members beside the runs of the protocol, and their answers.

    SURVEY      fleet/survey.py                                      the answer has the survey
    APPLY       the migration of a wave that no vote can hold
    CHECK       checks.py of the migration, on the rows as they are
    ROLL_BACK   back to the version before the wave

    hub ─ Asked ─▶ order REPORT with a task ─▶ member ─ carry_out ─▶ Answer ─▶ Asked

Invariants
  (1) A task is repeated until it is answered, so each can be carried out twice: the second time changes
      nothing.
  (2) APPLY and ROLL_BACK carry the fence of their coordinator: one that was replaced changes no member.
  (3) A member that cannot carry it out answers with the reason. An answer contains no data of rows.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import NamedTuple, Protocol

from everlog.fleet.member import (
    ACTOR,
    INTERRUPTIONS,
    MemberMigrations,
    MemberPast,
    folder_digest,
    version_of,
)
from everlog.fleet.protocol import Target
from everlog.fleet.survey import SHORT, SurveyedDatabase, SurveyedMigrations, survey
from everlog.migrations.checks import recheck
from everlog.migrations.folder import SOURCE
from everlog.migrations.status import MigrationInfo
from everlog.store.errors import ClosedError, Error
from everlog.store.progress import OnProgress
from everlog.store.tx.reader import Snapshot

DOCUMENT_MAX = 1 << 20  # bytes of one answer


class Kind(Enum):
    """What a member is to do."""

    SURVEY = "SURVEY"
    APPLY = "APPLY"
    CHECK = "CHECK"
    ROLL_BACK = "ROLL_BACK"


class MemberTask(NamedTuple):
    """A task of one member. `fence`: of the coordinator. `target`: the database, and for APPLY, CHECK and
    ROLL_BACK the upgrade that is meant; for SURVEY only `hold`. `reason`: for its log."""

    id: bytes
    kind: Kind
    fence: int
    target: Target
    reason: str = ""


class Answer(NamedTuple):
    """The answer to a task. `problem`: why it could not be carried out. `document`: of a survey, JSON."""

    database: bytes
    id: bytes
    problem: str = ""
    document: bytes = b""


class JoinedMigrations(MemberMigrations, SurveyedMigrations, Protocol):
    """The part of `db.migrations` that the member of a fleet needs."""

    def apply(
        self,
        *,
        to: int | None = None,
        hold: bool = False,
        rate: float | None = None,
        actor: str = "",
        reason: str = "",
        progress: OnProgress | None = None,
    ) -> list[MigrationInfo]: ...
    def rollback(
        self,
        count: int | None = None,
        *,
        to: int | None = None,
        rate: float | None = None,
        actor: str = "",
        reason: str = "",
        progress: OnProgress | None = None,
    ) -> list[MigrationInfo]: ...


class JoinedDatabase(SurveyedDatabase, Protocol):
    """The part of an embedded database that is a member."""

    @property
    def url(self) -> str: ...
    @property
    def head(self) -> int: ...
    @property
    def migrations(self) -> JoinedMigrations: ...
    @property
    def past(self) -> MemberPast: ...
    def snapshot(self) -> Snapshot: ...


def carry_out(
    db: JoinedDatabase,
    task: MemberTask,
    *,
    name: str,
    labels: Mapping[str, str],
    rate: float | None = None,
    progress: OnProgress | None = None,
) -> Answer:
    """Carry out a task at its member, and return the answer. APPLY and ROLL_BACK write. Raises ClosedError,
    and for APPLY and ROLL_BACK DiskError and UnavailableError: it is repeated then."""
    document, problem = b"", ""
    try:
        match task.kind:
            case Kind.SURVEY:
                document = survey(db, name=name, labels=labels, hold=task.target.hold).encode()
                if len(document) > DOCUMENT_MAX:
                    problem = (
                        f"its survey has {len(document):,} bytes, more than {DOCUMENT_MAX:,}; `everlog lint`"
                        " and `everlog plan` there show what is in it"
                    )
                    document = b""
            case Kind.APPLY:
                problem = _apply(db, task, rate, progress)
            case Kind.CHECK:
                recheck(db.snapshot, db.folders or SOURCE, task.target.to_version)
            case Kind.ROLL_BACK:
                problem = _roll_back(db, task, rate, progress)
    except ClosedError:
        raise
    except INTERRUPTIONS as error:
        if task.kind in (Kind.APPLY, Kind.ROLL_BACK):
            raise
        problem = str(error)
    except Error as error:
        problem = str(error)
    return Answer(task.target.database, task.id, problem, document)


def _apply(db: JoinedDatabase, task: MemberTask, rate: float | None, progress: OnProgress | None) -> str:
    """Upgrade a member, unless it is upgraded. Return why not, or an empty string."""
    target, infos = task.target, db.migrations.status()
    version, folders = version_of(infos), folder_digest(infos)
    if version == target.to_version:
        return ""
    if version != target.from_version:
        return f"expected version {target.from_version}, found {version}"
    if folders != target.folder_digest:
        expected, found = target.folder_digest.hex()[:SHORT], folders.hex()[:SHORT]
        return f"expected folders with digest {expected}, found {found}; plan again"
    db.migrations.apply(
        to=target.to_version,
        hold=target.hold,
        rate=rate,
        actor=ACTOR,
        reason=task.reason,
        progress=progress,
    )
    return ""


def _roll_back(db: JoinedDatabase, task: MemberTask, rate: float | None, progress: OnProgress | None) -> str:
    """Roll back a member, unless it is rolled back. Return why not, or an empty string."""
    target, infos = task.target, db.migrations.status()
    version = version_of(infos)
    if version == target.from_version:
        return ""
    if version != target.to_version:
        return f"expected version {target.to_version}, found {version}"
    if any(one.held for one in infos):
        return "it serves two versions; end that first (`everlog fleet contract RUN`)"
    db.migrations.rollback(
        to=target.from_version, rate=rate, actor=ACTOR, reason=task.reason, progress=progress
    )
    return ""


class Asked:
    """One task for some members, with the answers so far. Safe to use from many threads.

    `deadline_s`: answers that come later do not count; None: it has none.
    """

    def __init__(
        self,
        kind: Kind,
        targets: Iterable[Target],
        *,
        deadline_s: float | None = None,
        reason: str = "",
    ) -> None:
        self.id = uuid.uuid4().bytes
        self.kind = kind
        self.reason = reason
        self.deadline_s = deadline_s
        self.answers: dict[bytes, Answer] = {}
        self.sent: dict[bytes, tuple[object, float]] = {}  # over which link, and when it is due again
        self._targets = {one.database: one for one in targets}
        self._until = time.monotonic() + deadline_s if deadline_s is not None else None
        self._lock = threading.Lock()

    @property
    def total(self) -> int:
        """How many members were asked."""
        return len(self._targets)

    @property
    def waiting(self) -> list[Target]:
        """The members that have not answered."""
        with self._lock:
            return [one for database, one in self._targets.items() if database not in self.answers]

    @property
    def over(self) -> bool:
        """Whether all have answered, or the time has passed."""
        late = self._until is not None and time.monotonic() >= self._until
        return late or len(self.answers) == len(self._targets)

    def answered(self, answer: Answer) -> None:
        """Note an answer. The first of a member counts."""
        with self._lock:
            if answer.database in self._targets and not self.over:
                self.answers.setdefault(answer.database, answer)

    def task(self, target: Target, fence: int) -> MemberTask:
        """Return the task of a member."""
        return MemberTask(self.id, self.kind, fence, target, self.reason)
