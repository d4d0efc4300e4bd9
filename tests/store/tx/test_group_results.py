"""Followers of a group commit get the right result, even if the leader is interrupted."""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any

import pytest

from everlog import DiskError
from everlog.store.database import Database
from everlog.store.tx.committer import Committer, PendingCommit, answer_unwritten
from everlog.store.tx.transaction import CommitResult
from tests.store.conftest import traces_opcodes
from tests.store.models import AIRPORTS, Airport

WRITERS = 4
TRACED = {one.__code__ for one in (Committer._run, Committer._commit)}  # noqa: SLF001


class InterruptedAtError(BaseException):
    pass


def interrupted_at(opcode: int) -> Any:
    """Trace a thread: interrupt it at this instruction of the committer, if it leads a group."""
    count = 0

    def inside(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if event == "opcode" and len(frame.f_locals.get("group", ())) > 1:
            count += 1
            if count == opcode:
                raise InterruptedAtError
        return inside

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code not in TRACED:
            return None
        frame.f_trace_opcodes = True
        return inside

    return trace


@traces_opcodes
@pytest.mark.parametrize("opcode", range(1, 260, 11))
def test_nobody_is_told_of_a_commit_that_is_not_in_the_log(db: Database, opcode: int) -> None:
    said = dict[str, Any]()

    def commit(key: str) -> None:
        sys.settrace(interrupted_at(opcode))
        try:
            said[key] = db.put(AIRPORTS, Airport(faa=key))
        except BaseException as error:  # noqa: BLE001  the test reads it
            said[key] = error
        finally:
            sys.settrace(None)

    keys = [f"A{number:03}" for number in range(WRITERS)]
    threads = [threading.Thread(target=commit, args=(key,)) for key in keys]
    with db.committer.exclusive():
        for thread in threads:
            thread.start()
        while db.committer.waiting < WRITERS:
            threading.Event().wait(0.001)
    for thread in threads:
        thread.join()
    assert said.keys() == set(keys)
    for key, answer in said.items():
        if isinstance(answer, InterruptedAtError):
            continue  # an interrupted caller looks up whether it was written
        row = db.get(AIRPORTS, key)
        assert (row is None) == isinstance(answer, DiskError), (key, answer)
    assert db.put(AIRPORTS, Airport(faa="JFK")).seq == db.head
    assert list(db.admin.check()) == []


def test_who_deleted_nothing_is_not_told_so_where_the_group_was_not_written(db: Database) -> None:
    """The row may be missing because another transaction of the group deleted it."""
    tx = db.transaction()
    tx.delete(AIRPORTS, "A")
    pending = PendingCommit(tx, None, True)
    pending.result = CommitResult(0).lacking(1)
    answer_unwritten([pending], db.head)
    assert isinstance(pending.error, DiskError)
