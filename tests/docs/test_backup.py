from pathlib import Path

import pytest

from everlog.store.database import Database
from tests.docs.session import Session, blocks
from tests.store.models import AIRPORTS, airport, declare

PAGE = Path(__file__).parent.parent.parent / "docs" / "backup.md"


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_page_about_backups_does_what_it_says(tmp_path: Path) -> None:
    with Database(tmp_path / "flights.db") as db:
        declare(db, AIRPORTS)
        with db.transaction() as tx:
            tx.put(AIRPORTS, airport("JFK", "New York", icao="KJFK"))
            tx.put(AIRPORTS, airport("LAX", "Los Angeles", icao="KLAX"))
    with Session(tmp_path) as session:
        session.follow(PAGE)
    assert len([block for block in blocks(PAGE) if block.language == "console"]) >= 4
