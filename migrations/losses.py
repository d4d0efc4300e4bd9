"""Losses: what the return from one migration does, and what would be lost by it, in words.

table, in both       its model, indexes and rows stay or return
only now             dropped with its rows
only before          made anew, empty: the log keeps what was in it
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from everlog.migrations.history import Life
from everlog.migrations.migration import Transform
from everlog.migrations.plan import BESIDE, PlannedStep, remade_step
from everlog.migrations.returning import Return, changed_by_return
from everlog.migrations.trial import remaking_between
from everlog.migrations.under_way import base
from everlog.store.database import Database
from everlog.store.reflect import table_of
from everlog.store.schema import Schema, TableInfo


class Left(msgspec.Struct):
    """A table that stays, by its name after and before the return."""

    name: str
    was: str


class Losses:
    """What one return does and loses, in words."""

    def __init__(self, db: Database, now: Schema, after: Schema, rows: Counter[str]) -> None:
        self.db, self.now, self.after, self.rows = db, now, after, rows
        self.steps: list[PlannedStep] = []
        self.lost: list[str] = []
        self.left: list[Left] = []

    def under_way(self, life: Life) -> None:
        what = "serve the version before alone" if life.held else "give up what was built so far"
        self.steps.append(PlannedStep(f"{what}; no row is lost"))
        self.left = [Left(name, name) for name in self.after.tables]

    def tables(self, way: Return) -> None:
        by_down = {one.table.name: one for one in way.ways}
        names = {info.proto.id: name for name, info in self.after.tables.items()}
        for name, info in self.now.tables.items():
            if info.proto.id not in names:
                rows = self.rows[name]
                self.steps.append(PlannedStep(f"drop table {name} with its {rows:,} rows"))
                if rows:
                    but = ", but for what `down` takes from them" if way.remake is not None else ""
                    self.lost.append(
                        f"{rows:,} rows of table {name}, which is dropped{but}; the log keeps them"
                    )
        were = {info.proto.id: info for info in self.now.tables.values()}
        for name, info in self.after.tables.items():
            was = were.get(info.proto.id)
            if name in way.remade:
                self.steps.append(
                    PlannedStep(
                        f"make the rows of {name} anew with `down`, while writers wait", instant=False
                    )
                )
                if was is not None:
                    self.left.append(Left(name, was.name))
                continue
            if was is None:
                self.steps.append(PlannedStep(f"create table {name} anew, empty; the log keeps its old rows"))
                continue
            self.left.append(Left(name, was.name))
            if was.name != name:
                self.steps.append(PlannedStep(f"rename table {was.name} to {name}"))
            if was.name in by_down:
                self._by_down(was, by_down[was.name])
                continue
            self._fields(was, info)
            self._indexes(was, info)
        if way.remake is not None and self.now.proto == base(self.db):
            tried = remaking_between(self.db, way.now, way.after, way.remake)
            self.steps.append(remade_step(tried, "down"))

    def bootstrap(self, life: Life) -> None:
        """The rows that came with the migration: they stay where their table stays."""
        ids = {info.proto.id for info in self.after.tables.values()}
        recorded = Schema(self.db.schema_at(life.last.seq))
        changes = Counter(change.space for change in self.db.log.commit(life.last.seq).changes)
        for space, number in changes.items():
            name = recorded.spaces[space].name
            mine = self.now.tables.get(name)
            if mine is not None and mine.proto.id in ids:
                self.steps.append(
                    PlannedStep(f"keep {number:,} rows of {name} as the migration's bootstrap wrote them")
                )

    def _by_down(self, was: TableInfo, way: Transform[Any, Any]) -> None:
        """Rows that go back: what `up` would not make of them again is lost."""
        rows = self.rows[was.name]
        text = f"rewrite {rows:,} rows of {was.name} with `down`, and switch to them{BESIDE if rows else ''}"
        self.steps.append(PlannedStep(text, not rows, rows))
        live = self.db.schema.tables.get(was.name)
        if live is None or live.space != was.space:
            return  # a table that is not there before others are rolled back
        changed, fields = changed_by_return(self.db, way)
        if changed:
            self.lost.append(
                f"{was.name}: {changed:,} of its {rows:,} rows would not come back as they are by `up` after"
                f" `down`: they differ in {', '.join(sorted(fields))}; the log keeps them"
            )

    def _fields(self, was: TableInfo, info: TableInfo) -> None:
        old = {field.number: field.name for field in was.model.DESCRIPTOR.fields}
        new = {field.number: field.name for field in info.model.DESCRIPTOR.fields}
        gone = {number: name for number, name in old.items() if number not in new}
        words = [f"remove {name}" for name in gone.values()]
        words += [f"bring back {name}" for number, name in new.items() if number not in old]
        words += [f"rename {old[n]} to {new[n]}" for n in old.keys() & new.keys() if old[n] != new[n]]
        if words:
            self.steps.append(PlannedStep(f"return the model of {info.name}: {', '.join(words)}"))
        for number, rows in self._with_values(was, gone).items():
            self.lost.append(
                f"{was.name}.{gone[number]}, which {rows:,} rows have a value of: it is no longer read, and"
                " is gone from a row once that row is written again"
            )

    def _with_values(self, was: TableInfo, gone: dict[int, str]) -> Counter[int]:
        """How many rows have a value of each of these fields."""
        live = next((one for one in self.db.schema.tables.values() if one.space == was.space), None)
        found: Counter[int] = Counter()
        if live is None or not gone:
            return found
        for row in self.db.scan(table_of(live)):
            fields: Any = row.ListFields()
            found.update(field.number for field, _ in fields if field.number in gone)
        return found

    def _indexes(self, was: TableInfo, info: TableInfo) -> None:
        old = {index.id: name for name, index in was.indexes.items()}
        new = {index.id: name for name, index in info.indexes.items()}
        self.steps += [
            PlannedStep(f"drop index {was.name}.{name}") for id, name in old.items() if id not in new
        ]
        rows = self.rows[was.name]
        for id, name in new.items():
            if id not in old:
                kind = "unique index" if info.indexes[name].unique else "index"
                waiting = ", while writers wait" if rows else ""
                text = f"build {kind} {info.name}.{name} again over {rows:,} rows{waiting}"
                self.steps.append(PlannedStep(text, not rows, rows))
