"""history_row, at_get, catch_up, commit_past: reads of the history.

One database of `run.n` commits of one row each: every row has some versions, the first row has a thousand.

history_row   all versions of that row, each with its commit and the fields that it changed
at_get_*      a row as of a random seq, `at(seq=…).get(…)`; `now_get_*`: the same rows by a plain get in the
              same run. Constant times for every length of the log show that nothing is replayed.
catch_up      the first read, which reads the log and indexes all versions
commit_past   commits to a database whose history is read from time to time; `commit_alone`: without reads
"""

import random
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Measure, Run, each, once
from benchmarks.rows import row

SEED = 20260105
VERSIONS = 4  # of a row, on average
OF_ONE = 1000  # versions of the first row
ASKED, GOT = 20, 20_000


def prepared(run: Run) -> Path:
    """Return a closed database whose history was never read."""
    from benchmarks.items import ITEMS, message, open_items

    folder = run.prepared / f"history-{run.n}"
    if not folder.exists():
        making = folder.with_suffix(".making")
        chance, every = random.Random(SEED), max(run.n // OF_ONE, 1)
        with open_items(making) as db:
            for at in range(run.n):
                id = 1 if at % every == 0 else chance.randint(2, max(run.n // VERSIONS, 2))
                db.put(ITEMS, message(row(at)._replace(id=id)))
        making.rename(folder)
    return folder


def asked(run: Run) -> Path:
    """Return such a database after its history was read."""
    from benchmarks.items import open_items

    folder = prepared(run)
    with open_items(folder) as db:
        db.past.catch_up()
    return folder


def history_row(run: Run) -> Measure:
    from benchmarks.items import ITEMS, open_items

    with open_items(asked(run)) as db:
        expected = min(OF_ONE, run.n)
        seconds, took = each(range(ASKED), lambda _: _expect(len(list(db.history(ITEMS, 1))), expected))
        return run.measure(ASKED, seconds, took)


def at_get(run: Run) -> list[Measure]:
    from benchmarks.items import ITEMS, open_items

    chance, size = random.Random(SEED), run.bench.rpartition("_")[2]
    with open_items(asked(run)) as db:
        ids = [chance.randint(1, max(run.n // VERSIONS, 2)) for _ in range(min(GOT, run.n))]
        seqs = [chance.randint(db.head // 2, db.head) for _ in ids]
        seconds, took = each(ids, lambda id: db.get(ITEMS, id))
        now = run.measure(len(ids), seconds, took, bench=f"now_get_{size}")
        pairs = list(zip(ids, seqs, strict=True))
        seconds, took = each(pairs, lambda pair: db.at(seq=pair[1]).get(ITEMS, pair[0]))
        return [run.measure(len(ids), seconds, took), now]


def catch_up(run: Run) -> Measure:
    from benchmarks.items import open_items

    with open_items(prepared(run)) as db:
        db.past.forget()
        return run.measure(run.n, once(db.past.catch_up))


def commit_past(run: Run) -> list[Measure]:
    """Measure both alternately, so that other load on the machine affects both equally."""
    from benchmarks.items import ITEMS, messages, open_items

    with open_items(run.folder / "past") as past, open_items(run.folder / "alone") as alone:
        took: dict[str, Any] = {"past": [], "alone": []}
        rows, part = messages(run.n), max(run.n // 20, 1)
        for at in range(0, run.n, part):
            for name, db in (("past", past), ("alone", alone)):
                took[name] += each(rows[at : at + part], partial(db.put, ITEMS))[1]
            past.at(seq=past.tables.applied)
        return [
            run.measure(run.n, sum(took["past"]) / 1e9, took["past"]),
            run.measure(run.n, sum(took["alone"]) / 1e9, took["alone"], bench="commit_alone"),
        ]


def _expect(found: int, expected: int) -> None:
    assert found >= expected, f"expected {expected} versions, found {found}"
