"""A table of airlines."""

from everlog.migrations import STRING, Fields, Index, Migration, Table

from .model_pb2 import Airline, Airport

__all__ = ["AIRLINES", "AIRPORTS", "MIGRATION", "Airline", "Airport"]

_airline = Fields(Airline)
CARRIER = _airline("carrier", 1, STRING)
AIRLINE_NAME = _airline("name", 2, STRING)

AIRLINES = Table("airlines", Airline, key=CARRIER, indexes=(Index("by_name", AIRLINE_NAME, unique=True),))

_airport = Fields(Airport)
FAA = _airport("faa", 1, STRING)

AIRPORTS = Table("airports", Airport, key=FAA)

MIGRATION = Migration(tables=[AIRLINES, AIRPORTS])
