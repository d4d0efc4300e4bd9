r"""Times: read times and durations as people write them.

    time     := "now" | day [clock] [zone] | clock [zone] | span ["ago"] | "in" span | ISO 8601
    day      := "today" | "yesterday" | "tomorrow" | YYYY-MM-DD
    clock    := HH:MM[:SS[.fraction]]                 to the nanosecond
    zone     := "Z" | "UTC" | (+|-)HH[:MM] | Area/City
    span     := (number unit)+                        1h, 1h30m, 90 days, 1.5 hours
    unit     := ms | s | m | h | d | w | y            or as words; d: 24 h, y: 365 d

A time is past unless its caller wants a future one (`future`):

    written        past                              future
    02:13          the last time that it was 02:13   the next time
    1h             an hour ago                       in an hour
    in 1h          refused                           in an hour
    1h ago         an hour ago                       refused
    tomorrow       refused                           its first moment

Invariants
  (1) a time without a zone is in the zone that the caller of this module chooses: local time for commands,
      UTC for calls of programs;
  (2) a local time that does not exist, or exists twice, because clocks change on that day, is refused with
      the times to choose from. A day without a time begins at its first moment;
  (3) a text is read completely, or refused with examples of what is accepted.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, date, datetime, timedelta, tzinfo
from datetime import time as clock_time
from zoneinfo import ZoneInfo

from everlog.store.errors import RowError

EXAMPLES = "2026-01-05T09:30Z, 2026-01-05 09:30, 02:13, yesterday 14:00, 1h ago"
FUTURE_EXAMPLES = "90d, in 2h, tomorrow 14:00, 2026-01-05T09:30Z"
DURATION_EXAMPLES = "90s, 1m30s, 12h, 90d"
SHOWN = 60  # characters of a refused text
TEXT_MAX = 100
DURATION_MAX_S = 200 * 365 * 86_400.0  # so that a sum with the current time fits into 63 bits of nanoseconds
SECOND_NS = 1_000_000_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NS_MAX = (1 << 63) - 1
_BELOW = re.compile(r"\d[.,]\d{6}(\d{1,3})")  # the nanoseconds, which a datetime cannot hold

_UNITS_S = {
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), 0.001),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
    **dict.fromkeys(("w", "week", "weeks"), 7 * 86_400.0),
    **dict.fromkeys(("y", "year", "years"), 365 * 86_400.0),
}
_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*([a-z]+)\s*")
_NUMBER = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?")
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_OFFSET = re.compile(r"([+-])([0-9]{2})(?::?([0-9]{2}))?")
_ZONED = re.compile(
    r"\s*(Z|UTC|[+-][0-9]{2}(?::?[0-9]{2})?|\s[A-Z][A-Za-z_]*(?:/[A-Za-z0-9_+-]+){1,2})$", re.IGNORECASE
)
_DAYS = {"today": 0, "yesterday": -1, "tomorrow": 1}


def time_ns_of(text: str, *, zone: tzinfo | None, future: bool = False, now_ns: int | None = None) -> int:
    """Return a time as nanoseconds since the Unix epoch. Read-only; raises RowError.

    `zone` is that of times without a zone; None: the local time of this process (TZ). `future`: a time of
    day or a duration is after now, and earlier times are refused. `now_ns` defaults to the machine's clock.
    """
    now = time.time_ns() if now_ns is None else now_ns
    words = " ".join(text.split()) if len(text) <= TEXT_MAX else ""
    found = _span(words.lower(), now, future=future, text=text) if words else None
    if found is None and words:
        found = _calendar(words, zone, now, future=future)
    if found is None:
        raise RowError(f"expected a time like {FUTURE_EXAMPLES if future else EXAMPLES}, found {_cut(text)}")
    if future and found <= now:
        raise RowError(f"expected a time in the future, like {FUTURE_EXAMPLES}, found {_cut(text)}")
    return found


def duration_s(text: str, *, unitless: bool = False) -> float:
    """Return a duration in seconds. `unitless`: a number without a unit is accepted, in seconds. Raises
    RowError."""
    words = text.strip().lower()
    found = float(words) if unitless and _NUMBER.fullmatch(words) else _duration(words)
    if found is None:
        units = "" if unitless or not _NUMBER.fullmatch(words) else ", with its unit"
        raise RowError(f"expected a duration like {DURATION_EXAMPLES}{units}, found {_cut(text)}")
    if found > DURATION_MAX_S:
        raise RowError(f"expected a duration of at most 200y, found {_cut(text)}")
    return found


def exact_text(time_ns: int) -> str:
    """Format a time as ISO 8601 in UTC, to the nanosecond."""
    at = _EPOCH + timedelta(seconds=time_ns // SECOND_NS)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{time_ns % SECOND_NS:09}Z"


def to_ns(at: datetime, below: int = 0) -> int:
    """Return a datetime with a zone as nanoseconds since the Unix epoch. `below`: nanoseconds below its
    microseconds."""
    past = at - _EPOCH
    return ((past.days * 86400 + past.seconds) * 1_000_000 + past.microseconds) * 1000 + below


def _cut(text: str) -> str:
    return repr(text[:SHOWN]) + ("…" if len(text) > SHOWN else "")


def _duration(words: str) -> float | None:
    total, at = 0.0, 0
    if not words or len(words) > TEXT_MAX:
        return None
    while at < len(words):
        part = _PART.match(words, at)
        if part is None or part[2] not in _UNITS_S:
            return None
        total, at = total + float(part[1]) * _UNITS_S[part[2]], part.end()
    return total


def _span(words: str, now: int, *, future: bool, text: str) -> int | None:
    """Return a time that is relative to now; None if the text is none."""
    if words == "now":
        return now
    ago, ahead = words.endswith(" ago"), words.startswith("in ")
    seconds = _duration(words.removesuffix(" ago").removeprefix("in "))
    if seconds is None or (ago and ahead):
        return None
    if ago and future:
        raise RowError(f"expected a time in the future, like {FUTURE_EXAMPLES}, found {_cut(text)}")
    if ahead and not future:
        raise RowError(f"expected a time that has passed, like {EXAMPLES}, found {_cut(text)}")
    delta = round(seconds * 1e9)
    found = now + delta if future else now - delta
    return found if 0 <= found <= _NS_MAX else None


def _calendar(words: str, zone: tzinfo | None, now: int, *, future: bool) -> int | None:
    """Return the time of a day or of the clock; None if the text is neither."""
    zoned, head = _ZONED.search(words), words
    if zoned is not None and (
        ":" in words[: zoned.start()] or zoned[1].strip()[0].isalpha()
    ):  # not a day, -05
        zone, head = _zone(zoned[1].strip(), words), words[: zoned.start()]
    here = _local(now, zone)
    day, _, rest = head.partition(" ")
    if not rest and "T" in head and _DATE.fullmatch(head.partition("T")[0]):
        day, _, rest = head.partition("T")
    if day.lower() in _DAYS:
        which = _DAYS[day.lower()]
        if which > 0 and not future:
            raise RowError(f"expected a time that has passed, like {EXAMPLES}, found {_cut(words)}")
        return _at(here.date() + timedelta(days=which), rest, zone, words)
    if _DATE.fullmatch(day):
        try:
            found = _at(date.fromisoformat(day), rest, zone, words)
        except ValueError:
            return None
        return found if found is not None else _iso(words, zone)
    if not rest and _CLOCK.fullmatch(head):
        found = _at(here.date(), head, zone, words)
        if found is not None and (found <= now if future else found > now):
            return _at(here.date() + timedelta(days=1 if future else -1), head, zone, words)
        return found
    return _iso(words, zone)


def _iso(words: str, zone: tzinfo | None) -> int | None:
    """Return the other forms of ISO 8601, such as 20260105T0930Z."""
    try:
        at = datetime.fromisoformat(words)
    except ValueError:
        return None
    below = _BELOW.search(words)
    return _resolve(at, zone, words) + (int(below[1].ljust(3, "0")) if below else 0)


def _at(day: date, clock: str, zone: tzinfo | None, words: str) -> int | None:
    if not clock:
        first = datetime.combine(day, clock_time())
        at = _to_utc(first, zone)  # of two midnights the first; of none, the first moment after it
        if _local(at, zone).date() != day:
            raise RowError(f"{day} does not exist in {_name(zone)}; give another day than {_cut(words)}")
        return at
    found = _CLOCK.fullmatch(clock)
    if found is None:
        return None
    hour, minute, second = (int(part or 0) for part in found.groups()[:3])
    if hour > 23 or minute > 59 or second > 59:
        return None
    below = int((found[4] or "").ljust(9, "0"))
    return _resolve(datetime.combine(day, clock_time(hour, minute, second)), zone, words) + below


def _resolve(at: datetime, zone: tzinfo | None, words: str) -> int:
    """Return a time of the calendar in UTC. Raises RowError if it does not exist, or exists twice."""
    if at.tzinfo is not None:
        return _checked(at, words)
    first, second = _to_utc(at.replace(fold=0), zone), _to_utc(at.replace(fold=1), zone)
    if first == second:
        return first
    choices = " or ".join(_zoned(one, zone) for one in sorted((first, second)))
    says = "exists twice" if first < second else "does not exist"
    raise RowError(
        f"{at:%Y-%m-%d %H:%M:%S} {says} in {_name(zone)}, because clocks change on that day; write"
        f" {choices}, found {_cut(words)}"
    )


def _to_utc(at: datetime, zone: tzinfo | None) -> int:
    """Return a time without a zone in UTC; its `fold` chooses among two."""
    if zone is not None:
        return _checked(at.replace(tzinfo=zone), str(at))
    try:  # not `astimezone`, whose `fold` is reversed where clocks go forward
        return int(at.replace(microsecond=0).timestamp()) * SECOND_NS + at.microsecond * 1000
    except (OverflowError, ValueError, OSError):
        raise _outside(str(at)) from None


def _checked(at: datetime, words: str) -> int:
    try:
        return to_ns(at.astimezone(UTC))
    except (OverflowError, ValueError, OSError):
        raise _outside(words) from None


def _outside(words: str) -> RowError:
    return RowError(f"expected a time within the years 1 to 9999, found {_cut(words)}")


def _local(time_ns: int, zone: tzinfo | None) -> datetime:
    return (_EPOCH + timedelta(seconds=time_ns // SECOND_NS)).astimezone(zone)


def _zoned(time_ns: int, zone: tzinfo | None) -> str:
    return _local(time_ns, zone).isoformat()


def _name(zone: tzinfo | None) -> str:
    if zone is not None:
        return str(zone)
    return f"local time ({'/'.join(time.tzname)})"


def _zone(name: str, words: str) -> tzinfo:
    """Return a zone by its offset or its name. Raises RowError."""
    if name.upper() in ("Z", "UTC"):
        return UTC
    offset = _OFFSET.fullmatch(name)
    if offset is not None:
        hours, minutes = int(offset[2]), int(offset[3] or 0)
        if hours < 24 and minutes < 60:
            at = datetime.fromisoformat(f"2000-01-01T00:00{offset[1]}{hours:02}:{minutes:02}")
            assert at.tzinfo is not None
            return at.tzinfo
    else:
        try:
            return ZoneInfo(name)
        except (ValueError, OSError, KeyError):
            pass
    raise RowError(f"expected a time zone like Z, +01:00 or Europe/Berlin, found {name!r} in {_cut(words)}")
