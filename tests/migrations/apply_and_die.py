"""Apply migrations, or roll them all back, and kill this process at a point: `apply_and_die.py DATABASE
MIGRATIONS POINT [rollback]`.

Points are the calls that write to the disk; after the last of them it exits normally.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from everlog import migrations
from everlog.store.database import Database
from everlog.store.rocks.engine import Engine

POINTS = ("append_record", "append_records", "sync_log", "sync_beside", "write_data")


def main(path: str, source: str, point: int, verb: str) -> None:
    left = point

    def step() -> None:
        nonlocal left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            step()
            result = call(*args, **kwargs)
            step()
            return result

        return called

    with Database(path) as db:
        for name in POINTS:
            setattr(db.engine, name, deadly(getattr(Engine, name).__get__(db.engine)))
        if verb == "rollback":
            migrations.rollback(db, to=0)
        else:
            migrations.apply(db, source)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), "".join(sys.argv[4:]))
