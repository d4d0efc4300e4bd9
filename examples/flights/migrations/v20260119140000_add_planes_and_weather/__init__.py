"""Planes, and the weather at the airports."""

from everlog.migrations import STRING, TIMESTAMP, Fields, Index, Migration, Table

from .model_pb2 import Airline, Airport, Plane, Weather

__all__ = ["AIRLINES", "AIRPORTS", "MIGRATION", "PLANES", "WEATHER", "Airline", "Airport", "Plane", "Weather"]

_airline = Fields(Airline)
CARRIER = _airline("carrier", 1, STRING)
AIRLINE_NAME = _airline("name", 2, STRING)

AIRLINES = Table("airlines", Airline, key=CARRIER, indexes=(Index("by_name", AIRLINE_NAME, unique=True),))

_airport = Fields(Airport)
FAA = _airport("faa", 1, STRING)

AIRPORTS = Table("airports", Airport, key=FAA)

_plane = Fields(Plane)
TAILNUM = _plane("tailnum", 1, STRING)
MANUFACTURER = _plane("manufacturer", 4, STRING)

PLANES = Table("planes", Plane, key=TAILNUM, indexes=(Index("by_manufacturer", MANUFACTURER),))

_weather = Fields(Weather)
STATION = _weather("origin", 1, STRING)
TIME_HOUR = _weather("time_hour", 2, TIMESTAMP)

WEATHER = Table("weather", Weather, key=(STATION, TIME_HOUR))

MIGRATION = Migration(tables=[AIRLINES, AIRPORTS, PLANES, WEATHER])
