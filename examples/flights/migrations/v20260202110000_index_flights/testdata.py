"""Planes, weather and flights to test with: believable, under tail numbers that no real plane has."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random

from google.protobuf.timestamp_pb2 import Timestamp

from everlog.migrations import Row

from . import FLIGHTS, PLANES, WEATHER, Flight, Plane, Weather

_CARRIERS = ("AA", "B6", "DL", "UA", "WN")
_DESTINATIONS = (("ATL", 746), ("BOS", 187), ("LAX", 2475), ("MIA", 1089), ("ORD", 740))
_FIRST = datetime(2014, 1, 1, tzinfo=UTC)  # the real data ends before
_MODELS = (("BOEING", "737-824", 149), ("AIRBUS", "A320-232", 200), ("EMBRAER", "EMB-145LR", 55))
_ORIGINS = ("EWR", "JFK", "LGA")


def rows(random: Random, scale: int) -> Iterator[Row]:
    planes = 20 * scale
    for plane in _planes(random, planes):
        yield PLANES, plane
    for hour in _weather(random, 24 * scale):
        yield WEATHER, hour
    for flight in _flights(random, 1_000 * scale, planes):
        yield FLIGHTS, flight


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


def _flights(random: Random, count: int, planes: int) -> Iterator[Flight]:
    for number in range(count):
        day, of_day = divmod(number, 1_000)
        leaves = _FIRST + timedelta(days=day, minutes=of_day)
        dest, distance = random.choice(_DESTINATIONS)
        flight = Flight(
            year=leaves.year,
            month=leaves.month,
            day=leaves.day,
            carrier=random.choice(_CARRIERS),
            flight=of_day + 1,
            origin=random.choice(_ORIGINS),
            dest=dest,
            tailnum=_tailnum(random.randrange(planes)),
            sched_dep_time=leaves.hour * 100 + leaves.minute,
            distance=distance,
            hour=leaves.hour,
            minute=leaves.minute,
            time_hour=Timestamp(seconds=int(leaves.timestamp()) // 3_600 * 3_600),
        )
        if random.random() > 0.02:  # else it is cancelled
            flight.dep_delay = round(random.expovariate(0.08)) - 5
            flight.air_time = distance // 8 + random.randint(-10, 20)
        yield flight


def _tailnum(number: int) -> str:
    return f"T{number:05}"
