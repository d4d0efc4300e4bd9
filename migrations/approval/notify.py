"""Notify: report each event of migrations to operators once.

    of a proposal    proposed ─▶ approved ─▶ started ─▶ finished
                              └▶ rejected          └──▶ failed          ApprovalEvents
    of a run         started ─▶ finished, failed; left out              AutoRun (approval/auto.py)
    of a database    rolled back, also without a proposal               RollbackEvents
    of a server      certificates that must be replaced, once a day     ServerEvents
        └─▶ Notifier ─▶ Apprise: Slack, Teams, e-mail, webhooks, …

The notifier's thread compares the events in the log with the notices in the log, and sends what is missing,
with a link to the page. A target that cannot be reached is tried again, in order, while the others continue.

    Notice { kind "migration.notified", subject "<digest>/<event>", detail: whom }

    whom := the first 8 bytes of SHA-256 of the target's URL: the log holds no secret

A notice is written after the target accepted the message. If the process dies in between, the message is sent
again: no target misses it, and a target that gets it twice can tell by its subject.

Invariants
  (1) A commit never waits for a notification.
  (2) Each target is notified of each event once, however often the process restarts.
  (3) No URL is shown or logged with its secrets.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TypeAlias

from everlog.migrations.approval.approval import Approval
from everlog.migrations.proposal import Proposal, ProposalState, proposals
from everlog.proto import log_pb2
from everlog.store import program_log, record
from everlog.store.database import Database
from everlog.store.errors import Error, OpenError
from everlog.store.online.apply import Recorded
from everlog.store.tx.transaction import proof_name

KIND = "migration.notified"

RETRY_S, RETRY_S_MAX, CLOSE_S = 5.0, 300.0, 10.0
STEPS_SHOWN = 20
_DAY_NS = 86_400_000_000_000

NoticeKey = tuple[str, bytes]  # subject, whom

logger = logging.getLogger("everlog")

DECISIONS = ("approved", "rejected")  # their messages include the proof of the actor
SAYS = {
    "proposed": ("waits for approval", "warning"),
    "approved": ("is approved", "info"),
    "rejected": ("is rejected", "warning"),
    "started": ("has started", "info"),
    "finished": ("has finished", "success"),
    "failed": ("has failed", "failure"),
    "left_out": ("was not applied", "warning"),
    "unusable": ("cannot be applied", "failure"),
    "rolled_back": ("was rolled back", "warning"),
    "certificate": ("must be replaced", "warning"),
}


class Message(NamedTuple):
    """One event as it is sent. `subject` is unique to it."""

    subject: str
    title: str
    body: str
    kind: str  # info, warning, success, failure


class Events(Protocol):
    """A source of events about one database."""

    @property
    def db(self) -> Database: ...

    def since(self) -> int | None:
        """Return the seq from which events are reported, or None if there is none yet."""

    def messages(self, since: int) -> list[Message]:
        """Return the messages of the events after that, in order."""


class Notifier:
    """Sends the events of approvals and runs to Apprise's `urls`, while it is entered.

    `retry_s`: seconds before the first retry. Raises OpenError for a URL that Apprise does not understand,
    and if Apprise is not installed.
    """

    def __init__(
        self,
        urls: Sequence[str],
        sources: Sequence[Approval | Events],
        *,
        server: ServerEvents | None = None,
        retry_s: float = RETRY_S,
    ) -> None:
        self._targets = targets(urls)
        self._sources: list[Events] = [
            ApprovalEvents(one) if isinstance(one, Approval) else one for one in sources
        ]
        dbs = {one.db.uuid: one for one in reversed(self._sources)}
        self._rollbacks = [RollbackEvents(one.db, getattr(one, "name", "")) for one in dbs.values()]
        self._sources += [*self._rollbacks, *([server] if server is not None else [])]
        self._schemas = {one.db.uuid: one.db.schema for one in self._rollbacks}
        self._retry_s = retry_s
        self._since: dict[int, int] = {}  # by the position of the source
        self._notified: dict[int, set[NoticeKey]] = {}
        self._woken = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="everlog-notify", daemon=True)

    def wake(self) -> None:
        """Look for new events now."""
        self._woken.set()

    def replace(self, made: Targets) -> None:
        """Replace the targets. A new one is notified of the newest events; a remaining one of nothing
        twice.
        """
        self._targets = made
        self.wake()

    def __enter__(self) -> Self:
        for at, source in enumerate(self._sources):  # now, because the newest event may change soon
            if (since := source.since()) is not None:
                self._since[at] = since
        for one in self._rollbacks:
            one.db.log.on_advance(self._look)
        self._thread.start()
        self.wake()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Try again to send what remains, and stop; the next process sends the rest."""
        for one in self._rollbacks:
            one.db.log.off_advance(self._look)
        self._closing.set()
        self.wake()
        self._thread.join(CLOSE_S)

    def _look(self) -> None:
        """After a commit, wake the thread if the schema in force has changed."""
        for one in self._rollbacks:
            if one.db.schema is not self._schemas[one.db.uuid]:
                self._schemas[one.db.uuid] = one.db.schema
                self.wake()

    def _run(self) -> None:
        wait_s = self._retry_s
        while True:
            self._woken.wait()
            self._woken.clear()
            closing = self._closing.is_set()  # after clearing, or this wake could be lost
            try:
                arrived = [self._tell(at, source) for at, source in enumerate(self._sources)]
                done = all(arrived)
            except Error as error:
                logger.warning(
                    "reading events or writing notices failed: %s",
                    error,
                    extra=program_log.about("notify.failed"),
                )
                done = False
            if closing:
                return
            if done:
                wait_s = self._retry_s
                continue
            self._closing.wait(wait_s)
            wait_s = min(2 * wait_s, RETRY_S_MAX)
            self.wake()

    def _tell(self, at: int, source: Events) -> bool:
        """Send the remaining messages of one source; return whether all were accepted."""
        db = source.db
        if not self._targets:
            return True
        since = self._since.get(at)
        if since is None:
            since = source.since()
            if since is None:
                return True
            self._since[at] = since
        messages = source.messages(since)
        if messages and at not in self._notified:
            self._notified[at] = read(db, since)
        notified, arrived = self._notified.get(at, set()), True
        for whom, target in self._targets.items():
            for message in messages:
                key = (message.subject, whom)
                if key in notified:
                    continue
                if not target.send(message):
                    arrived = False
                    break  # keep the order: later messages wait for this one
                notified.add(key)
                write(db, key)
        return arrived


