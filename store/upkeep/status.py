"""Status: the state of an open database, in numbers."""

from __future__ import annotations

import os
import uuid
from enum import StrEnum
from shlex import quote
from typing import Protocol

import msgspec

from everlog.proto import log_pb2
from everlog.store import VERSION
from everlog.store.clock import BEHIND_NS, Clock
from everlog.store.core import Core
from everlog.store.crypto.vault import Vault
from everlog.store.errors import OpenError, quantity
from everlog.store.history.past import Past
from everlog.store.keys import ENDS
from everlog.store.online.backfill import built_rows, is_building, prepared, total_rows
from everlog.store.rocks import files
from everlog.store.upkeep.consumers import Consumers
from everlog.store.upkeep.expiry import due, next_end
from everlog.store.upkeep.sizes import LogGrowth, log_growth, sizes_of


class TableStatus(msgspec.Struct, frozen=True):
    """One table: its name, number of rows, and the names of its indexes. `bytes` and `index_bytes`: estimates
    of the sizes in files. `grown_bytes`: by how much both together grew in `Status.grown_s` seconds."""

    name: str
    rows: int
    indexes: list[str]
    bytes: int = 0
    index_bytes: list[int] = []
    grown_bytes: int = 0


class ExpiryStatus(msgspec.Struct, frozen=True):
    """Rows that expire; how many expired ones are not deleted yet (counted up to a million); when the next
    one expires (0: none); by how many seconds the clock jumped (nothing expires then)."""

    rows: int = 0
    due: int = 0
    next_ns: int = 0
    jumped_s: float = 0.0


class ClockStatus(msgspec.Struct, frozen=True):
    """The reading of the machine's clock; by how many seconds the newest commit is ahead of it (0: it is
    not); the seq of the Notice that records this (0: none)."""

    reading_ns: int = 0
    ahead_s: float = 0.0
    corrected: int = 0


class ConsumerLag(msgspec.Struct, frozen=True):
    """How far a registered consumer is behind: records that it has not confirmed, and for how many seconds
    the oldest of them has waited."""

    name: str
    records: int
    seconds: float


class ConsumersStatus(msgspec.Struct, frozen=True):
    """The number of registered consumers; the names of those over their caps, for which nothing is held;
    why their positions are unknown, if the bookmarks file is damaged; how far each is behind, the farthest
    first."""

    registered: int = 0
    over: list[str] = []
    error: str = ""
    lags: list[ConsumerLag] = []


class SubscriptionStatus(msgspec.Struct, frozen=True):
    """A running subscription at a server, registered or not: its identity, address and start, and how many
    records it has not been sent."""

    identity: str
    peer: str
    since_ns: int
    records: int


class ArchiveStatus(msgspec.Struct, frozen=True):
    """Records up to `base` are in the archive only; when it was last added to (0: never); where this
    process archives to (empty: it does not); why that fails now, and from which time."""

    base: int = 0
    archived_ns: int = 0
    target: str = ""
    error: str = ""
    error_ns: int = 0


class WritesStatus(msgspec.Struct, frozen=True):
    """Why writes are refused (empty: they are accepted), and from which time, in nanoseconds since the Unix
    epoch.

    0: unknown: a reader sees that the disk is full, but not from which time.
    """

    error: str = ""
    since_ns: int = 0


class HealthState(StrEnum):
    """The state of a served database. The API uses the same words."""

    READY = "ready"
    MIGRATING = "migrating"  # ready: rows are built while others read and write
    PREPARED = "prepared"  # ready: a migration is built, and waits for a decision from outside
    WAITING = "waiting for approval"  # ready: the version in force is served
    BLOCKED = "migrations cannot be applied"  # ready: the version in force is served
    REFUSED = "writes refused"
    OPENING = "opening"
    CATCHING_UP = "catching up"  # opening: records are projected into the tables
    STOPPING = "stopping"
    CLOSED = "closed"


class Health(msgspec.Struct, frozen=True):
    """Whether a database takes calls, reads and writes, now; its state, and the reason in words.

    `since_ns`: from which time, in nanoseconds since the Unix epoch; 0: unknown.
    """

    ready: bool = True
    state: str = HealthState.READY
    reason: str = ""
    since_ns: int = 0


class Retaining(Protocol):
    """Archives a database automatically (everlog.audit.retention)."""

    def status(self) -> ArchiveStatus: ...

    def close(self) -> None: ...


class Status(msgspec.Struct, frozen=True):
    """The state of a database.

    `head` is the newest record on disk, `oldest` the first that is still held. `warnings` are sentences for
    operators; `production` as in `Admin.production`.
    """

    uuid: bytes
    head: int
    head_time_ns: int
    checksum: int
    oldest: int
    schema_version: int
    tables: list[TableStatus]
    disk_bytes: int
    software: str
    format: int
    read_only: bool
    expiry: ExpiryStatus = ExpiryStatus()
    consumers: ConsumersStatus = ConsumersStatus()
    archive: ArchiveStatus = ArchiveStatus()
    writes: WritesStatus = WritesStatus()
    clock: ClockStatus = ClockStatus()
    warnings: list[str] = []
    production: bool = False
    health: Health = Health()
    log_bytes: int = 0
    log_growth: list[LogGrowth] = []
    grown_s: float = 0.0  # the time of the tables' growth; 0: it is unknown
    subscriptions: list[SubscriptionStatus] = []  # of a server, the farthest behind first
    durability: str = "sync"  # of commits that do not choose: `sync` or `os`


