"""People: the calls of one open database about people: `db.people`.

forget      their rows are deleted, and the key that sealed them is shredded (upkeep/erase.py) export
all data about one of them (upkeep/held.py) readable    data about people that no key protects rotate_key
all keys under another master key (crypto/vault.py)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec
from google.protobuf.message import Message

from everlog.proto import log_pb2
from everlog.store.core import Core
from everlog.store.crypto.master_key import MasterKey, next_master_of
from everlog.store.crypto.vault import ROTATED, rotate
from everlog.store.errors import Error
from everlog.store.progress import OnProgress, Progress
from everlog.store.schema import arguments
from everlog.store.schema.table import Table
from everlog.store.tx.transaction import Metadata, Transaction
from everlog.store.upkeep import held
from everlog.store.upkeep.erase import Forgotten, Person, export, forget, person_of

M = TypeVar("M", bound=Message)
K = TypeVar("K")


class People:
    """People in one open database. `begin` begins a transaction with metadata, which it checks."""

    def __init__(self, core: Core, begin: Callable[..., Transaction]) -> None:
        self._core = core
        self._begin = begin

    def forget(
        self,
        table: Table[M, K] | str,
        key: K | None = None,
        *,
        person: Any = None,
        **metadata: Any,
    ) -> Forgotten:
        """Erases one person: whose row has this primary key, or who is named by the value of the
        table's `person` field. All their rows, of all tables, are deleted in one commit, and the key
        that they were sealed with is shredded: nobody can read any more what the log has of them. What
        stays readable all the same is in the result (`remaining`).

        With a `commit_id` it is done once, however often it is asked for. Raises RowError if there is no
        such row or person, SealedError without the master key.
        """
        self._core.check_writable()
        who = person_of(self._core.schema, arguments.table_name(table), key, person)
        return self.forget_person(who, self._begin(**metadata).metadata)

    def forget_person(self, who: Person, metadata: Metadata) -> Forgotten:
        """The same of somebody who is known already."""
        self._core.check_writable()
        forgotten = forget(self._core, who, metadata)
        self._core.log.tell()
        return forgotten

    def export(self, table: Table[M, K] | str, key: K | None = None, *, person: Any = None) -> dict[str, Any]:
        """Return all data about one person, who is named as in `forget`: rows of all tables, every
        version that the log has of them, also from before they were sealed, the commits that wrote them,
        texts that mention them, and the state of their key. Values of JSON. Reads the whole log; writes
        nothing. Raises RowError if there is nothing, SealedError without the master key."""
        found: dict[str, Any] = msgspec.json.decode(b"".join(self.stream(table, key, person=person)))
        return found

    def stream(
        self, table: Table[M, K] | str, key: K | None = None, *, person: Any = None
    ) -> Iterator[bytes]:
        """Return what `export` returns as pieces of one JSON object, however much it is: they take
        bounded memory. Raises the same errors, before the first piece."""
        self._core.check_open()
        who = person_of(self._core.schema, arguments.table_name(table), key, person)
        return export(self._core, who)

    def readable(self) -> list[held.Remaining]:
        """Return data about people that is readable without keys: rows from before their table was sealed,
        texts of migrations with rows, primary keys that identify people. Read-only."""
        self._core.check_open()
        return list(held.readable(self._core))

    def rotate_key(
        self, master_key: MasterKey | None = None, progress: OnProgress | None = None, **metadata: Any
    ) -> int:
        """Puts all keys under another master key, or that which the environment names as the next, while
        others read and write; returns how many: none, if they are under it already. Afterwards the database
        opens with that one alone. What was cut short is gone on with. A Notice says before who it was
        (`actor`, `reason`). Raises SealedError without the old one, OpenError if there is no new one."""
        self._core.check_writable()
        total, master, vault = 0, next_master_of(master_key), self._core.vault
        told = self._begin(**metadata, durability="sync")

        def tell(id: bytes) -> None:
            notice = log_pb2.Notice(kind=ROTATED, detail=id)
            self._core.commit(told, lambda commit: commit.notice.CopyFrom(notice))

        if not vault.changing.acquire(blocking=False):
            raise Error(
                f"the master key of {self._core.url} is being changed already; wait for it, and ask again"
            )
        try:
            for done, total in rotate(vault, master, tell):
                if progress is not None:
                    progress(Progress("rotate keys", done, total, "keys"))
        finally:
            vault.changing.release()
        return total