class _Target:
    """A target of notifications."""

    def __init__(self, apprise: Any, name: str) -> None:
        self._apprise = apprise
        self.name = name

    def send(self, message: Message) -> bool:
        """Send a message; return whether it was accepted."""
        sent = self._apprise.notify(
            title=message.title, body=message.body, notify_type=message.kind, body_format="text"
        )
        if not sent:
            logger.warning(
                "%s did not accept %r; retrying",
                self.name,
                message.title,
                extra=program_log.about("notify.refused"),
            )
        return bool(sent)


Targets: TypeAlias = Mapping[bytes, _Target]  # by their identifiers in the log (`whom`)


def targets(urls: Sequence[str]) -> Targets:
    """Return the targets of Apprise's `urls`, by identifier.

    Raises OpenError for a URL that Apprise does not understand, and if Apprise is not installed.
    """
    return {whom(url): _target(url, number) for number, url in enumerate(urls, 1)}


def _target(url: str, number: int) -> _Target:
    try:
        import apprise  # noqa: PLC0415  an extra, for notifications only
    except ModuleNotFoundError:
        raise OpenError(
            "apprise is needed for notifications; install it with `pip install 'everlog[notify]'`"
        ) from None
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # its lines contain URLs, with their secrets
    made: Any = apprise.Apprise()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # raised by plugins that it loads
        known = made.add(url)
    if not known:
        scheme = url.partition("://")[0][:20]
        raise OpenError(
            f"expected URL {number} to notify to be one of Apprise's, such as slack://… or mailto://…,"
            f" found one with the unsupported scheme {scheme!r}"
        )
    return _Target(made, made[0].url(privacy=True).partition("?")[0])


@dataclass
class ApprovalEvents:
    """The events of an approval's proposals, from the newest proposal on."""

    approval: Approval

    @property
    def db(self) -> Database:
        return self.approval.db

    def since(self) -> int | None:
        """Return the seq from which events are reported, or None if there is none yet. Read-only."""
        found = self.approval.proposals()
        if not found and self.approval.problem:
            return last_done(self.db)
        return found[-1].proposed.seq if found else None

    def messages(self, since: int) -> list[Message]:
        """Return all messages, in order. Read-only."""
        running, name = self.approval.running, self.approval.name
        notified = [
            message
            for one in self.approval.proposals()
            if one.proposed.seq >= since
            for message in _messages(one, name, running=running == one.digest)
        ]
        if problem := self.approval.problem:
            digest = hashlib.sha256(self.db.uuid + problem.encode(errors="backslashreplace")).hexdigest()
            title = f"{name or self.db.url}: pending migrations"
            lines = iter([problem, f"Version {self.db.schema.version} is served."])
            notified.append(message_of("unusable", digest, title, lines))
        return notified


