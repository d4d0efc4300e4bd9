"""Broken: stores with deliberate faults, which the campaign must detect.

    python -m tests.crash.broken                     all faults: what detected each, and after how long
    python -m tests.crash.broken "no watch" …        some of them

    EVERLOG_BROKEN=name ─▶ campaign, worker and second replace a part of the store, first of all

A breakage is a store without one safeguard. If it is not detected, the campaign lacks a check. A new
safeguard of the store is a line in BREAKAGES.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from everlog.store import database, process, record
from everlog.store.clock import Clock
from everlog.store.database import Database
from everlog.store.errors import DiskError
from everlog.store.history.past import Past
from everlog.store.log import Log, Merger
from everlog.store.rocks import errors, ownership
from everlog.store.rocks.engine import Engine
from everlog.store.rocks.ownership import Ownership
from everlog.store.tables.tables import Tables
from everlog.store.tx import write

ROOT = Path(__file__).parents[2]
BROKEN = "EVERLOG_BROKEN"  # environment variable of a process: the fault in its store
LASTING_S = 30.0  # of runs that end at a random moment
MINUTES = 15.0  # a fault that is not detected by then counts as not detected


class Breakage(NamedTuple):
    """The missing safeguard in the store, and the way of the campaign that has to detect it."""

    way: str
    without: Callable[[], None]


def _patch(owner: Any, name: str, instead: Any) -> Callable[[], None]:
    assert hasattr(owner, name), f"nothing to be broken: {name}"
    return lambda: setattr(owner, name, instead)


def _both(*patches: Callable[[], None]) -> Callable[[], None]:
    """Two safeguards against one fault, each of which is sufficient."""

    def without() -> None:
        for patch in patches:
            patch()

    return without


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _locked_for_processes(descriptor: int, how: int) -> None:
    """A record lock, which is released when the process closes any descriptor of the file."""
    fcntl.lockf(descriptor, how)


def _jump_unnoticed(clock: Any) -> float:
    clock.jumped_s = 0.0
    return 0.0


def _time_of_the_clock(clock: Any) -> int:
    clock.last_ns, clock.reading_ns = clock.read(), 0
    return int(clock.last_ns)


def _time_without_reading(clock: Any) -> int:
    time_ns = _now(clock)
    clock.reading_ns = 0
    return time_ns


def _always_full(_: Any) -> None:
    raise DiskError("the disk is full", outcome="nothing written", full=True)


def _append_in_any_case(engine: Any, key: bytes, framed: bytes) -> None:
    with contextlib.suppress(DiskError):
        _append(engine, key, framed)


def _sync_in_any_case(engine: Any, *args: Any, **kwargs: Any) -> None:
    with contextlib.suppress(DiskError):
        _sync(engine, *args, **kwargs)


def _sync_as_if_unwritten(engine: Any, *args: Any, **kwargs: Any) -> None:
    if engine.stopped is not None:
        raise errors.translate(errors.StoppedError(engine.stopped), "")
    _sync(engine, *args, **kwargs)


_no_descriptor_lock = _patch(Ownership, "hold_rocksdb", _nothing)
_append, _sync, _now = Engine.append_record, Engine.sync_log, Clock.now
_flock = SimpleNamespace(**vars(fcntl) | {"flock": _locked_for_processes})
_no_holds = SimpleNamespace(read=lambda _: {})
_archiving = importlib.import_module("everlog.audit.archive")  # a function has the module's name

BREAKAGES: dict[str, Breakage] = {
    # two openings, in a process and between processes
    "no lock": Breakage(
        "moment", _both(_patch(Ownership, "_lock_file", lambda *_: True), _no_descriptor_lock)
    ),
    "a lock of the process": Breakage(
        "moment", _both(_patch(ownership, "fcntl", _flock), _no_descriptor_lock)
    ),
    "RocksDB's own lock": Breakage("moment", _no_descriptor_lock),
    # forks
    "a child may write": Breakage("moment", _patch(Database, "forked", _nothing)),
    "a child keeps descriptors": Breakage("moment", _patch(process.Held, "forked", _nothing)),
    "a child lacks threads": Breakage("moment", _patch(process, "_POOLS", {})),
    # exits without close
    "no close at the end": Breakage(
        "exit", _both(_patch(database, "close_at_end", _nothing), _patch(process, "close_at_end", _nothing))
    ),
    # clocks that jump
    "a jump is not noticed": Breakage("clock", _patch(Clock, "look", _jump_unnoticed)),
    "times go back": Breakage("clock", _patch(Clock, "now", _time_of_the_clock)),
    "no readings of the clock": Breakage("clock", _patch(Clock, "now", _time_without_reading)),
    "a correction counts for nothing": Breakage("clock", _patch(Past, "_corrections", lambda _: [])),
    # disks that fail, fill and empty again
    "writing never resumes": Breakage("refill", _patch(Log, "resume", _always_full)),
    "refused writes are acknowledged": Breakage(
        "refill", _patch(Engine, "append_record", _append_in_any_case)
    ),
    "tables are not read again": Breakage("refill", _patch(Tables, "reread", _nothing)),
    "failed syncs are acknowledged": Breakage("disk", _patch(Engine, "sync_log", _sync_in_any_case)),
    "nothing is synced": Breakage("power", _patch(Engine, "sync_log", _nothing)),
    # files that are moved away and replaced
    "no watch": Breakage("moved", _patch(Ownership, "_missed", lambda _: "")),
    "files by their path": Breakage("moved", _patch(ownership, "_through", lambda _, path: path)),
    "appended is called unwritten": Breakage("moved", _patch(Engine, "sync_log", _sync_as_if_unwritten)),
    # rows at every limit
    "no bound of keys and rows": Breakage("moment", _patch(write, "check_sizes", _nothing)),
    "no bound of index values": Breakage("moment", _patch(write, "check_values", _nothing)),
    "no bound of depth": Breakage("moment", _patch(write, "check_readable", _nothing)),
    "no bound of commits": Breakage("moment", _patch(record, "RECORD_BYTES_MAX", 1 << 30)),
    # archives beside snapshots that are held
    "a snapshot keeps archived log": Breakage("moment", _patch(Merger, "_removed", lambda _: [])),
    "archives forget snapshots": Breakage("moment", _patch(Engine, "holds_before", lambda *_: False)),
    "archives forget holds": Breakage("moment", _patch(_archiving, "holds", _no_holds)),
}


def is_broken() -> bool:
    """Return whether the store of this process has a fault."""
    return BROKEN in os.environ


def apply() -> None:
    """Break the store of this process as its environment demands, if it does."""
    if name := os.environ.get(BROKEN):
        BREAKAGES[name].without()


def found(name: str, minutes: float = MINUTES) -> tuple[float, str]:
    """Run the campaign on a broken store; return the seconds until it detected the fault, and the finding. 0:
    it did not detect it.
    """
    words = [sys.executable, "-m", "tests.crash.campaign", "--minutes", f"{minutes}"]
    words += ["--way", BREAKAGES[name].way, "--lasting", f"{LASTING_S}"]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="everlog-broken-", ignore_cleanup_errors=True) as directory:
        environment = os.environ | {BROKEN: name, "TMPDIR": directory}
        done = subprocess.run(words, check=False, capture_output=True, text=True, cwd=ROOT, env=environment)
    took_s = time.monotonic() - began
    said = re.findall(r"^[\w.]*Error: .*", done.stderr, re.MULTILINE) or [done.stderr]
    assert done.returncode in {0, 1}, f"the campaign ended with {done.returncode}: {done.stderr}"
    return (took_s, said[-1]) if done.returncode else (0.0, "")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.broken")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    given = parser.parse_args()
    missed = 0
    for name in given.names or BREAKAGES:
        took_s, said = found(name, given.minutes)
        missed += not took_s
        after = f"found after {took_s:.0f} s: {said[:200]}" if took_s else "NOT FOUND"
        print(f"{name} ({BREAKAGES[name].way}): {after}", flush=True)  # noqa: T201
    raise SystemExit(bool(missed))


if __name__ == "__main__":
    main()
