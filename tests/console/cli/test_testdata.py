"""Test data in a test database, in one in use, and in one in production."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

import everlog as library
from everlog.migrations import load, load_testdata
from everlog.proto import log_pb2
from everlog.store.database import Database
from tests.console.conftest import Run
from tests.console.served import serving


def test_a_database_that_is_in_use_wants_to_be_meant(everlog: Run, books: Path) -> None:
    assert everlog("testdata").code == 0
    assert everlog("testdata", "--scale", "2").code == 0
    everlog("export", "books", "books.csv")
    assert everlog("import", "books", "books.csv").code == 0
    before = everlog("log", "--json").json[-1]["seq"]
    ended = everlog("testdata", "--seed", "2")
    assert (ended.code, "confirm with --yes" in ended.err) == (1, True)
    assert everlog("log", "--json").json[-1]["seq"] == before
    assert everlog("testdata", "--seed", "2", "--yes").code == 0


@pytest.mark.long
def test_a_database_in_production_refuses_from_whatever_client(
    everlog: Run, books: Path, project: Path, here: Path
) -> None:
    assert everlog("production").out.endswith("is not in production\n")
    assert everlog("production", "yes", "--actor", "ann").out.endswith("is in production\n")
    assert everlog("production", "yes").code == 0  # already marked, so nothing is written
    before = everlog("log", "--json").json[-1]["seq"]
    for words in ((), ("--yes",)):
        ended = everlog("testdata", *words)
        assert (ended.code, "production" in ended.err) == (1, True)
    with library.open(f"file:{books}") as db, pytest.raises(library.PreconditionError):
        load_testdata(cast(Database, db), project)
    with serving("-u", f"file:{books}", "-d", str(project)) as served:
        ended = everlog("-u", served.url, "testdata", "--yes")
        assert (ended.code, "production" in ended.err) == (1, True)
        with library.open(served.url) as remote:
            table = load(project)[-1].tables[0]
            with pytest.raises(library.PreconditionError):
                remote.load(table, [], kind=log_pb2.Load.TEST)
    assert everlog("log", "--json").json[-1]["seq"] == before
    assert everlog("rebuild").code == 0  # the mark is computed from the log
    assert everlog("production").out.endswith("is in production\n")
    with serving("-u", f"file:{books}") as served:
        at = ("-u", served.url)
        assert everlog(*at, "production").out.endswith("is in production\n")
        assert everlog(*at, "production", "no", "--actor", "ann", "--reason", "a copy").code == 0
        assert everlog(*at, "production").out.endswith("is not in production\n")
        assert everlog(*at, "status", "--json").json[0]["production"] is False
        assert everlog(*at, "production", "yes").out.endswith("is in production\n")
    assert [one.get("actor") for one in everlog("log", "--json").json[-2:]] == ["ann", None]
    assert everlog("production", "no").code == 0
    assert everlog("testdata").code == 0
