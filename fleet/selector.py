"""Selector: names and labels of members, and which of them an operator means.

    selector  := condition ("," condition)*         all must hold; empty: every member
    condition := label "=" value                    has this value
               | label "!=" value                   has another value, or none
               | label "in" "(" value ("," value)* ")"
               | label "not in" "(" … ")"
               | label "^=" prefix                  has a value that begins with it
               | label ("<" | "<=" | ">" | ">=") integer
               | label                              has it, with any value
               | "!" label                          does not have it
    label     := word of A-Z a-z 0-9 _ . - ; `name` is the name of the member
    value     := word of these and / : @ +, 1 to 63 characters
    name      := a value that is not empty

    region=eu,tenant in (1,2),!canary       name^=shop-      version>=20260105093000

Operators are those of the row filters of roles (`access define --rows`), and `in`, `!=` and a label alone in
addition. Several conditions on one label all must hold; alternatives are written with `in`. `<` and its like
compare integers, and hold for no other value. `version`, the version in force, can be selected as a label.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Self

from everlog.store.errors import RowError

NAME, VERSION = "name", "version"  # labels that every member has
RESERVED = (NAME, VERSION)
LENGTH_MAX = 63  # of a name, a label and a value
LABELS_MAX = 64  # of a member

_WORD = r"[A-Za-z0-9_.-]+"
_VALUE = r"[A-Za-z0-9_./:@+-]+"
_LABEL, _ONE = re.compile(_WORD), re.compile(_VALUE)
_COMPARED = re.compile(rf"({_WORD})\s*(!=|\^=|<=|>=|=|<|>)\s*(.*)", re.DOTALL)
_LISTED = re.compile(rf"({_WORD})\s+(not\s+in|in)\s*\((.*)\)", re.DOTALL)
_PRESENT = re.compile(rf"(!?)\s*({_WORD})")
_COMMA = re.compile(r",(?![^()]*\))")  # not within parentheses
_INTEGER = re.compile(r"-?[0-9]+")

_ORDERS: dict[str, Callable[[int, int], bool]] = {
    "<": int.__lt__,
    "<=": int.__le__,
    ">": int.__gt__,
    ">=": int.__ge__,
}


class Condition(NamedTuple):
    """One condition. `how`: an operator of the grammar; `has` and `lacks` have no values."""

    label: str
    how: str
    values: tuple[str, ...] = ()

    def holds(self, value: str | None) -> bool:
        """Return whether it holds for the value of its label; None: the member does not have the label."""
        if self.how in ("has", "lacks"):
            return (value is not None) is (self.how == "has")
        if self.how in ("!=", "not in"):
            return value not in self.values
        if value is None:
            return False
        if self.how == "^=":
            return value.startswith(self.values)
        if self.how in _ORDERS:
            return _INTEGER.fullmatch(value) is not None and _ORDERS[self.how](
                int(value), int(self.values[0])
            )
        return value in self.values

    def __str__(self) -> str:
        match self.how:
            case "has":
                return self.label
            case "lacks":
                return f"!{self.label}"
            case "in" | "not in":
                return f"{self.label} {self.how} ({','.join(self.values)})"
        return f"{self.label}{self.how}{self.values[0]}"


class Selector(NamedTuple):
    """The conditions of a selector. `str` returns it in one form, which `parse` reads."""

    conditions: tuple[Condition, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a selector. Raises RowError."""
        if not isinstance(text, str):
            raise RowError(f"expected a selector as text, found {type(text).__name__} {text!r}")
        if not text.strip():
            return cls()
        return cls(tuple(_condition(one.strip(), text) for one in _COMMA.split(text)))

    def matches(self, name: str, labels: Mapping[str, str], version: int = 0) -> bool:
        """Return whether a member is selected."""
        known = {**labels, NAME: name, VERSION: str(version)}
        return all(one.holds(known.get(one.label)) for one in self.conditions)

    def __str__(self) -> str:
        return ",".join(map(str, self.conditions))


def _condition(text: str, whole: str) -> Condition:
    if found := _LISTED.fullmatch(text):
        values = tuple(one.strip() for one in found[3].split(","))
        return _checked(Condition(found[1], "not in" if found[2] != "in" else "in", values), whole)
    if found := _COMPARED.fullmatch(text):
        return _checked(Condition(found[1], found[2], (found[3].strip(),)), whole)
    if found := _PRESENT.fullmatch(text):
        return _checked(Condition(found[2], "lacks" if found[1] else "has"), whole)
    raise RowError(
        "expected label=value, label!=value, label in (a,b), label not in (a,b), label^=prefix, label<number"
        f" (or <=, >, >=), label or !label, separated by commas; found {text!r} in the selector {whole!r}",
        selector=whole,
    )


def _checked(one: Condition, whole: str) -> Condition:
    what = f"in the condition on {one.label} of the selector {whole!r}"
    for value in one.values:
        if not _is_value(value):
            raise RowError(f"expected {VALUES}, found {value!r} {what}", selector=whole)
        if one.how in _ORDERS and not _INTEGER.fullmatch(value):
            raise RowError(
                f"expected an integer after {one.how}, found {value!r} {what}; compare text with =, in or ^=",
                selector=whole,
            )
    return one


VALUES = f"a value of 1 to {LENGTH_MAX} letters, digits and characters of _./:@+-"


def _is_value(text: object) -> bool:
    return isinstance(text, str) and len(text) <= LENGTH_MAX and _ONE.fullmatch(text) is not None


def check_name(name: str) -> str:
    """Return the name of a member. Raises RowError for an invalid one."""
    if not _is_value(name):
        raise RowError(f"expected the name of a member, {VALUES}, found {name!r}", name=name)
    return name


def check_labels(labels: Mapping[str, object], whose: str = "a member") -> dict[str, str]:
    """Return labels as text, sorted. Values may be integers. Raises RowError for invalid ones, and for more
    than LABELS_MAX."""
    if len(labels) > LABELS_MAX:
        raise RowError(f"expected at most {LABELS_MAX} labels of {whose}, found {len(labels)}")
    found = dict[str, str]()
    for label, value in sorted(labels.items()):
        if label in RESERVED:
            raise RowError(f"expected a label of {whose}, found {label}, which every member has; rename it")
        if len(label) > LENGTH_MAX or not _LABEL.fullmatch(label):
            raise RowError(
                f"expected a label of {whose} of 1 to {LENGTH_MAX} letters, digits and characters of _.-,"
                f" found {label!r}"
            )
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if not isinstance(text, str) or not _is_value(text):
            raise RowError(f"expected {VALUES} of the label {label} of {whose}, found {value!r}")
        found[label] = text
    return found


def parse_labels(words: Iterable[str], whose: str = "a member") -> dict[str, str]:
    """Return the labels in words such as `region=eu`; a word without a value has the value `true`. Raises
    RowError, also for a label that occurs twice."""
    found = dict[str, str]()
    for word in words:
        label, equal, value = word.partition("=")
        if label in found:
            raise RowError(f"expected each label of {whose} once, found {label} twice; remove one")
        found[label] = value if equal else "true"
    return check_labels(found, whose)
