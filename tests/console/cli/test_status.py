import shutil
from pathlib import Path
from typing import Any

import pytest

from everlog.migrations.status import MigrationInfo, State
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.schema.table import Index, Table
from everlog.store.upkeep import sizes
from everlog.store.upkeep.samples import Samples
from tests.console import shop
from tests.console.conftest import Run
from tests.rpc.refusing import refuse
from tests.store.models import ITEM_ID, ITEMS, TEXT, Item, declare


def test_status_lists_migrations_and_tables(everlog: Run, books: Path) -> None:
    out = everlog("status").out
    assert f"[X] {shop.FIRST}_create_books\n[X] {shop.SECOND}_index_books\n" in out
    assert "Applied: 2\nPending: 0\n" in out
    assert "books" in out
    assert "indexes: by_title" in out


def test_status_as_json_has_all_of_it(everlog: Run, books: Path) -> None:
    (found,) = everlog("status", "--json").json
    assert (found["applied"], found["pending"], found["schema_version"]) == (2, 0, shop.SECOND)
    (table,) = found["tables"]
    assert (table["name"], table["rows"], table["indexes"]) == ("books", 1, ["by_title"])
    assert table["bytes"] >= 0
    assert len(table["index_bytes"]) == 1
    assert found["seq"] == 3
    assert found["health"] == {"ready": True, "state": "ready", "reason": "", "since_ns": 0}
    day, week = found["log_growth"]
    assert (day["records"], week["records"], week["seconds"]) == (3, 3, 7 * 86400)
    assert 0 < day["bytes"] <= found["log_bytes"]
    assert (found["consumers"]["lags"], found["subscriptions"], found["grown_s"]) == ([], [], 0.0)


def test_the_exit_code_says_whether_something_is_pending(everlog: Run, project: Path) -> None:
    common = ("-u", "file:new.db", "-d", project)
    everlog(*common, "up", "--to", shop.FIRST)
    assert everlog(*common, "status").code == 0
    assert everlog(*common, "status", "--exit-code").code == 1
    quiet = everlog(*common, "status", "--quiet")
    assert (quiet.code, quiet.out) == (1, "")
    everlog(*common, "up")
    assert everlog(*common, "status", "--exit-code").code == 0


def test_without_folders_the_log_tells_what_was_applied(everlog: Run, books: Path, here: Path) -> None:
    import os

    del os.environ["EVERLOG_MIGRATIONS_DIR"]
    out = everlog("status").out
    assert f"[>] {shop.FIRST}_create_books  (was applied by newer code)" in out


def test_status_makes_no_database(everlog: Run, here: Path) -> None:
    assert everlog("-u", "file:new.db", "status").code == 1
    assert not (here / "new.db").exists()


def test_status_shows_what_was_edited_since(everlog: Run, project: Path, here: Path) -> None:
    mine = here / "edited_shop" / "migrations"
    shutil.copytree(project, mine)
    (mine.parent / "__init__.py").touch()
    common = ("-u", "file:new.db", "-d", mine)
    assert everlog(*common, "up").code == 0
    assert everlog(*common, "status", "--diff").out == ""
    rows = mine / f"v{shop.FIRST}_create_books" / "bootstrap_books.csv"
    rows.write_text(rows.read_text().replace("9.5", "8.5"))
    assert f"[E] {shop.FIRST}_create_books  (was edited after it ran)" in everlog(*common, "status").out
    diff = everlog(*common, "status", "--diff").out
    assert "-978-0,1,Dune,9.5\n+978-0,1,Dune,8.5\n" in diff
    assert everlog(*common, "status", "--diff", shop.SECOND)[:2] == (0, "")
    assert "there is no migration 5" in everlog(*common, "status", "--diff", "5").err
    (found,) = everlog(*common, "status", "--diff", shop.FIRST, "--json", "--exit-code").json
    assert found == {"version": shop.FIRST, "diff": diff}
    assert everlog(*common, "status", "--diff", "--exit-code").code == 1


