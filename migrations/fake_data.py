"""Fake data: realistic values, and rows that refer to each other, all from one seed.

    def rows(random: Random, scale: int) -> Iterator[Row]:
        fake = Fake(random)
        name, city = fake.pool(fake.person.full_name), fake.pool(fake.address.city)
        yield from fake.keep(PEOPLE, (Person(id=n, name=name(), city=city()) for n in range(100 * scale)))
        for n in range(1000 * scale):
            yield ORDERS, Order(id=n, person=fake.key(PEOPLE))      a person that was yielded

The values come from mimesis; `person`, `address` and `text` are its providers, in its languages. It makes
200,000 names a second. `pool` makes some of them once and draws from them thirty times as fast.

Invariants
  (1) The same random and the same calls give the same values.
  (2) A key that is drawn belongs to a row that was yielded before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from operator import attrgetter
from random import Random
from typing import TYPE_CHECKING, Any, Self, TypeVar

from google.protobuf.message import Message

from everlog.migrations.migration import Row
from everlog.store.errors import MigrationError
from everlog.store.schema.table import Table

if TYPE_CHECKING:
    import mimesis

M = TypeVar("M", bound=Message)
K = TypeVar("K")
V = TypeVar("V")

POOL = 1000  # default number of values in a pool
DRAWN = 256  # values drawn at once
LOCALE = "en"


class Pool(partial[V]):
    """Values to draw from: each call returns one of them, all equally likely. Raises ValueError for no
    values.

    A `partial`, for speed, because it is called for most values of most rows: it draws `DRAWN` values at
    once, and a call runs no Python code.
    """

    values: Sequence[V]

    def __new__(cls, random: Random, values: Iterable[V]) -> Self:
        known = tuple(values)
        if not known:
            raise ValueError("expected values to draw from, found none")
        pool = super().__new__(cls, _draws(random, known).__next__)
        pool.values = known
        return pool

    def __len__(self) -> int:
        return len(self.values)


def _draws(random: Random, values: Sequence[V]) -> Iterator[V]:
    while True:
        yield from random.choices(values, k=DRAWN)


class Fake:
    """Makes values and rows. `random` is the argument of `rows`; `locale` is one of mimesis, such as "de"."""

    def __init__(self, random: Random, locale: str = LOCALE) -> None:
        self.random = random
        self.locale = locale
        self._draw = random.random
        self._keys: dict[str, list[Any]] = {}

    @cached_property
    def generic(self) -> mimesis.Generic:
        """All providers of mimesis. Raises MigrationError if it is not installed."""
        try:
            import mimesis  # noqa: PLC0415  the extra `testdata`
        except ImportError as error:
            raise MigrationError(
                "realistic values need mimesis, which is not installed: pip install 'everlog[testdata]'"
            ) from error
        return mimesis.Generic(mimesis.Locale(self.locale), seed=self.random.getrandbits(64))

    @property
    def person(self) -> mimesis.Person:
        """Names, e-mail addresses and other data of persons."""
        return self.generic.person

    @property
    def address(self) -> mimesis.Address:
        """Cities, streets, countries and coordinates."""
        return self.generic.address

    @property
    def text(self) -> mimesis.Text:
        """Words, titles and sentences."""
        return self.generic.text

    def pool(self, make: Callable[[], V], size: int = POOL) -> Pool[V]:
        """Return a pool of `size` values that `make` makes now."""
        return Pool(self.random, (make() for _ in range(size)))

    def of(self, *values: V) -> Pool[V]:
        """Return a pool of these values; one that is given twice is drawn twice as often."""
        return Pool(self.random, values)

    def keep(self, table: Table[M, Any], rows: Iterable[M]) -> Iterator[Row]:
        """Yield the rows of a table, and keep their keys for rows that refer to them."""
        keys = self._keys.setdefault(table.name, [])
        add, key = keys.append, _key(table)
        for row in rows:
            add(key(row))
            yield table, row

    def known(self, table: Table[Any, K], keys: Iterable[K]) -> None:
        """Keep keys of rows that exist without being yielded, such as those of bootstrap data."""
        self._keys.setdefault(table.name, []).extend(keys)

    def key(self, table: Table[Any, K]) -> K:
        """Return the key of a random kept row of that table. Raises MigrationError if none is kept yet."""
        keys = self._keys.get(table.name)
        if not keys:
            raise MigrationError(
                f"no row of {table.name} is kept yet: first yield rows with"
                f" `fake.keep({table.name.upper()}, …)`, or pass existing keys to `fake.known`"
            )
        found: K = keys[int(self._draw() * len(keys))]
        return found


def _key(table: Table[Any, Any]) -> Callable[[Any], Any]:
    """Return the function from a row to its key, as `db.get` takes it."""
    return attrgetter(*(field.dotted for field in table.key))
