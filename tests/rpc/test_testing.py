from pathlib import Path

import pytest

from everlog import Error
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.testing import at_version, upgrade_to
from flights.migrations.v20260105093000_create_airports import AIRPORTS

SOURCE = "flights.migrations"
FIRST, SECOND, LAST = 20260105093000, 20260112101500, 20260209154500


@pytest.mark.parametrize("on", ["memory", "file", "server"])
def test_a_database_at_a_version_is_upgraded(on: str, tmp_path: Path) -> None:
    with at_version(FIRST, SOURCE, testdata=True, on=on, directory=tmp_path / "db") as db:
        assert isinstance(db, RemoteDatabase if on == "server" else EmbeddedDatabase)
        assert db.count(AIRPORTS) == 1458 + 100
        assert [info.version for info in upgrade_to(db, SECOND)] == [SECOND]
        assert upgrade_to(db)[-1].version == LAST
        assert db.get(AIRPORTS, "JFK") is not None
    assert (tmp_path / "db").exists() == (on == "file")


def test_a_database_in_memory_leaves_nothing() -> None:
    with at_version(FIRST, SOURCE) as db:
        assert isinstance(db, EmbeddedDatabase)
        path = db.path
        assert path.exists()
    assert not path.exists()


def test_what_is_asked_for_wrongly_is_said(tmp_path: Path) -> None:
    with pytest.raises(Error, match="expected a kind of database, memory, file, server, found 'disk'"):
        at_version(FIRST, SOURCE, on="disk").__enter__()
    with pytest.raises(Error, match="expected a `directory`"):
        at_version(FIRST, SOURCE, on="file").__enter__()
    with EmbeddedDatabase(tmp_path / "db") as db:
        with pytest.raises(Error, match="expected its migrations as `source`"):
            upgrade_to(db)
        assert upgrade_to(db, FIRST, source=SOURCE)[-1].version == FIRST
