"""Airports to test with, under codes that no real one has."""

from collections.abc import Iterator
from random import Random

from everlog.migrations import Row

from . import AIRPORTS, Airport


def rows(random: Random, scale: int) -> Iterator[Row]:
    for number in range(100 * scale):
        yield (
            AIRPORTS,
            Airport(
                faa=f"T{number:05}",
                name=f"{random.choice(['North', 'South', 'East', 'West'])} Field {number}",
                lat=round(random.uniform(25, 49), 6),
                lon=round(random.uniform(-124, -67), 6),
                alt=random.randint(0, 9_000),
                tz=random.randint(-8, -5),
                dst="A",
            ),
        )
