"""Planes, weather and flights to test with: believable, under tail numbers that no real plane has."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random

from google.protobuf.timestamp_pb2 import Timestamp

from everlog.migrations import Fake, Row

from . import FLIGHTS, PLANES, WEATHER, Flight, Plane, Weather

_CARRIERS = ("AA", "B6", "DL", "UA", "WN")
_DESTINATIONS = (("ATL", 746), ("BOS", 187), ("LAX", 2475), ("MIA", 1089), ("ORD", 740))
_FIRST = datetime(2014, 1, 1, tzinfo=UTC)  # the real data ends before
_MODELS = (("BOEING", "737-824", 149), ("AIRBUS", "A320-232", 200), ("EMBRAER", "EMB-145LR", 55))
_ORIGINS = ("EWR", "JFK", "LGA")


def rows(random: Random, scale: int) -> Iterator[Row]:
    fake = Fake(random)
    yield from fake.keep(PLANES, _planes(fake, 20 * scale))
    yield from fake.keep(WEATHER, _weather(fake, 24 * scale))
    yield from fake.keep(FLIGHTS, _flights(fake, 1_000 * scale))


def _planes(fake: Fake, count: int) -> Iterator[Plane]:
    model, year = fake.of(*_MODELS), fake.of(*range(1985, 2014))
    for number in range(count):
        maker, name, seats = model()
        yield Plane(
            tailnum=f"T{number:05}",
            year=year(),
            type="Fixed wing multi engine",
            manufacturer=maker,
            model=name,
            engines=2,
            seats=seats,
            engine="Turbo-fan",
        )


def _weather(fake: Fake, hours: int) -> Iterator[Weather]:
    temp = fake.pool(lambda: round(fake.random.gauss(55, 18), 2))
    wind = fake.pool(lambda: round(fake.random.expovariate(0.1), 2))
    sight = fake.of(10, 10, 10, 8, 2)
    for hour in range(hours):
        moment = _FIRST + timedelta(hours=hour)
        time_hour = Timestamp(seconds=int(moment.timestamp()))
        for origin in _ORIGINS:
            yield Weather(
                origin=origin,
                time_hour=time_hour,
                year=moment.year,
                month=moment.month,
                day=moment.day,
                hour=moment.hour,
                temp=temp(),
                wind_speed=wind(),
                visib=sight(),
            )


def _flights(fake: Fake, count: int) -> Iterator[Flight]:
    carrier, origin, route = fake.of(*_CARRIERS), fake.of(*_ORIGINS), fake.of(*_DESTINATIONS)
    delay = fake.pool(lambda: round(fake.random.expovariate(0.08)) - 5)
    longer = fake.of(*range(-10, 21))
    cancelled = fake.of(True, *[False] * 49)
    for number in range(count):
        day, of_day = divmod(number, 1_000)
        leaves = _FIRST + timedelta(days=day, minutes=of_day)
        dest, distance = route()
        flight = Flight(
            year=leaves.year,
            month=leaves.month,
            day=leaves.day,
            carrier=carrier(),
            flight=of_day + 1,
            origin=origin(),
            dest=dest,
            tailnum=fake.key(PLANES),
            sched_dep_time=leaves.hour * 100 + leaves.minute,
            distance=distance,
            hour=leaves.hour,
            minute=leaves.minute,
            time_hour=Timestamp(seconds=int(leaves.timestamp()) // 3_600 * 3_600),
        )
        if not cancelled():
            flight.dep_delay = delay()
            flight.air_time = distance // 8 + longer()
        yield flight
