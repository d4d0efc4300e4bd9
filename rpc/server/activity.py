"""Activity: the calls of a server: running, slow and denied calls, and counts.

    Calls ─ began, answered, ended ─▶ Activity ─▶ running calls
                                          ├────▶ counts and times, for metrics.py
                                          └────▶ the program's log: call.slow, call.denied

A call that ends is logged by its method, database, tables, number of rows and time: never by keys or values.

Invariants
  (1) everything here runs in the thread of the event loop, unless it says otherwise, and never waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Container
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import Message

from everlog.rpc.http2.connection import Connection
from everlog.rpc.http2.frames import ProtocolError
from everlog.rpc.http2.grpc import Call
from everlog.store.measures import Histogram
from everlog.store.program_log import about

SLOW_MS = 1000.0
TABLES_SHOWN, NAME_MAX = 5, 100
DENIED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)

ROWS = ("rows", "versions", "differences", "commits")  # fields with them, in messages

# Calls that last as long as their client wants.
ENDLESS = frozenset(
    {
        *("Feed/Subscribe", "Store/Turn", "grpc.health.v1.Health/Watch"),
        *(f"grpc.reflection.{one}.ServerReflection/ServerReflectionInfo" for one in ("v1", "v1alpha")),
    }
)

logger = logging.getLogger("everlog")

Rows = Callable[[Any], int]


class Activity:
    """The calls of a server of these databases. `slow_ms`: calls that take longer are logged; 0: no calls."""

    def __init__(self, databases: Container[str] = (), *, slow_ms: float = SLOW_MS) -> None:
        self._databases = databases
        self.log_slower_than(slow_ms)
        self.running: dict[int, Call] = {}  # by id
        self.counts: dict[tuple[str, grpc.StatusCode], int] = {}  # ended calls by method
        self.times: dict[str, Histogram] = {}  # of these calls, by method
        self.drops: dict[str, int] = {}  # dropped connections, by the code of HTTP/2
        self.limits: dict[str, int] = {}  # how often a limit was reached, by its name
        self.denials: dict[str, int] = {}  # what was denied before it became a call, by its name
        self._lock = threading.Lock()  # of these two
        self._rows: dict[type[Message], Rows] = {}

    def log_slower_than(self, slow_ms: float) -> None:
        """Log calls that take longer; 0: none."""
        self._slow_s = slow_ms / 1e3 or float("inf")

    def began(self, call: Call) -> None:
        self.running[call.id] = call

    def answered(self, call: Call, answer: Message) -> None:
        """Count the rows of a message that is about to be sent."""
        kind = type(answer)
        count = self._rows.get(kind)
        if count is None:
            count = self._rows[kind] = _rows_of(kind)
        call.rows += count(answer)

    def ended(self, call: Call, code: grpc.StatusCode, text: str) -> None:
        self.running.pop(call.id, None)
        took_s = time.perf_counter() - call.began
        key = call.method, code
        self.counts[key] = self.counts.get(key, 0) + 1
        times = self.times.get(call.method)
        if times is None:
            times = self.times[call.method] = Histogram()
        times.add(took_s)
        if code in DENIED:
            logger.warning(
                "%s was denied: %s",
                call.method,
                text,
                extra=about(
                    "call.denied", **self._whose(call), same=call.method, peer=call.stream.connection.peer
                ),
            )
        elif took_s >= self._slow_s and call.method not in ENDLESS:
            self._log_slow(call, code, took_s)

    def dropped(self, connection: Connection, error: ProtocolError) -> None:
        """Count and log a connection that is dropped: its peer broke the protocol, or its limits."""
        reason = error.code.name.lower()
        self.drops[reason] = self.drops.get(reason, 0) + 1
        logger.warning(
            "a connection is dropped: %s",
            error,
            extra=about("connection.dropped", same=reason, reason=reason, peer=connection.peer),
        )

    def _whose(self, call: Call) -> dict[str, str]:
        """Return the identity, and the database if the server has it: names that a client invents would make
        each line a new one."""
        database = getattr(call.request, "database", "")
        return {"database": database if database in self._databases else "", "identity": str(call.stream.who)}

    def limited(self, limit: str, identity: str = "", peer: str = "", sentence: str = "") -> None:
        """Count that a limit was reached, and log the sentence; `limit` is one of a few names. In any
        thread."""
        with self._lock:
            self.limits[limit] = self.limits.get(limit, 0) + 1
        if sentence:
            extra = about(
                "limit.reached", identity=identity, same=f"{limit} {identity}", limit=limit, peer=peer
            )
            logger.warning("%s", sentence, extra=extra)

    def denied(self, what: str) -> None:
        """Count what was denied before it became a call; one of a few names. In any thread."""
        with self._lock:
            self.denials[what] = self.denials.get(what, 0) + 1

    def _log_slow(self, call: Call, code: grpc.StatusCode, took_s: float) -> None:
        fields: dict[str, Any] = {"status": code.name, "ms": round(took_s * 1e3)}
        if names := tables(call.request):
            shown = [name[:NAME_MAX] for name in sorted(names)[:TABLES_SHOWN]]
            fields["table"] = ",".join(shown) + (",…" if len(names) > TABLES_SHOWN else "")
        if rows := call.rows or _written(call.request):
            fields["rows"] = rows
        if call.waited_s >= 1e-3:
            fields["client_ms"] = round(call.waited_s * 1e3)
        extra = about("call.slow", **self._whose(call), same=call.method, method=call.method, **fields)
        logger.warning("%s took %s ms", call.method, f"{took_s * 1e3:,.0f}", extra=extra)


def tables(request: Message | None) -> set[str]:
    """Return the names of the tables in a request."""
    found: set[str] = set()
    if request is not None:
        one: Any = request
        fields = request.DESCRIPTOR.fields_by_name
        if (field := fields.get("table")) is not None and field.type == field.TYPE_STRING and one.table:
            found.add(one.table)
        if (field := fields.get("tables")) is not None and field.type == field.TYPE_STRING:
            found.update(one.tables)
        if "writes" in fields:
            found.update(write.table for write in one.writes)
    return found


def _written(request: Message | None) -> int:
    """Return the number of rows that a request writes."""
    return sum(len(getattr(request, name, ())) for name in ("writes", "keys"))


def _length(name: str, answer: Any) -> int:
    return len(getattr(answer, name))


def _rows_of(kind: type[Message]) -> Rows:
    """Return the function that counts the rows in a message of a kind."""
    fields = kind.DESCRIPTOR.fields_by_name
    for name in ROWS:
        rows = fields.get(name)
        if rows is not None and rows.is_repeated:
            return partial(_length, name)
    row = fields.get("row")
    if row is not None and row.message_type is not None:
        return lambda answer: int(answer.HasField("row"))
    return lambda _: 0
