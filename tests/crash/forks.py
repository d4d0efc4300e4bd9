"""Forks: checks in a forked child of a process of the campaign, and of its end.

    a thread ─▶ the main thread forks ─▶ the child: nothing of its parent is open, or written
                                                    its own database works
                                                    it ends like a program, in time

The main thread forks, because only its children end like a program: with destructors and atexit.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from everlog.store.database import Database
from everlog.store.errors import Error, OpenError
from everlog.store.rocks.ownership import LOCK
from tests.crash.folders import Value
from tests.crash.transactions import KEYS

if TYPE_CHECKING:
    from tests.crash.maintenance import Maintenance

CHILD_S = 20
ENDED = 5  # the exit code of a child without findings


class Forks:
    """The part of the main thread that forks for the maintenance threads."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[tuple[Callable[[], None], SimpleQueue[int]] | None] = SimpleQueue()
        self._forking, self._code = False, 0

    def child(self, run: Callable[[], None]) -> int:
        """Run a function in a child, and return its process id at once. Called by any other thread."""
        answer: SimpleQueue[int] = SimpleQueue()
        self._asked.put((run, answer))
        return answer.get()

    def serve(self, scratch: Path) -> None:
        """Fork for other threads, until `end`. In a child raises SystemExit."""
        small = None
        while (asked := self._asked.get()) is not None:
            run, answer = asked
            # No other thread refers to this one, so the child destroys its objects when it ends.
            small = small or Database(scratch / "small")
            assert list(small.admin.check()) == []
            small.admin.set_production(not small.admin.production)
            self._forking = True
            number = os.fork()
            self._forking = False
            if not number:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.alarm(CHILD_S)
                faulthandler.dump_traceback_later(CHILD_S - 2)  # where it hangs, if it hangs
                try:
                    run()
                except BaseException:  # noqa: BLE001  the parent reads the exit code
                    traceback.print_exc()
                    os._exit(1)
                sys.exit(ENDED)
            answer.put(number)
            if self._code:
                sys.exit(self._code)

    def exit(self, code: int) -> None:
        """Handle a signal: end the process, after a running fork, in which Python ignores exceptions."""
        if not self._forking:
            sys.exit(code)
        self._code = code

    def end(self) -> None:
        self._asked.put(None)


def fork(maintenance: Maintenance) -> None:
    """Check that the child may not write, gets an error at once, and ends."""
    child = maintenance.forks.child(lambda: _in_child(maintenance))
    _, status = os.waitpid(child, 0)
    ended = os.waitstatus_to_exitcode(status)
    assert ended == ENDED, f"a child of a fork ended with {ended}"


def _in_child(maintenance: Maintenance) -> None:
    with contextlib.suppress(Error):
        way = next(iter(maintenance.folders.ways.values()))
        maintenance.db.put(way.table, way.row(KEYS, Value("of a child", 1)))
        raise AssertionError("a child wrote to the database of its parent")
    files = [_name(file) for file in Path("/proc/self/fd").iterdir()]
    held = [
        one
        for one in files
        if one.startswith(f"{maintenance.db.path}/db/") or one == f"{maintenance.db.path}/{LOCK}"
    ]
    assert not held, f"a child has {held[0]} of its parent open"
    own = maintenance.scratch / "of-a-child"
    shutil.rmtree(own, ignore_errors=True)
    try:
        db = Database(own)
    except OpenError as error:
        assert "forked while RocksDB wrote" in str(error)  # noqa: PT017  it may or may not be raised
        return
    with db:
        db.admin.set_production(True)
        db.engine.flush()
    shutil.rmtree(own)


def _name(file: Path) -> str:
    try:
        return str(file.readlink())
    except OSError:  # the descriptor of the listing itself
        return ""
