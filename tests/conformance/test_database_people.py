"""People: how every database, embedded or remote, handles sealed rows and forgotten people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everlog.store.errors import PreconditionError, RowError, SchemaError
from everlog.store.tx.transaction import new_commit_id
from tests.conformance.database_case import AIRPORTS, KINDS, Case, airport, open_case
from tests.store.people import MASTER, PATIENTS, VISITS, patient, visit


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    """Yield a database with three patients, one of them with two rows, and a table without a person."""
    with open_case(request.param, tmp_path, PATIENTS, VISITS, master_key=MASTER) as case:
        for n, name in enumerate(("Ann", "Bob", "Cyd"), 1):
            case.db.put(PATIENTS, patient(n, f"s-{n}", email=f"{name}@x", name=name))
        case.db.put(VISITS, visit(7, "s-1", "cough"))
        case.db.put(VISITS, visit(8, "s-2", "cold"))
        case.db.put(AIRPORTS, airport("JFK"))
        yield case


def names(db: Any) -> list[str]:
    return [row.name for row in db.scan(PATIENTS)]


def test_one_person_is_forgotten_by_a_row_and_nobody_else_is(case: Case) -> None:
    db: Any = case.db
    done = db.people.forget(
        PATIENTS, 1, actor="dpo", reason="asked for it", correlation_id="c", client="desk"
    )
    assert (done.seq, done.rows) == (db.head, 2)
    assert names(db) == ["Bob", "Cyd"]
    assert [row.id for row in db.scan(VISITS)] == [8]
    assert list(db.scan(PATIENTS.by_email, "Ann@x")) == []
    assert [row.id for row in db.scan(PATIENTS.by_email, "Bob@x")] == [2]
    assert db.get(AIRPORTS, "JFK") == airport("JFK")
    commit = case.embedded.log.commit(done.seq)
    assert (commit.notice.kind, commit.notice.subject, commit.notice.detail) == (
        "key.shredded", "patients", done.key_id,
    )  # fmt: skip
    assert (commit.actor, commit.reason, commit.correlation_id, commit.client) == (
        "dpo", "asked for it", "c", "desk",
    )  # fmt: skip


def test_one_person_is_forgotten_by_name_though_the_rows_were_deleted_before(case: Case) -> None:
    db: Any = case.db
    db.delete(PATIENTS, 3)
    with pytest.raises(RowError, match=r"there is no row patients/3; .*value of subject") as caught:
        db.people.forget(PATIENTS, 3)
    assert caught.value.forgotten is None
    assert db.people.forget("patients", person="s-3").rows == 0
    assert db.people.forget(VISITS, person="s-2").rows == 2
    assert names(db) == ["Ann"]


def test_what_is_asked_for_again_is_told_to_be_done_already(case: Case) -> None:
    db: Any = case.db
    done = db.people.forget(PATIENTS, 1)
    told = f"there is no row patients/1: commit {done.seq} deleted it, and forgot its person"
    with pytest.raises(RowError, match=told) as caught:
        db.people.forget(PATIENTS, 1)
    assert caught.value.forgotten == done.seq
    with pytest.raises(RowError, match=f"visits/7: commit {done.seq} deleted it, and forgot its person"):
        db.people.forget(VISITS, 7)
    with pytest.raises(RowError, match="no key for that subject: no person has it"):
        db.people.forget(PATIENTS, person="s-1")


def test_the_same_commit_id_forgets_once(case: Case) -> None:
    db: Any = case.db
    one, other = new_commit_id(), new_commit_id()
    done = db.people.forget(PATIENTS, 1, commit_id=one, actor="dpo")
    assert db.people.forget(PATIENTS, 1, commit_id=one, actor="dpo") == done
    named = db.people.forget(PATIENTS, person="s-2", commit_id=other)
    assert db.people.forget(PATIENTS, person="s-2", commit_id=other) == named
    assert db.head == named.seq
    for again in (
        {"key": 3, "actor": "dpo"},
        {"key": 1, "actor": "somebody else"},
    ):
        with pytest.raises(PreconditionError, match="with other content"):
            db.people.forget(PATIENTS, commit_id=one, **again)
    with pytest.raises(PreconditionError, match="with other content"):
        db.people.forget(VISITS, 7, commit_id=one, actor="dpo")
    assert names(db) == ["Cyd"]


def test_what_cannot_be_forgotten_is_refused_and_nothing_is_done(case: Case) -> None:
    db: Any = case.db
    head = db.head
    with pytest.raises(RowError, match="found both or neither"):
        db.people.forget(PATIENTS)
    with pytest.raises(RowError, match="found both or neither"):
        db.people.forget(PATIENTS, 1, person="s-1")
    with pytest.raises(RowError, match="airports has no person field"):
        db.people.forget(AIRPORTS, "JFK")
    with pytest.raises(SchemaError, match="there is no table 'nobody'"):
        db.people.forget("nobody", 1)
    with pytest.raises(RowError):
        db.people.forget(PATIENTS, "one")
    with pytest.raises(RowError):
        db.people.forget(PATIENTS, person=1)
    with case.reader() as reader, pytest.raises(Exception, match="opened for reading"):
        reader.people.forget(PATIENTS, 1)
    assert db.head == head


def test_the_same_person_may_come_again(case: Case) -> None:
    db: Any = case.db
    db.people.forget(PATIENTS, 1)
    db.put(PATIENTS, patient(1, "s-1", name="Ann"))
    assert names(db) == ["Ann", "Bob", "Cyd"]
    assert db.people.forget(PATIENTS, 1).rows == 1
