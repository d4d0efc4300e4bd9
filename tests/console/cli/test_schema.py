from pathlib import Path

import pytest

from tests.console import shop
from tests.console.conftest import Run
from tests.console.served import serving
from tests.migrations.project import Project

UNIQUE = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME, unique=True),))'
UP_TO_DATE = "Nothing to apply: the database is up to date\n"


def test_what_dump_writes_load_makes_a_database_of(everlog: Run, books: Path, here: Path) -> None:
    assert everlog("dump").out == "Writing: schema.everlog\n"
    text = (here / "schema.everlog").read_text()
    assert "\ntable books shop.v20260201090000.Book\n  key isbn volume\n  index by_title title\n" in text
    assert everlog("--schema-file", "-", "dump").out == text
    ended = everlog("-u", "file:new.db", "load")
    assert ended.out == f"Loaded: file:new.db is at schema version {shop.SECOND}\n"
    assert everlog("-u", "file:new.db", "status", "--exit-code").code == 0
    assert everlog("-u", "file:new.db", "--schema-file", "-", "dump").out == text
    assert everlog("-u", "file:new.db", "load").code == 1


def test_the_schema_file_follows_each_change_where_one_is_named(
    everlog: Run, project: Path, here: Path
) -> None:
    common = ("-u", "file:new.db", "-d", project, "--schema-file", "db/schema.everlog")
    file = here / "db" / "schema.everlog"
    assert everlog("-u", "file:new.db", "-d", project, "up", "--no-dump-schema").code == 0
    assert not file.exists()
    everlog(*common, "rollback")
    assert "by_title" not in file.read_text()
    assert everlog(*common, "up").out.endswith("Writing: db/schema.everlog\n")
    assert "by_title" in file.read_text()


def test_baseline_has_nothing_to_do_where_all_is_applied(everlog: Run, books: Path) -> None:
    assert everlog("baseline", shop.SECOND).out == "Nothing to adopt: all up to that version are applied\n"
    ended = everlog("baseline", shop.FIRST)
    assert ended.code == 1
    assert "+  index by_title title" in ended.err


def test_baseline_adopts_what_came_without_its_migrations(everlog: Run, project: Path, here: Path) -> None:
    common = ("-u", "file:new.db", "-d", project)
    everlog(*common, "up", "--to", shop.FIRST)
    text = everlog(*common[:2], "--schema-file", "-", "dump").out
    (here / "first.everlog").write_text(
        text.replace(f"migration {shop.FIRST}_create_books", "migration 1_old")
    )
    everlog("-u", "file:other.db", "--schema-file", "first.everlog", "load")
    (done,) = everlog("-u", "file:other.db", "-d", project, "baseline", shop.FIRST, "--json").json
    assert (done["version"], done["state"]) == (shop.FIRST, "applied")
    assert everlog("-u", "file:other.db", "-d", project, "up").out.startswith(f"Applied: {shop.SECOND}")


def test_load_and_baseline_say_the_same_at_a_server(
    everlog: Run, books: Path, project: Path, here: Path
) -> None:
    everlog("dump")
    everlog("-u", "file:new.db", "create")
    with serving("-u", "file:new.db", "-d", str(project)) as served:
        ended = everlog("-u", served.url, "load")
        assert ended.out == f"Loaded: {served.url} is at schema version {shop.SECOND}\n"
        ended = everlog("-u", served.url, "load")
        assert (ended.code, "a schema can only be loaded into an empty database" in ended.err) == (1, True)
        ended = everlog("-u", served.url, "baseline", shop.SECOND)
        assert ended.out == "Nothing to adopt: all up to that version are applied\n"
        ended = everlog("-u", served.url, "baseline", shop.FIRST)
        assert (ended.code, "+  index by_title title" in ended.err) == (1, True)


def test_squash_leaves_one_folder_and_says_how_to_go_on(everlog: Run, here: Path) -> None:
    mine = shop.write(here / "squashed_shop")
    common = ("-u", "file:new.db", "-d", mine)
    everlog(*common, "build")
    everlog(*common, "up")
    assert "confirm with --yes" in everlog(*common, "squash").err
    (done,) = everlog(*common, "--json", "squash", "--yes").json
    assert done["folded"] == [f"v{shop.FIRST}_create_books", f"v{shop.SECOND}_index_books"]
    assert everlog(*common, "up").code == 2
    assert everlog(*common, "baseline", done["version"]).out.startswith(f"Adopted: {done['version']}_base")
    assert everlog(*common, "status", "--exit-code").code == 0
    assert everlog("-u", "file:fresh.db", "-d", mine, "up").code == 0
    assert everlog("-u", "file:fresh.db", "scan", "books", "--count").out == "1\n"


@pytest.mark.long
def test_squash_asks_the_server_that_is_named_whether_it_has_all_folders(everlog: Run, here: Path) -> None:
    mine = shop.write(here / "served_shop")
    common = ("-d", str(mine))
    everlog(*common, "build")
    everlog("-u", "file:new.db", *common, "up", "--to", shop.FIRST)
    with serving("-u", "file:new.db", *common) as served:
        before = sorted(mine.iterdir())
        ended = everlog("-u", served.url, *common, "squash", "--yes")
        assert ended.code == 1
        assert (
            f"{served.url} could not continue from the squashed folder: {shop.SECOND}_index_books is not"
            in ended.err
        )
        assert sorted(mine.iterdir()) == before
        assert everlog("-u", served.url, "up").code == 0
        (done,) = everlog("-u", served.url, *common, "--json", "squash", "--yes").json
    with serving("-u", "file:new.db", *common) as served:
        ended = everlog("-u", served.url, "baseline", done["version"])
        assert ended.out.startswith(f"Adopted: {done['version']}_base")
        assert everlog("-u", served.url, "status", "--exit-code").code == 0


def test_the_schema_file_is_written_whenever_it_is_not_as_it_must_be(everlog: Run, here: Path) -> None:
    made = Project(here)
    made.add("one")
    made.add("two", table=UNIQUE, files={"bootstrap_airports.csv": "faa,name\nJFK,Kennedy\n"})
    made.add("three", table=UNIQUE, files={"bootstrap_airports.csv": "faa,name\nEWR,Kennedy\n"})
    made.build()
    file = here / "kept" / "schema.everlog"
    words = ("-u", "file:new.db", "-d", made.path, "--schema-file", file)
    file.parent.write_text("a file where the directory would be")
    ended = everlog(*words, "up", "--to", "20260101000000")
    assert (ended.code, f"{file} could not be written" in ended.err) == (1, True)
    assert "Applied: 20260101000000_one" in ended.out
    file.parent.unlink()
    assert everlog(*words, "up", "--to", "20260101000000").out == f"Writing: {file}\n{UP_TO_DATE}"
    assert everlog(*words, "up", "--to", "20260101000000").out == UP_TO_DATE
    assert everlog(*words, "up").code == 1
    assert "by_name" in file.read_text()
    assert "three" not in file.read_text()
    file.write_text("stale")
    assert everlog(*words, "up").code == 1
    assert "by_name" in file.read_text()
    assert everlog(*words, "--no-dump-schema", "rollback").code == 0
    assert "by_name" in file.read_text()
