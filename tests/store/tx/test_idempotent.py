"""A commit that is retried with its id is committed once."""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any

import pytest

from everlog.store.database import Database
from everlog.store.errors import Error, PreconditionError
from everlog.store.tx.transaction import CommitResult, new_commit_id
from tests.store.conftest import Opener
from tests.store.models import ITEMS, Item


def old_id(age_s: float) -> bytes:
    """Return a UUIDv7 (RFC 9562, section 5.7) that was created `age_s` seconds ago."""
    made = int((time.time() - age_s) * 1000).to_bytes(6, "big")
    rest = bytearray(uuid.uuid4().bytes[6:])
    rest[0] = 0x70 | rest[0] & 0x0F
    return made + bytes(rest)


def write(
    db: Database, commit_id: bytes, *rows: Any, delete: tuple[int, ...] = (), **metadata: Any
) -> CommitResult:
    with db.transaction(commit_id=commit_id, **metadata) as tx:
        for row in rows:
            tx.put(ITEMS, row)
        for key in delete:
            tx.delete(ITEMS, key)
        return tx.commit()


def test_the_same_commit_again_answers_with_the_first(opening: Opener) -> None:
    db = opening()
    one = new_commit_id()
    first = write(db, one, Item(id=1, n=1), delete=(7,), actor="ann")
    db.put(ITEMS, Item(id=1, n=2))
    again = write(db, one, Item(id=1, n=1), delete=(7,), actor="ann")
    assert again == first._replace(repeated=True)
    assert db.get(ITEMS, 1) == Item(id=1, n=2)
    db.close()
    db = opening()
    assert write(db, one, Item(id=1, n=1), delete=(7,), actor="ann") == again
    assert db.head == first.seq + 1


@pytest.mark.parametrize(
    "other",
    [
        {"rows": [Item(id=1, n=2)]},
        {"rows": [Item(id=2)]},
        {"rows": []},
        {"rows": [Item(id=1), Item(id=2)]},
        {"rows": [], "delete": (1,)},
        {"rows": [Item(id=1)], "actor": "bob"},
        {"rows": [Item(id=1)], "reason": "why not"},
    ],
)
def test_the_same_id_with_other_content_is_refused(db: Database, other: dict[str, Any]) -> None:
    one = new_commit_id()
    first = write(db, one, Item(id=1), actor="ann")
    other = {"actor": "ann", "delete": (99,), **other}
    with pytest.raises(PreconditionError, match=f"was used by commit {first.seq} with other content"):
        write(db, one, *other.pop("rows"), **other)
    assert db.head == first.seq


def test_an_id_is_known_however_old_it_is(opening: Opener) -> None:
    db, old = opening(idempotency_s=60), old_id(age_s=7 * 86_400)
    first = write(db, old, Item(id=1))
    assert write(db, old, Item(id=1)) == first._replace(repeated=True)
    db.admin.rebuild()
    assert write(db, old, Item(id=1)) == first._replace(repeated=True)
    assert db.head == first.seq


@pytest.mark.parametrize(
    "bad", [b"short", uuid.UUID(int=0).bytes, uuid.uuid5(uuid.NAMESPACE_DNS, "x").bytes, b"x" * 17]
)
def test_an_id_that_is_no_uuid_of_version_7_is_refused(db: Database, bad: bytes) -> None:
    with pytest.raises(PreconditionError, match="expected a commit_id to be a UUIDv7 of 16 bytes"):
        write(db, bad, Item(id=1))


def test_a_commit_that_failed_does_not_use_up_its_id(db: Database) -> None:
    one = new_commit_id()
    db.put(ITEMS, Item(id=1))
    with pytest.raises(PreconditionError), db.transaction(commit_id=one) as tx:
        tx.insert(ITEMS, Item(id=1))
    assert not write(db, one, Item(id=2)).repeated


@pytest.mark.parametrize("same", [True, False])
def test_two_of_one_id_in_one_group_are_one_or_an_error(db: Database, same: bool) -> None:
    one, answers = new_commit_id(), dict[int, CommitResult | Error]()

    def commit(number: int) -> None:
        try:
            answers[number] = write(db, one, Item(id=1, n=0 if same else number))
        except Error as error:
            answers[number] = error

    threads = [threading.Thread(target=commit, args=(number,)) for number in range(3)]
    with db.committer.exclusive():  # they wait, and form one group
        for thread in threads:
            thread.start()
        while db.committer.waiting < len(threads):
            pass
    for thread in threads:
        thread.join()
    committed = [
        answer for answer in answers.values() if isinstance(answer, CommitResult) and not answer.repeated
    ]
    assert len(committed) == 1
    others = [answer for answer in answers.values() if answer is not committed[0]]
    if same:
        assert others == [committed[0]._replace(repeated=True)] * 2
    else:
        assert all("with other content" in str(answer) for answer in others)
    assert db.head == committed[0].seq
