"""The past of forgotten people in every database: authors and times remain, rows do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.errors import SealedError
from tests.conformance.database_case import KINDS, Case, open_case
from tests.store.people import MASTER, PATIENTS, patient


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    with open_case(request.param, tmp_path, PATIENTS, master_key=MASTER) as case:
        yield case


@pytest.fixture
def seqs(case: Case) -> list[int]:
    """Return the seqs of these commits: Ann and Bob are added, both are changed, Ann is forgotten, and added
    again.
    """
    db: Any = case.db
    made = [
        db.put(PATIENTS, patient(1, "s-1", name="Ann"), actor="web", reason="came"),
        db.put(PATIENTS, patient(2, "s-2", name="Bob")),
        db.put(PATIENTS, patient(1, "s-1", name="Anna"), actor="desk", correlation_id="c"),
        db.put(PATIENTS, patient(2, "s-2", name="Bobby")),
        db.people.forget(PATIENTS, 1, actor="dpo", reason="asked"),
        db.put(PATIENTS, patient(1, "s-1", name="Ann again")),
    ]
    return [one.seq for one in made]


def versions(db: Any, key: int) -> list[Any]:
    return list(db.history(PATIENTS, key, newest_first=False))


def test_versions_of_the_forgotten_are_there_and_read_as_erased(case: Case, seqs: list[int]) -> None:
    first, second, gone, again = versions(case.db, 1)
    for one, seq, who in ((first, seqs[0], ("web", "came")), (second, seqs[2], ("desk", ""))):
        assert (one.op, one.row, one.erased, one.sealed, one.fields) == ("put", None, True, False, ())
        assert (one.seq, one.time_ns, (one.actor, one.reason)) == (
            seq, case.embedded.log.commit(seq).time_ns, who,
        )  # fmt: skip
    assert second.correlation_id == "c"
    assert (gone.op, gone.erased, gone.seq, gone.actor, gone.reason) == (
        "delete", False, seqs[4], "dpo", "asked",
    )  # fmt: skip
    assert (again.row.name, again.erased, again.seq) == ("Ann again", False, seqs[5])


def test_versions_of_others_are_as_they_were(case: Case, seqs: list[int]) -> None:
    assert [(one.row.name, one.erased, one.fields) for one in versions(case.db, 2)] == [
        ("Bob", False, ("id", "subject", "name")),
        ("Bobby", False, ("name",)),
    ]


def test_a_moment_from_before_has_others_and_not_the_forgotten(case: Case, seqs: list[int]) -> None:
    db: Any = case.db
    then, now = db.at(seq=seqs[3]), db.at(seq=seqs[5])
    assert then.get(PATIENTS, 1) is None
    assert then.get_many(PATIENTS, [1, 2]) == [None, patient(2, "s-2", name="Bobby")]
    assert [row.name for row in then.scan(PATIENTS)] == ["Bobby"]
    assert [row.name for row in then.scan(PATIENTS.by_id)] == ["Bobby"]
    assert list(then.scan(PATIENTS.by_name_and_born, "Anna")) == []
    assert [row.name for row in now.scan(PATIENTS)] == ["Ann again", "Bobby"]


def test_what_differs_is_told_without_the_rows_of_the_forgotten(case: Case, seqs: list[int]) -> None:
    db: Any = case.db
    gone, changed = db.past.diff(PATIENTS, seqs[1], seqs[4])
    assert (gone.kind, gone.key, gone.before, gone.after, gone.fields) == ("deleted", (1,), None, None, ())
    assert (changed.kind, changed.before.name, changed.after.name) == ("changed", "Bob", "Bobby")
    (came,) = db.past.diff(PATIENTS, seqs[4], seqs[5])
    assert (came.kind, came.before, came.after.name) == ("added", None, "Ann again")
    came = next(iter(db.past.diff(PATIENTS, seqs[0], seqs[5])))
    assert (came.kind, came.before, came.after.name) == ("changed", None, "Ann again")


def test_the_log_has_the_commits_of_the_forgotten_without_their_rows(case: Case, seqs: list[int]) -> None:
    db: Any = case.db
    told = [
        (entry.seq, entry.actor, change.op, change.erased, change.sealed, change.row and change.row.name)
        for entry in db.past.log(table=PATIENTS)
        for change in entry.changes
    ]
    assert told == [
        (seqs[0], "web", "put", True, False, None),
        (seqs[1], "", "put", False, False, "Bob"),
        (seqs[2], "desk", "put", True, False, None),
        (seqs[3], "", "put", False, False, "Bobby"),
        (seqs[4], "dpo", "delete", False, False, None),
        (seqs[5], "", "put", False, False, "Ann again"),
    ]
    assert [one.seq for one in db.past.log(table=PATIENTS, key=1)] == [seqs[at] for at in (0, 2, 4, 5)]
    (notice,) = db.past.log(kind="notice")
    assert (notice.seq, notice.about.kind) == (seqs[4], "key.shredded")


def test_it_is_the_same_after_a_rebuild(case: Case, seqs: list[int]) -> None:
    before = [versions(case.db, key) for key in (1, 2)]
    case.db.admin.rebuild()
    case.embedded.past.forget()
    assert [versions(case.db, key) for key in (1, 2)] == before


@pytest.mark.parametrize("kind", ["file", "remote"])
def test_without_keys_what_is_sealed_is_told_apart_from_what_is_erased(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EVERLOG_MASTER_KEY", "EVERLOG_MASTER_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    with open_case("file", tmp_path, PATIENTS, master_key=MASTER) as case:
        case.db.put(PATIENTS, patient(1, "s-1", name="Ann"), actor="web")
        case.db.put(PATIENTS, patient(2, "s-2", name="Bob"), actor="web")
        case.db.people.forget(PATIENTS, 1)
        head = case.db.head
    with reopened(kind, case.embedded.path) as db:
        for key, erased in ((1, True), (2, False)):
            first = versions(db, key)[0]
            assert (first.row, first.erased, first.sealed, first.actor) == (None, erased, not erased, "web")
        entries = list(db.past.log(table=PATIENTS))
        assert [(one.changes[0].erased, one.changes[0].sealed) for one in entries] == [
            (True, False), (False, True), (False, False),
        ]  # fmt: skip
        assert db.at(seq=head - 1).get(PATIENTS, 1) is None
        for read in (db.get, db.at(seq=head - 1).get):
            with pytest.raises(SealedError, match="no master key was given") as caught:
                read(PATIENTS, 2)
            assert not caught.value.erased


@contextmanager
def reopened(kind: str, path: Path) -> Iterator[Any]:
    with EmbeddedDatabase(path) as db:
        if kind == "file":
            yield db
        else:
            with Server({"case": db}) as server, RemoteDatabase(server.url("case")) as remote:
                yield remote
