"""A follower in its own process, to be killed: python -m tests.consumers.following URL TARGET"""

from __future__ import annotations

import sys

import everlog
from everlog.consumers import Follower, open_sink
from everlog.store.progress import Progress


def main(url: str, target: str) -> None:
    def tell(progress: Progress) -> None:
        sys.stdout.write(f"{progress.done}\n")
        sys.stdout.flush()

    with everlog.open(url) as db:
        Follower(db, open_sink(target), progress=tell, changes_max=1).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
