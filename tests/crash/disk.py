"""Disk: one that loses unsynced data, and one that fails, for a process of the campaign (disk.c, by
LD_PRELOAD).

    loses   every fsync is recorded: after a kill, `lose` removes unsynced data from every file, all of it
            or a part, like a power failure; and undoes the last changes of names in every directory
            since its last sync
    fails   the n-th write, or sync, ends in an error: no space, or an input/output error
    fills   as long as a file exists, no write has space

It needs a C compiler. Changes of the names in one directory are lost from the last one backwards, as in a
journaling file system; two directories lose them independently.
"""

from __future__ import annotations

import errno
import functools
import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

from everlog.store.rocks import files

SOURCE = Path(__file__).with_name("disk.c")
FULL = "EVERLOG_DISK_FULL"  # environment variable of a process whose disk fills
WAYS = ("power", "disk", "refill")  # share of the runs that end with such a disk
NO_COMPILER = "a failing disk is a library made from disk.c, and there is no C compiler here"


@functools.cache
def library() -> Path | None:
    """Return the library, built once for this process; None without a compiler, or not on Linux."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not Path("/proc/self/fd").exists():
        return None
    built = Path(tempfile.gettempdir()) / f"everlog-disk-{os.getuid()}-{SOURCE.stat().st_mtime_ns}.so"
    if not built.exists():
        mine = built.with_suffix(f".{os.getpid()}")
        words = [compiler, "-shared", "-fPIC", "-O1", "-o", str(mine), str(SOURCE), "-ldl"]
        subprocess.run(words, check=True, capture_output=True)
        mine.replace(built)
    return built


def is_failing() -> bool:
    """Return whether the disk of this process fails."""
    return "EVERLOG_DISK_FAIL" in os.environ


def telling(under: Path, journal: Path) -> dict[str, str]:
    """Return the environment of a process whose syncs are recorded. Existing files count as synced."""
    with journal.open("a") as file:
        for path in filter(Path.is_file, under.resolve().rglob("*")):
            found = path.stat()
            file.write(f"sync {found.st_ino} {found.st_size} {path}\n")
    shadow = _shadow(journal)
    shadow.mkdir()
    return _preloaded(under) | {"EVERLOG_DISK_JOURNAL": str(journal), "EVERLOG_DISK_SHADOW": str(shadow)}


def is_filling() -> bool:
    """Return whether the disk of this process fills and is freed again."""
    return FULL in os.environ


def filling(under: Path, full: Path) -> dict[str, str]:
    """Return the environment of a process whose disk is full as long as the file `full` exists."""
    return nth_failing(under, "write", 0, 0, errno.ENOSPC) | {FULL: str(full)}


def failing(under: Path, chance: random.Random) -> dict[str, str]:
    """Return the environment of a process whose disk fails, once or longer, at a random write or sync."""
    what, nth = chance.choice((("write", 600), ("sync", 200)))
    error = chance.choice((errno.ENOSPC, errno.EIO))
    return nth_failing(under, what, chance.randrange(20, nth), chance.choice((1, 3, 10**6)), error)


def nth_failing(under: Path, what: str, nth: int, times: int, error: int) -> dict[str, str]:
    """Return the environment of a process in which the n-th write or sync fails, and `times` calls in all."""
    return _preloaded(under) | {"EVERLOG_DISK_FAIL": f"{what} {nth} {times} {error}"}


def _preloaded(under: Path) -> dict[str, str]:
    return {"LD_PRELOAD": str(library()), "EVERLOG_DISK_UNDER": f"{under.resolve()}/"}


def _shadow(journal: Path) -> Path:
    """The directory with links to replaced and removed files."""
    return journal.with_name(f"{journal.name}-shadow")


def lose(under: Path, journal: Path, chance: random.Random) -> list[str]:
    """Remove everything from files and directories that was not synced; return a description.

    Raises RuntimeError if nothing was recorded: all files would seem to be unsynced.
    """
    at: dict[str, tuple[int, int]] = {}
    by_inode: dict[int, int] = {}
    names: dict[str, list[tuple[str, str]]] = {}  # by directory, the changes since its last sync
    lines = [line.split(" ", 1) for line in journal.read_text().splitlines()]
    if not any(what == "start" for what, _ in lines):
        raise RuntimeError(f"the process ran without the disk that records its syncs: {journal}")
    for what, rest in lines:
        if what == "start":
            continue
        if what == "sync":
            inode, size, name = rest.split(" ", 2)
            at[name] = int(inode), int(size)
            by_inode[int(inode)] = int(size)
            names.pop(name, None)
        else:
            names.setdefault(str(Path(_name(what, rest)).parent), []).append((what, rest))
    done = []
    for _, changes in sorted(names.items(), reverse=True):  # contents first
        for what, rest in reversed(changes[chance.randrange(len(changes) + 1) :]):
            _undo(what, rest, _shadow(journal))
            done.append(f"{what} {rest} is undone")
    shutil.rmtree(_shadow(journal))
    for file in sorted(under.resolve().rglob("*")):
        if not file.is_file() or file.name in {"LOG", "LOCK", files.OWNER} or file.name.startswith("LOG.old"):
            continue
        was = file.stat()
        known, synced = at.get(str(file), (0, 0))
        if known != was.st_ino:
            synced = by_inode.get(was.st_ino, 0)  # it was renamed later
        if was.st_size > synced:
            more = was.st_size - synced
            left = synced + chance.choice((0, 1, more, chance.randrange(more)))
            with file.open("r+b") as opened:
                opened.truncate(left)
            done.append(f"{file.name}: {was.st_size} → {left}, {synced} were synced")
    return done


def _name(what: str, rest: str) -> str:
    """Return the name that a line describes."""
    return rest if what == "create" else rest.split(" ", 1)[1].rpartition("\t")[2]


def _undo(what: str, rest: str, shadow: Path) -> None:
    """Undo one change of a name."""
    if what == "create":
        path = Path(rest)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return
    nth, name = rest.split(" ", 1)
    source, _, target = name.rpartition("\t")
    if source:
        Path(target).rename(source)
    if (shadow / nth).exists():
        (shadow / nth).rename(target)
