"""Evolution: schemas that change while a sink follows, in one run and across a restart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from everlog.store.errors import SinkError
from tests.conformance.sink_case import ITEMS, MODEL, VISITS, Opened, SinkCase, differences, follow, shop
from tests.conformance.sink_log import HandMadeLog, index, table


def stocked() -> HandMadeLog:
    log = shop()
    for number in range(5):
        place = {"city": f"c{number}", "floor": number} if number % 2 else None
        log.write(
            log.put("items", name=f"i{number}", price=-number, place=place, tags=["x"] * number, note="n"),
            log.put("visits", id=2**63 + number, who=f"w{number}"),
        )
    return log


def model(*changes: tuple[str, str]) -> str:
    source = MODEL
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    return source


def items(**fields: Any) -> Any:
    other: Any = type(ITEMS)()
    other.CopyFrom(ITEMS)
    for name, value in fields.items():
        if isinstance(value, list):
            other.ClearField(name)
            getattr(other, name).extend(value)
        else:
            setattr(other, name, value)
    return other


# name of the change: model, tables, fields of an item written afterwards
CHANGES: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "a field is added": (
        model(("int64 price = 2;", "int64 price = 2; bytes more = 9;")),
        (ITEMS, VISITS),
        {"more": b"x"},
    ),
    "a field that can be unset is added": (
        model(("int64 price = 2;", "int64 price = 2; optional uint64 more = 9;")),
        (ITEMS, VISITS),
        {"more": 2**64 - 1},
    ),
    "a repeated field is added": (
        model(("int64 price = 2;", "int64 price = 2; repeated Place more = 9;")),
        (ITEMS, VISITS),
        {"more": [{"city": "x"}]},
    ),
    "a field is renamed": (model(("price = 2", "cost = 2")), (ITEMS, VISITS), {"cost": 8}),
    "two fields swap their names": (
        model(
            ("string name = 1", "string note = 1"), ("optional string note = 3", "optional string name = 3")
        ),
        (ITEMS, VISITS),
        {"note": "key", "name": "no key"},
    ),
    "a field is dropped": (model(("optional string note = 3;", "reserved 3;")), (ITEMS, VISITS), {}),
    "an indexed field is dropped": (
        model(("int64 price = 2;", "reserved 2;")),
        (items(indexes=[index("by_city", 2, (4, 1))]), VISITS),
        {},
    ),
    "a nested field is added": (
        model(("string city = 1;", "string city = 1; int32 more = 7;")),
        (ITEMS, VISITS),
        {"place": {"city": "x", "more": 7}},
    ),
    "a nested field is renamed": (model(("city = 1", "town = 1")), (ITEMS, VISITS), {"place": {"town": "x"}}),
    "a nested field is dropped": (
        model(("optional int64 floor = 2;", "reserved 2;")),
        (ITEMS, VISITS),
        {"place": {"city": "x"}},
    ),
    "a field is widened": (model(("uint64 id", "uint64 id")), (ITEMS, VISITS), {}),
    "a field can be unset from now on": (
        model(("int64 price", "optional int64 price")),
        (ITEMS, VISITS),
        {"price": 0},
    ),
    "a field becomes one of two": (
        model(("int64 price = 2;", "oneof cost { int64 price = 2; string free = 9; }")),
        (ITEMS, VISITS),
        {"free": "yes"},
    ),
    "two fields become one of two": (
        model(
            ("optional string note = 3;", "oneof either { string note = 3;"),
            ("Place place = 4;", "Place place = 4; }"),
        ),
        (ITEMS, VISITS),
        {"note": "one"},
    ),
    "a field takes another type on the wire": (
        model(("int64 price", "uint64 price")),
        (ITEMS, VISITS),
        {"price": 2**64 - 1},
    ),
    "an index is added": (MODEL, (items(indexes=[*ITEMS.indexes, index("by_note", 3, 3)]), VISITS), {}),
    "an index over a nested field is added": (
        MODEL,
        (items(indexes=[*ITEMS.indexes, index("by_floor", 3, (4, 2), 1)]), VISITS),
        {"place": {"floor": 3}},
    ),
    "all indexes are dropped": (MODEL, (items(indexes=[]), VISITS), {}),
    "an index gets other fields": (MODEL, (items(indexes=[index("by_price", 3, 3, 2)]), VISITS), {}),
    "a table is added": (
        model() + "message New { int32 id = 1; }",
        (ITEMS, VISITS, table("news", 3, "shop.New", 1)),
        {},
    ),
    "a table is dropped": (MODEL, (ITEMS,), {}),
    "a table is dropped and another takes its name": (
        MODEL,
        (ITEMS, table("visits", 3, "shop.Item", 1, indexes=[index("by_price", 1, 2)])),
        {},
    ),
    "a model gets another package and name": (
        model(
            ("package shop", "package store"),
            ("message Item", "message Thing"),
            ("message Place", "message Spot"),
            ("Place place", "Spot place"),
        ),
        (items(model="store.Thing"), table("visits", 2, "store.Visit", 1)),
        {"place": {"city": "x"}},
    ),
}


class EvolutionConformance(SinkCase):
    @pytest.mark.parametrize("restart", [False, True], ids=["in one run", "after a restart"])
    @pytest.mark.parametrize("change", CHANGES)
    def test_it_is_followed_when(self, opened: Opened, change: str, restart: bool) -> None:
        source, tables, fields = CHANGES[change]
        log = stocked()
        if restart:
            follow(log, opened)
        log.migrate(source, *tables)
        name = "note" if "swap" in change else "name"
        log.write(log.put("items", **{name: "after", **fields}))
        log.write(log.put("items", **{name: "i1", **fields}))
        follow(log, opened)
        assert differences(log, opened) == []

    def test_a_renamed_table_keeps_its_rows_even_if_two_swap_names(self, opened: Opened) -> None:
        log = stocked()
        follow(log, opened)
        log.migrate(MODEL, items(name="visits"), table("items", 2, "shop.Visit", 1))
        log.write(log.put("items", id=1), log.put("visits", name="new"))
        follow(log, opened)
        assert differences(log, opened) == []

    def test_rows_of_a_migration_come_with_it(self, opened: Opened) -> None:
        log = shop(batch=100)
        log.write(log.put("items", name="before"))
        extra = log_with(MODEL, ITEMS, VISITS, table("news", 3, "shop.Visit", 1))
        log.migrate(
            MODEL,
            ITEMS,
            VISITS,
            table("news", 3, "shop.Visit", 1),
            changes=[extra.put("news", id=1, who="x")],
        )
        log.write(log.put("news", id=2))
        follow(log, opened)
        assert differences(log, opened) == []

    def test_a_schema_that_changes_and_changes_back_loses_only_what_was_dropped(self, opened: Opened) -> None:
        log = stocked()
        log.migrate(model(("price = 2", "cost = 2")), ITEMS, VISITS)
        log.migrate(MODEL, ITEMS, VISITS)
        log.migrate(MODEL, items(indexes=[]), VISITS)
        log.migrate(MODEL, ITEMS, VISITS)
        follow(log, opened)
        assert differences(log, opened) == []

    def test_another_name_of_a_chosen_table_is_refused(self, opened: Opened) -> None:
        log = stocked()
        follow(log, opened, tables=["items"])
        log.migrate(MODEL, items(name="things"), VISITS)
        with pytest.raises(SinkError, match="table items became things"):
            follow(log, opened, tables=["items"])

    @pytest.mark.parametrize("often", [False, True])
    def test_a_rewritten_table_has_its_new_rows_from_the_switch_on(self, opened: Opened, often: bool) -> None:
        log, newer = stocked(), items(space=9, indexes=[])
        twice: list[dict[str, Any]] = [{"name": "both"}, {"newer": True, "name": "both", "price": 9}]
        steps: list[Callable[[], object]] = [
            lambda: log.migrate(MODEL, ITEMS, VISITS, building=[newer]),
            lambda: log.write(*(log.put("items", newer=True, name=f"i{at}", note="new") for at in range(3))),
            lambda: log.write(*(log.put("items", **fields) for fields in twice)),
            lambda: log.write(*(log.put("items", newer=True, name=f"i{at}", note="new") for at in (3, 4))),
            lambda: log.migrate(MODEL, newer, VISITS, retiring=[ITEMS]),
            lambda: log.write(log.put("items", name="after", price=7)),
        ]
        for step in steps:
            step()
            if often:
                follow(log, opened)
                assert differences(log, opened) == []
        follow(log, opened)
        assert differences(log, opened) == []
        log.migrate(MODEL, newer, VISITS)
        log.write(log.put("items", name="i1", note="last"))
        follow(log, opened)
        assert differences(log, opened) == []

    @pytest.mark.parametrize("switched", [False, True])
    def test_a_rewritten_table_that_is_rolled_back_is_as_it_was(self, opened: Opened, switched: bool) -> None:
        log, newer = stocked(), items(space=9, indexes=[])
        follow(log, opened)
        log.migrate(MODEL, ITEMS, VISITS, building=[newer])
        log.write(log.put("items", newer=True, name="i1", note="new"))
        follow(log, opened)
        if switched:
            log.migrate(MODEL, newer, VISITS, retiring=[ITEMS])
            follow(log, opened)
            assert differences(log, opened) == []
        log.migrate(MODEL, ITEMS, VISITS)
        log.write(log.put("items", name="after"))
        follow(log, opened)
        assert differences(log, opened) == []


def log_with(source: str, *tables: Any) -> HandMadeLog:
    log = HandMadeLog()
    log.migrate(source, *tables)
    return log
