"""Proposal: a plan that waits for approval, as people review it and as the log keeps it.

    PROPOSED {plan_digest, plan.json, v<version>_<name>/<path> …}
       ├▶ APPROVED ─▶ (the migrations' own steps) ─▶ finished ─▶ ROLLED_BACK
       │                                          └▶ FAILED
       └▶ REJECTED

    plan.json    the plan to review: JSON of `Plan`
    digest       SHA-256 of exactly those bytes, which an approval binds

The files of the folders are stored beside plan.json, small ones first, up to BYTES_MAX. They are bound by its
digest as well, because plan.json has the SHA-256 of each.

Everything is read from the Migration records of the log, so no other place can disagree. Only the newest
proposal can be decided; any other migration meanwhile supersedes it. `Rules` say who may decide, and what a
decision must contain.

Invariants
  (1) A record of a proposal carries no schema, so followers and rebuilds skip it.
  (2) A digest identifies everything that was reviewed: database, versions, folders, steps, findings.
  (3) A plan stays readable permanently: fields are only added, with a default.
  (4) A file that is returned has the SHA-256 in the plan.

The content of the records and the keys of the JSON: docs/format.md, "Proposals". How to use them:
docs/checked.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple, Protocol, Self, TypeVar

import msgspec

from everlog.migrations.migration import Migration
from everlog.migrations.status import rolled_back
from everlog.proto import log_pb2
from everlog.store import environment
from everlog.store.database import Database
from everlog.store.errors import CorruptionError, MigrationError
from everlog.store.online.apply import Recorded
from everlog.store.tx.transaction import Actor, Proof, proof_name

DOCUMENT = "plan.json"  # path of the file in a PROPOSED record that the digest covers
PREFIX_MIN = 6  # shortest prefix of a digest that identifies it, in hexadecimal digits
BYTES_MAX = 1 << 20  # of the files of one proposal

Sources = dict[str, dict[str, bytes]]  # by the folder's name, and the path in it

Step = log_pb2.Migration.Step
_MIGRATES = (Step.STARTED, Step.SWITCHED, Step.FINISHED, Step.ROLLED_BACK)


class StepEntry(msgspec.Struct, frozen=True):
    """One step in words, with the rows that it reads or writes. `problem`: the migration would fail here."""

    text: str
    instant: bool
    rows: int
    problem: bool = False


class MigrationEntry(msgspec.Struct, frozen=True):
    """One folder: its digest, and the SHA-256 of each file that the digest covers."""

    version: int
    name: str
    digest: str
    files: dict[str, str]
    steps: list[StepEntry]

    @property
    def title(self) -> str:
        return f"{self.version}_{self.name}"


class FindingEntry(msgspec.Struct, frozen=True):
    """A finding of lint; `file` is relative to the directory of the migrations."""

    id: str
    severity: str
    file: str
    line: int
    text: str
    fix: str = ""


def lint_errors(findings: Iterable[FindingEntry]) -> list[str]:
    """Return the findings that are errors, as sentences."""
    return [f"{one.file}:{one.line}: {one.text} [{one.id}]" for one in findings if one.severity == "error"]


class Plan(msgspec.Struct, frozen=True, rename={"from_version": "from", "to_version": "to"}):
    """The document to review. Numbers of rows are those of commit `at`.

    `hold`: where rows are rewritten, the previous version stays served until somebody completes the
    migration.
    """

    database: str  # UUID
    name: str  # its name for people
    at: int
    from_version: int
    to_version: int
    migrations: list[MigrationEntry]
    findings: list[FindingEntry]
    hold: bool = False

    @property
    def errors(self) -> list[str]:
        """The errors of the plan as sentences: errors of lint, and steps that would fail."""
        return lint_errors(self.findings) + [
            f"{one.title}: {step.text}" for one in self.migrations for step in one.steps if step.problem
        ]

    def encode(self) -> bytes:
        """Return the document as JSON: always the same bytes for the same plan."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic"), indent=1)


def decode_plan(document: bytes) -> Plan:
    """Parse a document. Raises CorruptionError if it is invalid."""
    try:
        return msgspec.json.decode(document, type=Plan)
    except msgspec.MsgspecError as error:
        raise CorruptionError(f"expected the plan of a proposal as JSON, found: {error}") from None


