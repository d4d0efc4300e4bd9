"""Visitors: callers of the console before they sign in: where they are, how often they fail, what they sent.

    connection, X-Forwarded-For ─▶ Proxies.client ─▶ address ─┬─▶ Failures: may this visitor try a token now?
    cookie of an account that signed in here ─▶ Browsers.of ──┘
    form without a session ─▶ Forms.keep ─▶ the browser's cookie and a key ─▶ Forms.of, after the sign-in

Invariants
  (1) X-Forwarded-For counts only from proxies that the operator has named, and only up to the first
      address that is not one of them;
  (2) failures of an address do not delay browsers in which an account has signed in: these have a limit of
      their own, for each account;
  (3) a form is shown only to the browser that sent it; a visitor's forms displace only its own, and the
      memory of all of them is bounded.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from everlog.rpc.address import Networks, machine_of, network_of
from everlog.store.errors import LimitError

FAILURES, FAILURES_ALL, WINDOW_S = 10, 200, 60.0  # in WINDOW_S: of an address or account, of all addresses
HOPS_MAX = 32  # of proxies
KEPT_S, KEPT_CHARS_MAX = 3600.0, 256 << 10  # of a form
KEPT_EACH, KEPT_EACH_CHARS = 10, 1 << 20  # of one visitor
KEPT_MAX, KEPT_MAX_CHARS = 200, 16 << 20  # of all; strangers have half of it
ENDED_MAX = 1000  # sessions whose name is remembered

Clock = Callable[[], float]


class Proxies:
    """The proxies in front of a console, by their addresses and networks. Raises OpenError."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        self.has = Networks(words).has  # whether a host is one of them

    def client(self, peer: str, forwarded: Sequence[str]) -> str:
        """Return the address of the client, of IPv6 its network of 64 bits. `forwarded`: the values of
        X-Forwarded-For, to which each proxy adds the address that it sees."""
        hops = [hop.strip() for value in forwarded for hop in value.split(",")][-HOPS_MAX:]
        found = peer
        while self.has(found) and hops:
            hop = _host(hops.pop())
            if network_of(hop) is None:  # a proxy does not write this
                break
            found = hop
        return machine_of(found)


def _host(hop: str) -> str:
    """Return the host of HOST, HOST:PORT or [HOST]:PORT."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


class Browsers:
    """The accounts that have signed in with a browser, by a cookie that only this console can make."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def cookie(self, account: str) -> str:
        """Return the cookie of an account: of an identity, or of its token if it has no name."""
        id = self._mac(f"account {account}")[:32]  # with the key: a weak token cannot be guessed from it
        return f"{id}.{self._mac(id)}"

    def of(self, cookie: str) -> str:
        """Return the account of a cookie; empty: the cookie is not of this console."""
        id, _, mac = cookie[:200].partition(".")
        return id if hmac.compare_digest(mac.encode(errors="replace"), self._mac(id).encode()) else ""

    def _mac(self, text: str) -> str:
        return hmac.new(self._secret, text.encode(errors="replace"), "sha256").hexdigest()


class Visitor(NamedTuple):
    """Who tries to sign in. `account`: of the browser's cookie, if somebody has signed in with it."""

    address: str
    account: str = ""

    @property
    def key(self) -> tuple[bool, str]:
        return bool(self.account), self.account or self.address


class Failures:
    """Limits failed sign-ins. Thread-safe."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._times: dict[tuple[bool, str], deque[float]] = {}
        self._lock = threading.Lock()

    def check(self, visitor: Visitor) -> None:
        """Raise LimitError if there were too many failures in the last minute, of this account, or of this
        address or all addresses."""
        with self._lock:
            now = self._clock()
            for known in list(self._times):
                times = self._times[known]
                while times and now - times[0] >= WINDOW_S:
                    times.popleft()
                if not times:
                    del self._times[known]
            mine = self._times.get(visitor.key, deque())
            others = [times for (account, _), times in self._times.items() if not account]
            many = not visitor.account and sum(map(len, others)) >= FAILURES_ALL
            if len(mine) >= FAILURES or many:
                oldest = mine[0] if len(mine) >= FAILURES else min(times[0] for times in others)
                wait_s = max(1.0, oldest + WINDOW_S - now)
                raise LimitError(
                    f"too many sign-ins failed in the last minute; try again in {wait_s:.0f} s",
                    limit="console_sign_in",
                    retry_s=wait_s,
                )

    def note(self, visitor: Visitor) -> None:
        with self._lock:
            self._times.setdefault(visitor.key, deque()).append(self._clock())


class Kept(NamedTuple):
    """A form that was sent without a session. `page`: where it was filled in; `lost`: the names of its files,
    which are not kept; `browser`: the digest of its cookie; `owner`: whose share it takes; `whose`:
    of whom the session was that had ended, if it is known."""

    path: str
    page: str
    fields: Sequence[tuple[str, str]]
    lost: Sequence[str]
    until_s: float
    browser: bytes
    owner: tuple[bool, str]
    whose: str
    chars: int


class Forms:
    """The forms that wait for a sign-in, by a key. Thread-safe."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(
        self,
        browser: str,
        address: str,
        path: str,
        page: str,
        fields: Sequence[tuple[str, str]],
        *,
        lost: Sequence[str] = (),
        ended: tuple[str, str] | None = None,
    ) -> str:
        """Keep a form for an hour, and return its key; empty: it is too large, or there are too many.
        `browser`: its cookie; `ended`: a digest of the session that it had, and whose it was."""
        fields = [(name, value) for name, value in fields if name != "csrf"]
        chars = sum(len(name) + len(value) for name, value in fields) + len(path) + len(page)
        if chars > KEPT_CHARS_MAX:
            return ""
        owner = (True, ended[1] or ended[0]) if ended is not None else (False, address)
        until_s = self._clock() + KEPT_S
        whose = ended[1] if ended is not None else ""
        one = Kept(path, page, fields, lost, until_s, _digest(browser), owner, whose, chars)
        key = secrets.token_urlsafe(32)
        with self._lock:
            self._drop_old()
            while self._over([*self._of(owner), one], KEPT_EACH, KEPT_EACH_CHARS):
                self._kept.pop(next(key for key, kept in self._kept.items() if kept.owner == owner))
            strangers = [kept for kept in self._kept.values() if not kept.owner[0]]
            if not owner[0] and self._over([*strangers, one], KEPT_MAX // 2, KEPT_MAX_CHARS // 2):
                return ""
            while self._over([*self._kept.values(), one], KEPT_MAX, KEPT_MAX_CHARS):
                stranger = next((key for key, kept in self._kept.items() if not kept.owner[0]), "")
                if not stranger:
                    return ""
                self._kept.pop(stranger)
            self._kept[key] = one
        return key

    def of(self, key: str, browser: str, whose: str) -> Kept | None:
        """Return a form that this browser sent; None for another person than its session was of."""
        with self._lock:
            self._drop_old()
            found = self._kept.get(key)
        if found is None or not hmac.compare_digest(found.browser, _digest(browser)):
            return None
        return found if not found.whose or found.whose == whose else None

    def _of(self, owner: tuple[bool, str]) -> list[Kept]:
        return [one for one in self._kept.values() if one.owner == owner]

    def _drop_old(self) -> None:
        now = self._clock()
        while self._kept and next(iter(self._kept.values())).until_s <= now:
            self._kept.popitem(last=False)

    @staticmethod
    def _over(several: Sequence[Kept], number: int, chars: int) -> bool:
        return len(several) > number or sum(one.chars for one in several) > chars


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="replace")).digest()
