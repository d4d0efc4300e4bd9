"""Writer: a client that changes rows while the server is killed and restarted.

    python -m flights.demo.writer URL JOURNAL

Each edit is a transaction with its number as the reason. When the server has acknowledged it, its number, seq
and checksum are written to the journal. The demo proves that every commit in the journal is in the log.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

import everlog
from everlog import EmbeddedDatabase, Transaction
from flights.migrations.v20260209154500_airport_time_zones import (
    AIRPORTS,
    FLIGHTS,
    PLANES,
    WEATHER,
    Flight,
    Plane,
)

EVERY_S = 1 / 400  # limited, so that the other processes get processor time


class Acknowledged(NamedTuple):
    """A line of the journal."""

    number: int
    seq: int
    checksum: int


def main(url: str, journal: Path) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with everlog.open(url, timeout=30) as db, journal.open("a") as out:
        assert not isinstance(db, EmbeddedDatabase)
        editor = Editor(list(db.scan(FLIGHTS, (2013, 1, 1))), Random(2013))
        number = 0
        while not stop.wait(EVERY_S):
            number += 1
            done: Transaction | None = None

            def edit(tx: Transaction) -> None:
                nonlocal done
                done = tx
                editor.edit(tx, number)  # noqa: B023  it runs before the number moves on

            db.run(edit, actor="writer", reason=f"edit {number}")
            assert done is not None
            result = done.result
            assert result is not None
            print(number, result.seq, result.checksum, file=out, flush=True)


class Editor:
    """Makes changes to rows of several tables."""

    def __init__(self, flights: list[Flight], random: Random) -> None:
        self._flights = flights
        self._random = random

    def edit(self, tx: Transaction, number: int) -> None:
        kind = number % 10
        if kind == 0:
            tx.put(PLANES, Plane(tailnum=f"D{number:06}", manufacturer="DEMO", year=2013))
        elif kind == 5 and number > 15:
            tx.delete(PLANES, f"D{number - 15:06}")
        elif kind == 7:
            self._windier(tx)
        else:
            self._later(tx)

    def _later(self, tx: Transaction) -> None:
        """Change two rows in one transaction: a flight arrives later, and the airport rises by a foot."""
        known = self._random.choice(self._flights)
        flight = tx.get(
            FLIGHTS, (known.year, known.month, known.day, known.carrier, known.flight, known.origin)
        )
        airport = tx.get(AIRPORTS, known.origin)
        assert flight is not None
        assert airport is not None
        flight.arr_delay += 1
        airport.alt += 1
        tx.put(FLIGHTS, flight)
        tx.put(AIRPORTS, airport)

    def _windier(self, tx: Transaction) -> None:
        for hour in tx.scan(WEATHER, "JFK", limit=1):
            hour.wind_speed += 0.5
            tx.put(WEATHER, hour)


def read(journal: Path) -> Iterator[Acknowledged]:
    """Yield the acknowledged edits so far, without an incomplete last line."""
    if journal.exists():
        for line in journal.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                yield Acknowledged(*map(int, line.split()))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
