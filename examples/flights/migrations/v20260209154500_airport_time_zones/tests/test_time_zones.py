"""The example of tests in a migration's folder: what its bootstrap rows have, and what they keep."""

from everlog import EmbeddedDatabase
from everlog.testing import Opener, upgrade_to
from flights.migrations.v20260105093000_create_airports import AIRPORTS as AIRPORTS_BEFORE
from flights.migrations.v20260209154500_airport_time_zones import AIRPORTS


def test_airports_have_their_time_zone(everlog_db: EmbeddedDatabase) -> None:
    airport = everlog_db.get(AIRPORTS, "JFK")
    assert airport is not None
    assert airport.tzone == "America/New_York"


def test_airports_of_the_first_version_keep_all_else(everlog_at: Opener) -> None:
    db = everlog_at(20260105093000, testdata=True)
    before = {airport.faa: airport.name for airport in db.scan(AIRPORTS_BEFORE)}
    upgrade_to(db, 20260209154500)
    assert {airport.faa: airport.name for airport in db.scan(AIRPORTS)} == before
