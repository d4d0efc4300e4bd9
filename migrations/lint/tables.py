"""Lint tables: what a migration does to existing tables: keys, indexes, removals; people; names.

    before { name: Table } ─▶ rename, drop ─▶ for each table that is declared again: Models, key, indexes

The rows of a table with a Transform are rewritten, so its model may be any, but its key must stay.

People: what remains readable of a table that names a person.

    primary key   is not sealed: it should be a surrogate, which identifies nobody
    history       rows from before the table was sealed stay readable in the log
    removed       sealed rows are written in clear, by a table that no longer names a person

    code          the log keeps it: values of people in it stay readable (`lint_literals`)

Names of tables, models and constants, in the folder where each first appears:

    tables, indexes, fields   in_snake_case         messages, enums   CamelCase
    enum values               UPPER_CASE            constants         UPPER_CASE

These are the conventions of protobuf's style guide (protobuf.dev, "Style Guide") and of Python's (PEP 8), and
the names appear in the CLI, in JSON and in a follower's SQL. Names in use are hard to change, so later
folders, which copy them, are not checked.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from everlog.migrations.compatible import check_compatible, same_index, undeclared
from everlog.migrations.lint.rules import Findings
from everlog.migrations.lint.source import ProtoText, full_name
from everlog.migrations.lint.wire import Models
from everlog.migrations.migration import Migration
from everlog.store.errors import SchemaError, quantity
from everlog.store.schema.schema import is_surrogate
from everlog.store.schema.table import Field, Index, Table


def lint_people(step: Step, old: Table[Any, Any] | None, new: Table[Any, Any]) -> None:
    """Check one table of a migration against its previous declaration."""
    if new.person is None:
        was = [old.name] if old is not None and old.person is not None else _from_sealed(step, new)
        if was:
            step.found.add(
                "person/removed",
                new.where,
                f"{new.name} names no person, and gets sealed rows of {', '.join(was)}: they are written"
                " in clear, to the log, permanently, and forgetting a person later does not reach them",
            )
        return
    if old is None or old.person is None or [f.path for f in old.key] != [f.path for f in new.key]:
        for field in new.key:
            if field.path == new.person.path or not is_surrogate(field.name, field.kind):
                step.found.add(
                    "person/key-not-surrogate",
                    new.where,
                    f"{field.dotted} is in the primary key of {new.name}, which is not sealed and never"
                    " forgotten: does it identify a person?",
                )
    if old is not None and old.person is None:
        rows = quantity(step.counts[old.name], "row") if old.name in step.counts else "rows"
        step.found.add(
            "person/open-before",
            new.where,
            f"{rows} of {new.name} were written before it was sealed: the log keeps them readable, and"
            " forgetting a person does not reach them there",
        )


def _from_sealed(step: Step, new: Table[Any, Any]) -> list[str]:
    """Return the sealed tables that are dropped or remade, if the migration remakes the rows of this
    table.
    """
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


def lint_literals(step: Step, withheld: Collection[str]) -> None:
    """Check that code in the log has no data of people, if a table of the migration or of an earlier one is
    sealed. `withheld`: the files that the log does not keep.

    Reported are e-mail addresses anywhere, and texts that code compares with a field of a sealed table or
    assigns to one. Runs no code.
    """
    sealed = [table for table in (*step.before.values(), *step.migration.tables) if table.person is not None]
    if not sealed:
        return
    fields = {field.name for table in sealed for field in table.model.DESCRIPTOR.fields}
    for file in step.migration.folder.sources:
        if file.path.endswith((".py", ".proto")) and file.path not in withheld:
            text = file.content.decode(errors="replace")
            found = {text.count("\n", 0, one.start()) + 1 for one in _EMAIL.finditer(text)}
            if file.path.endswith(".py"):
                found |= {one.lineno for one in _compared(text, fields)}
            for line in sorted(found):
                step.found.add(
                    "person/literal",
                    f"{step.migration.folder.path / file.path}:{line}",
                    f"{file.path} may have data of a person: the log keeps its content readable, and"
                    " forgetting does not reach it",
                )


def _compared(text: str, fields: Collection[str]) -> Iterator[ast.Constant]:
    """Yield the texts in code that are compared with one of these fields, or assigned to one."""
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError):
        return  # loading reports it
    for node in ast.walk(module):
        match node:
            case ast.Compare():  # row.name == "…", "…" in row.name.lower()
                if _reads(node, fields):
                    yield from _texts(node)
            case ast.Match() if _reads(node.subject, fields):
                for one in node.cases:
                    yield from _texts(one.pattern)
            case ast.Call(func=ast.Attribute(value=called)) if _reads(called, fields):
                for argument in node.args:  # row.name.startswith("…")
                    yield from _texts(argument)
            case ast.keyword(arg=str() as name) if name in fields:  # Patient(name="…")
                yield from _texts(node.value)
            case ast.Assign() if any(_reads(target, fields) for target in node.targets):
                yield from _texts(node.value)  # row.name = "…"


def _reads(code: ast.AST, fields: Collection[str]) -> bool:
    return any(isinstance(node, ast.Attribute) and node.attr in fields for node in ast.walk(code))


def _texts(code: ast.AST) -> Iterator[ast.Constant]:
    for node in ast.walk(code):
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)) and node.value:
            yield node


Tables = dict[str, Table[Any, Any]]


class Step(NamedTuple):
    """One migration, and the state before it."""

    migration: Migration
    text: ProtoText
    before: Tables
    counts: Mapping[str, int]  # rows in the database, by the table's name there
    found: Findings


def after(step: Step) -> Tables:
    """Return the tables after a migration. Read-only."""
    migration = step.migration
    kept = {name: table for name, table in step.before.items() if name not in migration.drop}
    renamed = {migration.rename.get(name, name): table for name, table in kept.items()}
    return renamed | {table.name: table for table in migration.tables}


def lint_tables(step: Step) -> None:
    """Check the tables of one migration."""
    migration, found = step.migration, step.found
    for name in migration.drop:
        if name in step.before:
            rows = f" with its {quantity(step.counts[name], 'row')}" if name in step.counts else ""
            found.add(
                "loss/table-dropped",
                migration.where,
                f"table {name} is dropped{rows}: its content remains only in the history",
            )
    for name, new_name in ((old, new) for old, new in migration.rename.items() if old in step.before):
        text = f"table {name} is renamed to {new_name}: older clients and followers ask for {name}"
        found.add("change/table-renamed", migration.where, text)
    was = {migration.rename.get(name, name): table for name, table in step.before.items()}
    kept = {name: table for name, table in was.items() if table.name not in migration.drop}
    for where, text in undeclared(migration, kept):
        found.add("change/undeclared", where, text)
    for table in migration.tables:
        before = was.get(table.name)
        lint_people(step, before, table)
        if before is not None and before.name not in migration.drop:
            _table(step, before, table)


def is_new(index: Index[Any], before: Table[Any, Any] | None) -> bool:
    """Whether an index must be built, because the previous table does not have it as it is now."""
    old = before.indexes.get(index.name) if before is not None else None
    return old is None or not same_index(old, index)


def _table(step: Step, old: Table[Any, Any], new: Table[Any, Any]) -> None:
    transform = step.migration.transforms.get(new.name)
    found, folder, up, down = step.found, step.migration.folder, step.migration.up, step.migration.down
    if up is not None and new.name in up.names:
        _dropped_indexes(step, old, new)
        if down is None or old.name not in down.names:
            text = f"rows of {new.name} are remade, and no `down` restores the previous ones"
            found.add("change/no-down", up.where, text)
        return
    if _paths(old.key) != _paths(new.key):
        before, after_ = (", ".join(field.dotted for field in table.key) for table in (old, new))
        text = (
            f"the primary key of {new.name} changes from ({before}) to ({after_}): every row would become"
            " a different row"
        )
        found.add("change/key", new.where, text)
    _dropped_indexes(step, old, new)
    if transform is not None:
        if transform.down is None:
            text = (
                f"rows of {new.name} are transformed without `down`: two versions cannot be served, and it"
                " cannot be rolled back"
            )
            found.add("change/no-down", transform.where, text)
        return
    held = set(_presence(step, old, new))
    Models(folder, step.text, new.name, held, found).compare(old.model.DESCRIPTOR, new.model.DESCRIPTOR)
    if not found.has_error_in(folder.path):
        try:
            check_compatible(
                folder, old, new, rules=step.migration.rules
            )  # so that a folder that does not load is never clean here
        except SchemaError as error:
            where = error.facts.get("where", new.where)
            found.add("wire/incompatible", where, str(error).removeprefix(f"{where}: "))


def _dropped_indexes(step: Step, old: Table[Any, Any], new: Table[Any, Any]) -> None:
    for name, index in old.indexes.items():
        paths = _paths(index.fields)
        others = [_paths(other.fields)[: len(paths)] for other in new.indexes.values()]
        if name not in new.indexes and paths not in others:
            fields = ", ".join(field.dotted for field in index.fields)
            text = f"index {name} of {new.name} over ({fields}) is dropped: queries that use it would fail"
            step.found.add("loss/index-dropped", new.where, text)


def _presence(step: Step, old: Table[Any, Any], new: Table[Any, Any]) -> Iterator[str]:
    """Check presence: existing keys and entries distinguish absent from empty as the old model did. Yield the
    names of the fields with a finding."""
    for what, field in _held(old, new):
        was, now = old.model.DESCRIPTOR, new.model.DESCRIPTOR
        for number in field.path:
            if was is None or now is None or not _both_have(number, was, now):
                break  # reported as a removed field or a changed type
            was, now = was.fields_by_number[number], now.fields_by_number[number]
            if was.has_presence != now.has_presence:
                becomes = "becomes" if now.has_presence else "is no longer"
                text = (
                    f"{now.full_name} {becomes} `optional`, but {what} of {new.name} was written for the"
                    " old model"
                )
                where = f"{step.migration.folder.model}:{step.text.line_of(now)}"
                step.found.add("wire/index-presence", where, text)
                yield now.full_name
            was, now = was.message_type, now.message_type


def _both_have(number: int, was: Any, now: Any) -> bool:
    return number in was.fields_by_number and number in now.fields_by_number


def _held(old: Table[Any, Any], new: Table[Any, Any]) -> Iterator[tuple[str, Field[Any]]]:
    for field in new.key:
        yield "the key", field
    for name, index in new.indexes.items():
        if not is_new(index, old):
            for field in index.fields:
                yield f"index {name}", field


def _paths(fields: tuple[Field[Any], ...]) -> list[tuple[int, ...]]:
    return [field.path for field in fields]


_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+")
_SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_CAMEL = re.compile(r"[A-Z][A-Za-z0-9]*")
_UPPER = re.compile(r"_?[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")


class Names:
    """Checks names; those of older folders are not checked again."""

    def __init__(self, found: Findings) -> None:
        self._found = found
        self._met: set[tuple[str, str]] = set()

    def lint(self, migration: Migration, text: ProtoText) -> None:
        """Check the names of one migration. Call it for each migration, oldest first."""
        folder = migration.folder
        for table in migration.tables:
            self._check("name/table", table.name, _SNAKE, table.where, f"table {table.name}")
            for name, index in table.indexes.items():
                title = f"index {table.name}.{name}"
                self._check("name/table", name, _SNAKE, index.where, title)
        package = f"{folder.proto_package}."
        file: Any = next((table.model.DESCRIPTOR.file for table in migration.tables), None)
        for descriptor, id, form in _declared(file) if file is not None else ():
            title = full_name(descriptor).removeprefix(package)
            where = f"{folder.model}:{text.line_of(descriptor)}"
            self._check(id, descriptor.name, form, where, title)
        for name, value in vars(sys.modules.get(folder.package, sys)).items():
            if isinstance(value, Table | Field) and value.where.startswith(f"{folder.path}/"):
                self._check("name/constant", name, _UPPER, value.where, f"constant {name}")

    def _check(self, id: str, name: str, form: re.Pattern[str], where: str, title: str) -> None:
        key = (id, title)
        if key in self._met:
            return
        self._met.add(key)
        if not form.fullmatch(name):
            expected = {_SNAKE: "in_snake_case", _CAMEL: "in CamelCase", _UPPER: "IN_UPPER_CASE"}[form]
            self._found.add(id, where, f"expected the name of {title} {expected}, found {name!r}")


def _declared(file: Any) -> Iterator[tuple[Any, str, re.Pattern[str]]]:
    enums = list(file.enum_types_by_name.values())
    pending = list(file.message_types_by_name.values())
    while pending:
        message = pending.pop(0)
        if message.GetOptions().map_entry:
            continue
        yield message, "name/message", _CAMEL
        for field in message.fields:
            yield field, "name/field", _SNAKE
        enums += message.enum_types
        pending += message.nested_types
    for enum in enums:
        yield enum, "name/message", _CAMEL
        for value in enum.values:
            yield value, "name/enum-value", _UPPER
