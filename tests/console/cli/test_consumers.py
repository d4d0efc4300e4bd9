"""The commands `consumers` and `follow --consumer`."""

from __future__ import annotations

from pathlib import Path

from everlog.store.database import Database
from tests.console.conftest import Run
from tests.console.served import serving


def test_a_follower_registers_and_archiving_leaves_what_it_lacks(everlog: Run, books: Path) -> None:
    assert everlog("consumers").out == "No consumers are registered\n"
    everlog("follow", "--to", "sqlite:mirror.sqlite", "--consumer", "mirror", "--until", "2")
    (found,) = everlog("consumers", "--json").json
    assert (found["name"], found["seq"], found["over"], found["lag_records"] > 0) == ("mirror", 2, "", True)
    assert found["cap"] == {"records": 0, "seconds": 604_800, "bytes": 10 << 30}
    line = everlog("consumers").out
    assert line.startswith("mirror: at 2, ")
    assert line.endswith("; cap 7 days, 10.7 GB\n")
    (done,) = everlog("archive", "old", "--keep-records", "1", "--json").json
    assert (done["base"], done["held"]) == (2, "consumer 'mirror'")
    everlog("follow", "--to", "sqlite:mirror.sqlite", "--consumer", "mirror", "--once")
    (found,) = everlog("consumers", "--json").json
    assert found["lag_records"] == 0
    assert everlog("archive", "old", "--keep-records", "0", "--json").json[0]["base"] == found["seq"] - 1
    assert everlog("consumers", "remove", "mirror", "--reason", "gone").out == "Removed: mirror\n"
    ended = everlog("consumers", "remove", "mirror")
    assert (ended.code, ended.err) == (1, "error: there is no consumer 'mirror'; the consumers are: none\n")


def test_a_cap_is_set_and_who_is_beyond_it_is_shown(everlog: Run, books: Path) -> None:
    everlog("testdata")
    out = everlog("consumers", "register", "mirror", "--cap-records", "1", "--cap-days", "0").out
    assert out.startswith("Registered: mirror: at 0, ")
    assert "beyond its cap, more than 1 record: nothing is held; cap 1 record, 10.7 GB" in out
    assert "  Consumer mirror is beyond its cap: nothing is held for it" in everlog("status").out
    found = everlog("status", "--json").json[0]["consumers"]
    assert (found["registered"], found["over"], found["error"]) == (1, ["mirror"], "")
    assert [one["name"] for one in found["lags"]] == ["mirror"]
    everlog("consumers", "register", "mirror", "--cap-records", "0", "--cap-bytes", "0")
    assert everlog("consumers").out.endswith("cap none\n")
    assert "beyond" not in everlog("status").out


def test_a_new_name_is_registered_by_who_may_write(everlog: Run, books: Path) -> None:
    words = ("follow", "--to", "sqlite:mirror.sqlite", "--once", "--consumer", "mirror")
    with Database(books) as db:
        ended = everlog(*words)
        assert ended.code == 1
        assert "consumer 'mirror' is new and could not be registered" in ended.err
        assert "is open for writing by process" in ended.err
        db.consumers.register("mirror")
        db.tables.flush()
        db.engine.flush()
        assert everlog(*words).code == 0
        assert db.consumers["mirror"].position == db.cursor()


def test_consumers_of_a_server(everlog: Run, books: Path) -> None:
    with serving() as served:
        words = ("-u", served.url, "follow", "--to", "sqlite:mirror.sqlite", "--once", "--consumer", "mirror")
        assert everlog(*words).code == 0
        (found,) = everlog("-u", served.url, "consumers", "--json").json
        assert (found["name"], found["lag_records"]) == ("mirror", 0)
        assert everlog("-u", served.url, "status", "--json").json[0]["consumers"]["registered"] == 1
        assert everlog("-u", served.url, "consumers", "remove", "mirror").code == 0
        assert everlog("-u", served.url, "consumers").out == "No consumers are registered\n"
