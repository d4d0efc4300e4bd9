"""Filter: conditions on the fields of rows, as people type them above a table.

    condition := field op value          origin = "JFK"    dep_delay >= 60    name ~ york    tailnum = unset
               ~ value                                   any field
    filter    := condition ("and" condition)* | value ("/" value)*
    op        := = | != | < | <= | > | >= | ~            ~ is: contains, without regard to case

Values alone, as JFK/LAX, are those of the first fields of the order: a key, or its beginning. A value with
spaces, quotes or slashes is in double quotes. Conditions of equality on the first fields of the order
(the key, or an index) select a range, so that other rows are not read; all other conditions are checked on
each row.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from everlog.console.web.cells import Descriptor, FieldDescriptor, Path
from everlog.migrations.values import expected, from_text, to_text
from everlog.store.errors import RowError
from everlog.store.schema.codec import ENUM, MESSAGE, TIMESTAMP, kind_of
from everlog.store.schema.descriptors import dotted, is_map, value_of

TOKENS = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|(!=|<=|>=|[=<>~])|([^\s"=<>!~]+))')
VALUE = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|([^"=<>!~/]+))\s*(?:/|$)')
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "~": lambda found, value: str(value).casefold() in str(found).casefold(),
}
CHOICES = {
    "~": "contains",
    "=": "is",
    "!=": "is not",
    "<": "<",
    "<=": "≤",
    ">": ">",
    ">=": "≥",
    "= unset": "is unset",
    "!= unset": "is set",
}  # the form of one condition
CONDITIONS_MAX = 20
PLAIN = re.compile(r"[\w.:+-]+")


class Condition(NamedTuple):
    """One condition. `value` None: the field is unset. Without a path it is about any field."""

    path: Path
    op: str
    value: Any

    @property
    def name(self) -> str:
        return dotted(self.path)

    def holds(self, row: Message) -> bool:
        """Return whether a row meets it. An unset field meets only != and `= unset`."""
        if not self.path:
            return any(OPERATORS["~"](text, self.value) for text in _texts(row))
        found = value_of(row, self.path)
        if self.value is None or found is None:
            return (
                (found is None) == (self.value is None)
                if self.op == "="
                else ((found is None) != (self.value is None) if self.op == "!=" else False)
            )
        if isinstance(found, Timestamp):
            found = (found.seconds, found.nanos)
        return OPERATORS[self.op](found, self.value)


def _texts(row: Any) -> Iterator[object]:
    """Yield the values of all fields that are set, of nested messages too; bytes are left out."""
    for field, value in row.ListFields():
        kind = kind_of(field)
        for one in value.values() if is_map(field) else value if field.is_repeated else [value]:
            if isinstance(one, Message):
                yield from (
                    [to_text(field)(row)] if kind is TIMESTAMP and not field.is_repeated else _texts(one)
                )
            elif kind is ENUM:
                number = field.enum_type.values_by_number.get(one)
                yield number.name if number is not None else one
            elif not isinstance(one, bytes):
                yield one


def quoted(word: str) -> str:
    """Return a value as it is typed in a filter: in quotes if it needs them."""
    if PLAIN.fullmatch(word) and word not in {"unset", "and"}:
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def extended(text: str, fields: Sequence[Path], name: str, op: str, word: str) -> str:
    """Return a filter with one more condition. `fields`: those of the order, of which the filter may have
    values alone. `op`: one of CHOICES; `name` empty: any field. Raises RowError."""
    if op not in CHOICES:
        raise RowError(f"expected one of {', '.join(CHOICES)}, found {op[:40]!r}")
    if not name and op != "~":
        raise RowError(f"choose the field of which `{op}` is a condition; any field: only ~ applies")
    added = f"{name} {op}" if op.endswith("unset") else f"{name} {op} {quoted(word)}".lstrip()
    words = _words(text)
    if words is None:
        return f"{text.strip()} and {added}"
    of_order(text, fields)  # raises for values that do not fit
    known = [f"{dotted(path)} = {quoted(word)}" for path, word in zip(fields, words, strict=False)]
    return " and ".join([*known, added])


def _words(text: str) -> list[str] | None:
    """Return the values of a filter that has values alone; None: it has conditions."""
    words, at, text = list[str](), 0, text.strip()
    while at < len(text):
        match = VALUE.match(text, at)
        if match is None:
            return None
        within, word = match.groups()
        words.append(re.sub(r"\\(.)", r"\1", within[1:-1]) if within else word.strip())
        at = match.end()
    return words


def parse(text: str, model: Descriptor) -> list[Condition]:
    """Return the conditions of a filter. Raises RowError, with what was expected."""
    tokens, at = list[tuple[str, str]](), 0
    text = text.strip()
    while at < len(text):
        match = TOKENS.match(text, at)
        if match is None:
            raise RowError(f'expected a condition such as name = "JFK", found {text[at : at + 20]!r}')
        within, op, word = match.groups()
        tokens.append(
            ("value", re.sub(r"\\(.)", r"\1", within[1:-1]))
            if within
            else ("op", op)
            if op
            else ("word", word)
        )
        at = match.end()
    found: list[Condition] = []
    while tokens:
        if found:
            if tokens[0] != ("word", "and"):
                raise RowError(f"expected `and` after a condition, found {tokens[0][1]!r}")
            tokens.pop(0)
        if len(tokens) > 1 and tokens[0] == ("op", "~") and tokens[1][0] != "op":
            found.append(Condition((), "~", tokens[1][1]))
            del tokens[:2]
            continue
        if len(tokens) < 3 or tokens[0][0] != "word" or tokens[1][0] != "op" or tokens[2][0] == "op":
            said = " ".join(word for _, word in tokens[:3])
            raise RowError(f'expected a condition such as origin = "JFK" or dep_delay >= 60, found {said!r}')
        (_, name), (_, op), (kind, word) = tokens[:3]
        del tokens[:3]
        found.append(_condition(model, name, op, word, quoted=kind == "value"))
    if len(found) > CONDITIONS_MAX:
        raise RowError(f"expected at most {CONDITIONS_MAX} conditions, found {len(found)}")
    return found


def of_order(text: str, fields: Sequence[Path]) -> list[Condition] | None:
    """Return the conditions of a filter that has values of the first fields of an order and nothing else;
    None: it has conditions. Raises RowError."""
    words = _words(text)
    if words is None:
        return None
    if len(words) > len(fields):
        names = "/".join(map(dotted, fields))
        raise RowError(f"expected the first values of {names}, found {len(words)} values")
    try:
        return [
            _condition(path[0].containing_type, dotted(path), "=", word, quoted=True)
            for path, word in zip(fields, words, strict=False)
        ]
    except RowError as error:
        raise RowError(f"{error}; or write a condition, such as {fields[0][0].name} = …") from None


def _condition(model: Descriptor, name: str, op: str, word: str, *, quoted: bool) -> Condition:
    path, at = list[FieldDescriptor](), model
    for step in name.split("."):
        field = at.fields_by_name.get(step) if at is not None else None
        if field is None:
            known = ", ".join(one.name for one in model.fields)
            raise RowError(f"there is no field {name!r}; the fields are: {known[:2000]}")
        path.append(field)
        at = field.message_type
    field = path[-1]
    if word == "unset" and not quoted:
        if op not in {"=", "!="}:
            raise RowError(f"expected {name} = unset or {name} != unset, found {op}")
        return Condition(tuple(path), op, None)
    if op == "~":
        return Condition(tuple(path), op, word)
    kind = kind_of(field)
    if field.is_repeated or kind is MESSAGE:
        raise RowError(
            f"{name} is {'repeated' if field.is_repeated else 'a message'}: only ~ and unset apply to it"
        )
    try:
        value = from_text(field)(word)
    except (ValueError, TypeError) as error:
        raise RowError(f"expected {expected(field)} for {name}, found {word!r} ({error})") from None
    return Condition(tuple(path), op, (value["seconds"], value["nanos"]) if kind is TIMESTAMP else value)


def selected(conditions: Sequence[Condition], fields: Sequence[Path]) -> tuple[Any, list[Condition]]:
    """Return the values of the first fields of an order that conditions of equality select, as `scan` takes
    them (None: none), and the conditions that are left to check."""
    values, left = list[Any](), list(conditions)
    for path in fields:
        numbers = [step.number for step in path]
        match = next(
            (
                one
                for one in left
                if one.op == "=" and one.value is not None and [step.number for step in one.path] == numbers
            ),
            None,
        )
        if match is None:
            break
        left.remove(match)
        is_time = kind_of(path[-1]) is TIMESTAMP
        values.append(Timestamp(seconds=match.value[0], nanos=match.value[1]) if is_time else match.value)
    return (None if not values else values[0] if len(values) == 1 else tuple(values)), left