def plan_digest(document: bytes) -> bytes:
    """Return the digest that an approval binds, 32 bytes."""
    return hashlib.sha256(document).digest()


def folder_of(migration: MigrationEntry) -> str:
    """Return the name of a migration's folder."""
    return f"v{migration.title}"


def kept_files(plan: Plan, migrations: Iterable[Migration]) -> list[log_pb2.SourceFile]:
    """Return the files to store with a plan of these migrations, in the order of the plan."""
    known = {migration.version: migration.folder.sources for migration in migrations}
    wanted = [
        (f"{folder_of(one)}/{file.path}", file.content)
        for one in plan.migrations
        for file in known.get(one.version, ())
        if one.files.get(file.path) == _sha(file.content)
    ]
    size, chosen = 0, set[str]()
    for path, content in sorted(wanted, key=lambda file: len(file[1])):
        size += len(path) + len(content)
        if size > BYTES_MAX:
            break
        chosen.add(path)
    return [log_pb2.SourceFile(path=path, content=content) for path, content in wanted if path in chosen]


def stored_sources(plan: Plan, files: Iterable[log_pb2.SourceFile]) -> Sources:
    """Return the stored files of a plan. Read-only. Raises CorruptionError for a file that differs from
    the plan.
    """
    by_path = {file.path: file.content for file in files}
    found: Sources = {}
    for one in plan.migrations:
        folder = folder_of(one)
        found[folder] = {}
        for path, digest in one.files.items():
            content = by_path.get(f"{folder}/{path}")
            if content is None:
                continue
            if _sha(content) != digest:
                raise CorruptionError(
                    f"{folder}/{path}, stored with a proposal, is corrupt: expected the SHA-256 {digest},"
                    f" found {_sha(content)}",
                    place=path,
                )
            found[folder][path] = content
    return found


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class ProposalState(StrEnum):
    """The state of a proposal."""

    WAITING = "waiting"
    APPROVED = "approved"  # and being applied, or about to be
    REJECTED = "rejected"
    FINISHED = "finished"
    FAILED = "failed"
    ROLLED_BACK = "rolled back"  # after it was finished
    SUPERSEDED = "superseded"  # by another proposal or migration, before it was decided


class Event(msgspec.Struct, frozen=True):
    """One record about a proposal. `step` is the lower-case name of its step."""

    step: str
    seq: int
    time_ns: int
    actor: str
    reason: str
    version: int = 0
    error: str = ""
    despite_errors: bool = False
    proof: str = "claimed"

    @property
    def who(self) -> str:
        """Its actor with its proof, for records that follow from it."""
        return Actor(self.actor, Proof.Value(self.proof.upper()))


class Settled(NamedTuple):
    """A migration that was rejected, rolled back or cancelled, and the record of that."""

    migration: Migration
    event: Event

    @property
    def says(self) -> str:
        """The decision, and how to apply the migration nevertheless, as a sentence."""
        one = self.event
        done = "rejected" if one.step == "rejected" else "rolled back"
        verb = "`everlog propose` proposes" if done == "rejected" else "`everlog up` applies"
        why = f" ({one.reason})" if one.reason else ""
        return (
            f"migration {self.migration.title} was {done} by {one.actor or 'an unnamed caller'} in commit"
            f" {one.seq}{why}, and is not applied with the same folder; {verb} it again"
        )


