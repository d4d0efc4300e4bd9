"""Arguments of the wrong type or value: an error names them before anything is read, written or sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import everlog
from everlog import migrations
from everlog.migrations import Approval
from everlog.migrations.local import LocalMigrations
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.server.server import Server
from tests.migrations.approving import proposed

TEXTS = ("\ud800", 7, b"ann", None)
VERSIONS = ("20260101000001", 1.5, True, -1, 1 << 70)
Calls = Iterator[tuple[str, Callable[[], object]]]


def _embedded(approval: Approval) -> Calls:
    value: Any
    db, source = approval.db, approval.source
    digest = proposed(approval).digest.hex()
    yield from _both(LocalMigrations(db, source))
    for value in TEXTS:
        yield f"accept {value!r}", partial(migrations.accept, db, source, reason=value)
        yield f"propose {value!r}", partial(approval.propose, actor=value)
        yield f"approve {value!r}", partial(approval.approve, digest, actor=value, reason="x")
        yield f"run {value!r}", partial(approval.approve_and_run, digest, actor="a", reason=value)
        yield f"reject {value!r}", partial(approval.reject, digest, actor="ann", reason=value)
    for value in (7, b"ab", None, "\ud800"):
        yield f"digest {value!r}", partial(approval.approve, value, actor="ann", reason="x")
    for value in (7, None, b"migrations", "\ud800"):
        yield f"source {value!r}", partial(migrations.apply, db, value)
    for value in ("1", 1.5, True, -1):
        yield f"scale {value!r}", partial(migrations.load_testdata, db, source, scale=value)


def _remote(approval: Approval) -> Calls:
    value: Any
    with (
        Server({"db": approval.db}, migrations={"db": str(approval.source)}) as server,
        RemoteDatabase(server.url("db")) as db,
    ):
        yield from _both(db.migrations)
        for value in TEXTS:
            yield (
                f"approve {value!r}",
                partial(db.migrations.approve, "abcdef", actor=value, reason="x"),
            )
            yield f"reject {value!r}", partial(db.migrations.reject, value)
            yield f"propose {value!r}", partial(db.migrations.propose, actor=value)


def _both(face: Any) -> Calls:
    value: Any
    for value in TEXTS:
        yield f"apply {value!r}", partial(face.apply, actor=value)
        yield f"rollback {value!r}", partial(face.rollback, reason=value)
        yield f"complete {value!r}", partial(face.complete, reason=value)
        yield f"cancel {value!r}", partial(face.cancel, actor=value)
        yield f"load {value!r}", partial(face.load, value)
        yield f"baseline {value!r}", partial(face.baseline, 1, actor=value)
    for value in (*VERSIONS, 0):
        yield f"to {value!r}", partial(face.apply, to=value)
        yield f"plan to {value!r}", partial(face.plan, to=value)
        yield f"baseline {value!r}", partial(face.baseline, value)
        yield f"back {value!r}", partial(face.rollback, value)
    for value in VERSIONS:
        yield f"back to {value!r}", partial(face.rollback, to=value)
        yield f"plan back {value!r}", partial(face.plan_rollback, to=value)
    for value in ("9", True, 0, -1.0, float("nan"), float("inf")):
        yield f"rate {value!r}", partial(face.apply, rate=value)
        yield f"rate back {value!r}", partial(face.rollback, rate=value)


@pytest.mark.parametrize("calls", [_embedded, _remote], ids=lambda one: one.__name__)
def test_an_argument_that_is_none_is_an_error_that_says_so(
    approval: Approval, calls: Callable[[Approval], Calls]
) -> None:
    wrong, head = [], 0
    for name, call in calls(approval):
        head = head or approval.db.head
        try:
            given = call()
            if hasattr(given, "__iter__"):
                list(given)
            wrong.append(f"{name}: taken")
        except everlog.Error as error:
            if isinstance(error, everlog.UnavailableError | everlog.CorruptionError) or not str(error):
                wrong.append(f"{name}: {error!r}")
        except (TypeError, ValueError, AttributeError, LookupError, OverflowError) as error:
            wrong.append(f"{name}: {error!r}")
    assert wrong == []
    assert approval.db.head == head
