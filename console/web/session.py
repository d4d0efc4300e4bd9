"""Session: who uses the console, and the databases that are open for them.

    token ─▶ Sessions.sign_in ─▶ the server is asked with it ─▶ Session, and a cookie with its id
    person at a provider ─▶ oidc.py ─▶ the same, with a Renewal that gets a new token before this one ends
    cookie ─▶ Sessions.of ─▶ Session ─▶ session.database("flights"): a RemoteDatabase with the session's token

Callers without a session are visitors (visitors.py).

A session is kept in this process only, by the SHA-256 of its id. A token is never sent to the browser.

Invariants
  (1) a call of the console has the credentials of its session and no others: a right that the identity does
      not have is refused by the server;
  (2) sign-in attempts that failed are limited (visitors.py), except those with what cannot be guessed:
      tokens of `everlog token create`, and links.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from everlog.console.web.visitors import ENDED_MAX, Clock, Failures, Visitor
from everlog.rpc.address import Address
from everlog.rpc.client.admin import Listed, listed
from everlog.rpc.client.channel import Channel
from everlog.rpc.client.database import RemoteDatabase
from everlog.store.errors import AccessError, Error, UnavailableError
from everlog.store.upkeep.access import is_created

IDLE_S, LIFE_S, ONCE_S = 8 * 3600.0, 24 * 3600.0, 600.0
SESSIONS_MAX, SESSIONS_EACH = 200, 20  # of all, and of one identity
STREAMS_EACH = 32  # pages of one session that are kept up to date
RETRY_S, TIMEOUT_S = 1.0, 10.0
TOKEN_CHARS_MAX = 16 << 10
LEFT_MAX = 200  # words for next pages, of a session
LEDGERS_S = 10.0  # for so long the ledgers of a server are known
POLLS_MAX = 64  # calls whose results the pages of a session share
T = TypeVar("T")


class SignInError(AccessError):
    """Raised when a session cannot begin, or has ended: its token is not, or no longer, accepted."""


def refused(error: Error) -> bool:
    """Return whether a server refused the credentials of a call, rather than the call."""
    return isinstance(error, UnavailableError) and error.facts.get("code") == "UNAUTHENTICATED"


class Renewal(Protocol):
    """How the token of a session is replaced before it ends."""

    def due(self) -> bool:
        """Return whether the token ends soon."""
        ...

    def renew(self) -> str:
        """Return a new token; empty: there is none yet, and the old one stays in use."""
        ...

    def revoke(self) -> None:
        """End what the provider granted."""
        ...


class Poll:
    """A call that is repeated, and its newest result."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.began: float | None = None
        self.took_s = 0.0
        self.found: Any = None


