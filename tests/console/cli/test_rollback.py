import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from everlog.store.database import Database
from tests.console import shop
from tests.console.conftest import Run

LOST = "1 row of table books, which is dropped; the log keeps them"


def test_rollback_takes_back_the_last_migration_and_up_brings_it_again(everlog: Run, books: Path) -> None:
    ended = everlog("rollback", "--actor", "ann", "--reason", "a slip")
    assert ended.code == 0
    assert ended.out.split(" in ")[0] == f"Rolled back: {shop.SECOND}_index_books"
    assert f"[ ] {shop.SECOND}_index_books" in everlog("status").out
    commit = everlog("log", "--json").json[-1]
    assert (commit["actor"], commit["reason"]) == ("ann", "a slip")
    assert everlog("up").out.split(" in ")[0] == f"Applied: {shop.SECOND}_index_books"


def what_is(everlog: Run) -> dict[str, Any]:
    """Return the status without the current time."""
    (status,) = everlog("status", "--json").json
    return {name: value for name, value in status.items() if name != "clock"}


def test_a_dry_run_tells_what_would_be_lost_and_does_nothing(everlog: Run, books: Path) -> None:
    before = what_is(everlog)
    assert everlog("rollback", "2", "--dry-run").out.splitlines() == [
        f"Would roll back: {shop.SECOND}_index_books",
        "  drop index books.by_title",
        f"Would roll back: {shop.FIRST}_create_books",
        "  drop table books with its 1 row",
        f"  lost: {LOST}",
    ]
    told = everlog("--json", "rollback", "--to", "0", "--dry-run").json
    assert [one["lost"] for one in told] == [[], [LOST]]
    assert what_is(everlog) == before


def test_where_nobody_can_answer_a_loss_wants_to_be_meant(everlog: Run, books: Path) -> None:
    ended = everlog("down", "2")
    assert ended.code == 1
    assert f"this would lose {LOST}; confirm with --yes" in ended.err
    done = everlog("down", "2", "--yes", "--json").json
    assert [(one["version"], one["state"]) for one in done] == [
        (shop.SECOND, "pending"),
        (shop.FIRST, "pending"),
    ]
    assert everlog("rollback").code == 1


def test_on_a_terminal_it_asks(everlog: Run, books: Path) -> None:
    for answer, code, version in ((b"n\n", 130, shop.SECOND), (b"y\n", 0, 0)):
        terminal, stdin = os.openpty()
        os.write(terminal, answer)
        command = [sys.executable, "-m", "everlog.console", "rollback", "2"]
        ended = subprocess.run(command, stdin=stdin, capture_output=True, text=True, timeout=60, check=False)
        os.close(stdin)
        os.close(terminal)
        assert ended.returncode == code
        assert "Roll back nevertheless?" in ended.stderr
        with Database(books, create=False) as db:
            assert db.schema.version == version


def test_back_to_where_it_is_is_nothing(everlog: Run, books: Path) -> None:
    assert everlog("rollback", "--to", shop.SECOND).out.startswith("Nothing to roll back")
