"""Consumers: the followers of a database, how far each is behind, and what is held for it.

/db/{database}/consumers                       all durable consumers, and the subscriptions that run now
/db/{database}/consumers/one?name=mirror       one, with its lag over time
    &range=1h                                  of the plot
POST /db/{database}/consumers                  registers a consumer in advance, or changes its cap or owner
POST /db/{database}/consumers/remove           removes one

The position of a consumer over time is nowhere in the database. The plot has the samples that the server has
taken since it started, and the time of the last bookmark.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from starlette.responses import Response

from everlog.console.output import size, span
from everlog.console.web import plots
from everlog.console.web.format import href
from everlog.console.web.overview import RANGE, RANGES, consumer_href, state_of
from everlog.console.web.page import NotFoundError, Page, View, answered, route
from everlog.rpc.client.database import RemoteDatabase
from everlog.store.errors import AccessError, RowError, quantity
from everlog.store.upkeep.allowance import DAY_S
from everlog.store.upkeep.consumers import Cap, Consumer
from everlog.store.upkeep.samples import Sample
from everlog.store.upkeep.status import Status

WIDTH, HEIGHT = 720, 132
SPARK_WIDTH, SPARK_HEIGHT, SPARK_BUCKETS = 96, 22, 30
SPARK_RANGE_S = 900
SECOND_NS = 10**9


def consumers(view: View) -> Page:
    db, now_ns = view.db, time.time_ns()
    found, status = list(db.consumers), _status(db)
    taken = plots.samples_of(db, now_ns - SPARK_RANGE_S * SECOND_NS, consumers=True) if found else []
    lags = {one.name: _lag(view, one, SPARK_RANGE_S, SPARK_BUCKETS, now_ns, taken) for one in found}
    values = {
        "head": db.head,
        "consumers": [_told(one, now_ns) for one in found],
        "subscriptions": [_subscription(one) for one in status.subscriptions] if status else [],
        "problem": status.consumers.error if status else "",
    }
    shown = {
        "sparks": {name: _spark(lag) for name, lag in lags.items()},
        "may_register": "consumers" in view.rights,
        "default": Cap(),
        "days": Cap().seconds / DAY_S,
        "subscriptions_known": status is not None,
    }
    return Page("consumers.html", values, 200, shown)


def consumer(view: View) -> Page:
    db, now_ns, name = view.db, time.time_ns(), view.query("name") or view.field("name")
    chosen = view.query("range", RANGE)
    if chosen not in RANGES:
        raise RowError(f"expected a range of {', '.join(RANGES)}, found {chosen[:40]!r}")
    one = next((one for one in db.consumers if one.name == name), None)
    if one is None:
        raise NotFoundError(f"there is no consumer {name!r}; it may have been removed")
    since_ns = now_ns - RANGES[chosen] * SECOND_NS
    taken = plots.samples_of(db, since_ns, points=2 * plots.BUCKETS, consumers=True)
    lag = _lag(view, one, RANGES[chosen], plots.BUCKETS, now_ns, taken)
    values = {**_told(one, now_ns), "head": db.head, "range": chosen, "lag": lag}
    shown = {
        "one": one,
        "ranges": list(RANGES),
        "plot": _plot(lag, RANGES[chosen], now_ns),
        "may_change": "consumers" in view.rights,
        "may_remove": "remove" in view.rights,
        "days": f"{one.cap.seconds / DAY_S:g}",
    }
    return Page("consumer.html", values, 200, shown)


def register(view: View) -> Page | Response:
    name, known = view.field("name").strip(), view.field("known") == "1"

    def work() -> Response:
        reason = view.reason()
        cap = Cap(_whole(view, "records"), round(_days(view) * DAY_S), _whole(view, "bytes"))
        made = view.db.consumers.register(
            name, cap=cap, take=False, owner=view.field("owner").strip(), reason=reason
        )
        word = "changed" if known else "registered"
        return view.done(consumer_href(view.database, made.name), f"Consumer {made.name} is {word}.")

    return answered(view, work, consumer if known else consumers)


def remove(view: View) -> Page | Response:
    name = view.field("name")

    def work() -> Response:
        view.check_typed(name)
        view.db.consumers.remove(name, reason=view.reason())
        words = f"Consumer {name} is removed. No records are held for it any more."
        return view.done(href("db", view.database, "consumers"), words)

    return answered(view, work, consumer)


def _status(db: RemoteDatabase) -> Status | None:
    """Return the state of the database; None without the right to it."""
    try:
        return db.admin.status()
    except AccessError:
        return None


def _whole(view: View, name: str) -> int:
    word = view.field(name).replace(",", "").strip() or "0"
    if not (word.isascii() and word.isdecimal() and len(word) < 20):
        raise RowError(f"expected {name} as a whole number, 0 for no limit, found {word[:40]!r}")
    return int(word)


def _days(view: View) -> float:
    word = view.field("days").strip() or "0"
    try:
        found = float(word)
    except ValueError:
        found = -1.0
    if not 0 <= found < 1e6:
        raise RowError(f"expected days as a number such as 7 or 0.5, 0 for no limit, found {word[:40]!r}")
    return found


def _told(one: Consumer, now_ns: int) -> dict[str, Any]:
    kind, state = state_of(one)
    cap = one.cap
    parts = {
        "records": one.lag_records / cap.records if cap.records else 0.0,
        "age": one.lag_s / cap.seconds if cap.seconds else 0.0,
        "bytes": one.held_bytes / cap.bytes if cap.bytes else 0.0,
    }
    waits = one.lag_records > 0 and not one.over
    left_ns = round((cap.seconds - one.lag_s) * SECOND_NS)
    return {
        "name": one.name,
        "kind": kind,
        "state": state,
        "owner": one.owner,
        "position": one.position.seq,
        "lag_records": one.lag_records,
        "lag_s": one.lag_s,
        "held_records": one.held_records,
        "held_bytes": one.held_bytes,
        "held_until_ns": now_ns + left_ns if waits and cap.seconds else 0,
        "over": one.over,
        "cap": {"records": cap.records, "seconds": cap.seconds, "bytes": cap.bytes},
        "cap_words": _cap_words(cap),
        "cap_used": 1.0 if one.over else min(max(parts.values()), 1.0),
        "registered_ns": one.registered_ns,
        "moved_ns": one.moved_ns,
    }


def _cap_words(cap: Cap) -> str:
    words = [quantity(cap.records, "record")] if cap.records else []
    words += [span(cap.seconds)] if cap.seconds else []
    words += [size(cap.bytes)] if cap.bytes else []
    return ", ".join(words) or "no limit"


def _subscription(one: Any) -> dict[str, Any]:
    return {"identity": one.identity, "peer": one.peer, "since_ns": one.since_ns, "records": one.records}


# lag over time


def _lag(  # noqa: PLR0917  all are named at the call
    view: View, one: Consumer, seconds: int, buckets: int, now_ns: int, taken: Sequence[Sample]
) -> list[int | None]:
    """Return by how many commits a consumer was behind, at times of equal distance; None: unknown. Without
    the right on the state of the database it is empty. `taken`: the samples of that time."""
    known, width = view.console.known, plots.width_of(seconds * SECOND_NS, buckets)
    last = now_ns // width
    edges = [edge * width for edge in range(last - seconds * SECOND_NS // width + 1, last + 1)]
    try:
        heads, ends = known.at(view.db, edges)
    except AccessError:
        return []
    sampled = plots.series(
        [each for each in taken if one.name in each.lags], lambda each: each.lags[one.name], edges
    )
    here, since_ns = one.position.seq, one.moved_ns or one.registered_ns
    behind = _behind(edges, heads, [(since_ns, here), (now_ns, here)])  # it has not moved since
    found = [other if each is None else int(each) for each, other in zip(sampled, behind, strict=True)]
    return [*found, max(0, ends.head - here)]


def _behind(edges: list[int], heads: list[int], points: list[tuple[int, int]]) -> list[int | None]:
    """Return the distance from the head at each time to the position then, between known positions."""
    found: list[int | None] = []
    for edge, head in zip(edges, heads, strict=True):
        at = next(
            (
                before + (after - before) * (edge - start) // max(end - start, 1)
                for (start, before), (end, after) in pairwise(points)
                if start <= edge <= end
            ),
            None,
        )
        found.append(None if at is None else max(0, head - at))
    return found


def _drawn(lag: list[int | None], width: float) -> tuple[list[float], float, float]:
    """Return the known values, where the first stands, and the top of their axis."""
    start = next((number for number, value in enumerate(lag) if value is not None), len(lag))
    values = [float(value or 0) for value in lag[start:]]
    return values, width * start / max(len(lag) - 1, 1), plots.top_of(values)


def _spark(lag: list[int | None]) -> str:
    values, x, top = _drawn(lag, SPARK_WIDTH)
    if len(values) < 2:
        return ""
    return plots.line(values, SPARK_WIDTH - x, SPARK_HEIGHT - 2, top, x=x)


def _plot(lag: list[int | None], seconds: int, now_ns: int) -> dict[str, Any] | None:
    values, x, top = _drawn(lag, WIDTH)
    if not values:
        return None
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "top": top,
        "line": plots.line(values, WIDTH - x, HEIGHT, top, x=x),
        "area": plots.area(values, WIDTH - x, HEIGHT, top, x=x),
        "now": int(values[-1]),
        "most": int(max(values)),
        "known": x == 0,
        "ticks": [now_ns - (4 - part) * seconds * SECOND_NS // 4 for part in range(4)],
    }


ROUTES = [
    *route("/db/{database}/consumers", consumers, "GET"),
    *route("/db/{database}/consumers", register, "POST"),
    *route("/db/{database}/consumers/one", consumer, "GET"),
    *route("/db/{database}/consumers/remove", remove, "POST"),
]
