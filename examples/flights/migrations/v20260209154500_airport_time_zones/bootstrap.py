"""The 1,458 airports again, now with their time zones."""

from collections.abc import Iterator

from everlog.migrations import Row
from flights.source import read

from . import AIRPORTS, Airport


def rows() -> Iterator[Row]:
    for airport in read("airports", Airport):
        yield AIRPORTS, airport
