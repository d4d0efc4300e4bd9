"""Messages: the notifications of operators about migrations, one for each event.

of a proposal    proposed ─▶ approved ─▶ started ─▶ finished
                          └▶ rejected          └──▶ failed
of a database    rolled back, also of what nobody proposed
of a server      certificates that need a replacement, once a day
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import NamedTuple

from everlog.migrations.approval import Approval
from everlog.migrations.proposal import Proposal, ProposalState, proposals
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.migrate import Recorded
from everlog.store.transaction import proof_name

STEPS_SHOWN = 20
_DAY_NS = 86_400_000_000_000
DECISIONS = ("approved", "rejected")  # their messages say how the author is known

SAYS = {
    "proposed": ("waits for approval", "warning"),
    "approved": ("is approved", "info"),
    "rejected": ("is rejected", "warning"),
    "started": ("has begun", "info"),
    "finished": ("is done", "success"),
    "failed": ("has failed", "failure"),
    "left_out": ("was not applied", "warning"),
    "unusable": ("cannot be applied", "failure"),
    "rolled_back": ("was rolled back", "warning"),
    "certificate": ("needs a replacement", "warning"),
}


class Message(NamedTuple):
    """One event, as it is sent. `subject` is its own and no other's."""

    subject: str
    title: str
    body: str
    kind: str  # info, warning, success, failure


@dataclass
class OfApproval:
    """What there is to tell of an approval's proposals, from the newest on."""

    approval: Approval

    @property
    def db(self) -> Database:
        return self.approval.db

    def since(self) -> int | None:
        """The seq before which nothing is told; None: there is nothing yet. Read-only."""
        found = self.approval.proposals()
        if not found and self.approval.problem:
            return last_done(self.db)
        return found[-1].proposed.seq if found else None

    def messages(self, since: int) -> list[Message]:
        """All, in order. Read-only."""
        running, name = self.approval.running, self.approval.name
        told = [
            message
            for one in self.approval.proposals()
            if one.proposed.seq >= since
            for message in _messages(one, name, running=running == one.digest)
        ]
        if problem := self.approval.problem:
            digest = hashlib.sha256(self.db.uuid + problem.encode(errors="backslashreplace")).hexdigest()
            title = f"{name or self.db.url}: pending migrations"
            lines = iter([problem, f"Version {self.db.schema.version} is served."])
            told.append(message_of("unusable", digest, title, lines))
        return told


@dataclass
class OfRollbacks:
    """What was rolled back, or cancelled, of a database since the newest migration that was done."""

    db: Database
    name: str

    def since(self) -> int | None:
        """The seq of the newest finished migration; earlier events are not reported. Read-only."""
        return last_done(self.db)

    def messages(self, since: int) -> list[Message]:
        """All, in order. Read-only."""
        newer = [
            one
            for one in self.db.migrations()
            if one.seq > since and one.migration.step == log_pb2.Migration.ROLLED_BACK
        ]
        found = proposals(self.db) if newer else []
        rejected = {one.last.seq for one in found if one.state is ProposalState.REJECTED}  # reported
        return [self._message(one) for one in newer if one.seq not in rejected]

    def _message(self, record: Recorded) -> Message:
        one = record.migration
        digest = hashlib.sha256(self.db.uuid + record.seq.to_bytes(8, "big")).hexdigest()
        title = f"{self.name or self.db.url}: the migration {one.version}_{one.name}"
        commit = self.db.log.commit(record.seq)
        by = said("rolled back", commit.actor, commit.reason, proof_name(commit.proof))
        return message_of("rolled_back", digest, title, iter([f"{by} (commit {record.seq})"]))