class Session:
    """One sign-in, or all callers without one. Thread-safe."""

    def __init__(
        self,
        server: Address,
        token: str,
        *,
        id: str = "",
        now: float = 0.0,
        renewal: Renewal | None = None,
    ) -> None:
        self.server = server._replace(token=token)
        self.id = id
        self.renewal = renewal
        self._renewing = threading.Lock()
        self.began = self.used = now
        self.name = ""
        self.reach: tuple[str, ...] = ()  # the databases that it saw when it began
        self._open: dict[str, RemoteDatabase] = {}
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._left: dict[str, str] = {}
        self._closed, self._streams = False, 0
        self._polls = OrderedDict[Hashable, Poll]()

    @property
    def signed_in(self) -> bool:
        return bool(self.server.token)

    def same(self, other: Session) -> bool:
        """Return whether another session is of the same identity."""
        return self.server.token == other.server.token or bool(self.name and self.whose == other.whose)

    @property
    def whose(self) -> tuple[str, tuple[str, ...]]:
        """The identity: a name in the databases that it sees. Tokens of two databases may have one name,
        which different owners gave."""
        return self.name, self.reach

    async def live(
        self, events: AsyncIterator[str], refused: Callable[[], None] = lambda: None
    ) -> AsyncIterator[str]:
        """Yield the events of a page that is kept up to date; none if the session has too many such pages:
        then `refused` is called."""
        with self._lock:
            self._streams += 1
            fits = self._streams <= STREAMS_EACH
        try:
            if not fits:
                refused()
                yield "retry: 60000\n\n"
                return
            async for event in events:
                yield event
        finally:
            with self._lock:
                self._streams -= 1

    def polled(self, key: Hashable, call: Callable[[], T], age_s: float, *, patience: float = 0) -> T:
        """Return what a call returns, or returned to another page of this session in the last `age_s`
        seconds, or in the last `patience` times as long as the call took. `key`: what is called. Raises as
        the call does."""
        with self._lock:
            poll = self._polls.pop(key, None) or Poll()
            self._polls[key] = poll
            while len(self._polls) > POLLS_MAX:
                self._polls.popitem(last=False)
        with poll.lock:
            now = time.monotonic()
            if poll.began is None or now - poll.began >= max(age_s, patience * poll.took_s):
                poll.found = call()
                poll.began, poll.took_s = now, time.monotonic() - now
            found: T = poll.found
            return found

    def forget(self, key: Hashable) -> None:
        """Forget what a call returned: a form has changed it."""
        with self._lock:
            self._polls.pop(key, None)

    def databases(self) -> list[str]:
        """Return the names of the databases that the identity may see. Raises SignInError if its token is not
        accepted any more."""
        return self.listed().databases

    def ledgers(self) -> list[str]:
        """Return the ledgers of fleets that the identity may see, as of the last seconds."""
        return self.polled("ledgers", lambda: self.listed().ledgers, LEDGERS_S)

    def listed(self) -> Listed:
        """Like `databases`, with the ledgers of fleets."""
        try:
            return listed(self._server())
        except UnavailableError as error:
            if refused(error):
                raise SignInError(str(error)) from None
            raise

    def database(self, name: str) -> RemoteDatabase:
        """Return a database of the server. Raises AccessError if the identity may not see it."""
        with self._lock:
            found = self._open.get(name)
        if found is not None:
            return found
        try:
            opened = RemoteDatabase(
                self.server._replace(database=name), connect_s=0, retry_s=RETRY_S, timeout_s=TIMEOUT_S
            )
        except UnavailableError as error:
            if refused(error):
                raise SignInError(str(error)) from None
            raise
        with self._lock:
            kept = self._open.setdefault(name, opened)
            closed = self._closed
        if kept is not opened or closed:
            opened.close()
        if closed:
            raise SignInError("this session has ended; sign in again")
        return kept

    def leave(self, words: str) -> str:
        """Keep words for the next page, and return their key."""
        key = secrets.token_urlsafe(16)
        with self._lock:
            self._left[key] = words
            while len(self._left) > LEFT_MAX:
                del self._left[next(iter(self._left))]
        return key

    def take(self, key: str) -> str:
        """Return words that were left, once; empty: there are none."""
        with self._lock:
            return self._left.pop(key, "")

    def _server(self) -> Channel:
        with self._lock:
            if self._closed:
                raise SignInError("this session has ended; sign in again")
            if self._channel is None:
                self._channel = Channel(self.server, retry_s=RETRY_S, timeout_s=TIMEOUT_S)
            return self._channel

    def renew(self) -> None:
        """Replace a token that ends soon, if the session can. Other requests do not wait for it."""
        if self.renewal is None or not self.renewal.due() or not self._renewing.acquire(blocking=False):
            return
        try:
            token = self.renewal.renew()
            if not token:
                return
            with self._lock:
                self.server = self.server._replace(token=token)
                opened, channel = list(self._open.values()), self._channel
            for db in opened:
                db.use_token(token)
            if channel is not None:
                channel.use_token(token)
        finally:
            self._renewing.release()

    def drop(self) -> None:
        """Close the connections: the next call opens new ones, with the certificates of that time."""
        with self._lock:
            opened, self._open = list(self._open.values()), {}
            channel, self._channel = self._channel, None
        for db in opened:
            db.close()
        if channel is not None:
            channel.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self.drop()


