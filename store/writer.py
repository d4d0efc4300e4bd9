"""Writer: the calls that write rows, each a transaction. A database is one, here and over the
network; they differ in what their transactions are alone.
"""

from __future__ import annotations

import contextlib
import functools
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from google.protobuf.message import Message

from everlog.store import given
from everlog.store.errors import ConflictError, Error
from everlog.store.reader import Reader
from everlog.store.table import Table
from everlog.store.transaction import ANONYMOUS, CommitResult, Metadata, Transaction
from everlog.store.write import Expires

M = TypeVar("M", bound=Message)
K = TypeVar("K")
R = TypeVar("R")

DURABILITIES = ("sync", "os")
DEADLINE_S = 60.0
PAUSE_TRIES_LOG2, PAUSE_MAX_S = 5, 0.25  # between two tries of `run`: 32 times what a try takes at most
ALONE_FROM = 3  # conflicts
ALONE_S = 1.0  # so long others wait for one that goes alone


class Fair:
    """Lets one `run` that met many conflicts go alone: the others wait before they begin a try."""

    def __init__(self) -> None:
        self._alone = threading.RLock()  # `fn` may run another

    @contextlib.contextmanager
    def turn(self, *, alone: bool, last: Transaction | None = None) -> Iterator[None]:
        """One try. `alone`: the others wait until it is over, or give up waiting. `last`: the try before."""
        mine = self._alone.acquire(timeout=ALONE_S)
        if mine and not alone:
            self._alone.release()
        try:
            yield
        finally:
            if mine and alone:
                self._alone.release()


class Writer(Reader):
    """The calls that write rows, each a transaction; the same over the network."""

    def transaction(
        self,
        *,
        actor: str = "",
        reason: str = "",
        correlation_id: str = "",
        causation_id: str = "",
        client: str = "",
        commit_id: bytes = b"",
        durability: str | None = None,
    ) -> Transaction:
        """A transaction, to use in a `with`. Raises ReadOnlyError, and RowError for
        metadata that are not text.

        `commit_id` is a UUIDv7: the same id with the same content commits once. `durability`:
        "sync" (on disk when it returns) or "os" (on disk some 20 ms later).
        """
        if durability is not None and durability not in DURABILITIES:
            raise Error(f"expected a durability of {' or '.join(DURABILITIES)}, found {durability!r}")
        about = Metadata(actor, reason, correlation_id, causation_id, client, commit_id, durability)
        return self._transaction(ANONYMOUS if about == ANONYMOUS else about.check())

    def run(
        self,
        fn: Callable[[Transaction], R],
        *,
        retries: int | None = None,
        deadline_s: float = DEADLINE_S,
        **metadata: Any,
    ) -> R:
        """Run `fn(tx)` and commit, and return what it returned; on a conflict, again. Writes.

        It waits between two tries, for a random time that grows with their number and with what one takes.
        From the fourth try on it goes alone: embedded, no other `run` of this database object begins a try
        meanwhile; on a server, commits of all other clients to the tables that it reads wait. Both for a
        second at most. It ends with the last ConflictError after `retries` more tries (None: as many
        as it takes), or `deadline_s` seconds.
        """
        given.function(fn, "fn")
        if retries is not None:
            given.counted(retries, "`retries`")
        began = time.monotonic()
        until, tries, tx = began + given.seconds(deadline_s, "`deadline_s`"), 0, None
        while True:
            try:
                with self._fair.turn(alone=tries >= ALONE_FROM, last=tx):
                    began = time.monotonic()
                    with self.transaction(**metadata) as tx:
                        return fn(tx)
            except ConflictError:
                tries += 1
                took_s = (now := time.monotonic()) - began
                if now >= until or (retries is not None and tries > retries):
                    raise
            pause_s = min(PAUSE_MAX_S, took_s * 2 ** min(tries, PAUSE_TRIES_LOG2))
            time.sleep(random.uniform(0, pause_s))  # noqa: S311  no secret

    @functools.cached_property
    def _fair(self) -> Fair:
        return Fair()

    def put(
        self,
        table: Table[M, Any],
        row: M,
        *,
        expect_version: int | None = None,
        expires: Expires | None = None,
        **metadata: Any,
    ) -> CommitResult:
        """Writes one row in a transaction of its own. `expires`: when its life ends, a datetime with its
        zone, or nanoseconds since the Unix epoch (0: never); None: as its table has it."""
        return self._once(
            lambda tx: tx.put(table, row, expect_version=expect_version, expires=expires), metadata
        )

    def insert(
        self, table: Table[M, Any], row: M, *, expires: Expires | None = None, **metadata: Any
    ) -> CommitResult:
        """Writes one row that must not be there yet. Raises PreconditionError."""
        return self._once(lambda tx: tx.insert(table, row, expires=expires), metadata)

    def update(
        self, table: Table[M, Any], row: M, *, expires: Expires | None = None, **metadata: Any
    ) -> CommitResult:
        """Writes one row that must be there already. Raises PreconditionError."""
        return self._once(lambda tx: tx.update(table, row, expires=expires), metadata)

    def delete(
        self, table: Table[M, K], key: K, *, expect_version: int | None = None, **metadata: Any
    ) -> CommitResult:
        """Deletes one row. Where there is none, nothing is written, and the result has seq 0 and `missing` 1.

        A `commit_id` is not remembered then: the same delete again deletes a row that came meanwhile.
        """
        return self._once(lambda tx: tx.delete(table, key, expect_version=expect_version), metadata)

    def _once(self, write: Callable[[Transaction], None], metadata: dict[str, Any]) -> CommitResult:
        """One that read nothing and conflicts all the same met a migration: it is made anew, for the
        schema that is in force by now."""
        try:
            tx = self.transaction(**metadata) if metadata else self._transaction(ANONYMOUS)
            write(tx)
            return tx.commit()
        except ConflictError:

            def again(tx: Transaction) -> CommitResult:
                write(tx)
                return tx.commit()

            return self.run(again, **metadata)

    def _transaction(self, metadata: Metadata) -> Transaction:
        raise NotImplementedError
