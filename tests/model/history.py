"""History: the operations and observations of transactions, and the order that follows from them.

    Txn ─▶ its ops: Append, Write, Read, RangeRead; whether it was acknowledged; when it began and ended

A list shows the order of its appends: [1, 4, 2] means that 1 came before 4, and 4 before 2 (Kingsbury and
Alvaro, "Elle", VLDB 2020). A register shows it only where a transaction read one value and wrote the next.

    ww  wrote what another wrote after           rw  read what another wrote after
    wr  wrote what another read                  rt  ended before another began
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple


class Op(NamedTuple):
    """`kind`: append, write, read; `value` of a read: the list, or the register's value (None: absent).
    `phantom`: a read as part of a range.
    """

    kind: str
    key: Any
    value: Any
    phantom: bool = False


class Txn(NamedTuple):
    """`ok`: True acknowledged, False refused, None unknown."""

    name: str
    ops: tuple[Op, ...]
    ok: bool | None = True
    began: int = 0
    ended: int = 0


class Edge(NamedTuple):
    """`kind` is ww, wr, rw or rt; `key` is the key that causes the edge."""

    kind: str
    key: Any = None
    phantom: bool = False


Graph = dict[str, dict[str, set[Edge]]]


class Anomaly(NamedTuple):
    """A name, and the transactions of the anomaly."""

    name: str
    text: str


def range_read(found: dict[Any, list[Any]], keys: Iterable[Any], absent: Any = ()) -> Iterator[Op]:
    """Return the reads of everything in a range, including absent keys."""
    for key in keys:
        yield Op("read", key, found.get(key, absent), phantom=True)


class Lists:
    """Lists with appends; every value is appended once."""

    def __init__(self, history: list[Txn]) -> None:
        self.history = history
        self.anomalies: list[Anomaly] = []
        self.writers = {(op.key, op.value): txn for txn in history for op in txn.ops if op.kind == "append"}
        self.orders = self._orders()

    def _say(self, name: str, text: str) -> None:
        self.anomalies.append(Anomaly(name, text))

    def _orders(self) -> dict[Any, tuple[Any, ...]]:
        """Return the longest observed list of each key; all other observations are prefixes of it."""
        orders: dict[Any, tuple[Any, ...]] = defaultdict(tuple)
        for txn in self.history:
            own: dict[Any, list[Any]] = defaultdict(list)
            for op in txn.ops:
                if op.kind == "append":
                    own[op.key].append(op.value)
                elif txn.ok is not False:
                    self._read(txn, op, own[op.key], orders)
        return orders

    def _read(self, txn: Txn, op: Op, own: list[Any], orders: dict[Any, tuple[Any, ...]]) -> None:
        seen = tuple(op.value)
        if len(set(seen)) != len(seen):
            self._say("duplicate", f"{txn.name} read {op.key} as {seen}")
        if own and seen[-len(own) :] != tuple(own):
            self._say("internal", f"{txn.name} appended {own} to {op.key} and read {seen}")
        others = seen[: len(seen) - len(own)] if own else seen
        known = orders[op.key]
        short, long = sorted((others, known), key=len)
        if long[: len(short)] != short:
            self._say("incompatible order", f"{op.key} was seen as {short} and as {long}")
        elif len(others) > len(known):
            orders[op.key] = others
        self._sources(txn, op.key, others)

    def _sources(self, txn: Txn, key: Any, seen: tuple[Any, ...]) -> None:
        for value in seen:
            writer = self.writers.get((key, value))
            if writer is None:
                self._say("garbage", f"{txn.name} read {value} in {key}, which nobody wrote")
            elif writer.ok is False:
                self._say("G1a", f"{txn.name} read {value} in {key}, which {writer.name} was refused")
        last = self.writers.get((key, seen[-1])) if seen else None
        if last is not None and last is not txn:
            mine = [op.value for op in last.ops if op.kind == "append" and op.key == key]
            if mine[-1] != seen[-1]:
                self._say("G1b", f"{txn.name} read {key} in the midst of what {last.name} appended")

    def edges(self) -> Iterator[tuple[str, str, Edge]]:
        for key, order in self.orders.items():
            for value, after in pairwise(order):
                yield self._writer(key, value), self._writer(key, after), Edge("ww", key)
        for txn in self.history:
            appended: set[Any] = set()
            for op in txn.ops:
                if op.kind == "append":
                    appended.add(op.key)
                elif txn.ok is not False and op.key not in appended:
                    seen, order = tuple(op.value), self.orders[op.key]
                    if seen:
                        yield self._writer(op.key, seen[-1]), txn.name, Edge("wr", op.key)
                    if len(seen) < len(order):
                        after = self._writer(op.key, order[len(seen)])
                        yield txn.name, after, Edge("rw", op.key, op.phantom)

    def _writer(self, key: Any, value: Any) -> str:
        writer = self.writers.get((key, value))
        return writer.name if writer is not None else f"nobody ({key}, {value})"

    def lost(self, final: dict[Any, list[Any]]) -> None:
        """Yield the acknowledged appends that are missing in the final lists."""
        for (key, value), writer in self.writers.items():
            if writer.ok and value not in final.get(key, ()):
                self._say("lost", f"{writer.name} appended {value} to {key}, and it is not there")


class Registers:
    """Registers that are overwritten; every value is written once."""

    def __init__(self, history: list[Txn]) -> None:
        self.history = history
        self.anomalies: list[Anomaly] = []
        self.writers = {(op.key, op.value): txn for txn in history for op in txn.ops if op.kind == "write"}

    def edges(self) -> Iterator[tuple[str, str, Edge]]:
        after: dict[tuple[Any, Any], set[str]] = defaultdict(set)  # overwrote a value that it had read
        reads = []
        for txn in self.history:
            held: dict[Any, Any] = {}
            for op in txn.ops:
                if op.kind == "read" and op.key not in held:
                    reads.append((txn, op))
                    held[op.key] = op.value
                elif op.kind == "write":
                    if op.key in held and txn.ok is not False:
                        after[op.key, held.pop(op.key)].add(txn.name)
                    held[op.key] = op.value
        for (key, value), names in after.items():
            writer = self.writers.get((key, value))
            for name in names:
                if writer is not None:
                    yield writer.name, name, Edge("ww", key)
        for txn, op in reads:
            if txn.ok is False:
                continue
            writer = self.writers.get((op.key, op.value))
            if writer is not None and writer.ok is False:
                self.anomalies.append(Anomaly("G1a", f"{txn.name} read {op.key} of {writer.name}"))
            elif writer is None and op.value is not None:
                self.anomalies.append(Anomaly("garbage", f"{txn.name} read {op.key} as {op.value}"))
            if writer is not None:
                yield writer.name, txn.name, Edge("wr", op.key)
            for name in after[op.key, op.value]:
                yield txn.name, name, Edge("rw", op.key, op.phantom)


def real_time(history: list[Txn]) -> Iterator[tuple[str, str, Edge]]:
    """Yield the edges from transactions that ended to those that began later; implied edges are left out."""
    moments = sorted(
        [(txn.began, 1, txn) for txn in history if txn.ok]
        + [(txn.ended, 0, txn) for txn in history if txn.ok],
        key=lambda one: one[:2],
    )
    newest: set[str] = set()
    before: dict[str, set[str]] = {}
    for _, begins, txn in moments:
        if begins:
            before[txn.name] = set(newest)
            for name in newest:
                yield name, txn.name, Edge("rt")
        else:
            newest -= before.get(txn.name, set())
            newest.add(txn.name)
