import shutil
from pathlib import Path

from tests.console import shop
from tests.console.conftest import Run


def test_status_lists_migrations_and_tables(everlog: Run, books: Path) -> None:
    out = everlog("status").out
    assert f"[X] {shop.FIRST}_create_books\n[X] {shop.SECOND}_index_books\n" in out
    assert "Applied: 2\nPending: 0\n" in out
    assert "books" in out
    assert "indexes: by_title" in out


def test_status_as_json_has_all_of_it(everlog: Run, books: Path) -> None:
    (found,) = everlog("status", "--json").json
    assert (found["applied"], found["pending"], found["schema_version"]) == (2, 0, shop.SECOND)
    assert found["tables"] == [{"name": "books", "rows": 1, "indexes": ["by_title"]}]
    assert found["seq"] == 3


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
