"""Lint names: of tables, models and constants, in the folder where each first appears.

    tables, indexes, fields   in_snake_case         messages, enums   CamelCase
    values of enums           UPPER_CASE            constants         UPPER_CASE

Those are the names that protobuf's style guide (protobuf.dev, "Style Guide") and Python's (PEP 8)
give, and that the CLI, JSON and SQL of a follower show. A name that is in use is hard to change, so
later folders, which copy it, are left be.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

from everlog.migrations.lint_finding import Findings
from everlog.migrations.lint_proto import ProtoText, full_name
from everlog.migrations.migration import Migration
from everlog.store.table import Field, Table

_SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_CAMEL = re.compile(r"[A-Z][A-Za-z0-9]*")
_UPPER = re.compile(r"_?[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")


class Names:
    """Names that were met in older folders are not looked at again."""

    def __init__(self, found: Findings) -> None:
        self._found = found
        self._met: set[tuple[str, str]] = set()

    def lint(self, migration: Migration, text: ProtoText) -> None:
        """The names of one migration; call it for each, oldest first."""
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
