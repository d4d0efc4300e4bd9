"""A rebuild that is stopped."""

from __future__ import annotations

import pytest

from everlog.store.errors import ClosedError
from everlog.store.progress import Progress
from tests.store.conftest import Opener
from tests.store.models import ITEMS, items
from tests.store.upkeep.test_rebuild import families


def test_a_rebuild_that_is_stopped_ends_within_few_records_and_leaves_nothing(opening: Opener) -> None:
    db = opening()
    db.load(ITEMS, items(1, 9000, "x" * 500))  # records of many rows
    before, there, records = db.admin.hashes(), families(db), list[int]()

    def stop(at: Progress) -> None:
        records.append(at.done)
        raise ClosedError("stopped")

    with pytest.raises(ClosedError, match="stopped"):
        db.admin.rebuild(stop)
    assert records[0] < db.head // 2
    assert (db.admin.hashes(), families(db), list(db.admin.check())) == (before, there, [])
