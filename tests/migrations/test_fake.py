import sys
from collections import Counter
from random import Random
from typing import Any

import pytest

from everlog import MigrationError, migrations
from everlog.migrations.testdata import Fake
from everlog.store.database import Database
from tests.conformance.database_case import AIRPORTS, FLIGHTS, Airport, Flight
from tests.migrations.project import Project


def values(seed: int, locale: str = "en") -> list[Any]:
    fake = Fake(Random(seed), locale)
    names, cities = fake.pool(fake.person.full_name, 10), fake.pool(fake.address.city, 10)
    return [(names(), cities(), fake.of("a", "b")(), fake.text.word()) for _ in range(20)]


def test_the_same_seed_gives_the_same_values() -> None:
    assert values(1) == values(1)
    assert values(1) != values(2)
    assert values(1, "de") != values(1)


def test_a_pool_has_values_that_were_made_once() -> None:
    fake = Fake(Random(1))
    pool = fake.pool(fake.person.full_name, 5)
    assert {pool() for _ in range(200)} == set(pool.values)
    assert len(pool) == 5
    with pytest.raises(ValueError, match="found none"):
        fake.of()


def test_values_of_a_pool_are_alike_likely_and_one_that_is_given_twice_comes_twice_as_often() -> None:
    pool = Fake(Random(1)).of("a", "b", "b")
    drawn = Counter(pool() for _ in range(30_000))
    assert (round(drawn["a"] / 3000), round(drawn["b"] / 3000)) == (3, 7)


def test_keys_that_are_drawn_are_those_of_rows_that_were_yielded() -> None:
    fake = Fake(Random(1))
    airports = list(fake.keep(AIRPORTS, (Airport(faa=f"T{n}") for n in range(10))))
    assert [table for table, _ in airports] == [AIRPORTS] * 10
    drawn = {fake.key(AIRPORTS) for _ in range(500)}
    assert drawn == {row.faa for _, row in airports if isinstance(row, Airport)}
    flights = fake.keep(
        FLIGHTS, (Flight(carrier="UA", number=n, origin=fake.key(AIRPORTS)) for n in range(3))
    )
    assert len(list(flights)) == 3
    assert fake.key(FLIGHTS)[0] == "UA"


def test_keys_of_other_rows_can_be_named() -> None:
    fake = Fake(Random(1))
    fake.known(AIRPORTS, ["JFK"])
    assert fake.key(AIRPORTS) == "JFK"


def test_a_reference_to_nothing_is_said() -> None:
    with pytest.raises(
        MigrationError, match=r"no row of airports is kept yet: first yield rows with `fake.keep\("
    ):
        Fake(Random(1)).key(AIRPORTS)


def test_without_mimesis_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mimesis", None)
    with pytest.raises(MigrationError, match=r"pip install 'everlog\[testdata\]'"):
        _ = Fake(Random(1)).person


def test_a_folder_makes_its_test_data_with_it(project: Project, db: Database) -> None:
    code = """
        from everlog.migrations import Fake
        from . import AIRPORTS, Airport

        def rows(random, scale):
            fake = Fake(random)
            city = fake.pool(fake.address.city, 50)
            yield from fake.keep(AIRPORTS, (Airport(faa=f"{n}", name=city()) for n in range(100 * scale)))
        """
    project.add(files={"testdata.py": code})
    migrations.apply(db, project.build().path)
    assert migrations.load_testdata(db, project.path) == {"airports": 100}
    assert len({row.name for row in db.scan(project.load()[0].tables[0])}) > 20
