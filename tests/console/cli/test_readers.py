"""No accepted value makes a reader fail: it is shown as stored."""

from __future__ import annotations

import json
import math
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from everlog.consumers import Follower, open_sink
from everlog.consumers.follower.verify import verify
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.schema.codec import STRING, TIMESTAMP
from everlog.store.schema.table import Field, Index, Table
from tests.console.cli.test_round_trips import HARD
from tests.console.conftest import Run
from tests.store.documents import DOCUMENTS, Document, deep, open_documents, put_unasked

AT, TITLE = Field(Document, "at", 22, TIMESTAMP), Field(Document, "title", 2, STRING)
MOMENTS: Table[Any, Any] = Table("moments", Document, key=AT, indexes=(Index("by_title", TITLE, AT),))
TIMES = [
    {"seconds": 253_402_300_800, "nanos": 5},
    {"seconds": -(2**63), "nanos": 0},
    {"seconds": 2**63 - 1, "nanos": 2**31 - 1},
    {"seconds": 5, "nanos": 10**9},
    {"seconds": 1, "nanos": 123_456_789},
]


@pytest.fixture
def hard(here: Path) -> Path:
    """Return a database whose tables have every difficult value, each row written twice and one of three
    deleted.
    """
    with open_documents(here / "hard.db", DOCUMENTS, MOMENTS, at=EmbeddedDatabase) as db:
        with db.transaction() as tx:
            for id, words in enumerate(HARD.values(), 1):
                tx.put(DOCUMENTS, Document(id=id, **words))
            for at in TIMES:
                tx.put(MOMENTS, Document(at=at, title="\r"))
        with db.transaction() as tx:
            for id, words in enumerate(HARD.values(), 1):
                tx.put(DOCUMENTS, Document(id=id, **{**words, "flag": True}))
            tx.delete(DOCUMENTS, 1)
            tx.put(MOMENTS, Document(at=TIMES[0], weight=math.nan))
    return here / "hard.db"


@pytest.mark.long
def test_every_reader_shows_every_value(everlog: Run, hard: Path, here: Path) -> None:
    url = ("-u", f"file:{hard}")
    for words in (
        ("scan", "documents"),
        ("scan", "documents", "--index", "by_title"),
        ("scan", "moments", "--index", "by_title", "--reverse"),
        ("scan", "documents", "--at", "3"),
        ("get", "documents", "3"),
        ("log", "--verbose"),
        ("log", "--json"),
        ("log", "--table", "moments", "--json"),
        ("log", "--csv", "log.csv"),
        ("log", "--parquet", "log.parquet"),
        ("diff", "documents", "2", "--json"),
        ("diff", "moments", "2", "--verbose"),
        ("check",),
        ("rebuild", "--json"),
        ("status",),
        ("export", "documents"),
        *(("export", table, f"{table}.{form}", "--null", "-") for table in ("documents", "moments")
          for form in ("csv", "jsonl", "parquet")),
    ):  # fmt: skip
        ended = everlog(*url, *words)
        assert (ended.code, ended.err) == (0, ""), words
    for id in range(1, len(HARD) + 1, 3):
        ended = everlog(*url, "history", "documents", id, "--json")
        assert (ended.code, ended.err) == (0, ""), list(HARD)[id - 1]
    rows = everlog(*url, "scan", "moments").json
    assert [row["at"] for row in rows][1:3] == [
        "1970-01-01T00:00:01.123456789Z",
        {"seconds": "5", "nanos": 10**9},
    ]
    for row in rows:
        at = row["at"] if isinstance(row["at"], str) else json.dumps(row["at"])
        assert json.loads(everlog(*url, "get", "moments", "--", at).out) == row
        assert everlog(*url, "history", "moments", "--json", "--", at).code == 0
        assert everlog(*url, "log", "--table", "moments", "--key", at, "--json").code == 0
    other = here / "other.db"
    open_documents(other, DOCUMENTS, MOMENTS).close()
    for table in ("documents", "moments"):
        ended = everlog("-u", f"file:{other}", "import", table, f"{table}.csv", "--null", "-")
        assert (ended.code, ended.err) == (0, "")
    hashes = everlog(*url, "rebuild", "--json").out
    assert everlog("-u", f"file:{other}", "rebuild", "--json").out == hashes


def test_the_readers_of_many_rows_show_every_value(everlog: Run, hard: Path) -> None:
    url = ("-u", f"file:{hard}")
    readers: tuple[tuple[str, ...], ...] = (
        ("scan", "documents"),
        ("scan", "moments", "--index", "by_title"),
        ("log", "--json"),
        ("diff", "documents", "2", "--json"),
        ("history", "documents", "3", "--json"),
        ("export", "moments", "moments.csv", "--null", "-"),
        ("export", "documents", "documents.parquet"),
    )
    for words in readers:
        ended = everlog(*url, *words)
        assert (ended.code, ended.err) == (0, ""), words


def test_a_mirror_has_every_value(hard: Path, here: Path) -> None:
    with EmbeddedDatabase(hard) as db, closing(open_sink(f"sqlite:{here}/mirror.sqlite")) as sink:
        Follower(db, sink).run(bounded=True)
        assert list(verify(db, sink)) == []


def test_a_row_that_cannot_be_read_is_told_and_all_others_are_printed(everlog: Run, here: Path) -> None:
    url = ("-u", f"file:{here}/spoiled.db")
    with open_documents(here / "spoiled.db", at=EmbeddedDatabase) as db:
        for id in range(5):
            put_unasked(db, DOCUMENTS, deep(id, 60 if id in {1, 3} else 1))
        with closing(open_sink(f"sqlite:{here}/mirror.sqlite")) as sink:
            Follower(db, sink).run(bounded=True)
    ended = everlog(*url, "scan", "documents")
    assert (ended.code, [row["id"] for row in ended.json]) == (1, ["0", "2", "4"])
    assert "row documents/1 cannot be read" in ended.err
    assert "row documents/3 cannot be read" in ended.err
    assert "2 rows of documents could not be read; all others were printed" in ended.err
    refused: tuple[tuple[str, ...], ...] = (
        ("get", "documents", "1"),
        ("export", "documents", "x.csv"),
        ("check",),
    )
    for words in refused:
        ended = everlog(*url, *words)
        assert ended.code == 1
        assert "row documents/1 cannot be read" in ended.out + ended.err
    shown: tuple[tuple[str, ...], ...] = (
        ("log", "--json"),
        ("history", "documents", "1"),
        ("diff", "documents", "2"),
        ("rebuild",),
    )
    for words in shown:
        assert everlog(*url, *words).code == 0, words
    assert "Would set aside: row documents/1" in everlog(*url, "repair", "--dry-run").out
    ended = everlog(*url, "repair")
    assert "Set aside: row documents/3, which cannot be read" in ended.out
    assert everlog(*url, "check").code == 0
    assert [row["id"] for row in everlog(*url, "scan", "documents").json] == ["0", "2", "4"]
    with (
        EmbeddedDatabase(here / "spoiled.db") as db,
        closing(open_sink(f"sqlite:{here}/mirror.sqlite")) as sink,
    ):
        Follower(db, sink).run(bounded=True)
        assert list(verify(db, sink)) == []
