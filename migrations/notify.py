"""Notify: operators are told what becomes of a proposal, each of them once.

    proposed ─▶ approved ─▶ started ─▶ finished        Apprise: Slack, Teams, e-mail, webhooks, …
             └▶ rejected          └──▶ failed

A thread of its own compares what the log says has happened with what it says was told (notices.py),
and tells the rest, with a link to the page. Who cannot be reached is tried again, in order, while
the others go on.

Invariants
  (1) whoever commits never waits for a notification;
  (2) each of those named is told of each event once, whatever restarts lie between;
  (3) no URL is shown or logged with the secrets in it.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from everlog.migrations import notices
from everlog.migrations.approval import Approval
from everlog.migrations.proposal import Proposal, ProposalState
from everlog.store.errors import Error, OpenError

RETRY_S = 5.0
RETRY_S_MAX = 300.0
CLOSE_S = 10.0
STEPS_SHOWN = 20

logger = logging.getLogger("everlog")

_SAYS = {
    "proposed": ("waits for approval", "warning"),
    "approved": ("is approved", "info"),
    "rejected": ("is rejected", "warning"),
    "started": ("has begun", "info"),
    "finished": ("is done", "success"),
    "failed": ("has failed", "failure"),
}


class Message(NamedTuple):
    """One event, as it is sent. `subject` is its own and no other's."""

    subject: str
    title: str
    body: str
    kind: str  # info, warning, success, failure


class Notifier:
    """Tells those behind Apprise's `urls` of the events of these approvals, while it is entered.

    Raises OpenError for a URL that Apprise does not understand, and if Apprise is not installed.
    """

    def __init__(
        self, urls: Sequence[str], approvals: Sequence[Approval], *, retry_s: float = RETRY_S
    ) -> None:
        self._targets = {notices.whom(url): _target(url, number) for number, url in enumerate(urls, 1)}
        self._approvals = list(approvals)
        self._retry_s = retry_s
        self._since: dict[bytes, int] = {}
        self._told: dict[bytes, set[notices.Told]] = {}
        self._woken = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="everlog-notify", daemon=True)

    def wake(self) -> None:
        """Something may have happened."""
        self._woken.set()

    def __enter__(self) -> Self:
        for approval in self._approvals:  # now: what is newest may be another one in a moment
            if found := approval.proposals():
                self._since[approval.db.uuid] = found[-1].proposed.seq
        self._thread.start()
        self.wake()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tries once more to tell what is left, and ends; the next process tells the rest."""
        self._closing.set()
        self.wake()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        wait_s = self._retry_s
        while True:
            self._woken.wait()
            self._woken.clear()
            closing = self._closing.is_set()  # after the clearing, or its wake could be lost
            try:
                arrived = [self._tell(approval) for approval in self._approvals]
                done = all(arrived)
            except Error as error:
                logger.warning("what is to be told cannot be read or noted: %s", error)
                done = False
            if closing:
                return
            if done:
                wait_s = self._retry_s
                continue
            self._closing.wait(wait_s)
            wait_s = min(2 * wait_s, RETRY_S_MAX)
            self.wake()

    def _tell(self, approval: Approval) -> bool:
        """Tells what is left of one database; whether all of it arrived."""
        found = approval.proposals()
        if not found:
            return True
        db = approval.db
        since = self._since.setdefault(db.uuid, found[-1].proposed.seq)
        if db.uuid not in self._told:
            self._told[db.uuid] = notices.read(db, since)
        told = self._told[db.uuid]
        messages = [
            message
            for one in found
            if one.proposed.seq >= since
            for message in _messages(one, approval.name, running=approval.running == one.digest)
        ]
        arrived = True
        for whom, target in self._targets.items():
            for message in messages:
                key = (message.subject, whom)
                if key in told:
                    continue
                if not target.send(message):
                    arrived = False
                    break  # what comes after it would come before it
                told.add(key)
                notices.write(db, key)
        return arrived


class _Target:
    """One who is told."""

    def __init__(self, apprise: Any, name: str) -> None:
        self._apprise = apprise
        self.name = name

    def send(self, message: Message) -> bool:
        """Whether it was taken."""
        sent = self._apprise.notify(
            title=message.title, body=message.body, notify_type=message.kind, body_format="text"
        )
        if not sent:
            logger.warning("%s did not take %r; it is tried again", self.name, message.title)
        return bool(sent)


def _target(url: str, number: int) -> _Target:
    try:
        import apprise  # noqa: PLC0415  an extra: only who is told needs it
    except ModuleNotFoundError:
        raise OpenError(
            "apprise is needed to notify anybody; install it with `pip install everlog[notify]`"
        ) from None
    made: Any = apprise.Apprise()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its own affair: it loads all it knows
        known = made.add(url)
    if not known:
        scheme = url.partition("://")[0][:20]
        raise OpenError(
            f"expected URL {number} to notify to be one of Apprise's, as slack://… or mailto://…, found one"
            f" of scheme {scheme!r} that it does not understand"
        )
    return _Target(made, made[0].url(privacy=True).partition("?")[0])


def _messages(proposal: Proposal, name: str, *, running: bool) -> Iterator[Message]:
    """What is to be told of a proposal so far, in order."""
    if proposal.state is ProposalState.SUPERSEDED:
        return
    plan = proposal.plan
    for event in _events(proposal, running=running):
        words, kind = _SAYS[event]
        subject = f"{proposal.digest.hex()}/{event}"
        title = f"{name or plan.database}: the migration to {plan.to_version} {words}"
        yield Message(subject, title, "\n".join(_body(proposal, event, subject)), kind)


def _events(proposal: Proposal, *, running: bool) -> Iterator[str]:
    yield "proposed"
    if proposal.state is ProposalState.REJECTED:
        yield "rejected"
    if proposal.event("approved") is None:
        return
    yield "approved"
    if running or proposal.last.step != "approved":
        yield "started"
    if proposal.state in (ProposalState.FINISHED, ProposalState.FAILED):
        yield str(proposal.state)


def _body(proposal: Proposal, event: str, subject: str) -> Iterator[str]:
    at = proposal.event(event)
    if at is not None:
        who = f" by {at.actor}" if at.actor else ""
        yield f"{event.capitalize()}{who}{f': {at.reason}' if at.reason else ''}"
        if at.error:
            yield at.error
    if event == "proposed":
        plan = proposal.plan
        steps = [f"- {one.title}: {step.text}" for one in plan.migrations for step in one.steps]
        yield from steps[:STEPS_SHOWN]
        if len(steps) > STEPS_SHOWN:
            yield f"- and {len(steps) - STEPS_SHOWN} steps more"
        if problems := [step for one in plan.migrations for step in one.steps if step.problem]:
            yield f"It would stop at {len(problems)} of its steps"
        if plan.findings:
            yield f"Findings of lint: {len(plan.findings)}"
    if proposal.url:
        yield proposal.url
    yield f"({subject})"
