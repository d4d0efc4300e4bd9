"""The flights: a row is found by its day, then carrier, number and origin."""

from everlog.migrations import INT32, STRING, TIMESTAMP, Fields, Index, Migration, Table

from .model_pb2 import Airline, Airport, Flight, Plane, Weather

__all__ = [
    "AIRLINES",
    "AIRPORTS",
    "FLIGHTS",
    "MIGRATION",
    "PLANES",
    "WEATHER",
    "Airline",
    "Airport",
    "Flight",
    "Plane",
    "Weather",
]

_airline = Fields(Airline)
CARRIER = _airline("carrier", 1, STRING)
AIRLINE_NAME = _airline("name", 2, STRING)

AIRLINES = Table("airlines", Airline, key=CARRIER, indexes=(Index("by_name", AIRLINE_NAME, unique=True),))

_airport = Fields(Airport)
FAA = _airport("faa", 1, STRING)

AIRPORTS = Table("airports", Airport, key=FAA)

_flight = Fields(Flight)
YEAR = _flight("year", 1, INT32)
MONTH = _flight("month", 2, INT32)
DAY = _flight("day", 3, INT32)
FLOWN_BY = _flight("carrier", 4, STRING)
FLIGHT = _flight("flight", 5, INT32)
ORIGIN = _flight("origin", 6, STRING)

FLIGHTS = Table("flights", Flight, key=(YEAR, MONTH, DAY, FLOWN_BY, FLIGHT, ORIGIN))

_plane = Fields(Plane)
TAILNUM = _plane("tailnum", 1, STRING)
MANUFACTURER = _plane("manufacturer", 4, STRING)

PLANES = Table("planes", Plane, key=TAILNUM, indexes=(Index("by_manufacturer", MANUFACTURER),))

_weather = Fields(Weather)
STATION = _weather("origin", 1, STRING)
TIME_HOUR = _weather("time_hour", 2, TIMESTAMP)

WEATHER = Table("weather", Weather, key=(STATION, TIME_HOUR))

MIGRATION = Migration(tables=[AIRLINES, AIRPORTS, FLIGHTS, PLANES, WEATHER])
