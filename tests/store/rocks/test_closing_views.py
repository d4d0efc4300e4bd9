"""Iterators that another thread releases between two bytecodes of a read."""

from __future__ import annotations

from typing import Any

import pytest

from everlog.store.database import Database
from everlog.store.errors import ClosedError
from everlog.store.history.view import _Chunks
from everlog.store.rocks import view
from tests.store.models import ITEMS, items


class Released(list[Any]):
    """A list that is cleared when it is read, as by a thread that closes the database at this moment."""

    def __getitem__(self, at: Any) -> Any:
        self.clear()
        return super().__getitem__(at)


def test_a_scan_whose_iterator_is_released_raises_closed(db: Database) -> None:
    with db.transaction() as tx:
        for row in items(1, 3):
            tx.put(ITEMS, row)
    held = Released([db.engine.data.items()])
    with pytest.raises(ClosedError):
        list(view._chunks(held, b"", b"\xff", False, lambda _: None))  # noqa: SLF001


def test_a_read_of_the_past_whose_family_is_released_raises_closed(db: Database) -> None:
    with pytest.raises(ClosedError):
        _Chunks(Released([db.engine.data]), b"", b"\xff", [], reverse=False)
