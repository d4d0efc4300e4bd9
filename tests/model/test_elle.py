"""The checker itself: it finds each anomaly in a history that has it, and none in a correct history."""

from __future__ import annotations

from typing import Any

import pytest

from tests.model.elle import anomalies
from tests.model.history import Lists, Op, Registers, Txn, range_read


def r(key: str, *seen: int) -> Op:
    return Op("read", key, list(seen))


def a(key: str, value: int) -> Op:
    return Op("append", key, value)


def w(key: str, value: int) -> Op:
    return Op("write", key, value)


def v(key: str, value: int | None) -> Op:
    return Op("read", key, value)


def txns(*all_ops: Any, ok: dict[int, bool | None] | None = None) -> list[Txn]:
    """Return transactions that all overlap."""
    return [Txn(f"T{at}", tuple(ops), (ok or {}).get(at, True), 0, 1000) for at, ops in enumerate(all_ops)]


LISTS: dict[str, list[Txn]] = {
    "G0": txns([a("x", 1), a("y", 1)], [a("x", 2), a("y", 2)], [r("x", 1, 2), r("y", 2, 1)]),
    "G1a": txns([a("x", 1)], [r("x", 1)], ok={0: False}),
    "G1b": txns([a("x", 1), a("x", 2)], [r("x", 1)], [r("x", 1, 2)]),
    "G1c": txns([a("x", 1), r("y", 1)], [a("y", 1), r("x", 1)]),
    "G-single": txns([a("x", 1), a("y", 1)], [r("x"), r("y", 1)], [r("x", 1)]),
    "lost update": txns([r("x"), a("x", 1), r("y")], [r("x"), a("x", 2)], [r("x", 1, 2)]),
    "G2-item": txns([r("x"), a("y", 1)], [r("y"), a("x", 1)], [r("x", 1), r("y", 1)]),
    "G2": txns(
        [*range_read({}, "xy"), a("x", 1)], [*range_read({}, "xy"), a("y", 1)], [r("x", 1), r("y", 1)]
    ),
    "incompatible order": txns([a("x", 1)], [a("x", 2)], [r("x", 1, 2)], [r("x", 2, 1)]),
    "duplicate": txns([a("x", 1)], [r("x", 1, 1)]),
    "internal": txns([a("x", 1), r("x")]),
    "garbage": txns([r("x", 7)]),
}
REGISTERS: dict[str, list[Txn]] = {
    "G1a": txns([w("x", 1)], [v("x", 1)], ok={0: False}),
    "G1c": txns([w("x", 1), v("y", 1)], [w("y", 1), v("x", 1)]),
    "G-single": txns([v("x", None), w("x", 1), w("y", 1)], [v("x", None), v("y", 1)]),
    "lost update": txns([v("x", None), w("x", 1)], [v("x", None), w("x", 2)]),
    "G2-item": txns([v("x", None), v("y", None), w("y", 1)], [v("y", None), v("x", None), w("x", 1)]),
    "garbage": txns([v("x", 7)]),
}


@pytest.mark.parametrize("name", LISTS)
def test_each_anomaly_of_lists_is_found_by_its_name(name: str) -> None:
    assert name in {found.name for found in anomalies(Lists(LISTS[name]))}


@pytest.mark.parametrize("name", REGISTERS)
def test_each_anomaly_of_registers_is_found_by_its_name(name: str) -> None:
    assert name in {found.name for found in anomalies(Registers(REGISTERS[name]))}


def test_what_ran_one_after_the_other_has_none() -> None:
    history = [
        Txn("T0", (r("x"), a("x", 1)), True, 0, 10),
        Txn("T1", (r("x", 1), a("y", 1)), True, 20, 30),
        Txn("T2", (*range_read({"x": [1], "y": [1]}, "xyz"), a("z", 1)), True, 40, 50),
        Txn("T3", (a("x", 9),), False, 40, 50),
        Txn("T4", (a("x", 2),), None, 40, 50),
    ]
    found = Lists(history)
    assert anomalies(found) == []
    found.lost({"x": [1], "y": [1], "z": [1]})
    assert found.anomalies == []
    found.lost({"x": [1], "y": [], "z": [1]})
    assert [one.name for one in found.anomalies] == ["lost"]


def test_a_read_of_the_past_is_told_by_the_time() -> None:
    stale = [
        Txn("T0", (a("x", 1),), True, 0, 10),
        Txn("T1", (r("x"),), True, 20, 30),
        Txn("T2", (r("x", 1),), True, 20, 30),
    ]
    assert [one.name for one in anomalies(Lists(stale))] == ["G-single-realtime"]
    overlapping = [stale[0]._replace(ended=25), *stale[1:]]
    assert anomalies(Lists(overlapping)) == []


def test_a_cycle_through_lists_and_registers_is_found() -> None:
    lists = Lists(txns([r("x")], [a("x", 1)], [r("x", 1)]))
    registers = Registers(txns([v("y", 1)], [w("y", 1)], []))
    assert anomalies(lists) == anomalies(registers) == []
    assert [one.name for one in anomalies(lists, registers)] == ["G-single"]


def test_a_cycle_names_its_transactions() -> None:
    (found,) = anomalies(Lists(LISTS["G2-item"]))
    assert "T0 ─rw x→" in found.text
    assert "T1 ─rw y→" in found.text
