"""Connect: open the database that a URL names. The API is the same for all.

file:PATH   or a plain path         embedded, in this directory
memory:                             embedded, in a temporary directory (in memory if the system allows it)
everlog://HOST:PORT/NAME            on a server, over TLS
everlog+insecure://HOST:PORT/NAME   on a server on this machine
(none)                              DATABASE_URL, from the environment or from `.env`
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlog.audit.archived import attach
from everlog.rpc import address, traces
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store import environment, urls
from everlog.store.crypto.master_key import MasterKey
from everlog.store.database import IDEMPOTENCY_S
from everlog.store.errors import MigrationError, OpenError, UnavailableError
from everlog.store.program_log import about, logger
from everlog.store.progress import OnProgress
from everlog.store.rocks.files import in_memory
from everlog.store.rocks.ownership import removed_if_failed
from everlog.store.schema import arguments

if TYPE_CHECKING:
    from everlog.migrations.proposal import Proposal
    from everlog.rpc.client.database import RemoteDatabase

MEMORY = "memory:"
LOOK_EVERY_S = 0.05  # between two attempts while another process has the files open


def open(  # noqa: A001  the public name is everlog.open
    url: str | os.PathLike[str] | None = None,
    *,
    migrations: str | os.PathLike[str] | None = None,
    migrate: bool = True,
    read_only: bool = False,
    create: bool = True,
    durability: str = "sync",
    idempotency_s: float = IDEMPOTENCY_S,
    master_key: MasterKey | None = None,
    progress: OnProgress | None = None,
    timeout: float | None = None,
    fleet: str | None = None,
    fleet_name: str | None = None,
    fleet_labels: Mapping[str, str] | None = None,
    fleet_rate: float | None = None,
) -> EmbeddedDatabase | RemoteDatabase:
    """Open a database. Use it in a `with` block, or close it.

        with everlog.open("file:flights.db", migrations="flights.migrations") as db:
            db.get(AIRPORTS, "JFK")

    `url`: a path or URL (see this module's header); None: that of the environment. `migrations`: the package
    or directory of the migrations. Embedded, pending ones are applied; a server must have applied them, and
    so must the writing process with `read_only`. `migrate=False`: do neither, and only name the folders for
    `db.migrations`. `timeout`, in seconds: the maximum wait for a database that another process has open for
    writing (None: do not wait), or for a server and for each of its responses (None: 5 and 30 seconds; for
    single calls see `everlog.deadline`).

    For embedded databases only: `create`: create it if it does not exist. `durability`: the default of
    commits, "sync" (on disk on return) or "os" (on disk about 20 ms later). `idempotency_s`: for how many
    seconds archiving leaves commits with a `commit_id` in the log. `master_key`: for sealed rows, its 32
    bytes, the path of its file, or a `Master`; None: that of the environment. `progress`: called while the
    tables catch up and migrations are applied. `fleet`: the URL of the ledger of a fleet that the database
    joins until it is closed; None: EVERLOG_FLEET, "": none. Its migrations then wait for the fleet, unless
    the database is empty. `fleet_name`: its name, unique in the fleet (None: EVERLOG_FLEET_NAME, or the names
    of machine and directory). `fleet_labels`: labels for selections (None: EVERLOG_FLEET_LABELS).
    `fleet_rate`: the most rows a second that an upgrade of the fleet builds (None: EVERLOG_FLEET_RATE, or no
    limit).

    Writes, if it creates, migrates, or completes interrupted work. Raises OpenError, UnavailableError,
    MigrationError, CorruptionError.
    """
    if url is not None and not isinstance(url, str | os.PathLike):
        raise OpenError(f"expected the URL of a database, or a path, found {type(url).__name__} {url!r}")
    where = os.fspath(url) if url is not None else from_environment()
    if "\0" in arguments.text(where, "url", error=OpenError):
        raise OpenError(f"expected the URL of a database, or a path, found a NUL character in {where!r}")
    arguments.seconds(timeout or 0, "`timeout`", error=OpenError)
    arguments.seconds(idempotency_s, "`idempotency_s`", error=OpenError)
    if address.is_url(where):
        if fleet:
            raise OpenError(
                f"expected an embedded database to join a fleet, found {address.without_secrets(where)}; its"
                " server joins with `everlog serve --join`"
            )
        return _remote(where, migrations, migrate=migrate, read_only=read_only, timeout_s=timeout)
    joins = _fleet(fleet, read_only=read_only)
    made = _path(where) if create and not read_only and where != MEMORY else None
    with removed_if_failed(made) if made is not None else nullcontext():
        db = _embedded(
            where,
            migrations,
            migrate=migrate and not joins,
            create=create,
            read_only=read_only,
            timeout=timeout,
            durability=durability,
            idempotency_s=idempotency_s,
            master_key=master_key,
            progress=progress,
        )
        if joins:
            shown = progress if migrate else None
            _join(db, joins, fleet_name, fleet_labels, shown, rate=fleet_rate, migrate=migrate)
        return db


def _fleet(given: str | None, *, read_only: bool) -> str:
    """Return the URL of the fleet to join; empty: none. Raises OpenError for a database that is read-only."""
    if given and read_only:
        raise OpenError("expected a database that is open for writing to join a fleet, found read_only")
    if given is not None:
        return given
    return "" if read_only else environment.variable("EVERLOG_FLEET") or ""


def _join(
    db: EmbeddedDatabase,
    url: str,
    name: str | None,
    labels: Mapping[str, str] | None,
    progress: OnProgress | None,
    *,
    rate: float | None,
    migrate: bool,
) -> None:
    """Make a database a member of a fleet. Its migrations wait for the fleet, unless it has no schema yet."""
    from everlog.rpc.client import join

    try:
        if labels is None:
            labels = join.labels_of(environment.variable("EVERLOG_FLEET_LABELS") or "")
        if rate is None and (said := environment.variable("EVERLOG_FLEET_RATE")):
            rate = join.rate_of(said)
        arguments.rate(rate)
        if migrate and db.folders is not None:
            _prepared_code(db, progress)
        name = name or environment.variable("EVERLOG_FLEET_NAME") or join.default_name(db.path)
        db.leave_fleet = join.join(url, db, name=name, labels=labels, rate=rate)
    except BaseException:
        db.close()
        raise


def _prepared_code(db: EmbeddedDatabase, progress: OnProgress | None) -> None:
    """Apply the migrations of an empty database; give others the code of a migration in progress."""
    from everlog import migrations as room
    from everlog.migrations.in_progress import attach as attach_code

    if not db.schema.version:
        _apply(db, progress)
    elif db.folders is not None:
        attach_code(db, room.load(db.folders))


def _embedded(
    where: str,
    migrations: str | os.PathLike[str] | None,
    *,
    migrate: bool,
    create: bool,
    read_only: bool,
    timeout: float | None,
    progress: OnProgress | None,
    **how: Any,
) -> EmbeddedDatabase:
    if where == MEMORY:
        if not create:
            raise OpenError("memory: is always a new database; open it with create=True")
        scratch = in_memory("everlog-in-memory-")
    else:
        scratch = None
    path = scratch.path if scratch else _path(where)

    def opened() -> EmbeddedDatabase:
        return EmbeddedDatabase(
            path,
            url=where if scratch else f"file:{path}",
            create=create,
            read_only=read_only,
            progress=progress,
            **how,
        )

    try:
        db = _once_free(opened, timeout or 0.0)
    except BaseException:
        if scratch:
            scratch.remove()
        raise
    db.scratch = scratch
    attach(db)  # archived records are read from their targets
    db.committer.watch(tracer=traces.tracing)
    db.folders = migrations
    if migrations is not None and migrate:
        _bring_up_to_date(db, migrations, read_only=read_only, progress=progress)
    return db


def _bring_up_to_date(
    db: EmbeddedDatabase,
    migrations: str | os.PathLike[str],
    *,
    read_only: bool,
    progress: OnProgress | None,
) -> None:
    try:
        if read_only:
            _check_up_to_date(db, migrations)
        else:
            _apply(db, progress)
    except BaseException:
        db.close()
        raise


def _apply(db: EmbeddedDatabase, progress: OnProgress | None) -> None:
    """Apply the pending migrations. While one waits for a decision from outside, the previous version is
    served."""
    try:
        db.migrations.apply(progress=progress)
    except MigrationError as error:
        if "decision_id" not in error.facts:
            raise
        extra = about("migration.prepared", database=str(db.path))
        logger.warning("%s: %s", db.url, error, extra=extra)


def from_environment() -> str:
    """Return DATABASE_URL, from the environment or else from `.env`. Raises OpenError if it is unset."""
    url = environment.variable("DATABASE_URL")
    if not url:
        raise OpenError(
            "expected the URL of a database, found none: pass a URL (file:PATH, memory:, everlog://HOST:PORT/NAME),"
            " or set DATABASE_URL in the environment or in .env"
        )
    return url


def _path(url: str) -> Path:
    """Return the directory of an embedded database. Raises OpenError."""
    return urls.directory(
        url,
        expected="the URL of a database, "
        "file:PATH, memory:, everlog://HOST:PORT/NAME or everlog+insecure://HOST:PORT/NAME",
    )


def _once_free(opened: Callable[[], EmbeddedDatabase], wait_s: float) -> EmbeddedDatabase:
    """Call `opened`, and again for up to `wait_s` seconds while another process has the database open for
    writing."""
    until = time.monotonic() + wait_s
    while True:
        try:
            return opened()
        except OpenError as error:
            if "owner" not in error.facts or time.monotonic() >= until:
                raise
        time.sleep(LOOK_EVERY_S)


def _remote(
    url: str,
    migrations: str | os.PathLike[str] | None,
    *,
    migrate: bool,
    read_only: bool,
    timeout_s: float | None,
) -> RemoteDatabase:
    from everlog.rpc.client.database import RemoteDatabase

    db = RemoteDatabase(url, read_only=read_only, timeout_s=timeout_s)
    db.folders = migrations
    if migrations is not None and migrate:
        try:
            _check_up_to_date(db, migrations)
        except BaseException:
            db.close()
            raise
    return db


def _check_up_to_date(db: EmbeddedDatabase | RemoteDatabase, migrations: str | os.PathLike[str]) -> None:
    from everlog import migrations as room

    folders = room.load(migrations)
    newest = max((folder.version for folder in folders), default=0)
    if db.schema.version < newest:
        proposed, problem = _proposed(db, newest), db.migrations.problem()
        waiting = next((one for one in db.migrations.status() if one.decision_id), None)
        wait = f"the migration to it {proposed.says}" if proposed else "apply its migrations (`everlog up`)"
        if waiting is not None:
            wait = f"migration {waiting.title} waits for decision {waiting.decision}"
        raise MigrationError(
            f"{db.url} is at schema version {db.schema.version}, this program was written for {newest}; "
            + (f"the server cannot apply the migration to it: {problem}" if problem else wait),
            found=db.schema.version,
            expected=newest,
            **({"digest": proposed.digest.hex(), "see": proposed.url} if proposed else {}),
        )


def _proposed(db: EmbeddedDatabase | RemoteDatabase, version: int) -> Proposal | None:
    """Return the newest proposal if it would migrate to `version` and was not applied; otherwise None."""
    from everlog.migrations.proposal import ProposalState

    try:
        newest = next(reversed(db.migrations.proposals()), None)
    except UnavailableError:  # an older server, which has no proposals
        return None
    gone = (ProposalState.FINISHED, ProposalState.SUPERSEDED)
    return newest if newest and newest.state not in gone and newest.plan.to_version >= version else None
