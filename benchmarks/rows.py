"""Rows: the row that every subject stores, in the form that each of them takes.

    id uint64 · name short string, indexed · kind short string · price double · amount int64 ·
    payload string of 100 bytes

Row i is the same in every subject and every run. Ids ascend; names do not, so index entries land
all over the index.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple, TypeVar

T = TypeVar("T")

_KINDS = [f"kind-{number:02}" for number in range(50)]
_TEXT = "the quick brown fox jumps over the lazy dog, and the log remembers every single jump of it; " * 3


class Row(NamedTuple):
    """As SQLite takes it; `items.message` makes everlog's of it."""

    id: int
    name: str
    kind: str
    price: float
    amount: int
    payload: str


def name(number: int) -> str:
    """The name of row `number`: eight letters and digits, all different."""
    return f"{number * 2654435761 % (1 << 32):08x}"


def row(number: int) -> Row:
    at = number % 90
    return Row(number, name(number), _KINDS[number % 50], number * 0.25, -number * 7919, _TEXT[at : at + 100])


def rows(n: int, first: int = 1) -> Iterator[Row]:
    return map(row, range(first, first + n))


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items; the last may be shorter."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch
