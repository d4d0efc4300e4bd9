"""The 16 airlines."""

from collections.abc import Iterator

from everlog.migrations import Row
from flights.source import read

from . import AIRLINES, Airline


def rows() -> Iterator[Row]:
    for airline in read("airlines", Airline):
        yield AIRLINES, airline
