"""merkle, prove: the Merkle tree over the log's records.

merkle   build the tree over a log of `run.n` commits of one row each: read, check and hash every record, and
         write the tiles. `raw` is one SHA-256 of each of the same records, in memory, which every tree needs
prove    prove that a random one of `run.n` records is in the tree of all
"""

import random
from hashlib import sha256

from benchmarks.measure import Measure, Run, each, once
from benchmarks.rebuild import own_copy, prepared

SEED = 20260105
PROVEN = 2_000


def everlog_merkle(run: Run) -> Measure:
    from benchmarks.items import open_items
    from everlog.audit.tree import Tree

    with open_items(own_copy(run, 1)) as db:
        return run.measure(db.head, once(Tree(db).catch_up))


def raw_merkle(run: Run) -> Measure:
    from benchmarks.items import open_items
    from everlog.store.record import unframe

    with open_items(prepared(run, 1)) as db:
        records = [unframe(framed, seq) for seq, framed in db.log.scan(0)]

    def hashed() -> None:
        for record in records:
            sha256(record).digest()

    return run.measure(len(records), once(hashed))


def everlog_prove(run: Run) -> Measure:
    from benchmarks.items import open_items
    from everlog.audit.tree import Tree

    with open_items(own_copy(run, 1)) as db:
        tree, chance = Tree(db), random.Random(SEED)
        size = tree.catch_up()
        seqs = [chance.randint(1, size) for _ in range(PROVEN)]
        seconds, took = each(seqs, lambda seq: tree.inclusion(seq, size))
        return run.measure(PROVEN, seconds, took)
