"""Limits: rows at every limit of the store are accepted, and rows one beyond it are refused.

    key        4,096 bytes                    row      4 MiB               depth    100 levels of messages
    value      4 MiB of an index, encoded     commit   8 MiB               numbers  64 bits

The journal stores the recipe of a row instead of the row. An accepted row is readable permanently: at once,
after every kill, in the past, by a follower, in a rebuild and in a backup.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.errors import RowError
from everlog.store.keys import INDEX_BYTES_MAX, KEY_BYTES_MAX, ROW_BYTES_MAX
from everlog.store.record import RECORD_BYTES_MAX
from everlog.store.schema.admission import DEPTH_MAX
from everlog.store.schema.table import Table
from tests.crash.maintenance import Maintenance
from tests.crash.transactions import REFUSALS

END_BYTES = 2  # of a text in a key; in an index there is one more, for presence
OVER = "over"


def _key(model: Any, name: bytes, more: int) -> list[Any]:
    size = KEY_BYTES_MAX - END_BYTES + more
    return [model(id=name.ljust(size, b"k"), text="key")]


def _row(model: Any, name: bytes, more: int) -> list[Any]:
    row = model(id=name, inner=model(text="x" * (ROW_BYTES_MAX - 64)))
    row.inner.text += "x" * (ROW_BYTES_MAX + more - row.ByteSize())
    assert row.ByteSize() == ROW_BYTES_MAX + more
    return [row]


def _value(model: Any, name: bytes, more: int) -> list[Any]:
    return [model(id=name, text="\0" * ((INDEX_BYTES_MAX - END_BYTES) // 2 - 1) + "x" * (1 + more))]


def _depth(model: Any, name: bytes, more: int) -> list[Any]:
    row = whole = model(id=name, text="depth")
    for _ in range(DEPTH_MAX + more):
        row = row.inner
        row.SetInParent()
    row.text = "x" * 2 * DEPTH_MAX
    return [whole]


def _commit(model: Any, name: bytes, more: int) -> list[Any]:
    inner = model(text="x" * (RECORD_BYTES_MAX // 3 - 1000 + more * 2000))
    return [model(id=name + bytes([number]), inner=inner) for number in range(3)]


def _numbers(model: Any, name: bytes, more: int) -> list[Any]:
    ends = (-(1 << 63), -1, 0, (1 << 63) - 1)
    return [
        model(id=name + bytes([nth]), n=number, text="\U0010ffff\0\n\r\"',")
        for nth, number in enumerate(ends)
    ]


RECIPES: dict[str, Callable[[Any, bytes, int], list[Any]]] = {
    "key": _key,
    "row": _row,
    "value": _value,
    "depth": _depth,
    "commit": _commit,
    "numbers": _numbers,
}


def rows(table: Table[Any, Any], recipe: str, more: int = 0) -> list[Any]:
    """Return the rows of a recipe; `more`: the excess over the limit."""
    return RECIPES[recipe](table.model, recipe.encode(), more)


def at_limits(maintenance: Maintenance) -> None:
    """Write rows at a limit, which are accepted and readable, and rows beyond it, which are refused; or
    delete the former.
    """
    table, name, chance = maintenance.folders.limits, f"limits {maintenance.name}", maintenance.random
    recipe = chance.choice(list(RECIPES))
    what = chance.choice(("put", "put", "delete", OVER) if recipe != "numbers" else ("put", "delete"))
    made = rows(table, recipe, int(what == OVER))
    maintenance.journal.say(op=name, limit=recipe, put=what != "delete", id="", durability="sync")
    try:
        with maintenance.db.transaction(correlation_id=name) as tx:
            for row in made:
                if what == "delete":
                    tx.delete(table, row.id)
                else:
                    tx.put(table, row)
            done = tx.commit()
    except RowError:
        assert what == OVER, f"refused, at the limit: {recipe}"
        maintenance.journal.say(no=name)
        return
    except REFUSALS:
        maintenance.journal.say(no=name)
        return
    assert what != OVER, f"taken, over the limit: {recipe}"
    maintenance.journal.say(**({"yes": name, "seq": done.seq} if done.seq else {"no": name}))
    if what == "put":
        for row in made:
            assert maintenance.db.get(table, row.id) == row


def agree(db: EmbeddedDatabase, table: Table[Any, Any], taken: set[str]) -> None:
    """Check that the accepted rows are there, by key and by index, and no others."""
    expected = {row.id: row for recipe in taken for row in rows(table, recipe)}
    found = {row.id: row for row in db.scan(table)}
    wrong = {key[:16] for key in {*found, *expected} if found.get(key) != expected.get(key)}
    assert not wrong, f"rows at limits: {wrong}"
    for index in (table.by_text, table.by_n):
        assert sorted(row.id for row in db.scan(index)) == sorted(expected), index
