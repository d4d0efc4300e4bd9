"""Orders: the content of a shop, in each version of its model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from everlog import EmbeddedDatabase, SchemaError, Snapshot, migrations
from shops.migrations import v20260105093000_create_orders as before
from shops.migrations import v20260302090000_split_names as after

OLD, NEW = 20260105093000, 20260302090000


class Form(NamedTuple):
    """A version of the model. `made`: the order with a number and its pieces."""

    name: str
    table: Any
    made: Callable[[int, int], Any]


class Shops(NamedTuple):
    """What all shops have: their migrations, and the forms of an order, oldest first."""

    source: str
    first: int
    forms: Sequence[Form]


class Seen(NamedTuple):
    """A shop as one snapshot shows it. `form`: the only one that is served; else both, neither or torn, if an
    order lacks a part of its form. `pieces`: by number."""

    form: str
    pieces: dict[int, int]


def old_order(number: int, pieces: int) -> before.Order:
    return before.Order(number=number, customer=f"Ann Lee-{number}", pieces=pieces)


def new_order(number: int, pieces: int) -> after.Order:
    return after.Order(number=number, first="Ann", last=f"Lee-{number}", pieces=pieces)


SHOPS = Shops(
    "shops.migrations",
    OLD,
    (Form("old", before.ORDERS, old_order), Form("new", after.ORDERS, new_order)),
)


def create(shops: Shops, path: Path, rows: int) -> None:
    """Create a shop at the first version, with orders."""
    form = shops.forms[0]
    with EmbeddedDatabase(path) as db:
        migrations.apply(db, shops.source, to=shops.first)
        db.load(form.table, (form.made(number, 0) for number in range(rows)))


def put(shops: Shops, db: EmbeddedDatabase, number: int, pieces: int) -> None:
    """Write an order, in the form that the shop serves."""
    for form in shops.forms:
        try:
            db.put(form.table, form.made(number, pieces))
        except SchemaError:  # it was upgraded
            continue
        return
    raise AssertionError("no form is served")


def read(shops: Shops, db: EmbeddedDatabase) -> Seen:
    """Return all orders, from one snapshot in which each form is tried."""
    with db.snapshot() as now:
        found = [seen for form in shops.forms if (seen := _served(now, form)) is not None]
    if len(found) != 1:
        return Seen("both" if found else "neither", {})
    return found[0]


def _served(now: Snapshot, form: Form) -> Seen | None:
    """Return the orders in this form; None: it is not served."""
    try:
        rows = list(now.scan(form.table))
    except SchemaError:
        return None
    whole = all(row == form.made(row.number, row.pieces) for row in rows)
    return Seen(form.name if whole else "torn", {row.number: row.pieces for row in rows})