@dataclass
class RollbackEvents:
    """The rollbacks and cancellations of a database since its newest finished migration."""

    db: Database
    name: str

    def since(self) -> int | None:
        """The seq of the newest finished migration; earlier events are not reported. Read-only."""
        return last_done(self.db)

    def messages(self, since: int) -> list[Message]:
        """Return all messages, in order. Read-only."""
        newer = [
            one
            for one in self.db.migration_records()
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
        by = summary_of("rolled back", commit.actor, commit.reason, proof_name(commit.proof))
        return message_of("rolled_back", digest, title, iter([f"{by} (commit {record.seq})"]))


@dataclass
class ServerEvents:
    """What operators of a server must replace, once a day (UTC). Notices are written to the log of `db`.

    `certificates`: sentences by a text that is the same every day; replaced as a whole.
    """

    db: Database
    name: str
    certificates: Mapping[str, str] = field(default_factory=dict)
    today: Callable[[], date] = lambda: datetime.now(UTC).date()

    def since(self) -> int | None:
        """Return the seq of a record of two days ago; earlier notices are of another day. Read-only."""
        return self.db.past.before(time.time_ns() - 2 * _DAY_NS)

    def messages(self, since: int) -> list[Message]:
        """Return the messages of today. Read-only."""
        day, found = self.today().isoformat(), list[Message]()
        for what, sentence in self.certificates.items():
            about = b"\0".join((self.db.uuid, day.encode(), what.encode(errors="backslashreplace")))
            title = f"{self.name}: a certificate of the server"
            digest = hashlib.sha256(about).hexdigest()
            found.append(message_of("certificate", digest, title, iter([sentence])))
        return found


def last_done(db: Database) -> int:
    """Return the seq of the newest migration that took effect, or 0. Read-only."""
    done = (log_pb2.Migration.FINISHED, log_pb2.Migration.SWITCHED)
    return max((one.seq for one in db.migration_records() if one.migration.step in done), default=0)


def message_of(event: str, digest: str, title: str, lines: Iterator[str]) -> Message:
    """Return the message of one event. `title` says what it happens to; `lines` are the body."""
    words, kind = SAYS[event]
    subject = f"{digest}/{event}"
    title = "".join(one if one.isprintable() else " " for one in title)  # it is a header of a mail
    return Message(subject, f"{title} {words}", "\n".join([*lines, f"({subject})"]), kind)


def summary_of(event: str, actor: str, reason: str, proof: str = "") -> str:
    """Return who did it and why. `proof`: how the actor is known, if that is to be included."""
    by = f" by {actor}{f' ({proof})' if proof else ''}" if actor else ""
    return f"{event.capitalize()}{by}{f': {reason}' if reason else ''}"


def first_lines(lines: list[str], what: str) -> Iterator[str]:
    """Yield the first of many lines, and how many remain."""
    yield from lines[:STEPS_SHOWN]
    if len(lines) > STEPS_SHOWN:
        yield f"- and {len(lines) - STEPS_SHOWN} more {what}"


def _messages(proposal: Proposal, name: str, *, running: bool) -> Iterator[Message]:
    """Yield the messages of a proposal so far, in order."""
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
        at = proposal.last  # it was given up while it ran
    if at is not None:
        yield summary_of(event, at.actor, at.reason, at.proof if event in DECISIONS else "")
        if at.error:
            yield at.error
    if event == "proposed":
        plan = proposal.plan
        steps = [f"- {one.title}: {step.text}" for one in plan.migrations for step in one.steps]
        yield from first_lines(steps, "steps")
        if plan.errors:
            yield f"Errors, which must be fixed before it can be approved: {len(plan.errors)}"
            yield from first_lines([f"- {error}" for error in plan.errors], "errors")
        if others := [one for one in plan.findings if one.severity != "error"]:
            named = "; ".join(f"{one.id} at {one.file}:{one.line}" for one in others[:STEPS_SHOWN])
            yield f"Findings of lint: {len(others)}: {named}{'; …' if len(others) > STEPS_SHOWN else ''}"
    if proposal.url:
        yield proposal.url


def whom(url: str) -> bytes:
    """Return the identifier of a target in the log."""
    return hashlib.sha256(url.encode()).digest()[:8]


def write(db: Database, notified: NoticeKey) -> None:
    """Write the notice that a target was notified, as a commit of its own."""
    subject, detail = notified

    def about(commit: log_pb2.Commit) -> None:
        commit.notice.CopyFrom(log_pb2.Notice(kind=KIND, subject=subject, detail=detail))

    db.core.commit(db.transaction(), about)


def read(db: Database, after: int) -> set[NoticeKey]:
    """Return the notices in the commits after `after`. Read-only; reads all those commits."""
    sign, found = KIND.encode(), set[NoticeKey]()
    for seq, framed in db.log.scan(after):
        if sign in framed:
            commit = record.decode(framed, seq)
            if commit.notice.kind == KIND:
                found.add((commit.notice.subject, commit.notice.detail))
    return found
