"""Apply migrations: `seed_and_be_killed.py DATABASE MIGRATIONS`. Prints the number of loaded rows, a line
each, and waits for a line on its standard input after each.
"""

import sys

from everlog import migrations
from everlog.store.database import Database
from everlog.store.progress import Progress


def main(path: str, source: str) -> None:
    def tell(step: Progress) -> None:
        if "load " in step.step:
            sys.stdout.write(f"{step.done}\n")
            sys.stdout.flush()
            sys.stdin.readline()

    with Database(path) as db:
        migrations.apply(db, source, progress=tell)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