INDEXES: tuple[Index[Any], ...] = tuple(Index(f"by_a_text_{n}", TEXT) for n in range(6))
TABLES = [Table(f"table_with_a_long_name_{n}", Item, key=ITEM_ID, indexes=INDEXES) for n in range(20)]


def test_a_busy_server_fits_on_one_screen(everlog: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tables, migrations, consumers and subscriptions, while writes are refused."""
    infos = [MigrationInfo(20260101000000 + n, "name", State.APPLIED, 1, n) for n in range(30)]
    infos += [
        MigrationInfo(
            20270101000000,
            "with_a_long_name_that_says_what_it_does",
            State.BUILDING,
            started_ns=1,
            rows=5_000,
            total=10_000,
            left_s=50.0,
        )
    ]
    with EmbeddedDatabase(here / "x.db") as db:
        declare(db, ITEMS, *TABLES)
        for n in range(12):
            db.consumers.register(f"mirror-{n}")
        db.put(ITEMS, Item(id=1, text="x"))
        with Server({"x": db}) as server, RemoteDatabase(server.url("x")) as remote:
            feeds = [remote.feed() for _ in range(9)]
            for feed in feeds:
                next(iter(feed))
            refuse(db)
            monkeypatch.setattr("everlog.rpc.client.migrations.RemoteMigrations.status", lambda _: infos)
            while "caught up" not in (out := everlog("-u", server.url("x"), "status").out):
                pass
            lines = out.splitlines()
            assert len(lines) < 40, out
            assert max(map(len, lines)) <= 100, out
            assert f"{server.url('x')}: writes refused, commit " in out
            assert "  Writes refused since 20" in out
            assert "5,000 of 10,000 rows done, 100 a second, about 50 s left, until" in " ".join(out.split())
            assert "  Consumer mirror-0: 15 commits behind, for " in out
            assert "  … and 9 more (--verbose)" in out
            assert "  Subscription (127.0.0.1:" in out
            everything = everlog("-u", server.url("x"), "status", "--verbose").out
            assert everything.count("table_with_a_long_name_") == 20
            assert everything.count("  Consumer mirror-") == 12
            assert everything.count("  Subscription (") == 9
            (found,) = everlog("-u", server.url("x"), "status", "--json").json
            assert len(found["subscriptions"]) == 9
            assert [one["records"] for one in found["consumers"]["lags"]] == [15] * 12
            for feed in feeds:
                feed.close()
            db.engine.refusal.end()


def test_the_growth_of_tables_is_that_since_the_oldest_sample(here: Path) -> None:
    with EmbeddedDatabase(here / "x.db") as db:
        declare(db, ITEMS)
        samples = Samples(db.core, db.consumers, db.measure)
        assert samples.growth() == (0.0, {})
        samples.take()
        db.load(ITEMS, (Item(id=n, text=f"{n:x}" * 50) for n in range(5_000)))
        db.engine.flush()
        samples.take()  # too early after the first
        seconds, grown = samples.growth()
        assert seconds > 0
        (table,) = (one for one in db.admin.status().tables if one.name == "items")
        assert grown["items"] == table.bytes + sum(table.index_bytes) > 10_000


def test_the_growth_of_the_log_is_that_of_its_times(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedDatabase(here / "x.db") as db:
        declare(db, ITEMS)
        now = db.clock.last_ns
        monkeypatch.setattr(db.clock, "_wall", lambda: now + 3 * 86400 * 10**9)
        for n in range(100):
            db.put(ITEMS, Item(id=n, text="x" * 1000))
        db.engine.flush()
        day, week = sizes.log_growth(db.core)
        assert (day.records, week.records) == (100, db.head)
        assert 0 < day.bytes < week.bytes <= db.engine.log_bytes()
        monkeypatch.setattr(db.clock, "_wall", lambda: now + 5 * 86400 * 10**9)
        day, week = sizes.log_growth(db.core)
        assert (day.records, day.bytes, week.records) == (0, 0, db.head)
