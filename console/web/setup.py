"""Setup: what the program that serves a console knows and no call returns: settings, backups, addresses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from everlog.audit import manifest as manifests
from everlog.audit.place import place
from everlog.audit.segment import Segment
from everlog.store.errors import Error, OpenError
from everlog.store.urls import without_secrets

UPLOAD_BYTES_MAX = 256 << 20
KNOWN_S = 30.0  # a manifest may be in an object store


class Setting(msgspec.Struct, frozen=True):
    """A setting in force, as text. `source`: flag, environment, a file with its line, or default."""

    name: str
    value: str
    source: str
    purpose: str


class Setup(NamedTuple):
    """What a console is served with.

    `backups`: where the backup of a database is, by its name. `urls`: of health and metrics. `settings`:
    those of the server, if it serves the console. `migrations`: the folders of a database, by its name.
    `upload_bytes`: of a file that a browser sends, at most. `proxies`: addresses and networks whose
    X-Forwarded-For is believed. `on_limit`, `on_denied`: count a limit that was reached, and what was denied,
    by name, for metrics; called in any thread.
    """

    backups: Mapping[str, str] = {}
    urls: Mapping[str, str] = {}
    settings: Sequence[Setting] = ()
    migrations: Mapping[str, str] = {}
    upload_bytes: int = UPLOAD_BYTES_MAX
    proxies: Sequence[str] = ()
    on_limit: Callable[[str], None] = lambda _: None
    on_denied: Callable[[str], None] = lambda _: None


class Copied(NamedTuple):
    """A backup: where it is, its last record, and what it has. `error`: why it cannot be read."""

    target: str
    seq: int = 0
    time_ns: int = 0
    bytes: int = 0
    segments: tuple[Segment, ...] = ()
    hashes_seq: int = 0
    error: str = ""


class Backups:
    """The backups of the databases of one console. Thread-safe."""

    def __init__(self, targets: Mapping[str, str]) -> None:
        self._targets = dict(targets)
        self._known: dict[str, tuple[float, Copied]] = {}
        self._lock = threading.Lock()

    def target(self, database: str) -> str:
        """Return where the backup of a database is. Raises OpenError if the console does not know."""
        found = self._targets.get(database, "")
        if not found:
            raise OpenError(
                f"this console knows no backup of {database}; start the server with --console and"
                f" --backup-at {database}=DIR"
            )
        return found

    def of(self, database: str) -> Copied | None:
        """Return the backup of a database, as it was within the last half minute; None: the console knows
        none. Read-only."""
        target = self._targets.get(database, "")
        if not target:
            return None
        with self._lock:
            at, known = self._known.get(database, (0.0, Copied("")))
        if not known.target or time.monotonic() - at > KNOWN_S:
            known = _read(target)
            with self._lock:
                self._known[database] = time.monotonic(), known
        return known

    def changed(self, database: str) -> None:
        """Forget what is known of a backup."""
        with self._lock:
            self._known.pop(database, None)


def _read(target: str) -> Copied:
    where = without_secrets(target)
    if "://" not in target and not Path(target).exists():
        return Copied(where)
    try:
        found = manifests.read(place(target))
    except (Error, OSError) as error:
        return Copied(where, error=str(error))
    if found is None:
        return Copied(where)
    total = sum(one.size for one in found.segments)
    hashes = found.hashes.seq if found.hashes else 0
    return Copied(where, found.head.seq, found.head.time_ns, total, tuple(found.segments), hashes)
