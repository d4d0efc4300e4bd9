"""Linked: the files of a RocksDB in a place that cannot be written, under another directory that can.

    db/CURRENT          ◀── link ──  scratch/CURRENT
    db/000012.sst       ◀── link ──  scratch/000012.sst
    db/rocksdict-config.json ─ copied ─▶ scratch/…        which every opening writes, a reader's as well

A reader opens the scratch one: evidence on read-only media, a mount, or a database of somebody else, who may
be writing it. What that adds gets a link when the reader catches up.

Invariants
  (1) nothing is written to the place itself, and no link leads to what would be written.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

COPIED = "rocksdict-config.json"


def needs_links(source: Path) -> bool:
    """Whether a directory cannot be written, by this process or by anybody, or its disk is full."""
    return source.is_dir() and (not os.access(source, os.W_OK) or not os.statvfs(source).f_bavail)


def link(source: Path, target: Path) -> None:
    """Makes a directory have what another has now. Raises OSError."""
    target.mkdir(exist_ok=True)
    there, here = (
        {entry.name for entry in os.scandir(path) if entry.name != "LOCK"} for path in (source, target)
    )
    for name in here - there - {COPIED}:
        (target / name).unlink()
    for name in there - here:
        with contextlib.suppress(FileNotFoundError):  # RocksDB deletes what it has compacted
            if name == COPIED:
                shutil.copyfile(source / name, target / name)
            else:
                (target / name).symlink_to((source / name).absolute())