@dataclass
class Proposal:
    """A proposal and its events. `url`: its web page, if it has one."""

    digest: bytes
    document: bytes
    state: ProposalState = ProposalState.WAITING
    events: list[Event] = field(default_factory=list)
    url: str = ""
    kept: Sequence[log_pb2.SourceFile] = field(default=(), repr=False, compare=False)

    @property
    def sources(self) -> Sources:
        """The files of its folders, if they are available: not from a server, and not the largest.

        Raises CorruptionError if a file differs from the plan.
        """
        return stored_sources(self.plan, self.kept)

    @property
    def plan(self) -> Plan:
        """The plan. Raises CorruptionError if the document is invalid."""
        return decode_plan(self.document)

    @property
    def proposed(self) -> Event:
        return self.events[0]

    @property
    def last(self) -> Event:
        return self.events[-1]

    def event(self, step: str) -> Event | None:
        """Return the newest event with this step, or None."""
        return next((one for one in reversed(self.events) if one.step == step), None)

    @property
    def short(self) -> str:
        """The first 12 digits of the digest."""
        return self.digest.hex()[:12]

    @property
    def see(self) -> str:
        """Where to see it, as the end of a sentence."""
        return f"; see {self.url}" if self.url else ""

    @property
    def says(self) -> str:
        """Its state, for callers who need its migrations, as a clause after "the migration to it"."""
        by = f" by {self.last.actor}" if self.last.actor else ""
        match self.state:
            case ProposalState.WAITING:
                since = datetime.fromtimestamp(self.proposed.time_ns / 1e9, UTC).isoformat(" ", "seconds")
                text = f"is waiting for approval of {self.short} since {since}"
            case ProposalState.APPROVED:
                text = f"is approved as {self.short} and being applied; try again soon"
            case ProposalState.REJECTED:
                text = f"was rejected as {self.short}{by} ({self.last.reason})"
            case ProposalState.FAILED:
                text = f"was approved as {self.short} and failed ({self.last.error})"
            case ProposalState.ROLLED_BACK:
                text = f"was rolled back{by} ({self.last.reason}), as {self.short}"
            case _:
                text = f"is {self.state} as {self.short}"
        return text + self.see

    @property
    def closed(self) -> bool:
        """Whether it can no longer be decided or applied."""
        return self.state not in (ProposalState.WAITING, ProposalState.APPROVED)


def proposals(db: Database) -> list[Proposal]:
    """Return all proposals of a database, oldest first. Read-only."""
    found: list[Proposal] = []
    for record in db.migration_records():
        step = record.migration.step
        newest = found[-1] if found else None
        if step == Step.PROPOSED:
            if newest is not None and not newest.closed:
                newest.state = ProposalState.SUPERSEDED
            document, kept = _document(record), record.migration.sources
            newest = Proposal(record.migration.plan_digest, document, kept=kept)
            found.append(newest)
        elif newest is None or not _becomes(newest, record):
            newest = _after_the_end(found, record)
        if newest is not None:
            newest.events.append(event_of(record, db.log.commit(record.seq)))
    return found


def settled(db: Database, todo: Iterable[Migration], *, rejected_only: bool = False) -> Settled | None:
    """Return the first of these migrations that was rejected, rolled back or cancelled, or None. Read-only.

    It counts only with the same folder, and if it was not proposed or applied again since.
    """
    todo = list(todo)
    if not todo:
        return None
    records = db.migration_records()
    back = {} if rejected_only else rolled_back(records)
    found = proposals(db) if any(one.migration.step == Step.REJECTED for one in records) else []
    for migration in todo:
        digests = {one.hex() for one in migration.folder.digests}
        for proposal in reversed(found):
            if any(
                one.version == migration.version and one.digest in digests for one in proposal.plan.migrations
            ):
                if proposal.last.step == "rejected":
                    return Settled(migration, proposal.last)
                break
        record = back.get(migration.version)
        if record is not None and record.migration.digest.hex() in digests:
            return Settled(migration, event_of(record, db.log.commit(record.seq)))
    return None


def _becomes(proposal: Proposal, record: Recorded) -> bool:
    """Apply a record to the newest proposal; return whether it is one of its events."""
    migration, step = record.migration, record.migration.step
    if step in (Step.APPROVED, Step.REJECTED):
        if migration.plan_digest != proposal.digest:
            return False
        proposal.state = ProposalState.APPROVED if step == Step.APPROVED else ProposalState.REJECTED
        return True
    plan = proposal.plan
    if proposal.state is not ProposalState.APPROVED:
        if proposal.state is ProposalState.WAITING and step in _MIGRATES:
            proposal.state = ProposalState.SUPERSEDED
        return False
    if step == Step.BACKFILL or migration.version not in {one.version for one in plan.migrations}:
        return False
    if step == Step.FAILED:
        proposal.state = ProposalState.FAILED
    elif step == Step.ROLLED_BACK:
        proposal.state = ProposalState.REJECTED
    elif step in (Step.SWITCHED, Step.FINISHED) and migration.version == plan.to_version:
        proposal.state = ProposalState.FINISHED
    return True


