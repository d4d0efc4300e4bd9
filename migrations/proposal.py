"""Proposal: a plan that somebody is to approve, as it was shown and as the log keeps it.

    PROPOSED {plan_digest, plan.json} ─▶ APPROVED ─▶ (the migrations' own steps) ─▶ finished ─▶ ROLLED_BACK
                                      └▶ REJECTED                                └▶ FAILED

    plan.json    the plan as people are shown it, and nothing else: JSON of `Plan`
    digest       SHA-256 of exactly those bytes

All is read from the Migration records of the log: there is no other place that could say otherwise.
Only the newest proposal can be decided; whatever else is migrated meanwhile takes its place.

Invariants
  (1) a record of a proposal carries no schema, so that followers and rebuilds pass over it.

What the records hold: docs/format.md, "Proposals". How it is used: docs/checked.md.

Rules: who may decide of a proposal, and what a decision must say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

import msgspec

from everlog.migrations.migration import Migration
from everlog.migrations.plan_document import Plan, Sources, decode, digest_of, read
from everlog.migrations.status import rolled_back
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import CorruptionError, MigrationError
from everlog.store.online.apply import Recorded
from everlog.store.tx.transaction import Actor, Proof, proof_name

DOCUMENT = "plan.json"  # path of the source of a PROPOSED record that the digest is of
PREFIX_MIN = 6  # hexadecimal digits by which a person may name a digest

Step = log_pb2.Migration.Step
_MIGRATES = (Step.STARTED, Step.SWITCHED, Step.FINISHED, Step.ROLLED_BACK)


class ProposalState(StrEnum):
    """What became of a proposal."""

    WAITING = "waiting"
    APPROVED = "approved"  # and being applied, or about to be
    REJECTED = "rejected"
    FINISHED = "finished"
    FAILED = "failed"
    ROLLED_BACK = "rolled back"  # after it was finished
    SUPERSEDED = "superseded"  # another proposal or migration came before it was decided


class Event(msgspec.Struct, frozen=True):
    """One record about a proposal. `step` is its word in the log, in lower case."""

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
        """Its actor, and how that is known, for what follows from it."""
        return Actor(self.actor, Proof.Value(self.proof.upper()))


class Settled(NamedTuple):
    """A migration that somebody decided not to have, and the record that says so."""

    migration: Migration
    event: Event

    @property
    def says(self) -> str:
        """What was decided and how to have it nevertheless, as a sentence."""
        one = self.event
        done = "rejected" if one.step == "rejected" else "rolled back"
        verb = "`everlog propose` proposes" if done == "rejected" else "`everlog up` applies"
        why = f" ({one.reason})" if one.reason else ""
        return (
            f"migration {self.migration.title} was {done} by {one.actor or 'somebody'} in commit"
            f" {one.seq}{why}, and is not applied with the same folder; {verb} it again"
        )


@dataclass
class Proposal:
    """A proposal and what became of it. `url`: its page, where there is one."""

    digest: bytes
    document: bytes
    state: ProposalState = ProposalState.WAITING
    events: list[Event] = field(default_factory=list)
    url: str = ""
    kept: Sequence[log_pb2.SourceFile] = field(default=(), repr=False, compare=False)

    @property
    def sources(self) -> Sources:
        """The files of its folders, where they are at hand: not from a server, and not the largest.
        Raises CorruptionError if one is not what was shown."""
        return read(self.plan, self.kept)

    @property
    def plan(self) -> Plan:
        """Raises CorruptionError if the document is none."""
        return decode(self.document)

    @property
    def proposed(self) -> Event:
        return self.events[0]

    @property
    def last(self) -> Event:
        return self.events[-1]

    def event(self, step: str) -> Event | None:
        """The newest event of this kind."""
        return next((one for one in reversed(self.events) if one.step == step), None)

    @property
    def short(self) -> str:
        """The digest, as people say it."""
        return self.digest.hex()[:12]

    @property
    def see(self) -> str:
        """Where to look at it, to end a sentence with."""
        return f"; see {self.url}" if self.url else ""

    @property
    def says(self) -> str:
        """What one who needs its migrations is told, after "the migration to it"."""
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
        """Whether nobody can do anything with it any more."""
        return self.state not in (ProposalState.WAITING, ProposalState.APPROVED)


def proposals(db: Database) -> list[Proposal]:
    """All proposals of a database, oldest first. Read-only."""
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
            newest.events.append(_event(record, db.log.commit(record.seq)))
    return found


def settled(db: Database, todo: Iterable[Migration], *, rejected_only: bool = False) -> Settled | None:
    """The first of these migrations that was rejected, rolled back or cancelled, with the folder that it
    has now, and not proposed or applied again since. Read-only."""
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
            return Settled(migration, _event(record, db.log.commit(record.seq)))
    return None


def _becomes(proposal: Proposal, record: Recorded) -> bool:
    """Takes what a record says of the newest proposal; whether it is one of its events."""
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
    """The finished proposal that a record completes or rolls back; None: there is none."""
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


def _event(record: Recorded, commit: log_pb2.Commit) -> Event:
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
        if source.path == DOCUMENT and digest_of(source.content) == record.migration.plan_digest:
            return source.content
    raise CorruptionError(
        f"record {record.seq} proposes a plan, expected {DOCUMENT} with the digest"
        f" {record.migration.plan_digest.hex()} in it, found none",
        seq=record.seq,
    )


def pick(found: list[Proposal], words: str) -> Proposal:
    """The one whose digest starts with these hexadecimal digits. Raises MigrationError."""
    low = words.lower()
    matching = [one for one in found if one.digest.hex().startswith(low)]
    if len(low) < PREFIX_MIN or len(matching) != 1:
        known = ", ".join(f"{one.digest.hex()[:12]} ({one.state})" for one in found[-5:]) or "none"
        raise MigrationError(
            f"expected the digest of a proposal, or the first {PREFIX_MIN} digits of it at least, found"
            f" {words!r}; the newest proposals are: {known}",
            digest=words,
        )
    return matching[0]


def record_of(plan: Plan, kept: Iterable[log_pb2.SourceFile] = ()) -> log_pb2.Migration:
    """The record that proposes a plan, with the files that are kept of its folders."""
    document, last = plan.encode(), plan.migrations[-1]
    return log_pb2.Migration(
        step=Step.PROPOSED,
        version=last.version,
        name=last.name,
        plan_digest=digest_of(document),
        sources=[log_pb2.SourceFile(path=DOCUMENT, content=document), *kept],
    )


_NOT_ONES_OWN = {"approve": "approve it", "roll back": "roll it back"}


@dataclass(frozen=True)
class Rules:
    """Who may decide. `approvers`: names; none: everybody may. `own`: one's own proposal, too."""

    approvers: frozenset[str] = frozenset()
    own: bool = False

    def check(self, who: str, proposal: Proposal, verb: str) -> None:
        """Raises MigrationError if `who` may not decide."""
        digest = proposal.short
        self.check_name(who, verb, digest)
        if verb in _NOT_ONES_OWN and not self.own and who == proposal.proposed.actor:
            raise MigrationError(
                f"{who} proposed {digest} and may not {_NOT_ONES_OWN[verb]}; somebody else must, or the"
                " server is started with --approve-own",
                actor=who,
            )

    def check_name(self, who: str, verb: str, what: str) -> None:
        """Raises MigrationError if `who` is nobody, or none of those who decide."""
        if not who:
            raise MigrationError(f"expected who would {verb} {what}, found nobody; say it with --actor")
        if self.approvers and who not in self.approvers:
            raise MigrationError(
                f"{who} may not {verb} {what}; those who may are: {', '.join(sorted(self.approvers))}",
                actor=who,
            )


def check_reason(reason: str) -> None:
    """Raises MigrationError if there is none."""
    if not reason.strip():
        raise MigrationError("expected a reason, found none; say with --reason why")
