import threading

import pytest

from everlog import MigrationError
from everlog.migrations.lock import lock
from everlog.store.progress import Progress

DATABASE = b"0123456789abcdef"


def test_the_second_waits_until_the_first_is_done_and_says_for_whom() -> None:
    waiting, order = threading.Event(), list[str]()
    said: list[Progress] = []

    def tell(progress: Progress) -> None:
        said.append(progress)
        waiting.set()

    def second() -> None:
        with lock(DATABASE, "bob", progress=tell):
            order.append("bob")

    thread = threading.Thread(target=second)
    with lock(DATABASE, "ann"):
        thread.start()
        assert waiting.wait(60)
        order.append("ann")
    thread.join(60)
    assert order == ["ann", "bob"]
    assert said[0].step.startswith("wait for ann (thread MainThread, since ")


def test_who_waits_too_long_is_told_who_holds_it() -> None:
    said = r"is being migrated by ann .*; waited 0 s"
    with lock(DATABASE, "ann"), pytest.raises(MigrationError, match=said), lock(DATABASE, "bob", wait_s=0):
        pass
    with lock(DATABASE, "bob", wait_s=0):
        pass


def test_two_databases_have_two_locks() -> None:
    with lock(DATABASE, "ann"), lock(DATABASE[::-1], "bob", wait_s=0):
        pass


def test_a_holder_that_fails_lets_go() -> None:
    with pytest.raises(ZeroDivisionError), lock(DATABASE, "ann"):
        raise ZeroDivisionError
    with lock(DATABASE, "bob", wait_s=0):
        pass
