"""Apply migrations, or roll one back, while another thread writes: `apply_and_be_killed.py DATABASE
MIGRATIONS RATE up|down`.

Prints its progress, one line each: `rows N` done, `wrote KEY NAME` acknowledged. After each `rows N` the
migration waits for a line on standard input; the writing thread does not.
"""

import itertools
import sys
import threading

from everlog import SchemaError, migrations
from everlog.migrations import load
from everlog.migrations.in_progress import attach
from everlog.store.database import Database
from everlog.store.progress import Progress


def main(path: str, source: str, rate: float, way: str) -> None:
    loaded = load(source)
    old, new = (migration.tables[0] for migration in loaded)
    lock = threading.Lock()

    def say(text: str) -> None:
        with lock:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def tell(step: Progress) -> None:
        if "rewrite" in step.step or "build" in step.step:
            say(f"rows {step.done}")
            sys.stdin.readline()

    with Database(path) as db:
        attach(db, loaded)

        def write() -> None:
            try:
                for number in itertools.count(db.head):
                    key = f"A{number * 37 % 6000:05}"
                    if way == "up":
                        db.put(old, old.model(faa=key, name=f"Jane {number}"))
                    else:
                        db.put(new, new.model(faa=key, first="Jane", last=str(number)))
                    say(f"wrote {key} {number}")
            except SchemaError:
                pass  # it has switched

        writer = threading.Thread(target=write)
        writer.start()
        if way == "up":
            migrations.apply(db, source, progress=tell, rate=rate)
        else:
            migrations.rollback(db, source=source, progress=tell, rate=rate)
        writer.join()
    say("done")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4])
