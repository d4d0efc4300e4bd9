"""Planes and weather to test with: believable, under tail numbers that no real plane has."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random

from google.protobuf.timestamp_pb2 import Timestamp

from everlog.migrations import Row

from . import PLANES, WEATHER, Plane, Weather

_FIRST = datetime(2014, 1, 1, tzinfo=UTC)  # the real data ends before
_MODELS = (("BOEING", "737-824", 149), ("AIRBUS", "A320-232", 200), ("EMBRAER", "EMB-145LR", 55))
_ORIGINS = ("EWR", "JFK", "LGA")


def rows(random: Random, scale: int) -> Iterator[Row]:
    for plane in _planes(random, 20 * scale):
        yield PLANES, plane
    for hour in _weather(random, 24 * scale):
        yield WEATHER, hour


def _planes(random: Random, count: int) -> Iterator[Plane]:
    for number in range(count):
        maker, model, seats = random.choice(_MODELS)
        yield Plane(
            tailnum=_tailnum(number),
            year=random.randint(1985, 2013),
            type="Fixed wing multi engine",
            manufacturer=maker,
            model=model,
            engines=2,
            seats=seats,
            engine="Turbo-fan",
        )


def _weather(random: Random, hours: int) -> Iterator[Weather]:
    for hour in range(hours):
        moment = _FIRST + timedelta(hours=hour)
        for origin in _ORIGINS:
            yield Weather(
                origin=origin,
                time_hour=Timestamp(seconds=int(moment.timestamp())),
                year=moment.year,
                month=moment.month,
                day=moment.day,
                hour=moment.hour,
                temp=round(random.gauss(55, 18), 2),
                wind_speed=round(random.expovariate(0.1), 2),
                visib=random.choice([10, 10, 10, 8, 2]),
            )


def _tailnum(number: int) -> str:
    return f"T{number:05}"
