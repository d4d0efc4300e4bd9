"""Catch up with the past, and kill this process in between: python -m tests.store.past_killed PATH"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from everlog.store.database import Database
from everlog.store.progress import Progress


def main(path: str) -> None:
    db = Database(Path(path))

    def kill(step: Progress) -> None:
        if step.done > 2000:
            db.engine.flush()  # otherwise none of it would be left
            db.engine.side("past")
        if step.done > 3000:
            os._exit(9)

    db.past.catch_up(progress=kill)


if __name__ == "__main__":
    main(*sys.argv[1:])
