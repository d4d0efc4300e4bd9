"""Some threads compact and flush tables while another rebuilds them."""

from __future__ import annotations

import threading
from collections.abc import Callable

from everlog.store.database import Database
from tests.store.models import ITEMS, items

REBUILDS = 4


def test_who_compacts_or_flushes_and_who_rebuilds_do_not_disturb_each_other(db: Database) -> None:
    db.load(ITEMS, items(1, 3000))
    done, failed = threading.Event(), list[BaseException]()

    def again(call: Callable[[], object]) -> None:
        try:
            while not done.is_set():
                call()
        except BaseException as error:  # noqa: BLE001  it would end the thread silently
            failed.append(error)

    calls = (lambda: db.engine.compact_data(b"", b"\xff" * 16), db.engine.flush)
    threads = [threading.Thread(target=again, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for _ in range(REBUILDS):
        assert db.admin.rebuild()["items"].rows == 3000
    done.set()
    for thread in threads:
        thread.join()
    assert not failed, failed[0]
