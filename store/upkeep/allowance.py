"""Allowance: how much the holders of a role may have, as the role declares it.

    roles of a caller ─ most ─▶ Allowance ─▶ at a server: its quotas, and what is held for consumers
    LIMITS                                   every limit of a caller: its default, and its words

    limit     None: the role says nothing; 0: no limit
    several   the largest limit of those roles that say something

Consumers are of one database, so its roles may also raise what is allowed without them. Calls use the server,
so roles only lower the limits of its options.

Limits are declared in the log: fields are added, and never removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from everlog.proto import access_pb2 as pb
from everlog.store.errors import RowError
from everlog.store.schema import arguments
from everlog.store.schema.times import duration_s

_MOST = 1 << 63
DAY_S = 86_400


class Limit(NamedTuple):
    """A limit of one caller. `default`: 0 is no limit. `what` completes "at most 5 …"."""

    default: int
    what: str


LIMITS = {
    # what a caller may have at a server: its options (serve --limit-calls), for each name and each address
    "connections": Limit(10_000, "connections"),
    "streams": Limit(20_000, "running calls"),
    "calls": Limit(50_000, "calls a second"),
    "bytes_in": Limit(0, "bytes a second that it sends"),
    "bytes_out": Limit(0, "bytes a second that it receives"),
    "rows": Limit(0, "rows in one call"),
    "heavy": Limit(4, "long calls that run"),  # of names only; others wait in their turn
    # what may be held for a caller in a database, unless it has the right `hold`
    "consumers": Limit(100, "consumers"),
    "cap_seconds": Limit(7 * DAY_S, "seconds in the cap of a consumer"),
    "cap_bytes": Limit(10 << 30, "bytes in the cap of a consumer"),
}


class Allowance(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the holders of a role may have. None: the role does not say; 0: no limit.

    `consumers`: durable names of one identity. `cap_seconds`, `cap_bytes`: the largest cap of a consumer.
    `streams`, `calls`, `rows`, `heavy`: running calls, calls a second, rows of one call, and long calls that
    run, of one identity in the database. `bytes_in`, `bytes_out`: bytes a second from and to it.
    """

    consumers: int | None = None
    cap_seconds: int | None = None
    cap_bytes: int | None = None
    streams: int | None = None
    calls: int | None = None
    rows: int | None = None
    heavy: int | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None

    def __bool__(self) -> bool:
        return self != NOTHING

    def by_name(self) -> Iterable[tuple[str, int]]:
        """Yield the limits that are declared, by their name in LIMITS."""
        for field in FIELDS:
            value = getattr(self, field)
            if value is not None:
                yield field, value

    def items(self) -> Iterable[tuple[str, int]]:
        """Yield the limits that are declared, as commands write them: `cap-bytes` and its number."""
        for field, value in self.by_name():
            yield field.replace("_", "-"), value


FIELDS = Allowance.__struct_fields__
HELD = ("consumers", "cap_seconds", "cap_bytes")
NOTHING = Allowance()


class LimitInForce(NamedTuple):
    """A limit of a caller, and whether its roles set it, or the server."""

    name: str
    value: int
    by_roles: bool

    @property
    def words(self) -> str:
        """The limit, as in `50 calls a second (roles)`."""
        what = LIMITS[self.name].what if self.name in LIMITS else self.name.replace("_", " ")
        return f"{self.value:,} {what} ({'roles' if self.by_roles else 'server'})"

    def told(self) -> dict[str, Any]:
        """The limit as in JSON."""
        return {"name": self.name, "value": self.value, "by_roles": self.by_roles, "words": self.words}


def in_force(server: Mapping[str, float], said: Allowance) -> list[LimitInForce]:
    """Return the limits of a caller: of those of the server and of its roles, the smaller ones. Of HELD, only
    those that `server` has."""
    found = []
    for name in LIMITS:
        value, own, by_roles = int(server.get(name, 0)), getattr(said, name, None), False
        if name in HELD:  # of one database: its roles may raise them
            by_roles = own is not None and name in server
        elif own:
            by_roles = not value or own < value
        if by_roles and own is not None:
            value = own
        if value:
            found.append(LimitInForce(name, value, by_roles))
    return found


def most(several: Iterable[Allowance]) -> Allowance:
    """Return the largest limits that are declared."""
    found: dict[str, int] = {}
    for one in several:
        for field in FIELDS:
            value = getattr(one, field)
            if value is not None:
                known = found.get(field, value)
                found[field] = 0 if 0 in (known, value) else max(known, value)
    return Allowance(**found) if found else NOTHING


def allowance_of(message: pb.Allowance) -> Allowance:
    return Allowance(**{field.name: value for field, value in message.ListFields()})


def message_of_allowance(one: Allowance) -> pb.Allowance:
    return pb.Allowance(
        **{field: value for field, value in msgspec.structs.asdict(one).items() if value is not None}
    )


def check_allowance(one: Any) -> Allowance:
    """Return an allowance, checked. Raises RowError."""
    if not isinstance(one, Allowance):
        raise RowError(f"expected `allowance` as an Allowance, found {type(one).__name__} {one!r}")
    for name, value in one.items():
        if arguments.counted(value, name) >= _MOST:
            raise RowError(f"expected {name} below 2^63, found {value}")
    return one


def read_allowance(words: Iterable[str], before: Allowance = NOTHING) -> Allowance:
    """Return `before` with the limits in words such as `consumers=5` or `cap-seconds=30d`; a name without a
    number takes a limit away. Raises RowError."""
    found: Mapping[str, int | None] = msgspec.structs.asdict(before)
    for word in words:
        name, equals, text = word.partition("=")
        field = name.replace("-", "_")
        if not equals or field not in FIELDS:
            names = ", ".join(one.replace("_", "-") for one in FIELDS)
            raise RowError(f"expected LIMIT=N with a limit of {names}, found {word!r}")
        found = {**found, field: _number(field, text, word)}
    return check_allowance(Allowance(**found))


def _number(field: str, text: str, word: str) -> int | None:
    if not text:  # it says nothing any more
        return None
    if text.isascii() and text.isdecimal():
        return int(text[:20])
    if field == "cap_seconds":
        return int(duration_s(text))
    raise RowError(f"{word}: expected a whole number of at least 0, found {text!r}")
