"""Rows: the row that every subject stores, in the form that each subject needs.

    id uint64 · name short string, indexed · kind short string · price double · amount int64 ·
    payload string of 100 bytes

Row i is the same in every subject and every run. Ids ascend; names do not, so index entries are written all
over the index.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple, TypeVar

T = TypeVar("T")

_KINDS = [f"kind-{number:02}" for number in range(50)]
_TEXT = "the quick brown fox jumps over the lazy dog, and the log remembers every single jump of it; " * 3


class Row(NamedTuple):
    """A row in the form that SQLite needs; `items.message` converts it to everlog's."""

    id: int
    name: str
    kind: str
    price: float
    amount: int
    payload: str


def name(number: int) -> str:
    """Return the name of row `number`: eight letters and digits, different for each row."""
    return f"{number * 2654435761 % (1 << 32):08x}"


def row(number: int) -> Row:
    at = number % 90
    return Row(number, name(number), _KINDS[number % 50], number * 0.25, -number * 7919, _TEXT[at : at + 100])


def rows(n: int, first: int = 1) -> Iterator[Row]:
    return map(row, range(first, first + n))


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items; the last may be shorter."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch
