"""Rows: planes, weather and flights, which are loaded in bulk after the migrations."""

from collections.abc import Iterator

from flights.migrations.v20260209154500_airport_time_zones import Flight, Plane, Weather
from flights.source import read

PLANES_COUNT = 3_322
WEATHER_COUNT = 26_115
FLIGHTS_COUNT = 336_776


def planes() -> Iterator[Plane]:
    return read("planes", Plane)


def weather() -> Iterator[Weather]:
    return read("weather", Weather)


def flights() -> Iterator[Flight]:
    return read("flights", Flight)
