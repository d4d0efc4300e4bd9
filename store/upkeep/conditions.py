"""Conditions: which values a field of a visible row may have.

    written          how      holds if the field
    tenant=acme      =        has one of the values, and `$who` is the caller's name
    amount<100       < <= > >=   is set, and less than the value …
    path^=eu/        prefix   is text or bytes that begins with one of the values
    !owner           unset    has no value

Values are compared in the type of the field: numbers as numbers, text by its characters, bytes by bytes. A
field that is not set has no value, so only `unset` holds for it. All conditions of a rule must hold.

Numbers of comparisons are on disk (proto/access.proto): a rule with an unknown one gives nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from google.protobuf.descriptor import FieldDescriptor

from everlog.proto import access_pb2 as pb
from everlog.store.errors import RowError
from everlog.store.schema import arguments
from everlog.store.schema.descriptors import Path

EQUAL = "="
VALUES_MAX = 1000
COMPARISONS: dict[str, pb.Comparison.ValueType] = {
    "<": pb.IS_LESS,
    "<=": pb.IS_AT_MOST,
    ">": pb.IS_GREATER,
    ">=": pb.IS_AT_LEAST,
    "prefix": pb.HAS_PREFIX,
    "unset": pb.IS_UNSET,
}
_WORDS = {number: word for word, number in COMPARISONS.items()}
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda value, other: bool(value < other),
    "<=": lambda value, other: bool(value <= other),
    ">": lambda value, other: bool(value > other),
    ">=": lambda value, other: bool(value >= other),
}
_TEXT = re.compile(r"!?(?P<field>[\w.]+)(?P<how>\^=|<=|>=|=|<|>)?(?P<value>.*)", re.DOTALL)


class Comparison(msgspec.Struct, frozen=True):
    """A condition other than equality: `how` the value of `field` compares with `values`: `<`, `<=`, `>` or
    `>=` with one value, `prefix` with one of them, or `unset` without values."""

    field: str
    how: str
    values: tuple[str, ...] = ()


class Condition(NamedTuple):
    """A condition for one model, with values in the type of its field."""

    path: Path
    how: str
    values: Collection[Any]

    def holds(self, value: Any) -> bool:
        """Return whether it holds for the value of the field; None: it is not set."""
        if self.how == EQUAL:
            return value in self.values
        if self.how == "unset" or value is None:
            return self.how == "unset" and value is None
        if self.how == "prefix":
            return any(value.startswith(one) for one in self.values)
        return any(_ORDERS[self.how](value, one) for one in self.values)


def comparison_of(message: pb.Condition) -> Comparison:
    return Comparison(message.field, _WORDS[message.comparison], tuple(message.values))


def are_known(messages: Iterable[pb.Condition]) -> bool:
    """Return whether this program knows how the conditions of a rule compare, each field once in each way."""
    keys = [(one.field, one.comparison) for one in messages]
    return len(set(keys)) == len(keys) and all(how in (pb.IS_ONE_OF, *_WORDS) for _, how in keys)


def messages_of(rows: Mapping[str, tuple[str, ...]], comparisons: Iterable[Comparison]) -> list[pb.Condition]:
    """Encode the conditions of a rule."""
    found = [pb.Condition(field=field, values=values) for field, values in sorted(rows.items())]
    found.extend(
        pb.Condition(field=one.field, values=one.values, comparison=COMPARISONS[one.how])
        for one in comparisons
    )
    return found


def words_of(rows: dict[str, tuple[str, ...]], comparisons: Iterable[Comparison]) -> Iterator[str]:
    """Yield the conditions of a rule for people."""
    for field, values in sorted(rows.items()):
        yield f"{field} = {' or '.join(values)}"
    for one in comparisons:
        if one.how == "unset":
            yield f"{one.field} unset"
        else:
            how = "beginning with" if one.how == "prefix" else one.how
            yield f"{one.field} {how} {' or '.join(one.values)}"


# arguments


def check_comparisons(several: Iterable[Any]) -> tuple[Comparison, ...]:
    """Return comparisons, checked. Raises RowError."""
    found = tuple(_checked(one) for one in several)
    if len({(one.field, one.how) for one in found}) < len(found):
        raise RowError("expected each comparison of a field once, found one twice")
    return found


def _checked(one: Any) -> Comparison:
    if not isinstance(one, Comparison):
        raise RowError(f"expected a Comparison, found {type(one).__name__} {one!r}")
    if one.how not in COMPARISONS:
        raise RowError(f"expected a comparison of {', '.join(COMPARISONS)}, found {one.how!r}")
    what = f"{arguments.text(one.field, 'a field')} {one.how}"
    values = tuple(arguments.text(value, what) for value in arguments.several(one.values, what))
    least, most = {"unset": (0, 0), "prefix": (1, VALUES_MAX)}.get(one.how, (1, 1))
    if not least <= len(values) <= most:
        raise RowError(f"{what}: expected {'one value' if least else 'no value'}, found {len(values)}")
    if one.how == "prefix" and "" in values:
        raise RowError(f"expected a prefix of {one.field}, found an empty one")
    return Comparison(one.field, one.how, values)


def read_conditions(words: Iterable[str]) -> tuple[dict[str, tuple[str, ...]], tuple[Comparison, ...]]:
    """Return the equalities and the comparisons in words such as `tenant=acme`, `amount<100`, `path^=eu/` and
    `!owner`. Raises RowError."""
    rows: dict[str, tuple[str, ...]] = {}
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for word in words:
        parts = _TEXT.fullmatch(word)
        how, unset = (parts["how"] if parts else None), word.startswith("!")
        if parts is None or (how is None) != unset or (unset and parts["value"]):
            raise RowError(
                "expected FIELD=VALUE, FIELD<VALUE (or <=, >, >=), FIELD^=PREFIX, or !FIELD for a field that"
                f" is not set; found {word!r}"
            )
        field, value = parts["field"], parts["value"]
        if how == EQUAL:
            rows[field] = (*rows.get(field, ()), value)
        else:
            key = field, "unset" if how is None else "prefix" if how == "^=" else how
            found[key] = (*found.get(key, ()), *(() if how is None else (value,)))
    return rows, tuple(Comparison(field, how, values) for (field, how), values in found.items())


def mismatch(one: Comparison, path: Path, kind: Callable[[str], Any] | None) -> str:
    """Return why a field cannot be compared so, as a clause; empty: it can. `kind` reads a value of it."""
    field = path[-1]
    if one.how == "unset":
        has = not field.is_repeated and any(step.has_presence for step in path)
        return "" if has else "always has a value"
    ordered = field.enum_type is None and field.cpp_type != FieldDescriptor.CPPTYPE_BOOL
    if one.how == "prefix":
        ordered = field.cpp_type == FieldDescriptor.CPPTYPE_STRING
    if not ordered or kind is None:
        return f"has no values that can be compared with {one.how}"
    wrong = [value for value in one.values if kind(value) is None]
    return f"cannot have the value {wrong[0]!r}" if wrong else ""