def software() -> str:
    """Return the name and version of this program."""
    return f"everlog {VERSION}"


def status(core: Core, past: Past, consumers: Consumers, archive: ArchiveStatus) -> Status:
    """Return the status. `archive`: the state of automatic archiving, if any. Read-only."""
    seq = core.head
    commit = core.log.commit(seq)
    counts, sizes = core.tables.counts, sizes_of(core)
    return Status(
        uuid=core.uuid,
        head=seq,
        head_time_ns=commit.time_ns,
        checksum=commit.checksum,
        oldest=core.log.oldest,
        schema_version=core.schema.version,
        tables=[
            TableStatus(
                name,
                counts.get(info.space, 0),
                list(info.indexes),
                sizes.get(info.row_prefix, 0),
                [sizes.get(one.prefix, 0) for one in info.indexes.values()],
            )
            for name, info in sorted(core.schema.tables.items())
        ],
        disk_bytes=core.engine.disk_bytes(),
        software=software(),
        format=files.FORMAT,
        read_only=core.read_only,
        expiry=_expiry(core),
        consumers=_consumers(consumers),
        writes=_writes(core),
        archive=msgspec.structs.replace(archive, base=core.log.trimmed.base, archived_ns=core.archived_ns()),
        clock=_clock(core.clock, past, commit.time_ns),
        warnings=[
            *_forgotten(core.vault.pending_deletions, read_only=core.read_only),
            *_refused(core.vault),
            *_endless(consumers),
        ],
        production=core.production,
        health=health(core),
        log_bytes=core.engine.log_bytes(),
        log_growth=log_growth(core),
        durability=core.durability,
    )


def health(core: Core) -> Health:
    """Return the health of an open database. Read-only; reads a few notes only while a migration builds."""
    writes = _writes(core)
    if writes.error:
        return Health(ready=False, state=HealthState.REFUSED, reason=writes.error, since_ns=writes.since_ns)
    if (waiting := prepared(core)) is not None:
        return Health(state=HealthState.PREPARED, reason=waits(waiting))
    if not is_building(core.schema):
        return Health()
    done = built_rows(core)
    total = max(done, total_rows(core.tables))
    return Health(state=HealthState.MIGRATING, reason=f"{done:,} of {quantity(total, 'row')} are built")


def waits(migration: log_pb2.Migration) -> str:
    """Return which decision a prepared migration waits for, as a clause."""
    decision = uuid.UUID(bytes=migration.decision_id)
    return f"migration {migration.version}_{migration.name} waits for decision {decision}"


def _forgotten(count: int, *, read_only: bool) -> list[str]:
    if not count:
        return []
    keys = "The key of a forgotten person is" if count == 1 else f"{count} keys of forgotten persons are"
    when = (
        "the next opening for writing does it, as `everlog expire` does"
        if read_only
        else "the disk refused it; it is tried again once a second"
    )
    return [f"{keys} not overwritten yet: {when}"]


def _refused(vault: Vault) -> list[str]:
    if not vault.refused:
        return []
    return [f"The key of a new person was refused, and with it the commit: {vault.refused}"]


def _endless(consumers: Consumers) -> list[str]:
    """Return a sentence about the consumers whose caps have no limit."""
    caps = {name: one.cap for name, (_, one) in sorted(consumers.registered().items())}
    found = [name for name, cap in caps.items() if not (cap.records or cap.seconds or cap.bytes)]
    if not found:
        return []
    names = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
    whose = f"{quantity(len(found), 'consumer')} ({names})"
    how = f"everlog consumers register {quote(found[0])} --cap-days 7"
    return [f"the log is held without limit for {whose}; to set a limit: {how}"]


def _clock(clock: Clock, past: Past, time_ns: int) -> ClockStatus:
    reading_ns = clock.read()
    ahead_ns = time_ns - reading_ns
    if ahead_ns <= BEHIND_NS:
        return ClockStatus(reading_ns)
    return ClockStatus(reading_ns, ahead_ns / 1e9, past.corrected())


def _writes(core: Core) -> WritesStatus:
    refusal = core.engine.refusal
    if not core.read_only:
        return WritesStatus(refusal.error, refusal.since_ns)
    at = core.owner.at  # also after the directory was moved or removed
    full = not os.statvfs(at).f_bavail and os.access(at, os.W_OK)
    return WritesStatus(f"the disk of {core.path} is full" if full else "")


def _consumers(consumers: Consumers) -> ConsumersStatus:
    try:
        found = list(consumers)
    except OpenError as error:
        return ConsumersStatus(len(consumers.registered()), error=str(error))
    lags = [ConsumerLag(one.name, one.lag_records, one.lag_s) for one in found]
    lags.sort(key=lambda one: (-one.records, one.name))
    return ConsumersStatus(len(found), [one.name for one in found if one.over], lags=lags)


def _expiry(core: Core) -> ExpiryStatus:
    rows = core.tables.counts.get(ENDS, 0)
    view, _ = core.tables.snapshot()
    try:
        found = ExpiryStatus(rows, due(view, core.clock.read()), next_end(view)) if rows else ExpiryStatus()
    finally:
        view.close()
    return msgspec.structs.replace(found, jumped_s=core.clock.jumped_s)
