"""Survey: what a database says about itself, and about its next migration, before a fleet is planned.

    status, cursor, dump ─▶ who it is: uuid, version, position, folders, schema
    plan, lint           ─▶ its next migration: steps tried on the rows, findings, cost
                         ─▶ `unheld`: why it cannot wait for a decision;  `problem`: why it cannot be migrated

A survey is about one migration, the oldest that is pending: a run upgrades each member by one. It is taken
where the database is, or over a connection: a database on a server is surveyed with the folders of the
server. Its lint runs on this machine, if it has the same folders.

Whether a migration can wait for a decision is decided by `prepare` (migrations/prepared.py), which plans it
here without writing.

Invariants
  (1) Surveying writes nothing.
  (2) A survey contains no data of rows.
  (3) A survey stays readable: fields are only added, with a default.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Protocol

import msgspec

from everlog.feed import cursor
from everlog.feed.feed import Feed
from everlog.fleet.member import folder_digest, version_of
from everlog.migrations.approval.approval import finding_entries, step_entry
from everlog.migrations.estimate import Estimate
from everlog.migrations.folder import SOURCE, find, folders
from everlog.migrations.lint.rules import Finding
from everlog.migrations.plan import PlannedMigration
from everlog.migrations.proposal import FindingEntry, Rules, StepEntry, lint_errors
from everlog.migrations.status import MigrationInfo, State
from everlog.proto import log_pb2
from everlog.store.errors import CorruptionError, CursorError, MigrationError, SchemaError
from everlog.store.upkeep.access import Caller
from everlog.store.upkeep.status import Status, software

RIGHT = "migrate"  # of the caller, which prepares and ends migrations
SHORT = 12  # digits of a digest in a sentence
SHOWN = 10  # reasons in one message


class SurveyedMigrations(Protocol):
    """The part of `db.migrations`, embedded or remote, that a survey needs."""

    def status(self) -> Sequence[MigrationInfo]: ...
    def rules(self) -> Rules | None: ...
    def dump(self) -> str: ...
    def lint(self, *, since: int = 0) -> list[Finding]: ...
    def plan(
        self, *, to: int | None = None, try_rows: bool = False, hold: bool = False, prepare: bool = False
    ) -> list[PlannedMigration]: ...


class SurveyedAdmin(Protocol):
    """The part of `db.admin` that a survey needs."""

    def status(self) -> Status: ...


class SurveyedAccess(Protocol):
    """The part of `db.access` that a survey needs."""

    def whoami(self) -> Caller: ...


class SurveyedDatabase(Protocol):
    """The part of a database, embedded or remote, that a survey needs."""

    @property
    def uuid(self) -> bytes: ...
    @property
    def folders(self) -> str | PathLike[str] | None: ...
    @property
    def migrations(self) -> SurveyedMigrations: ...
    @property
    def admin(self) -> SurveyedAdmin: ...
    @property
    def access(self) -> SurveyedAccess: ...
    def cursor(self) -> log_pb2.Cursor: ...
    def feed(self, after: log_pb2.Cursor, /, *, bounded: bool = False) -> Feed: ...


class SurveyedMigration(msgspec.Struct, frozen=True):
    """A migration that a member has in its log or its folders.

    `digest`: as it was applied; `folder`: of its folder as it is now. Both hexadecimal; empty: none.
    """

    version: int
    name: str
    state: str
    digest: str = ""
    folder: str = ""

    @property
    def title(self) -> str:
        """Version and name, as in 20260105093000_create_airports."""
        return f"{self.version}_{self.name}"


class Intended(msgspec.Struct, frozen=True):
    """The next migration of a member: its steps, tried on the rows, and what it costs.

    `digest`: of its folder, hexadecimal. `unheld`: why it cannot wait for a decision; empty: it can.
    """

    version: int
    name: str
    digest: str
    steps: list[StepEntry] = []
    estimate: Estimate = Estimate()
    unheld: str = ""

    @property
    def title(self) -> str:
        """Version and name, as in 20260105093000_create_airports."""
        return f"{self.version}_{self.name}"


class Survey(msgspec.Struct, frozen=True):
    """What a member says about itself.

    `database`: its UUID. `at`: its position, a cursor as text. `software`: the everlog that serves it.
    `schema`: SHA-256 of its schema as text, `folders`: of the folders of its code; hexadecimal. `intended`:
    its oldest pending migration; None: none is pending, or `problem`. `findings`: of lint about pending
    migrations; `linted`: whether it ran. `problem`: why it cannot be migrated now; empty: it can.
    """

    database: str
    name: str
    at: str
    software: str
    version: int
    folders: str
    labels: dict[str, str] = {}
    schema: str = ""
    migrations: list[SurveyedMigration] = []
    intended: Intended | None = None
    findings: list[FindingEntry] = []
    linted: bool = False
    problem: str = ""

    @property
    def errors(self) -> list[str]:
        """What would stop the migration, as sentences: errors of lint, and steps that would fail."""
        steps = [step for step in self.intended.steps if step.problem] if self.intended else []
        return lint_errors(self.findings) + [step.text for step in steps]

    @property
    def pending(self) -> list[SurveyedMigration]:
        """The pending migrations, oldest first."""
        return [one for one in self.migrations if one.state in (State.PENDING, State.BUILDING)]

    def encode(self) -> bytes:
        """Return the survey as JSON."""
        return msgspec.json.encode(self)


def decode_survey(document: bytes) -> Survey:
    """Parse the output of `Survey.encode`. Raises CorruptionError."""
    try:
        return msgspec.json.decode(document, type=Survey)
    except msgspec.MsgspecError as error:
        raise CorruptionError(f"expected the survey of a database as JSON, found: {error}") from None


def listed(reasons: Iterable[object], shown: int = SHOWN) -> str:
    """Return the first reasons as one text, and how many more there are."""
    found = list(map(str, reasons))
    more = len(found) - shown
    return "; ".join(found[:shown]) + (f"; and {more:,} more" if more > 0 else "")


def is_newer(other: str) -> bool:
    """Whether the `software` of a survey is a newer everlog than this one."""

    def numbers(text: str) -> list[int]:
        version = text.rpartition(" ")[2]
        return [int(part) for part in version.split(".") if part.isdecimal()]

    return numbers(other) > numbers(software())


def survey(
    db: SurveyedDatabase,
    *,
    name: str,
    labels: Mapping[str, str] | None = None,
    hold: bool = False,
    since: str = "",
) -> Survey:
    """Survey a database, embedded or on a server. Read-only; runs the code of its folders, on its rows.

    `hold`: the migration would serve two versions. `since`: its position in an earlier survey: if its log
    does not contain that, it was restored or forked, which is a `problem`. Raises UnavailableError,
    AccessError and other errors of reading.
    """
    at, status = db.cursor(), db.admin.status()
    problem = _unwritable(db, status) or _another_history(db, since)
    infos: Sequence[MigrationInfo] = ()
    try:
        infos = db.migrations.status()
        problem = problem or _unfinished(infos)
    except SchemaError as error:
        problem = problem or str(error)
    pending = [info for info in infos if info.state is State.PENDING]
    intended: Intended | None = None
    if pending and not problem:
        intended, problem = _intended(db, pending[0], hold=hold)
    found = _findings(db, pending, version_of(infos)) if intended is not None else None
    return Survey(
        database=cursor.name(db.uuid),
        name=name,
        at=cursor.show(at),
        software=status.software,
        version=version_of(infos) if infos else status.schema_version,
        folders=folder_digest(infos).hex(),
        labels=dict(labels or {}),
        schema=_schema(db),
        migrations=[
            SurveyedMigration(
                one.version, one.name, str(one.state), one.digest.hex(), one.folder_digest.hex()
            )
            for one in infos
        ],
        intended=intended,
        findings=found or [],
        linted=found is not None,
        problem=problem,
    )


def _unwritable(db: SurveyedDatabase, status: Status) -> str:
    """Return why the caller cannot migrate a database, or an empty string."""
    if status.read_only:
        return "it is open for reading only; open it for writing, or follow its origin"
    caller = db.access.whoami()
    if RIGHT not in caller.rights:
        roles = ", ".join(caller.roles) or "none"
        return (
            f"{caller.name or 'the caller'} lacks the right {RIGHT} (roles: {roles}); give it a role with it:"
            " `everlog access grant`"
        )
    return ""


def _another_history(db: SurveyedDatabase, since: str) -> str:
    """Return why an earlier position is not in the log, or an empty string."""
    if not since:
        return ""
    try:
        with db.feed(cursor.parse(since), bounded=True) as feed:
            next(feed.batches(), None)
    except CursorError as error:
        if error.facts.get("why") != "removed":  # its records were archived since
            return str(error)
    return ""


def _unfinished(infos: Sequence[MigrationInfo]) -> str:
    """Return which migration has not ended, so that no other can start, or an empty string."""
    for one in infos:
        if one.decision_id:
            return f"migration {one.title} waits for decision {one.decision}"
        if one.state is State.BUILDING or one.rolling_back:
            held = "serves two versions; end that with `everlog complete`" if one.held else "is in progress"
            return f"migration {one.title} {held}"
    return ""


def _intended(db: SurveyedDatabase, info: MigrationInfo, *, hold: bool) -> tuple[Intended | None, str]:
    """Plan the next migration. Return it, or None and why it cannot be applied."""
    unheld = ""
    try:
        planned = db.migrations.plan(to=info.version, try_rows=True, hold=hold, prepare=True)
    except MigrationError as error:
        unheld = str(error)
        try:
            planned = db.migrations.plan(to=info.version, try_rows=True, hold=hold)
        except (MigrationError, SchemaError) as other:
            return None, str(other)
    except SchemaError as error:
        return None, str(error)
    if not unheld and db.access.whoami().proof != "files" and db.migrations.rules() is not None:
        unheld = "the server migrates it after its own approval (`--migrate checked`), and refuses `prepare`"
    made = next((one for one in planned if one.version == info.version), None)
    if made is None:
        return None, f"migration {info.title} is not planned by its server"
    return (
        Intended(
            info.version,
            info.name,
            info.folder_digest.hex(),
            [step_entry(step) for step in made.steps],
            made.estimate or Estimate(),
            unheld,
        ),
        "",
    )


def _findings(
    db: SurveyedDatabase, pending: Sequence[MigrationInfo], version: int
) -> list[FindingEntry] | None:
    """Return the findings about pending migrations; None: this machine does not have their folders."""
    source = db.folders or SOURCE
    try:
        root = find(source)
        here = {folder.version: folder.digest for folder in folders(root)}
    except SchemaError:
        return None
    if any(here.get(one.version) != one.folder_digest for one in pending):
        return None
    return finding_entries(db.migrations.lint(since=version), root.path)


def _schema(db: SurveyedDatabase) -> str:
    """Return the SHA-256 of the schema as text; empty while a migration is in progress."""
    try:
        return hashlib.sha256(db.migrations.dump().encode()).hexdigest()
    except MigrationError:
        return ""
