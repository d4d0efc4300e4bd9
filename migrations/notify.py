"""Notify: operators are told what becomes of migrations, each of them once.

    a proposal, a rollback (messages.py) ─┬─▶ Apprise: Slack, Teams, e-mail, webhooks, …
    a run (auto.py)                      ─┤
    a server's certificates (messages.py) ┘

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
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

from everlog.migrations import notices
from everlog.migrations.approval import Approval
from everlog.migrations.messages import Message, OfApproval, OfRollbacks, OfServer
from everlog.store.database import Database
from everlog.store.errors import Error, OpenError

RETRY_S = 5.0
RETRY_S_MAX = 300.0
CLOSE_S = 10.0

logger = logging.getLogger("everlog")


class Events(Protocol):
    """Something that there is to tell of one database."""

    @property
    def db(self) -> Database: ...

    def since(self) -> int | None:
        """The seq before which nothing is told; None: there is nothing yet."""

    def messages(self, since: int) -> list[Message]:
        """What happened after that, in order."""


class Notifier:
    """Tells those behind Apprise's `urls` of the events of approvals and runs, while it is entered.

    Raises OpenError for a URL that Apprise does not understand, and if Apprise is not installed.
    """

    def __init__(
        self,
        urls: Sequence[str],
        sources: Sequence[Approval | Events],
        *,
        server: OfServer | None = None,
        retry_s: float = RETRY_S,
    ) -> None:
        self._targets = targets(urls)
        self._sources: list[Events] = [
            OfApproval(one) if isinstance(one, Approval) else one for one in sources
        ]
        dbs = {one.db.uuid: one for one in reversed(self._sources)}
        self._rollbacks = [OfRollbacks(one.db, getattr(one, "name", "")) for one in dbs.values()]
        self._sources += [*self._rollbacks, *([server] if server is not None else [])]
        self._schemas = {one.db.uuid: one.db.schema for one in self._rollbacks}
        self._retry_s = retry_s
        self._since: dict[int, int] = {}  # by the source's place
        self._told: dict[int, set[notices.Told]] = {}
        self._woken = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="everlog-notify", daemon=True)

    def wake(self) -> None:
        """Something may have happened."""
        self._woken.set()

    def replace(self, made: Targets) -> None:
        """Tell others from now on. Who is new is told of what is newest, who stays of nothing twice."""
        self._targets = made
        self.wake()

    def __enter__(self) -> Self:
        for at, source in enumerate(self._sources):  # now: what is newest may be another one in a moment
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
        """Tries once more to tell what is left, and ends; the next process tells the rest."""
        for one in self._rollbacks:
            one.db.log.off_advance(self._look)
        self._closing.set()
        self.wake()
        self._thread.join(CLOSE_S)

    def _look(self) -> None:
        """After a commit: whether another schema is in force, and there may be something to tell."""
        for one in self._rollbacks:
            if one.db.schema is not self._schemas[one.db.uuid]:
                self._schemas[one.db.uuid] = one.db.schema
                self.wake()

    def _run(self) -> None:
        wait_s = self._retry_s
        while True:
            self._woken.wait()
            self._woken.clear()
            closing = self._closing.is_set()  # after the clearing, or its wake could be lost
            try:
                arrived = [self._tell(at, source) for at, source in enumerate(self._sources)]
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

    def _tell(self, at: int, source: Events) -> bool:
        """Send the remaining messages of one source; return whether all arrived."""
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
        if messages and at not in self._told:
            self._told[at] = notices.read(db, since)
        told, arrived = self._told.get(at, set()), True
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


Targets: TypeAlias = Mapping[bytes, _Target]  # by what the log has in the place of their URLs


def targets(urls: Sequence[str]) -> Targets:
    """Return those behind Apprise's `urls`. Raises OpenError for a URL that Apprise does not understand, and
    if Apprise is not installed."""
    return {notices.whom(url): _target(url, number) for number, url in enumerate(urls, 1)}


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
