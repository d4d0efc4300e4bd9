"""Quotas: how much callers of a server may have, by identity and by address.

    connection ─▶ account of its address ──┐
    call ───────▶ account of its name ─────┴─▶ within both? ─ no ─▶ LimitError: which limit, when to try again
    admitted ───▶ account of its name in the database, if its roles there have limits: also within this one?

    connections, streams    held at a time
    calls, bytes            a second: a bucket that one second fills (rpc/http2/limits.py)
    rows                    of one call's responses
    heavy                   threads for long calls of one caller (threads.py); others wait in turn

Addresses are IPv4 addresses, and IPv6 networks of 64 bits, since one machine has a whole such network.

Bytes are not refused within a call: streams wait. A call that begins while its caller owes bytes is refused.

Invariants
  (1) the memory of accounts is bounded: those in use by connections and calls, of which the number is
      limited, and ACCOUNTS_MAX others, of which the oldest are forgotten;
  (2) a call costs constant time here, and waits for nothing;
  (3) a name or address that is over a limit never makes another one wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from everlog.rpc.address import Network, machine_of, network_of
from everlog.rpc.http2.connection import Connection
from everlog.rpc.http2.grpc import Call
from everlog.rpc.http2.limits import Bucket, Meter, Meters
from everlog.rpc.http2.stream import Stream
from everlog.rpc.server.rights import Scope
from everlog.store.errors import LimitError, OpenError
from everlog.store.upkeep.allowance import LIMITS, NOTHING

ACCOUNTS_MAX = 10_000  # without connections and calls: of names, and of addresses
NAMES_MAX = 1000  # of callers over one connection that are remembered with it
EXTRA = 16  # connections over the limit of an address whose calls are refused; further ones are closed
SHARE = 2  # an address, or a name, has at most this part of all connections
PEEK = 1  # rows that a client requests to see whether there are more
RETRY_S = 1.0  # after which a call is repeated that exceeds what is held at a time
RETRY_MIN_S = 0.05
PAUSE_MAX_S = 1.0
SAY_EVERY_S = 60.0


class Limits(NamedTuple):
    """Limits of one name or address; 0: none. See LIMITS."""

    connections: float = LIMITS["connections"].default
    streams: float = LIMITS["streams"].default
    calls: float = LIMITS["calls"].default
    bytes_in: float = LIMITS["bytes_in"].default
    bytes_out: float = LIMITS["bytes_out"].default
    rows: float = LIMITS["rows"].default
    heavy: float = LIMITS["heavy"].default  # of names only


FIELDS = tuple(Limits.__annotations__)
Said = Callable[[str, str, str, str], None]  # of a limit, a name and an address: the sentence


class Quota(NamedTuple):
    """The limits of all names and addresses, and those of some. Keys of `own` are names, or addresses and
    networks such as 10.0.0.0/8."""

    limits: Limits = Limits()
    own: Mapping[str, Mapping[str, float]] = {}

    def of_name(self, name: str) -> Limits:
        return self.limits._replace(**self.own.get(name, {}))

    def of_address(self, address: str) -> Limits:
        found = self.limits
        for network, own in self.networks():
            if _is_within(address, network):
                found = found._replace(**own)
        return found

    def heavy(self, caller: str, scope: Scope | None = None) -> int:
        """Return how many long calls of a caller may run, also by its roles; 0: any. For any thread."""
        found = int(self.own.get(caller, {}).get("heavy", self.limits.heavy))
        said = scope.holder.allowance.heavy if scope is not None else None
        return min(found or said, said) if said else found

    def of_caller(self, name: str, peer: str) -> Limits:
        """Return the limits of a caller: those of its name, or without one those of its address."""
        return self.of_name(name) if name else self.of_address(address_of(peer))

    def networks(self) -> Iterable[tuple[Any, Mapping[str, float]]]:
        """Return the networks that have limits of their own, the largest first."""
        found = [(network, own) for who, own in self.own.items() if (network := network_of(who)) is not None]
        return sorted(found, key=lambda one: int(one[0].prefixlen))


def read_own(words: Iterable[str]) -> dict[str, dict[str, float]]:
    """Return limits of names and addresses from words such as `batch:calls=100`. Raises OpenError."""
    found = dict[str, dict[str, float]]()
    for word in words:
        left, equals, text = word.rpartition("=")
        who, _, what = left.rpartition(":")
        field = what.replace("-", "_")
        if not (equals and who) or field not in FIELDS:
            names = ", ".join(one.replace("_", "-") for one in FIELDS)
            raise OpenError(
                f"expected WHO:LIMIT=N, such as batch:calls=100, with a name or an address, and a limit of"
                f" {names}; found {word!r}"
            )
        if field == "heavy" and network_of(who) is not None:
            raise OpenError(f"{word}: expected a name: heavy calls are limited by name, not by address")
        try:
            value = float(text.replace("_", ""))
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf"):
            raise OpenError(f"{word}: expected a number of at least 0 for {what}, found {text!r}")
        found.setdefault(who, {})[field] = value
    return found


class Account:
    """What one name or address has."""

    __slots__ = (
        *("address", "calls", "connections", "database", "limits", "name", "received", "said", "sent"),
        "streams",
    )

    def __init__(
        self,
        name: str,
        address: str,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        database: str = "",
    ) -> None:
        """`database`: of the roles that have the limits; empty: they are the server's."""
        self.name = name
        self.address = address
        self.database = database
        self.connections = 0
        self.streams = 0
        self.said = dict[str, float]()  # when each limit was logged
        self.become(limits, loop)

    def become(self, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        """Have these limits from now on."""
        self.limits = limits
        self.calls = Bucket(limits.calls or float("inf"))
        self.received = Bucket(limits.bytes_in) if limits.bytes_in else None
        self.sent = Meter(limits.bytes_out, loop) if limits.bytes_out else None

    @property
    def idle(self) -> bool:
        return not self.connections and not self.streams


class Accounts:
    """The accounts of names, or of addresses. Those in use are kept."""

    def __init__(self) -> None:
        self._used: dict[str, Account] = {}
        self._idle: OrderedDict[str, Account] = OrderedDict()

    def __len__(self) -> int:
        return len(self._used) + len(self._idle)

    def get(self, key: str) -> Account | None:
        """Return an account, which is in use from now on."""
        found = self._used.get(key)
        if found is None and (found := self._idle.pop(key, None)) is not None:
            self._used[key] = found
        return found

    def add(self, key: str, account: Account) -> None:
        self._used[key] = account

    def rest(self, key: str, account: Account) -> None:
        """Note that an account may be in use no more."""
        if account.idle and self._used.pop(key, None) is not None:
            self._idle[key] = account
            if len(self._idle) > ACCOUNTS_MAX:
                self._idle.popitem(last=False)

    def all(self) -> list[Account]:
        return [*self._used.values(), *self._idle.values()]


class Quotas:
    """The quotas of one server; see `everlog.rpc.http2.grpc.Limiter`. Use it in the event loop.

    `said` is called for each limit that is reached: with its name, the caller's name and address, and a
    sentence, which is empty if the same was said within the last minute.
    """

    def __init__(self, quota: Quota, said: Said) -> None:
        self._said = said
        self._loop = asyncio.get_running_loop()
        self.names, self.addresses = Accounts(), Accounts()
        self.roles: dict[str, Accounts] = {}  # names in each database
        self._connections_max = 0
        self.quota = quota

    def share(self, connections_max: int) -> None:
        """Let nobody have more than a part of all connections, unless it has a limit of its own. Before the
        first connection."""
        self._connections_max = connections_max
        self.quota = self._shared(self.quota)

    def _shared(self, quota: Quota) -> Quota:
        most = max(1, self._connections_max // SHARE)
        limits = quota.limits
        return quota._replace(limits=limits._replace(connections=min(limits.connections or most, most)))

    def replace(self, quota: Quota, connections: Iterable[Connection]) -> None:
        """Have other limits from now on; running calls keep their limits of bytes."""
        self.quota = quota = self._shared(quota)
        for one in self.names.all():
            one.become(quota.of_name(one.name), self._loop)
        for one in self.addresses.all():
            one.become(quota.of_address(one.address), self._loop)
        for connection in connections:
            self._measure(connection)

    # connections

    def connected(self, connection: Connection) -> None:
        """Count a connection. Close it if its address has far too many."""
        address = address_of(connection.peer)
        account = self.addresses.get(address)
        if account is None:
            account = Account("", address, self.quota.of_address(address), self._loop)
            self.addresses.add(address, account)
        account.connections += 1
        connection.account = Held(account)
        self._measure(connection)
        over = account.connections - (account.limits.connections or float("inf"))
        connection.account.over = over > 0
        if over > EXTRA:
            self._reached(account, "connections", address)
            connection.abort()

    def lost(self, connection: Connection) -> None:
        """Count a connection that has ended."""
        held: Held = connection.account
        for name, account in held.names.items():
            account.connections -= 1
            self.names.rest(name, account)
        held.names.clear()
        if connection.out.meter is not None:
            connection.out.meter.forget(connection.out)
        held.address.connections -= 1
        self.addresses.rest(held.address.address, held.address)

    def _measure(self, connection: Connection) -> None:
        account: Account = connection.account.address
        connection.received, connection.out.meter = account.received, account.sent

    # calls

    def arrived(self, call: Call) -> None:
        """Count a call of an address. Raises LimitError."""
        held: Held = call.stream.connection.account
        account = held.address
        call.accounts = (account,)
        account.streams += 1
        if held.over:  # others may have left
            held.over = account.connections > (account.limits.connections or float("inf"))
            if held.over:
                raise self._exceeded(call, account, "connections")
        self._count(call, account)

    def identified(self, call: Call) -> None:
        """Count a call of a name. Raises LimitError."""
        stream = call.stream
        held: Held = stream.connection.account
        name = str(stream.who)
        call.rows_max = held.address.limits.rows + PEEK if held.address.limits.rows else float("inf")
        if not name:
            return
        account = held.names.get(name)
        if account is None:
            account = self._join(call, held, name)
        call.accounts = (held.address, account)
        account.streams += 1
        if account.limits.rows:
            call.rows_max = min(call.rows_max, account.limits.rows + PEEK)
        self._meter(stream, account)
        self._count(call, account)

    def _meter(self, stream: Stream, account: Account) -> None:
        """Count the bytes of a stream in an account as well."""
        if account.sent is not None:
            stream.meter = account.sent if stream.meter is None else Meters((stream.meter, account.sent))
        if account.received is not None:
            stream.received = (*stream.received, account.received)

    def _join(self, call: Call, held: Held, name: str) -> Account:
        """Return the account of a name that calls over this connection for the first time."""
        account = self.names.get(name)
        if account is None:
            account = Account(name, "", self.quota.of_name(name), self._loop)
            self.names.add(name, account)
        if account.connections >= (account.limits.connections or float("inf")):
            self.names.rest(name, account)
            raise self._exceeded(call, account, "connections")
        if len(held.names) >= NAMES_MAX:
            for one, other in held.names.items():
                if not other.streams:
                    del held.names[one]
                    other.connections -= 1
                    self.names.rest(one, other)
                    break
        held.names[name] = account
        account.connections += 1
        return account

    def _count(self, call: Call, account: Account) -> None:
        limits, bucket = account.limits, account.calls
        if limits.streams and account.streams > limits.streams:
            raise self._exceeded(call, account, "streams")
        bucket.left -= 1
        if bucket.left < 0 and (wait_s := bucket.wait_s(self._loop.time())):
            bucket.left += 1
            raise self._exceeded(call, account, "calls", wait_s)
        if (received := account.received) is not None and (wait_s := received.wait_s(self._loop.time())):
            raise self._exceeded(call, account, "bytes_in", wait_s)
        if (sent := account.sent) is not None and (wait_s := sent.bucket.wait_s(self._loop.time())):
            raise self._exceeded(call, account, "bytes_out", wait_s)

    def admitted(self, call: Call) -> None:
        """Count a call of a name by the limits that its roles have in the database. Raises LimitError."""
        if call.scope is None or (said := call.scope.holder.allowance) is NOTHING or not call.stream.who:
            return
        limits = Limits(
            0,
            said.streams or 0,
            said.calls or 0,
            said.bytes_in or 0,
            said.bytes_out or 0,
            said.rows or 0,
            heavy=0,
        )
        if not any(limits):
            return
        name, database = str(call.stream.who), call.request.database  # type: ignore[union-attr]
        accounts = self.roles.setdefault(database, Accounts())
        account = accounts.get(name)
        if account is None:
            account = Account(name, "", limits, self._loop, database)
            accounts.add(name, account)
        elif account.limits != limits:
            account.become(limits, self._loop)
        call.accounts = (*call.accounts, account)
        account.streams += 1
        if account.limits.rows:
            call.rows_max = min(call.rows_max, account.limits.rows + PEEK)
        self._count(call, account)
        self._meter(call.stream, account)
        if account.received is not None:  # the request says the database
            account.received.left -= call.stream.got

    def check_rows(self, call: Call) -> None:
        """Raise LimitError for a call that has more rows than it may."""
        for account in call.accounts:
            if account.limits.rows and call.rows > account.limits.rows + PEEK:
                raise self._exceeded(call, account, "rows", 0.0)

    def pause_s(self, call: Call) -> float:
        """Return how long to wait before more is received for a call: nothing is refused within it."""
        now = self._loop.time()
        waits = [account.received.wait_s(now) for account in call.accounts if account.received is not None]
        return min(PAUSE_MAX_S, max(waits, default=0.0))

    def ended(self, call: Call) -> None:
        accounts, call.accounts = call.accounts, ()
        for account in accounts:
            account.streams -= 1
            if account.database:
                self.roles[account.database].rest(account.name, account)
            elif not account.connections:
                (self.names if account.name else self.addresses).rest(
                    account.name or account.address, account
                )

    def _exceeded(self, call: Call, account: Account, limit: str, retry_s: float = RETRY_S) -> LimitError:
        """Return the error for a call that is over a limit. `retry_s`: 0: never."""
        self._reached(account, limit, call.stream.connection.peer)
        most = getattr(account.limits, limit)
        whose = f"of {account.name}" if account.name else "of this address"
        whose += f" in {account.database}" if account.database else ""
        if limit == "rows":
            then = "request fewer, in several calls"
        else:
            retry_s = max(RETRY_MIN_S, round(retry_s, 3))
            then = f"try again after {retry_s:g} s"
        return LimitError(
            f"the limit {whose} is reached: expected at most {most:,.0f} {LIMITS[limit].what}; {then}",
            limit=limit,
            retry_s=retry_s,
        )

    def _reached(self, account: Account, limit: str, peer: str) -> None:
        now, sentence = time.monotonic(), ""
        if now - account.said.get(limit, -SAY_EVERY_S) >= SAY_EVERY_S:
            account.said[limit] = now
            whose = account.name or "an address"
            sentence = f"{whose} has reached its limit of {LIMITS[limit].what}"
        self._said(limit, account.name, peer, sentence)


class Held:
    """The accounts of a connection: of its address, and of the names that have called over it."""

    __slots__ = ("address", "names", "over")

    def __init__(self, address: Account) -> None:
        self.address = address
        self.names: dict[str, Account] = {}
        self.over = False  # its address had too many connections when it began


def address_of(peer: str) -> str:
    """Return the address of a peer HOST:PORT; of IPv6 the network of 64 bits."""
    return machine_of(peer.rpartition(":")[0])


def _is_within(address: str, network: Network) -> bool:
    mine: Any = network_of(address)
    if mine is None or mine.version != network.version:
        return False
    return bool(mine.subnet_of(network) or (mine.version == 6 and network.subnet_of(mine)))
