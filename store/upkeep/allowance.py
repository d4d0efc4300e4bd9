"""Allowance: how much the holders of a role may have, as the role declares it.

    roles of a caller ─ most ─▶ Allowance ─▶ at a server: its quotas, and what is held for consumers

    limit     None: the role says nothing; 0: no limit
    several   the largest limit of those roles that say something

Consumers are of one database, so its roles may also raise what is allowed without them. Calls use the server,
so roles only lower the limits of its options.

Limits are declared in the log: fields are added, and never removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from everlog.proto import access_pb2 as pb
from everlog.store.errors import RowError
from everlog.store.schema import arguments
from everlog.store.schema.times import duration_s

CONSUMERS_MAX = 100  # names of one identity, unless its roles say otherwise
_MOST = 1 << 63


class Allowance(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the holders of a role may have. None: the role does not say; 0: no limit.

    `consumers`: durable names of one identity. `cap_seconds`, `cap_bytes`: the largest cap of a consumer.
    `streams`, `calls`, `rows`, `heavy`: running calls, calls a second, rows of one call, and long calls that
    run, of one identity in the database.
    """

    consumers: int | None = None
    cap_seconds: int | None = None
    cap_bytes: int | None = None
    streams: int | None = None
    calls: int | None = None
    rows: int | None = None
    heavy: int | None = None

    def __bool__(self) -> bool:
        return self != NOTHING

    def items(self) -> Iterable[tuple[str, int]]:
        """Yield the limits that are declared, as commands write them: `cap-bytes` and its number."""
        for field in FIELDS:
            value = getattr(self, field)
            if value is not None:
                yield field.replace("_", "-"), value


FIELDS = Allowance.__struct_fields__
NOTHING = Allowance()


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
