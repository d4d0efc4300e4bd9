import shutil
from contextlib import closing
from pathlib import Path

import pytest

from everlog.rpc.client.channel import Patience
from everlog.store.database import Database
from everlog.store.errors import DiskError, Error
from everlog.store.upkeep.read_audit import ReadLog
from tests.console.conftest import Run
from tests.console.served import serving


def test_create_makes_a_database_once(everlog: Run, here: Path) -> None:
    assert everlog("-u", "file:new.db", "create").out == "Created: file:new.db\n"
    with Database(here / "new.db", create=False) as db:
        uuid = db.uuid
    assert everlog("-u", "file:new.db", "create").out == "Exists already: file:new.db\n"
    with Database(here / "new.db", create=False) as db:
        assert db.uuid == uuid


@pytest.mark.parametrize("left", [("EVERLOG",), ("EVERLOG", "LOCK"), ("EVERLOG", "LOCK", "OWNER", "db")])
def test_create_completes_what_was_interrupted(everlog: Run, here: Path, left: tuple[str, ...]) -> None:
    everlog("-u", "file:new.db", "create")
    for file in (here / "new.db").iterdir():
        if file.name not in left:
            file.unlink() if file.is_file() else shutil.rmtree(file)
    for file in (here / "new.db").glob("db/*"):
        file.unlink()
    assert "complete it with `everlog create`" in everlog("-u", "file:new.db", "status").err
    assert everlog("-u", "file:new.db", "create").out == "Created: file:new.db\n"
    assert everlog("-u", "file:new.db", "check").code == 0


def test_drop_asks_before_it_removes(everlog: Run, books: Path) -> None:
    ended = everlog("drop")
    assert ended.code == 1
    assert "this deletes" in ended.err
    assert "1 row in 3 commits" in ended.err
    assert books.exists()
    assert everlog("drop", "--yes").out == f"Dropped: file:{books}\n"
    assert not books.exists()
    assert everlog("drop", "--yes").code == 0


def test_drop_leaves_what_somebody_did_not_mean(
    everlog: Run, books: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("click.confirm", lambda *_, **__: False)
    ended = everlog("drop")
    assert (ended.code, ended.err) == (1, "error: nothing was removed\n")
    assert books.exists()


def test_drop_removes_nothing_but_a_database(everlog: Run, here: Path) -> None:
    (here / "letters").mkdir()
    (here / "letters" / "one.txt").write_text("dear")
    ended = everlog("-u", "file:letters", "drop", "--yes")
    assert ended.code == 1
    assert (here / "letters" / "one.txt").exists()


@pytest.mark.parametrize("way", ["file/x.db", "loop", "dangling", "x" * 300])
def test_drop_refuses_a_path_that_cannot_be_a_database(everlog: Run, here: Path, way: str) -> None:
    (here / "file").touch()
    (here / "loop").symlink_to("loop")
    (here / "dangling").symlink_to("nowhere")
    ended = everlog("-u", f"file:{way}", "drop", "--yes")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("error: ")


def test_drop_leaves_what_is_not_of_the_database_and_says_so(everlog: Run, books: Path) -> None:
    everlog("repair")  # keeps the previous files, which are removed as well
    with closing(ReadLog(books, b"0" * 16)) as reads:
        reads.append([b"Ann read it"])
    (books / "letter.txt").write_text("dear")
    (books / "letters").mkdir()
    ended = everlog("drop", "--yes", "--json")
    assert ended.json == [{"url": f"file:{books}", "dropped": True, "left": ["letter.txt", "letters"]}]
    assert sorted(file.name for file in books.iterdir()) == ["letter.txt", "letters"]
    books.rename(books.with_name("letters"))


def test_drop_needs_no_room_on_the_disk_and_no_database_that_can_be_read(
    everlog: Run, books: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (books / "db").glob("*.sst"):
        file.write_bytes(b"damaged")
    monkeypatch.setattr("everlog.store.rocks.files.write", no_room)
    assert "which cannot be read" in everlog("drop").err
    assert everlog("drop", "--yes").out == f"Dropped: file:{books}\n"
    assert not books.exists()


def no_room(*_: object, **__: object) -> None:
    raise DiskError("the disk is full", outcome="nothing written")


def test_drop_leaves_a_database_that_is_open(everlog: Run, books: Path) -> None:
    with Database(books):
        ended = everlog("drop", "--yes")
    assert ended.code == 1
    assert "open for writing" in ended.err
    assert books.exists()


def test_what_only_reads_works_beside_a_process_that_writes(everlog: Run, books: Path) -> None:
    with Database(books):
        for words in (("status",), ("get", "books", "978-0", "1"), ("log",), ("check",), ("export", "books")):
            assert everlog(*words).code == 0, words
        assert "open for writing" in everlog("testdata").err


def test_wait_ends_when_the_database_is_there(everlog: Run, books: Path) -> None:
    assert everlog("wait").out == f"Ready: file:{books}\n"


def test_wait_gives_up_after_a_while(everlog: Run) -> None:
    ended = everlog("-u", "file:never.db", "wait", "--wait-timeout", "0s")
    assert ended.code == 1
    assert "file:never.db is not available" in ended.err


@pytest.mark.parametrize("verb", ["wait", "status"])
@pytest.mark.parametrize(
    "url",
    ["everlog://db.example.com", "postgres://db.example.com/books", "postgres:books", "memory:", "file:"],
)
def test_what_is_no_url_is_not_waited_for(
    everlog: Run, monkeypatch: pytest.MonkeyPatch, verb: str, url: str
) -> None:
    monkeypatch.setattr("time.sleep", no_more)
    ended = everlog("-u", url, verb, "--wait")
    assert ended.code == 1
    assert ended.err.startswith("error: expected ")


def test_a_token_that_is_refused_is_not_waited_for(
    everlog: Run, books: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(EVERLOG_TOKEN="sesame") as server:
        for words in (("wait",), ("status", "--wait")):
            with monkeypatch.context() as patched:
                patched.setattr("time.sleep", no_more)
                ended = everlog("-u", f"{server.url}?token=wrong", *words)
            assert ended.code == 1
            assert "the server refuses the call" in ended.err
            assert everlog("-u", f"{server.url}?token=sesame", *words).code == 0


@pytest.mark.parametrize("words", [("wait",), ("status", "--wait")])
def test_no_time_to_wait_is_one_attempt(
    everlog: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr("time.sleep", no_more)
    monkeypatch.setattr("everlog.rpc.client.channel.Patience.after", attempted)
    ended = everlog("-u", "everlog+insecure://127.0.0.1:1/books", *words, "--wait-timeout", "0s")
    assert ended.code == 1
    assert "cannot be reached" in ended.err
    assert "(waited 0 s)" in ended.err


def no_more(_: float) -> None:
    raise AssertionError("it waits for what never comes")


def attempted(patience: Patience, error: Error) -> None:
    """Stands for a client that does not wait."""
    assert patience._retry_s == 0  # noqa: SLF001
    raise error


def test_a_server_s_database_is_created_and_dropped_where_it_is(everlog: Run) -> None:
    for verb in ("create", "drop"):
        ended = everlog("-u", "everlog://db.example.com/books", verb)
        assert ended.code == 1
        assert "is on a server" in ended.err
