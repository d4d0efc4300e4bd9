"""Repair: what it saves, what it removes, and that it keeps the removed files."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from everlog.store.errors import CorruptionError, Error, OpenError
from everlog.store.rocks.ownership import unwritten
from everlog.store.upkeep.repair import DAMAGED, repair
from tests.store.conftest import Opener
from tests.store.models import ITEMS, Item


def filled(opening: Opener, rows: int = 2000) -> int:
    """Return the head of a closed database with this number of commits."""
    db = opening()
    for number in range(1, rows + 1):
        db.put(ITEMS, Item(id=number, text=f"n{number}"), durability="os")
    db.close()
    return db.head


def flip(file: Path, at: float = 0.5) -> None:
    content = bytearray(file.read_bytes())
    content[int(len(content) * at)] ^= 1
    file.write_bytes(bytes(content))


def largest(path: Path, pattern: str) -> Path:
    return max((path / "db").glob(pattern), key=lambda file: file.stat().st_size)


def content(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != "LOCK"
    }


def test_a_whole_database_is_kept_whole(opening: Opener, path: Path) -> None:
    head = filled(opening, 50)
    done = repair(path)
    assert (done.records, done.cut, done.why) == (head, 0, "")
    db = opening()
    assert db.head == head
    assert db.get(ITEMS, 50) == Item(id=50, text="n50")


def listed(path: Path) -> dict[str, tuple[int, ...]]:
    """Return what a listing shows of each file, and of the directory itself."""
    return {
        str(file): (found.st_ino, found.st_mode, found.st_nlink, found.st_size, found.st_mtime_ns)
        for file in (path, *path.rglob("*"))
        for found in [file.lstat()]
    }


def between_renames(path: Path) -> None:
    """As a repair leaves it that was killed between its two renames."""
    (path / "db").rename(path / f"{DAMAGED}1")
    (path / "repair" / "new").mkdir(parents=True)


@pytest.mark.parametrize(
    "damage",
    [
        str,  # none
        lambda path: flip(largest(path, "*.sst")),
        lambda path: (path / "db" / "CURRENT").unlink(),
        lambda path: (path / "HEAD").unlink(),
        lambda path: (path / "LOCK").unlink(),
        between_renames,
    ],
    ids=["whole", "flipped", "CURRENT", "HEAD", "LOCK", "killed"],
)
def test_a_dry_run_writes_nothing_and_says_what_the_repair_does(
    opening: Opener, path: Path, damage: Callable[[Path], object]
) -> None:
    filled(opening, 1000)
    damage(path)
    before = content(path), listed(path)
    tried = repair(path, dry_run=True)
    assert (content(path), listed(path)) == before
    assert "everlog repair" not in tried.why
    done = repair(path)
    assert tried.damaged is None
    assert (tried.records, tried.cut, tried.why) == (done.records, done.cut, done.why)


def test_a_dry_run_of_an_open_database_is_refused_and_one_beside_another_is_not(
    opening: Opener, path: Path
) -> None:
    db = opening()
    before = listed(path)
    with pytest.raises(OpenError, match=r"is open for writing by process .*, which is this process"):
        repair(path, dry_run=True)
    assert set(listed(path)) == set(before)
    db.put(ITEMS, Item(id=1))
    db.close()
    with unwritten(path):
        assert repair(path, dry_run=True).cut == 0
        with pytest.raises(OpenError, match="is open for writing by another process"):
            opening()
    with (path / "db" / "LOCK").open("ab") as old:  # as an older version holds it
        fcntl.lockf(old, fcntl.LOCK_EX)
        words = (sys.executable, "-m", "everlog.console", "-u", f"file:{path}", "repair", "--dry-run")
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert "is open for writing by" in done.stderr


def test_a_log_is_cut_before_its_first_damaged_record(opening: Opener, path: Path) -> None:
    head = filled(opening)
    flip(largest(path, "*.sst"))
    done = repair(path)
    assert done.records + done.cut == head
    assert done.why
    db = opening()
    assert db.head == done.records
    rows = done.records - 2  # the record that created the database, and that of its tables
    assert db.count(ITEMS) == rows
    db.put(ITEMS, Item(id=1, text="again"))


def test_what_was_cut_is_kept_beside_it(opening: Opener, path: Path) -> None:
    filled(opening)
    file = largest(path, "*.sst")
    flip(file)
    damaged = file.read_bytes()
    done = repair(path)
    assert done.damaged == str(path / f"{DAMAGED}1")
    assert (path / f"{DAMAGED}1" / file.name).read_bytes() == damaged


def test_a_lost_end_is_accepted_and_said(opening: Opener, path: Path) -> None:
    head = filled(opening, 50)
    later = opening()
    for number in range(51, 101):
        later.put(ITEMS, Item(id=number))
    later.log.write_head_file(sync=True)
    lost = content(path)
    later.close()
    # As after a crash that also lost the write-ahead log.
    for name in content(path):
        (path / name).unlink()
    for name, data in lost.items():
        if not name.endswith(".log"):
            (path / name).write_bytes(data)
    with pytest.raises(CorruptionError, match="expected the write-ahead log"):
        opening()
    done = repair(path)
    assert (done.records, done.known) == (head, head + 50)
    assert "its end is lost" in done.why
    assert opening().count(ITEMS) == 50


def test_one_that_was_killed_between_its_renamings_begins_again(opening: Opener, path: Path) -> None:
    head = filled(opening, 50)
    (path / "db").rename(path / f"{DAMAGED}1")
    assert repair(path).records == head
    assert opening().count(ITEMS) == 50


@pytest.mark.parametrize("name", ["CURRENT", "MANIFEST"])
def test_files_of_rocksdb_that_are_gone_are_made_again(opening: Opener, path: Path, name: str) -> None:
    head = filled(opening, 50)
    next((path / "db").glob(f"{name}*")).unlink()
    with pytest.raises(Error):
        opening()
    assert repair(path).records == head
    assert opening().count(ITEMS) == 50


def test_what_is_open_or_no_database_is_refused(opening: Opener, path: Path, tmp_path: Path) -> None:
    opening()
    with pytest.raises(OpenError, match="is open for writing by process"):
        repair(path)
    with pytest.raises(OpenError, match="no everlog database"):
        repair(tmp_path / "elsewhere")


def test_nothing_left_is_an_error(opening: Opener, path: Path) -> None:
    filled(opening, 10)
    for file in (path / "db").glob("*.sst"):
        file.unlink()
    before: Callable[[], dict[str, bytes]] = lambda: content(path)  # noqa: E731
    there = before()
    with pytest.raises(CorruptionError, match="restore a backup"):
        repair(path)
    assert before() == there


def flushed_often(opening: Opener) -> int:
    """Return the head of a closed database whose log is in several table files."""
    head = 0
    for number in range(1, 6):
        db = opening()
        head = db.put(ITEMS, Item(id=number), durability="sync").seq
        db.close()
    return head


@pytest.mark.parametrize("part", [0.1, 0.25, 0.5])
def test_a_manifest_that_is_cut_costs_no_table_file(opening: Opener, path: Path, part: float) -> None:
    head = flushed_often(opening)
    [manifest] = (path / "db").glob("MANIFEST-*")
    manifest.write_bytes(manifest.read_bytes()[: int(manifest.stat().st_size * part)])
    there = {file.name for file in (path / "db").glob("*.sst")}
    with pytest.raises(CorruptionError):
        opening()
    assert {file.name for file in (path / "db").glob("*.sst")} == there
    assert repair(path).records == head
    assert opening().count(ITEMS) == 5


@pytest.mark.parametrize("content", [None, b"", b'{"format":1}'])
def test_a_marker_that_is_lost_is_made_again_from_the_log(
    opening: Opener, path: Path, content: bytes | None
) -> None:
    filled(opening, 9)
    marker = path / "EVERLOG"
    before = marker.read_bytes()
    marker.unlink() if content is None else marker.write_bytes(content)
    with pytest.raises(OpenError, match="make it again from the log with `everlog repair`"):
        opening()
    assert repair(path).cut == 0
    assert marker.read_bytes() == before
    assert opening().count(ITEMS) == 9


def test_a_head_that_is_damaged_is_made_again(opening: Opener, path: Path) -> None:
    head = filled(opening, 9)
    (path / "HEAD").write_bytes(b"{")
    with pytest.raises(OpenError, match=r"not a valid HEAD file .* `everlog repair`"):
        opening()
    assert repair(path).records == head
    assert opening().count(ITEMS) == 9
