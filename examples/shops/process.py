"""Process: some shops of one program, each an embedded database and a member of the fleet.

    python -m shops.process DIRECTORY URL RATE NAME...

A thread writes orders into the shops in turn, and another one reads them. Each keeps files:

    DIRECTORY/NAME.written     number pieces    a line for each order that was acknowledged
    DIRECTORY/NAME.read        form orders      a line for what each snapshot showed

They survive a SIGKILL of the program; the next one continues them.
"""

import itertools
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import everlog
from everlog import EmbeddedDatabase
from shops import orders
from shops.orders import SHOPS, Shops

ROWS = 500  # of a new shop
WRITE_S, READ_S = 1 / 100, 1 / 20  # between two orders, and two reads


def run(model: Shops, directory: Path, url: str, rate: float, names: list[str]) -> None:
    """Serve some shops until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with ExitStack() as stack:
        shops = {}
        for name in names:
            path = directory / name
            if not path.exists():
                orders.create(model, path, ROWS)
            db = everlog.open(
                f"file:{path}", migrations=model.source, fleet=url, fleet_name=name, fleet_rate=rate
            )
            assert isinstance(db, EmbeddedDatabase)
            shops[name] = stack.enter_context(db)
        threads = [
            threading.Thread(target=work, args=(model, directory, shops, stop), daemon=True)
            for work in (write, look)
        ]
        for thread in threads:
            thread.start()
        stop.wait()
        for thread in threads:
            thread.join()


def write(model: Shops, directory: Path, shops: dict[str, EmbeddedDatabase], stop: threading.Event) -> None:
    """Write an order after the other, half of them new, and note those that were acknowledged."""
    random = Random(2026)
    with ExitStack() as stack:
        files = {name: stack.enter_context(written(directory, name).open("a")) for name in shops}
        # More than any before: pieces never fall, also if a write was not acknowledged but is there.
        count = 1_000 + max(
            pieces for name in shops for _, pieces in (*acknowledged(directory, name), (0, 0))
        )
        for name in itertools.cycle(shops):
            if stop.wait(WRITE_S):
                return
            count += 1
            number = ROWS + count if count % 2 else random.randrange(ROWS)
            orders.put(model, shops[name], number, count)
            print(number, count, file=files[name], flush=True)


def look(model: Shops, directory: Path, shops: dict[str, EmbeddedDatabase], stop: threading.Event) -> None:
    """Read a shop after the other, and note what was seen."""
    with ExitStack() as stack:
        files = {name: stack.enter_context(seen(directory, name).open("a")) for name in shops}
        for name in itertools.cycle(shops):
            if stop.wait(READ_S):
                return
            found = orders.read(model, shops[name])
            print(found.form, len(found.pieces), file=files[name], flush=True)


def written(directory: Path, name: str) -> Path:
    return directory / f"{name}.written"


def seen(directory: Path, name: str) -> Path:
    return directory / f"{name}.read"


def acknowledged(directory: Path, name: str) -> Iterator[tuple[int, int]]:
    """Yield the orders of a shop that were acknowledged, with their pieces."""
    for number, pieces in lines(written(directory, name)):
        yield int(number), int(pieces)


def lines(path: Path) -> Iterator[list[str]]:
    """Yield the words of each line of a file, without an incomplete one: its program was killed."""
    if path.exists():
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                yield line.split()


if __name__ == "__main__":
    run(SHOPS, Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4:])
