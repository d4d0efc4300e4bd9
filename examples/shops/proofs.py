"""Proofs: all shops are alike, each acknowledged order is there, and no reader saw two versions at once."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import everlog
from everlog import EmbeddedDatabase
from shops import orders
from shops.orders import Seen, Shops
from shops.process import acknowledged, lines, seen


class Proven(NamedTuple):
    """What was compared. `form`: that of all shops. `schema`: its digest. `reads`: by form."""

    form: str
    schema: str
    shops: int
    written: int
    orders: int
    reads: Counter[str]


def prove(model: Shops, directory: Path, names: Iterable[str]) -> Proven:
    """Check the shops on disk, whose programs have ended. Raises SystemExit for the first that is wrong."""
    names = list(names)
    schemas: dict[str, str] = {}
    forms: dict[str, str] = {}
    reads: Counter[str] = Counter()
    written = count = 0
    for name in names:
        with everlog.open(f"file:{directory / name}", read_only=True) as db:
            assert isinstance(db, EmbeddedDatabase)
            must(not list(db.admin.check()), f"{name} is damaged")
            schemas[name] = hashlib.sha256(db.migrations.dump().encode()).hexdigest()
            found = orders.read(model, db)
        forms[name] = found.form
        for number, pieces in acknowledged(directory, name):
            written += 1
            there = found.pieces.get(number, -1)
            must(there >= pieces, f"{name}: order {number} was acknowledged with {pieces}, it has {there}")
        count += len(found.pieces)
        reads.update(_reads(model, directory, name, found))
    must(len(set(schemas.values())) == 1, f"the shops have different schemas: {schemas}")
    must(len(set(forms.values())) == 1, f"the shops serve different versions: {forms}")
    return Proven(forms[names[0]], schemas[names[0]], len(names), written, count, reads)


def _reads(model: Shops, directory: Path, name: str, last: Seen) -> list[str]:
    """Return the form that each read showed: one at a time, never an earlier one again, and never fewer
    orders than before."""
    known = [form.name for form in model.forms]
    said, before, most = [], known[0], 0
    for form, shown in [*lines(seen(directory, name)), [last.form, str(len(last.pieces))]]:
        must(form in known, f"a reader of {name} saw {form}")
        must(known.index(form) >= known.index(before), f"a reader of {name} saw {form} after {before}")
        must(int(shown) >= most, f"a reader of {name} saw {shown} orders after {most}")
        before, most = form, int(shown)
        said.append(form)
    return said


def must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SystemExit(f"NOT PROVEN: {otherwise}")
