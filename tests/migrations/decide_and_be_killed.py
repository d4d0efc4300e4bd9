"""Give orders about a decision, each in a forked process that kills itself: `decide_and_be_killed.py
MIGRATIONS`.

Reads a line `PATH ORDER POINT` from standard input for each process, with a point of tests/crash/points.py,
and writes its exit status as a line. ORDER is prepare, commit or abort.
"""

import os
import sys

from everlog import migrations
from everlog.store.database import Database
from tests.crash import points

DECISION = bytes(15) + b"\x01"
RATE = 20_000  # a slice has 80 rows then


def give(path: str, source: str, order: str, point: str) -> None:
    with Database(path) as db:
        points.arm(points.Point.parse(point))
        if order == "prepare":
            migrations.prepare(db, DECISION, source, fence=3, rate=RATE)
        elif order == "commit":
            migrations.commit_prepared(db, DECISION, fence=3)
        else:
            migrations.abort_prepared(db, DECISION, fence=3)


def main(source: str) -> None:
    migrations.load(source)
    for line in sys.stdin:
        path, order, point = line.rstrip("\n").split(" ", 2)
        child = os.fork()
        if child == 0:
            try:
                give(path, source, order, point)
            except BaseException as error:  # noqa: BLE001  the process ends here
                sys.stderr.write(f"{error!r}\n")
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
