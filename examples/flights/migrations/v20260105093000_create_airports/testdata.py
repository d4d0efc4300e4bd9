"""Airports to test with: believable, under codes that no real one has."""

from collections.abc import Iterator
from random import Random

from everlog.migrations import Fake, Row

from . import AIRPORTS, Airport


def rows(random: Random, scale: int) -> Iterator[Row]:
    fake = Fake(random)
    city = fake.pool(fake.address.city)
    kind = fake.of("Municipal", "Regional", "Regional", "International")
    yield from fake.keep(
        AIRPORTS,
        (
            Airport(
                faa=f"T{number:05}",
                name=f"{city()} {kind()}",
                lat=round(random.uniform(25, 49), 6),
                lon=round(random.uniform(-124, -67), 6),
                alt=random.randint(0, 9_000),
                tz=random.randint(-8, -5),
                dst="A",
            )
            for number in range(100 * scale)
        ),
    )
