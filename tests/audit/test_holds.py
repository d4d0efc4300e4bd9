"""Holds: names that keep records, held and released by several callers, also at the same time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from everlog.audit import Retention, archive, holds
from everlog.store.database import Database
from everlog.store.errors import OpenError, RowError
from everlog.store.progress import Progress
from tests.audit.test_backup import fill
from tests.store.models import ITEMS, items

ROOT = Path(__file__).parents[2]
WORK = """
import sys
from pathlib import Path
from everlog.audit import holds
path, who = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for number in range(1, 31):
    holds.hold(path, f"{who}-{number}", number)
    if number % 3 == 0:
        holds.release(path, f"{who}-{number}")
"""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b'{"format":1,"holds":{"audit":',
        b"{}",
        b'{"format":9,"holds":{}}',
        b'{"format":1,"holds":{"a":0}}',
    ],
)
def test_while_the_file_is_damaged_nothing_goes_that_it_may_have_held(
    db: Database, to: Path, data: bytes
) -> None:
    fill(db, 1, 50)
    holds.hold(db.path, "audit", 20)
    (db.path / "HOLDS").write_bytes(data)
    told = r"HOLDS is not a valid HOLDS file of everlog: .*\. Restore a copy of it; or"
    for ask in (
        lambda: archive(db, to, keep_records=1),
        lambda: holds.read(db.path),
        lambda: holds.hold(db.path, "audit", 20),
        lambda: holds.release(db.path, "audit"),
    ):
        with pytest.raises(OpenError, match=told):
            ask()
    assert db.log.trimmed.base == 0
    db.put(ITEMS, *items(900, 900))
    assert db.admin.status().consumers.error == ""
    assert list(db.admin.check()) == []
    retention = Retention(db, to)
    with pytest.raises(OpenError, match=told):
        retention.look()
    retention.close()
    (db.path / "HOLDS").unlink()  # as it says
    holds.hold(db.path, "audit", 20)
    assert archive(db, to, keep_records=1).base == 19


def test_where_bookmarks_are_damaged_nothing_goes_that_a_consumer_may_lack(db: Database, to: Path) -> None:
    fill(db, 1, 50)
    db.consumers.register("mirror", after=20)
    (db.path / "BOOKMARKS").write_bytes(b"{}")
    with pytest.raises(
        OpenError, match=r"BOOKMARKS is not a valid .*\. Restore a copy of it, or delete it: each"
    ):
        archive(db, to, keep_records=1)
    (db.path / "BOOKMARKS").unlink()
    assert archive(db, to, keep_records=1).base == 20


def test_processes_that_hold_and_release_at_once_lose_nothing_of_one_another(db: Database) -> None:
    command = [sys.executable, "-c", WORK, str(db.path)]
    at_work = [
        subprocess.Popen([*command, who], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for who in ("ann", "bob", "eve")
    ]
    for process in at_work:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in at_work:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[1] or process.returncode for process in at_work] == [0, 0, 0]
    expected = {f"{who}-{n}": n for who in ("ann", "bob", "eve") for n in range(1, 31) if n % 3}
    assert holds.read(db.path) == expected


def test_a_hold_is_of_a_name_and_a_record_of_a_database(db: Database, tmp_path: Path) -> None:
    for name, seq in (("", 1), ("audit", 0), ("a\nb", 1), ("x" * 201, 1)):
        with pytest.raises(
            RowError, match=r"expected (the name of a hold of 1 to 200 bytes|a record of the log)"
        ):
            holds.hold(db.path, name, seq)
    with pytest.raises(OpenError, match="there is no database at"):
        holds.hold(tmp_path / "nothing", "audit", 1)
    holds.hold(db.path, "audit", 7)
    holds.hold(db.path, "audit", 9)
    assert holds.read(db.path) == {"audit": 9}


@pytest.mark.parametrize("who", ["hold", "consumer"])
def test_who_holds_in_the_last_moment_before_the_removal_keeps_the_records(
    db: Database, to: Path, who: str
) -> None:
    fill(db, 1, 50)

    def late(at: Progress) -> None:
        if at.step == "remove" and who == "hold":
            holds.hold(db.path, "audit", 20)
        elif at.step == "remove":
            db.consumers.register("mirror", after=19)

    assert archive(db, to, keep_records=1, progress=late).base == 19
    assert list(db.admin.check()) == []


def test_a_record_that_was_archived_already_cannot_be_held(db: Database, to: Path) -> None:
    fill(db, 1, 50)
    with Database(db.path, read_only=True) as reader:  # it was opened earlier, like a command beside a server
        archive(db, to, keep_records=10)
        base = db.log.trimmed.base
        for one in (db, reader):
            with pytest.raises(
                RowError, match=rf"record {base} cannot be held: it was archived, .* at record {base + 1}\. "
            ) as found:
                holds.hold_in(one, "audit", base)
            assert (found.value.seq, found.value.oldest) == (base, base + 1)
        assert holds.read(db.path) == {}
        holds.hold_in(reader, "audit", base + 1)
    assert holds.read(db.path) == {"audit": base + 1}
    for seq in (1 << 63, "7", True):
        with pytest.raises(RowError, match="expected a seq"):
            holds.hold_in(db, "audit", seq)  # type: ignore[arg-type]
    assert holds.read(db.path) == {"audit": base + 1}