@dataclass
class OfServer:
    """What operators of a server must replace, once a day (UTC). The log of `db` notes who was told.

    `certificates`: sentences by a text that is the same every day; replaced as a whole."""

    db: Database
    name: str
    certificates: Mapping[str, str] = field(default_factory=dict)
    today: Callable[[], date] = lambda: datetime.now(UTC).date()

    def since(self) -> int | None:
        """The seq of a record of two days ago: what was told before is another day's. Read-only."""
        return self.db.past.before(time.time_ns() - 2 * _DAY_NS)

    def messages(self, since: int) -> list[Message]:
        """Those of today. Read-only."""
        day, found = self.today().isoformat(), list[Message]()
        for what, sentence in self.certificates.items():
            about = b"\0".join((self.db.uuid, day.encode(), what.encode(errors="backslashreplace")))
            title = f"{self.name}: a certificate of the server"
            digest = hashlib.sha256(about).hexdigest()
            found.append(message_of("certificate", digest, title, iter([sentence])))
        return found


def last_done(db: Database) -> int:
    """Seq of the last migration that was done; 0: none was. Read-only."""
    done = (log_pb2.Migration.FINISHED, log_pb2.Migration.SWITCHED)
    return max((one.seq for one in db.migrations() if one.migration.step in done), default=0)


def message_of(event: str, digest: str, title: str, lines: Iterator[str]) -> Message:
    """The message of one event. `title` says what it happens to; `lines` are its body."""
    words, kind = SAYS[event]
    subject = f"{digest}/{event}"
    return Message(subject, f"{title} {words}", "\n".join([*lines, f"({subject})"]), kind)


def said(event: str, actor: str, reason: str, proof: str = "") -> str:
    """Who did it, and why. `proof`: how the actor is known, where that is to be said."""
    by = f" by {actor}{f' ({proof})' if proof else ''}" if actor else ""
    return f"{event.capitalize()}{by}{f': {reason}' if reason else ''}"


def some(lines: list[str], what: str) -> Iterator[str]:
    """The first of many lines, and how many are left."""
    yield from lines[:STEPS_SHOWN]
    if len(lines) > STEPS_SHOWN:
        yield f"- and {len(lines) - STEPS_SHOWN} {what} more"


def _messages(proposal: Proposal, name: str, *, running: bool) -> Iterator[Message]:
    """What is to be told of a proposal so far, in order."""
    if proposal.state is ProposalState.SUPERSEDED:
        return
    plan = proposal.plan
    title = f"{name or plan.database}: the migration to {plan.to_version}"
    for event in _events(proposal, running=running):
        yield message_of(event, proposal.digest.hex(), title, _body(proposal, event))


def _events(proposal: Proposal, *, running: bool) -> Iterator[str]:
    yield "proposed"
    if proposal.event("approved") is None:
        if proposal.state is ProposalState.REJECTED:
            yield "rejected"
        return
    yield "approved"
    if running or proposal.last.step not in ("approved", "rejected"):
        yield "started"
    if proposal.state in (ProposalState.FINISHED, ProposalState.ROLLED_BACK):
        yield "finished"
    elif proposal.state in (ProposalState.FAILED, ProposalState.REJECTED):
        yield str(proposal.state)


def _body(proposal: Proposal, event: str) -> Iterator[str]:
    at = proposal.event(event)
    if at is None and event == str(proposal.state):
        at = proposal.last  # it was given up on its way
    if at is not None:
        yield said(event, at.actor, at.reason, at.proof if event in DECISIONS else "")
        if at.error:
            yield at.error
    if event == "proposed":
        plan = proposal.plan
        steps = [f"- {one.title}: {step.text}" for one in plan.migrations for step in one.steps]
        yield from some(steps, "steps")
        if plan.errors:
            yield f"Errors, which must be mended before it can be approved: {len(plan.errors)}"
            yield from some([f"- {error}" for error in plan.errors], "errors")
        if others := [one for one in plan.findings if one.severity != "error"]:
            named = "; ".join(f"{one.id} at {one.file}:{one.line}" for one in others[:STEPS_SHOWN])
            yield f"Findings of lint: {len(others)}: {named}{'; …' if len(others) > STEPS_SHOWN else ''}"
    if proposal.url:
        yield proposal.url
