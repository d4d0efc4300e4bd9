"""Hole: records that are missing in the middle of a log, which is not always damage.

    write-ahead log 61   …  66 67 │ 68     the power fails before 68 is on disk; 69, in the next
    write-ahead log 63              69     file, was put there by the operating system, of itself

RocksDB takes the lost end of one file for that of a commit that was cut short, and goes on with the next.
Nothing behind such a hole was ever on disk for all one knows: nobody was told that it is. So when a
database is opened for writing those records go, as they would with the end of the one file.

    what HEAD says was on disk, what the tables were made of  ─▶ dense, or it is damage
    what comes after                                          ─▶ dense, or cut before the hole

A reader beside a process that writes sees a hole, or an end too early, for another reason: a file was
flushed, and went, between its look at the one and the other. It looks again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from everlog.store.engine import Engine
from everlog.store.head import Head
from everlog.store.keys import SEQ
from everlog.store.log import Log
from everlog.store.seam import translated

LOOKS = 10

logger = logging.getLogger("everlog")


def cut(engine: Engine, log: Log, known: Head | None, applied: int) -> None:
    """Removes what is behind a hole in what was never known to be on disk. `known`: what HEAD says; the
    tables are at `applied`."""
    hole = _first_missing(engine, max(applied, _known(log, known)))
    if hole is None:
        return
    logger.warning(
        "%s: record %d was lost with the power before it was on disk, and so are those up to %d, which were"
        " behind it; nobody was told that they are there to stay",
        engine.path,
        hole,
        log.written,
    )
    log.cut(hole - 1)


def look_again(engine: Engine, log: Log, known: Head | None) -> None:
    """As a reader beside a process that writes: until all is there that HEAD said before, without a hole;
    or it is not to be had."""
    hole = None
    for _ in range(LOOKS):
        hole = _first_missing(engine, min(_dense_files(engine, log), _known(log, known)))
        if hole is None and (known is None or known.seq <= log.written):
            return
        engine.catch_up()
        log.reopen()
    if hole is not None:
        log.end_at(hole - 1)


def _known(log: Log, known: Head | None) -> int:
    """How far the log was known to be on disk."""
    return max(known.seq if known else 0, log.trimmed.first)


def _first_missing(engine: Engine, after: int) -> int | None:
    """The first record that is missing after one, of those up to the last; None if they are all there."""
    keys: Iterator[Any] = engine.log.keys(from_key=SEQ.pack(after + 1))
    with translated("looking at the end of the log"):
        for seq, key in enumerate(keys, after + 1):
            if SEQ.unpack(key)[0] != seq:
                return seq
    return None


def _dense_files(engine: Engine, log: Log) -> int:
    """How far the files of the log go without a hole between two of them."""
    last = log.trimmed.first - 1
    for _, start, end in engine.log_files():
        if int.from_bytes(start, "big") > last + 1:
            break
        last = max(last, min(int.from_bytes(end[: SEQ.size], "big"), log.written))
    return last