def _after_the_end(found: list[Proposal], record: Recorded) -> Proposal | None:
    """Return the finished proposal that a record completes or rolls back, or None."""
    migration = record.migration
    for proposal in reversed(found):
        if proposal.state is not ProposalState.FINISHED:
            continue
        if migration.version in {one.version for one in proposal.plan.migrations}:
            if migration.step == Step.ROLLED_BACK:
                proposal.state = ProposalState.ROLLED_BACK
                return proposal
            completes = migration.step == Step.FINISHED and proposal.last.step == "switched"
            return proposal if completes else None
    return None


def event_of(record: Recorded, commit: log_pb2.Commit) -> Event:
    """Return a migration's record as an event. `commit`: the one that has it."""
    step = Step.Name(record.migration.step).lower()
    return Event(
        step,
        record.seq,
        record.time_ns,
        record.actor,
        commit.reason,
        record.migration.version,
        record.migration.error,
        record.migration.despite_errors,
        proof_name(commit.proof),
    )


def _document(record: Recorded) -> bytes:
    for source in record.migration.sources:
        if source.path == DOCUMENT and plan_digest(source.content) == record.migration.plan_digest:
            return source.content
    raise CorruptionError(
        f"record {record.seq} proposes a plan: expected {DOCUMENT} with the digest"
        f" {record.migration.plan_digest.hex()} in it, found none",
        seq=record.seq,
    )


class Digested(Protocol):
    """Something that a digest names, with its state in words."""

    @property
    def digest(self) -> bytes: ...
    @property
    def state(self) -> StrEnum: ...


D = TypeVar("D", bound=Digested)


def pick(found: Sequence[D], words: str, *, what: str = "a proposal") -> D:
    """Return the proposal whose digest starts with these hexadecimal digits. Raises MigrationError."""
    low = words.lower()
    matching = [one for one in found if one.digest.hex().startswith(low)]
    if len(low) < PREFIX_MIN or len(matching) != 1:
        known = ", ".join(f"{one.digest.hex()[:12]} ({one.state})" for one in found[-5:]) or "none"
        raise MigrationError(
            f"expected the digest of {what}, or at least its first {PREFIX_MIN} digits, found"
            f" {words!r}; the newest proposals are: {known}",
            digest=words,
        )
    return matching[0]


def record_of(plan: Plan, kept: Iterable[log_pb2.SourceFile] = ()) -> log_pb2.Migration:
    """Return the record that proposes a plan, with the stored files of its folders."""
    document, last = plan.encode(), plan.migrations[-1]
    return log_pb2.Migration(
        step=Step.PROPOSED,
        version=last.version,
        name=last.name,
        plan_digest=plan_digest(document),
        sources=[log_pb2.SourceFile(path=DOCUMENT, content=document), *kept],
    )


_NOT_ONES_OWN = {"approve": "approve it", "roll back": "roll it back"}


@dataclass(frozen=True)
class Rules:
    """Who may decide. `approvers`: their names; empty: everybody. `own`: also about one's own proposal."""

    approvers: frozenset[str] = frozenset()
    own: bool = False

    @classmethod
    def from_environment(cls) -> Self:
        """The approvers that EVERLOG_APPROVERS names, of the environment or `.env`."""
        return cls(frozenset(environment.variable(environment.APPROVERS).split()))

    def check(self, who: str, proposal: Proposal, verb: str) -> None:
        """Raise MigrationError if `who` may not decide about a proposal."""
        self.check_decision(who, proposal.proposed.actor, proposal.short, verb)

    def check_decision(self, who: str, proposer: str, what: str, verb: str) -> None:
        """Raise MigrationError if `who` may not decide about what `proposer` proposed."""
        self.check_name(who, verb, what)
        if verb in _NOT_ONES_OWN and not self.own and who == proposer:
            raise MigrationError(
                f"{who} proposed {what} and may not {_NOT_ONES_OWN[verb]}; somebody else must, or start"
                " the server with --approve-own",
                actor=who,
            )

    def check_name(self, who: str, verb: str, what: str) -> None:
        """Raise MigrationError if `who` is empty, or not one of the approvers."""
        if not who:
            raise MigrationError(
                f"expected the name of the person who would {verb} {what}, found none; pass --actor"
            )
        if self.approvers and who not in self.approvers:
            raise MigrationError(
                f"{who} may not {verb} {what}; the approvers are: {', '.join(sorted(self.approvers))}",
                actor=who,
            )


def check_reason(reason: str) -> None:
    """Raise MigrationError if the reason is empty."""
    if not reason.strip():
        raise MigrationError("expected a reason, found none; pass --reason")