class Sessions:
    """All sessions of one console. `server` is the address of the server, without database and token."""

    def __init__(self, server: Address, clock: Clock = time.monotonic) -> None:
        self.server = server
        self.anonymous = Session(server, "")
        self._clock = clock
        self._failures = Failures(clock)
        self._failures_at_provider = Failures(clock)
        self._sessions: dict[bytes, Session] = {}
        self._ended: OrderedDict[bytes, str] = OrderedDict()  # whose the sessions were that have ended
        self._once: dict[bytes, tuple[float, str]] = {}
        self._secret = secrets.token_bytes(32)
        self._lock = threading.Lock()

    def check(self, visitor: Visitor) -> None:
        """Raise LimitError if too many sign-ins through the provider failed."""
        self._failures_at_provider.check(visitor)

    def failed(self, visitor: Visitor) -> None:
        """Count a failed sign-in through the provider."""
        self._failures_at_provider.note(visitor)

    def sign_in(self, token: str, visitor: Visitor) -> Session:
        """Return a new session, after the server has accepted the token. Raises SignInError, LimitError, and
        UnavailableError if the server cannot be asked."""
        token = token.strip()
        guessed = not is_created(token)
        if guessed:
            self._failures.check(visitor)
        try:
            return self.begin(token)
        except SignInError:
            if guessed:
                self._failures.note(visitor)
            raise

    def begin(self, token: str, renewal: Renewal | None = None) -> Session:
        """Like `sign_in`, with a token that is not a guess. Raises SignInError, and UnavailableError."""
        if not token or len(token) > TOKEN_CHARS_MAX or not all("!" <= letter <= "~" for letter in token):
            raise SignInError("expected a token of visible ASCII characters, found none or others")
        session = Session(
            self.server, token, id=secrets.token_urlsafe(32), now=self._clock(), renewal=renewal
        )
        try:
            names = session.databases()
            if not names:
                raise SignInError(
                    "this token has no rights in any database of the server; to give some:"
                    " everlog access grant NAME reader"
                )
            session.reach = tuple(sorted(names))
            with suppress(AccessError):
                session.name = session.database(names[0]).access.whoami().name
        except BaseException:
            session.close()
            raise
        with self._lock:
            ended = self._expired()
            own = [key for key, one in self._sessions.items() if one.same(session)]
            if len(own) >= SESSIONS_EACH:
                ended.append(self._end(min(own, key=lambda key: self._sessions[key].used)))
            if len(self._sessions) >= SESSIONS_MAX:
                oldest = min(self._sessions, key=lambda key: self._sessions[key].used)
                ended.append(self._end(oldest))
            self._sessions[_digest(session.id)] = session
        for one in ended:
            one.close()
        return session

    def of(self, id: str) -> Session | None:
        """Return the session with this id, if it has not ended."""
        with self._lock:
            ended = self._expired()
            found = self._sessions.get(_digest(id))
            if found is not None:
                found.used = self._clock()
        for one in ended:
            one.close()
        return found

    def ended(self, id: str) -> tuple[str, str] | None:
        """Return a digest of a session that has ended, and whose it was (empty: it had no name); None: there
        was none."""
        key = _digest(id)
        with self._lock:
            whose = self._ended.get(key)
        return (key.hex(), whose) if whose is not None else None

    def once(self, token: str) -> str:
        """Return a code that signs in once with this token, within ten minutes."""
        code = secrets.token_urlsafe(32)
        with self._lock:
            self._once[_digest(code)] = (self._clock() + ONCE_S, token)
        return code

    def sign_in_once(self, code: str) -> Session:
        """Return a new session for a code of `once`. Raises SignInError."""
        with self._lock:
            until, token = self._once.pop(_digest(code), (0.0, ""))
        if not token or until < self._clock():
            raise SignInError(
                "this link was used already, or is older than ten minutes; sign in with a token"
            )
        return self.begin(token)

    def sign_out(self, session: Session, *, everywhere: bool = False) -> int:
        """End a session, and with `everywhere` all of the same token or name. Return their number."""
        with self._lock:
            ended = [
                key
                for key, one in self._sessions.items()
                if one is session or (everywhere and one.same(session))
            ]
            found = [self._end(key) for key in ended]
        for one in found:
            one.close()
            if one.renewal is not None:
                one.renewal.revoke()
        return len(found)

    def csrf(self, visitor: str) -> str:
        """Return the token that forms of this visitor carry."""
        return hmac.new(self._secret, visitor.encode(), "sha256").hexdigest()

    def drop(self) -> None:
        """Close all connections; the next calls open new ones."""
        with self._lock:
            found = [*self._sessions.values(), self.anonymous]
        for one in found:
            one.drop()

    def close(self) -> None:
        with self._lock:
            found = [*self._sessions.values(), self.anonymous]
            self._sessions.clear()
            self._once.clear()
        for one in found:
            one.close()

    def _expired(self) -> list[Session]:
        now = self._clock()
        ended = [
            key for key, one in self._sessions.items() if now - one.used > IDLE_S or now - one.began > LIFE_S
        ]
        return [self._end(key) for key in ended]

    def _end(self, key: bytes) -> Session:
        """Remove a session, and remember whose it was."""
        found = self._sessions.pop(key)
        self._ended[key] = repr(found.whose) if found.name else ""
        while len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)
        return found


def _digest(id: str) -> bytes:
    return hashlib.sha256(id.encode(errors="replace")).digest()
