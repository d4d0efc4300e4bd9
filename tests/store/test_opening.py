"""Opening: the right database, or an error with the reason; nothing is created or repaired."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import everlog
from everlog.store.database import Database
from everlog.store.errors import ClosedError, CorruptionError, Error, OpenError, ReadOnlyError
from everlog.store.rocks import files
from everlog.store.tx.transaction import Transaction
from everlog.store.upkeep.repair import repair
from tests.store.conftest import Opener
from tests.store.models import ITEMS, Item, declare, items, open_flights


def tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_new_database_says_which_it_is_from_its_first_record(path: Path) -> None:
    with Database(path) as db:
        first = db.log.commit(1)
        assert first.created.database == db.uuid
        assert len(db.uuid) == 16
        assert first.created.format == files.FORMAT
        assert first.created.software.startswith("everlog")
        assert (db.head, db.schema.version) == (1, 0)
        uuid = db.uuid
    with Database(path) as db:
        assert db.uuid == uuid


def test_what_was_written_is_there_again(opening: Opener) -> None:
    db = opening()
    db.load(ITEMS, items(1, 100))
    before, cursor = db.admin.hashes(), db.cursor()
    db.close()
    db.close()
    db = opening()
    assert (db.admin.hashes(), db.cursor()) == (before, cursor)
    assert db.put(ITEMS, Item(id=1)).seq == cursor.seq + 1


def nothing(path: Path) -> None:
    """Leave the path empty."""


def a_file(path: Path) -> None:
    path.write_text("x")


def foreign(path: Path) -> None:
    path.mkdir()
    (path / "letter.txt").write_text("dear")


def newer(path: Path) -> None:
    Database(path).close()
    (path / files.MARKER).write_text('{"format":2,"database":"x"}')


def no_marker(path: Path) -> None:
    Database(path).close()
    (path / files.MARKER).unlink()


def garbled_marker(path: Path) -> None:
    Database(path).close()
    (path / files.MARKER).write_text("\0" * 40)


def no_rocksdb(path: Path) -> None:
    Database(path).close()
    shutil.rmtree(path / "db")


def no_current(path: Path) -> None:
    Database(path).close()
    (path / "db" / "CURRENT").unlink()


def no_manifest(path: Path) -> None:
    Database(path).close()
    next((path / "db").glob("MANIFEST*")).unlink()


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("there", "words"),
    [
        (a_file, "db is a file; an everlog database is a directory"),
        (foreign, "is not an everlog database: it has other files and no EVERLOG; name another directory"),
        (newer, "has format 2, this version of everlog supports up to 1"),
        (no_marker, "has a database, but its file EVERLOG is missing"),
        (garbled_marker, "is not a valid EVERLOG file of everlog"),
        (no_rocksdb, "the log was on disk up to record 1, but its files are missing: there is no db/CURRENT"),
        (no_current, "the log was on disk up to record 1, but its files are missing: there is no db/CURRENT"),
        (no_manifest, "No such file"),
    ],
)
def test_what_is_no_database_is_refused_and_not_touched(
    path: Path, there: Callable[[Path], None], words: str, read_only: bool
) -> None:
    there(path)
    before = path.read_bytes() if path.is_file() else tree(path)
    with pytest.raises(Error, match=words):
        Database(path, read_only=read_only)
    after = path.read_bytes() if path.is_file() else tree(path)
    if isinstance(before, dict) and isinstance(after, dict):
        lost = {name for name in before if after.get(name) != before[name] and "rocksdict" not in name}
        assert not {name for name in lost if "LOG" not in name.rsplit("/", 1)[-1]}
    else:
        assert before == after


@pytest.mark.parametrize("below", ["", "x.db", "above/x.db"])
def test_a_path_at_or_below_a_file_is_refused_everywhere(path: Path, below: str) -> None:
    path.write_text("not a database")
    for use in (
        lambda: everlog.open(f"file:{path / below}"),
        lambda: everlog.open(f"file:{path / below}", read_only=True),
        lambda: repair(path / below),
        lambda: files.read_marker(path / below),
    ):
        with pytest.raises(OpenError, match=f"{path} is a file; an everlog database is a directory"):
            use()
    assert path.read_text() == "not a database"


def test_a_marker_that_cannot_be_read_is_not_said_to_be_invalid(path: Path) -> None:
    Database(path).close()
    (path / "EVERLOG").unlink()
    (path / "EVERLOG").symlink_to("EVERLOG")  # as without permission or descriptors, but for root as well
    with pytest.raises(OpenError, match=r"db/EVERLOG cannot be read: Too many levels of symbolic links"):
        Database(path)


@pytest.mark.parametrize("options", [{"create": False}, {"read_only": True}])
def test_nothing_is_made_where_a_database_was_expected(path: Path, options: dict[str, bool]) -> None:
    with pytest.raises(OpenError, match=r"there is no database at .*; check the path, or create it first"):
        Database(path, **options)  # type: ignore[arg-type]
    assert not path.exists()


def test_a_database_whose_making_was_interrupted_is_made_anew(path: Path) -> None:
    Database(path).close()
    shutil.rmtree(path / "db")
    (path / files.HEAD).unlink()
    with Database(path) as db:
        assert db.head == 1


def test_a_database_of_which_only_the_marker_was_begun_is_made(path: Path) -> None:
    path.mkdir()
    (path / f"{files.MARKER}.new").write_bytes(b"")
    with pytest.raises(OpenError, match="there is no database"):
        Database(path, read_only=True)
    with Database(path) as db:
        assert db.head == 1


def test_a_second_opener_is_told_who_has_it(opening: Opener, path: Path) -> None:
    db = opening()
    db.put(ITEMS, Item(id=1))
    with pytest.raises(
        OpenError,
        match=f"is open for writing by process {os.getpid()} on .* since 20.*, which is this process;",
    ):
        Database(path)
    script = "import sys; from everlog.store.database import Database; Database(sys.argv[1])"
    run = subprocess.run(
        [sys.executable, "-c", script, str(path)], check=False, capture_output=True, text=True, timeout=60
    )
    assert f"is open for writing by process {os.getpid()}" in run.stderr
    assert db.get(ITEMS, 1) == Item(id=1)


def fails_at_its_end(tx: Transaction) -> None:
    assert tx.get(ITEMS, 1) is not None
    tx.put(ITEMS, Item(id=2))
    tx.insert(ITEMS, Item(id=1))


def test_it_opens_again_though_errors_of_the_last_time_are_kept(opening: Opener) -> None:
    db = opening()
    db.put(ITEMS, Item(id=1))
    kept: list[Exception] = []
    for fails in (
        lambda: db.insert(ITEMS, Item(id=1)),
        lambda: db.run(fails_at_its_end),
        lambda: list(db.scan(ITEMS, resume=b"x")),
        lambda: declare(db, ITEMS, rows=[(ITEMS, Item(id=2)), (ITEMS, "no row")]),
    ):
        with pytest.raises(Error) as caught:
            fails()
        kept.append(caught.value)
    db.close()
    assert opening().count(ITEMS) == 1
    assert len(kept) == 4


def test_a_database_is_not_used_in_a_forked_child(db: Database) -> None:
    db.put(ITEMS, Item(id=1))
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def child() -> None:
        for use in (
            lambda: db.get(ITEMS, 1),
            lambda: db.put(ITEMS, Item(id=2)),
            lambda: list(db.scan(ITEMS)),
            db.snapshot,
            db.close,
        ):
            try:
                answers.put(str(use()))
            except ClosedError as error:
                answers.put(str(error))

    process = context.Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    found = [answers.get() for _ in range(5)]
    assert all("was opened before this process was forked" in one for one in found[:4])
    assert found[4] == "None"
    assert db.put(ITEMS, Item(id=3)).seq == db.head


def test_after_closing_everything_says_so(opening: Opener) -> None:
    db = opening()
    db.close()
    for use in (
        lambda: db.get(ITEMS, 1),
        lambda: db.put(ITEMS, Item(id=1)),
        lambda: db.scan(ITEMS),
        lambda: db.count(ITEMS),
        db.snapshot,
        db.admin.hashes,
        db.admin.check,
        db.admin.rebuild,
        db.cursor,
        db.admin.status,
        db.migration_records,
        lambda: db.load(ITEMS, []),
    ):
        with pytest.raises(ClosedError, match="is closed; open it again"):
            use()


def test_head_says_no_more_than_is_on_disk(opening: Opener, path: Path) -> None:
    db = opening()
    db.put(ITEMS, Item(id=1))
    db.close()
    known = files.read(path / files.HEAD, files.Head)
    assert known is not None
    assert known.seq == db.head
    assert not (path / files.OWNER).exists()
    (path / files.HEAD).write_text('{"seq":99,"checksum":1}')
    for read_only in (False, True):
        with pytest.raises(
            CorruptionError, match=r"on disk up to record 99 .* found it up to 3: its end is lost"
        ):
            Database(path, read_only=read_only)
    (path / files.HEAD).write_text('{"seq":2,"checksum":1}')
    with pytest.raises(CorruptionError, match="lost or changed"):
        Database(path)
    (path / files.HEAD).unlink()
    opening().log.write_head_file(sync=True)


def test_status_is_numbers(db: Database) -> None:
    db.put(ITEMS, Item(id=1))
    status = db.admin.status()
    assert (status.head, status.oldest, status.schema_version, status.format) == (3, 1, 1, files.FORMAT)
    assert [(table.name, table.rows) for table in status.tables] == [
        ("airports", 0),
        ("items", 1),
        ("seats", 0),
    ]
    assert status.tables[0].indexes == ["by_city", "by_lat", "by_icao"]
    assert status.disk_bytes > 0
    assert status.checksum == db.cursor().checksum


def test_writing_to_what_is_open_for_reading_is_refused(opening: Opener) -> None:
    opening().close()
    db = opening(read_only=True)
    for write in (
        lambda: db.put(ITEMS, Item(id=1)),
        db.transaction,
        lambda: db.load(ITEMS, []),
        lambda: declare(db, ITEMS),
        db.admin.rebuild,
    ):
        with pytest.raises(ReadOnlyError, match="was opened for reading; open it without read_only to write"):
            write()


def test_a_head_that_is_not_there_is_made_anew(tmp_path: Path) -> None:
    open_flights(tmp_path / "db", ITEMS).close()
    (tmp_path / "db" / files.HEAD).unlink()
    with Database(tmp_path / "db", create=False) as db:
        assert list(db.admin.check()) == []
