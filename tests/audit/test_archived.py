"""Archived records: every reader gets them from the archive, or an error that names it if it is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from everlog.audit import archive, backup, restore, verify_backup
from everlog.audit.archived import attach
from everlog.audit.tree import Tree
from everlog.feed.subscription import Subscription
from everlog.rpc.connect import open as connect
from everlog.store.database import Database
from everlog.store.errors import CorruptionError, CursorError, Error
from tests.audit.conftest import Opener
from tests.audit.test_backup import fill
from tests.audit.test_restore import grown
from tests.store.models import AIRPORTS, ITEMS, airport, declare, items


def commits_of(db: Database, after: int = 0) -> bytes:
    """Return all commits that a follower gets."""
    found, subscription = b"", Subscription(db, after=after, bounded=True)
    while (raw := subscription.poll()) is not None:
        found += raw
    return found


def test_an_archive_is_there_again_when_the_database_is_opened(opening: Opener, to: Path) -> None:
    db = opening()
    grown(db)
    tables, cursor, path = db.admin.hashes(), db.cursor(), db.path
    archive(db, to)
    db.close()
    for read_only in (False, True):
        with connect(f"file:{path}", read_only=read_only) as found:
            assert isinstance(found, Database)
            assert found.admin.hashes() == tables
            assert found.cursor() == cursor
            assert found.log.oldest == 1
            assert record_numbers(found) == list(range(1, cursor.seq + 1))
            assert list(found.admin.check()) == []
    with connect(f"file:{path}") as found:
        assert isinstance(found, Database)
        assert found.admin.rebuild() == tables
        fill(found, 9000, 9010)
        assert archive(found, to).removed == 11
        assert found.admin.rebuild() == found.admin.hashes()
        assert backup(found, to.with_name("backup of all")).records == found.head
    assert restore(to.with_name("backup of all"), to.with_name("copy")).seq == cursor.seq + 11


def record_numbers(db: Database) -> list[int]:
    return [seq for seq, _ in db.log.scan()]


def test_a_reader_beside_sees_what_is_archived_meanwhile(opening: Opener, to: Path) -> None:
    db = opening()
    fill(db, 1, 60)
    db.tables.flush()
    db.engine.flush()
    with connect(f"file:{db.path}", read_only=True) as beside:
        assert isinstance(beside, Database)
        archive(db, to, keep_records=5)
        fill(db, 100, 105)
        beside.refresh()
        assert record_numbers(beside) == list(range(1, db.head + 1))
        assert beside.admin.hashes() == db.admin.hashes()


def test_a_reader_beside_sees_each_archiving(opening: Opener, to: Path) -> None:
    """Its list of archives is older than the log, which it reads again."""
    db = opening()
    fill(db, 1, 60)
    db.engine.flush()
    with connect(f"file:{db.path}", read_only=True) as beside:
        assert isinstance(beside, Database)
        for start in (100, 200, 300):
            archive(db, to, keep_records=5)
            beside.refresh()
            assert record_numbers(beside) == list(range(1, db.head + 1))
            with beside.at(seq=db.log.trimmed.base) as then:
                assert then.hashes() == db.at(seq=db.log.trimmed.base).hashes()
            fill(db, start, start + 60)


def test_a_follower_that_is_slow_reads_on_from_the_archive(db: Database, to: Path) -> None:
    fill(db, 1, 50)
    attach(db)
    position = db.log.cursor(7, db.uuid)
    everything = commits_of(db)
    subscription = Subscription(db, after=position, bounded=True)
    assert subscription.poll() is not None
    archive(db, to, keep_records=3)
    found = b""
    while (raw := subscription.poll()) is not None:
        found += raw
    assert db.log.get(8) in found
    assert db.log.get(db.head) in found
    assert Subscription(db, after=db.log.cursor(db.head - 3, db.uuid)).position == db.head - 3
    records = b"".join(framed for _, framed in db.log.scan())
    assert records[:1000] in everything
    assert records[:1000] in commits_of(db)
    diverged = db.log.cursor(7, db.uuid)
    diverged.checksum += 1
    with pytest.raises(CursorError, match="is of another history"):
        Subscription(db, after=diverged)


def test_history_and_moments_and_proofs_reach_back_before_what_was_archived(db: Database, to: Path) -> None:
    for name in ("one", "two", "three"):
        db.put(AIRPORTS, airport("JFK", name))
    seqs = {name: db.head - 2 + at for at, name in enumerate(("one", "two", "three"))}
    fill(db, 1, 20)
    tree = Tree(db)
    size = tree.catch_up()
    root = tree.root(size)
    for keep in (db.head - seqs["one"], db.head - seqs["two"], 1):  # also with the Base at this very seq
        archive(db, to, keep_records=keep)
        for name, seq in seqs.items():
            row = db.at(seq=seq).get(AIRPORTS, "JFK")
            assert row is not None
            assert row.city == name
        assert [version.seq for version in db.history(AIRPORTS, "JFK")] == sorted(seqs.values(), reverse=True)
        assert [version.row.city for version in db.history(AIRPORTS, "JFK") if version.row] == [
            "three", "two", "one",
        ]  # fmt: skip
    assert Tree(db).catch_up() == size
    assert Tree(db).root(size) == root


def test_without_its_archive_a_database_works_and_says_what_is_missing(opening: Opener, to: Path) -> None:
    db = opening()
    fill(db, 1, 50)
    db.load(ITEMS, items(100, 200), id="a load")
    declare(db, ITEMS)
    head, tables, path = db.head, db.admin.hashes(), db.path
    migrations = db.migration_records()
    archive(db, to, keep_records=2)
    db.close()
    shutil.move(to, to.with_name("elsewhere"))
    with connect(f"file:{path}") as found:
        assert isinstance(found, Database)
        assert found.admin.hashes() == tables
        assert found.migration_records() == migrations
        assert found.load(ITEMS, items(100, 200), id="a load").rows == 101
        found.put(ITEMS, *items(1000, 1000))
        declare(found, AIRPORTS, ITEMS)
        with pytest.raises(
            CorruptionError, match=r"record 9 was archived and cannot be read .* no directory"
        ):
            found.log.get(9)
        with pytest.raises(CorruptionError, match="was archived"):
            found.admin.rebuild()
        with pytest.raises(Error, match="was archived"):
            commits_of(found)
        assert commits_of(found, after=head - 2)
    shutil.move(to.with_name("elsewhere"), to)
    (segment,) = to.glob("*.zst")
    segment.rename(segment.with_suffix(".gone"))
    with connect(f"file:{path}") as found:
        assert isinstance(found, Database)
        with pytest.raises(CorruptionError, match=segment.name):
            found.log.get(9)
    segment.with_suffix(".gone").rename(segment)
    with connect(f"file:{path}") as found:
        assert isinstance(found, Database)
        assert found.admin.rebuild() == found.admin.hashes()
    db = opening()
    assert list(db.admin.check()) == []
    with pytest.raises(CursorError, match=r"the log starts at \d+: record 9 was archived and removed"):
        db.log.get(9)


def test_two_targets_are_two_whole_archives_and_one_is_enough(db: Database, to: Path) -> None:
    fill(db, 1, 30)
    other = to.with_name("other")
    archive(db, to, keep_records=10)
    fill(db, 40, 60)
    archive(db, other, keep_records=5)
    assert [list(verify_backup(one, deep=True)) for one in (to, other)] == [[], []]
    shutil.rmtree(to)
    assert db.admin.rebuild() == db.admin.hashes()
    noted = json.loads((db.path / "ARCHIVE").read_text())
    assert [target["url"] for target in noted["targets"]] == [str(other), str(to)]
