"""Lint people: what a table that names a person leaves open.

primary key   not sealed: it should be a surrogate, which tells nothing of anybody
history       rows from before the table was sealed stay open in the log
removed       rows that were sealed are written in clear, by a table that names no person any more
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from everlog.store.schema import is_surrogate
from everlog.store.table import Table

if TYPE_CHECKING:
    from everlog.migrations.lint_tables import Step


def lint_people(step: Step, old: Table[Any, Any] | None, new: Table[Any, Any]) -> None:
    """Of one table of a migration, and what it was before."""
    if new.person is None:
        was = [old.name] if old is not None and old.person is not None else _from_sealed(step, new)
        if was:
            step.found.add(
                "person/removed",
                new.where,
                f"{new.name} names no person, and gets rows of {', '.join(was)}, which were sealed: they"
                " are written in clear, to the log, for ever, and forgetting"
                " somebody later does not reach them",
            )
        return
    if old is None or old.person is None or [f.path for f in old.key] != [f.path for f in new.key]:
        for field in new.key:
            if field.path == new.person.path or not is_surrogate(field.name, field.kind):
                step.found.add(
                    "person/key-not-surrogate",
                    new.where,
                    f"{field.dotted} is in the primary key of {new.name}, which is not sealed and is never"
                    " forgotten: does it tell who somebody is?",
                )
    if old is not None and old.person is None:
        rows = f"{step.counts[old.name]:,} rows" if old.name in step.counts else "rows"
        step.found.add(
            "person/open-before",
            new.where,
            f"{rows} of {new.name} were written before it was sealed: the log keeps them open, and forgetting"
            " a person does not reach them there",
        )


def _from_sealed(step: Step, new: Table[Any, Any]) -> list[str]:
    """The sealed tables that go, or get other rows, in a migration that makes the rows of a table anew."""
    migration = step.migration
    if migration.up is None or new.name not in migration.up.names:
        return []
    stay = {table.name for table in migration.tables if table.person is not None}
    moved = {*migration.drop, *migration.up.names}
    return sorted(
        name
        for name, table in step.before.items()
        if table.person is not None and name in moved and migration.rename.get(name, name) not in stay
    )
