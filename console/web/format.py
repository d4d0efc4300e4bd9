"""Format: times, numbers, ids and values as the pages show them.

time     <time datetime="2026-03-02T14:32:05Z" title="2026-03-02 14:32:05.218 UTC">2 h ago</time>
id       cut in the middle; whole in its title, and in the button that copies it
value    of a field: text, or "unset"
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from markupsafe import Markup, escape

from everlog.console.output import moment, size
from everlog.store.errors import quantity

TIME_NS_MAX = 253_402_300_799 * 10**9  # the end of the year 9999

_NAME = re.compile(r"`([^`\n]+)`")
_UNITS = (
    (86_400 * 365, "year", "years"),
    (86_400, "d", "d"),
    (3600, "h", "h"),
    (60, "min", "min"),
    (1, "s", "s"),
)


def number(value: float) -> str:
    """Return a number with separators of thousands."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def rate(value: float) -> str:
    """Return a number of events a second, with as many digits as matter."""
    if value >= 10 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 0.1 else f"{value:.2g}"


def absolute(time_ns: int) -> str:
    """Return a time in UTC, such as 2026-03-02 14:32:05.218 UTC."""
    return f"{moment(time_ns).removesuffix('Z')} UTC" if 0 <= time_ns <= TIME_NS_MAX else f"{time_ns} ns"


def relative(time_ns: int, now_ns: int | None = None) -> str:
    """Return how long ago a time was, or when it will be."""
    seconds = ((time.time_ns() if now_ns is None else now_ns) - time_ns) / 1e9
    if abs(seconds) < 1:
        return "now"
    words = duration(abs(seconds))
    return f"{words} ago" if seconds > 0 else f"in {words}"


def duration(seconds: float) -> str:
    """Return a duration in its largest unit."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for unit, one, several in _UNITS:
        if seconds >= unit:
            count = int(seconds // unit)
            return f"{count} {one if count == 1 else several}"
    return "0 s"


def latency(seconds: float) -> str:
    """Return the time that a call takes, in two digits."""
    return f"{seconds:.2g} s" if seconds >= 1 else f"{float(f'{seconds * 1000:.2g}'):g} ms"


def when(time_ns: int, *, clock: bool = False) -> Markup:
    """Return a time as an element: relative, or with `clock` the time of day; absolute in its title."""
    if not 0 < time_ns <= TIME_NS_MAX:
        return (
            Markup("<span class=null>never</span>") if not time_ns else Markup("{}").format(absolute(time_ns))
        )
    at = datetime.fromtimestamp(time_ns / 1e9, UTC)
    shown = f"{at:%H:%M:%S}" if clock else relative(time_ns)
    return Markup('<time datetime="{}" title="{}"{}>{}</time>').format(
        f"{at:%Y-%m-%dT%H:%M:%S}.{time_ns // 10**6 % 1000:03}Z",
        absolute(time_ns),
        Markup("") if clock else Markup(" data-relative"),
        shown,
    )


def clock(time_ns: int, range_: str = "1h") -> str:
    """Return a time on the axis of a plot: the time of day, and the day if the plot shows many."""
    if not 0 < time_ns <= TIME_NS_MAX:
        return ""
    at = datetime.fromtimestamp(time_ns / 1e9, UTC)
    return f"{at:%-d %b}" if range_.endswith("d") else f"{at:%H:%M}"


def day(time_ns: int) -> str:
    """Return the date of a time, in UTC."""
    return f"{datetime.fromtimestamp(time_ns / 1e9, UTC):%-d %b %Y}"


def ident(text: str, label: str = "id", *, keep: int = 8) -> Markup:
    """Return an id as an element: cut in the middle, whole in its title and in the button that copies it."""
    short = text if len(text) <= 2 * keep + 1 else f"{text[:keep]}…{text[-keep // 2 :]}"
    return Markup('<span class="id" title="{}">{}</span>{}').format(text, short, copy(text, label))


def copy(text: str, label: str = "it") -> Markup:
    """Return a button that copies a text."""
    return Markup(
        '<button class="copy" type="button" data-copy="{}" aria-label="Copy {}">copy</button>'
    ).format(text, label)


def key_words(key: Sequence[Any]) -> str:
    """Return a key as people type it: its fields joined by slashes."""
    return "/".join(str(part) for part in key)


def href(*parts: object, **query: Any) -> str:
    """Return the path of a page: its parts quoted, then the query without empty values."""
    return with_query("/" + "/".join(quote(str(part), safe="") for part in parts), query)


def with_query(path: str, query: Mapping[str, Any]) -> str:
    """Return a path with a query; a list is a value that occurs several times, and empty values are left
    out."""
    pairs = [
        (name, one)
        for name, value in query.items()
        for one in (value if isinstance(value, list | tuple) else [value])
        if one not in (None, "", False)
    ]
    return f"{path}?{urlencode(pairs)}" if pairs else path


def prose(text: str) -> Markup:
    """Return a comment of code as text: its lines joined to paragraphs, its `names` as code."""
    paragraphs = [part if "\n " in part else " ".join(part.split()) for part in text.split("\n\n")]
    return Markup(_NAME.sub(r"<code>\1</code>", str(escape("\n\n".join(paragraphs)))))  # noqa: S704  escaped


FILTERS: Mapping[str, Any] = {
    "number": number,
    "rate": rate,
    "size": size,
    "when": when,
    "absolute": absolute,
    "relative": relative,
    "duration": duration,
    "latency": latency,
    "clock": clock,
    "day": day,
    "ident": ident,
    "copy": copy,
    "quantity": quantity,
    "prose": prose,
    "key_words": key_words,
}
GLOBALS: Mapping[str, Any] = {"href": href, "escape": escape}
