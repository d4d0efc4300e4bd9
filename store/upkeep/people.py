"""People: the calls about persons in one open database: `db.people`.

forget      delete a person's rows, and shred the key that sealed them (upkeep/erase.py)
export      all data about one person (upkeep/personal_data.py)
readable    data about persons that no key protects
rotate_key  put all keys under another master key (crypto/vault.py)
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
from everlog.store.upkeep import personal_data
from everlog.store.upkeep.erase import Forgotten, Person, export, forget, person_of

M = TypeVar("M", bound=Message)
K = TypeVar("K")


class People:
    """Persons in one open database. `begin` begins a transaction with metadata, which it checks."""

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
        """Erase one person: the owner of the row with this primary key, or the one with this value of the
        table's `person` field. Writes.

        All their rows, in all tables, are deleted in one commit, and the key that sealed them is shredded:
        their data in the log can no longer be read. The result lists what stays readable all the same
        (`remaining`). With a `commit_id`, a repeated call returns the first result. Raises RowError if the
        row or the person does not exist, SealedError without the master key.
        """
        self._core.check_writable()
        who = person_of(self._core.schema, arguments.table_name(table), key, person)
        return self.forget_person(who, self._begin(**metadata).metadata)

    def forget_person(self, who: Person, metadata: Metadata) -> Forgotten:
        """`forget` a person that is resolved already."""
        self._core.check_writable()
        forgotten = forget(self._core, who, metadata)
        self._core.log.tell()
        return forgotten

    def export(self, table: Table[M, K] | str, key: K | None = None, *, person: Any = None) -> dict[str, Any]:
        """Return all data about one person, named as in `forget`, as values of JSON. Read-only; reads the
        whole log.

        It has the rows of all tables, every version in the log, also from before a table was sealed, the
        commits that wrote them, texts that mention them, and the state of their key. Raises RowError if
        there is no data, SealedError without the master key.
        """
        found: dict[str, Any] = msgspec.json.decode(b"".join(self.stream(table, key, person=person)))
        return found

    def stream(
        self, table: Table[M, K] | str, key: K | None = None, *, person: Any = None
    ) -> Iterator[bytes]:
        """Return the result of `export` as pieces of one JSON object, in bounded memory. Raises the same
        errors, before the first piece."""
        self._core.check_open()
        who = person_of(self._core.schema, arguments.table_name(table), key, person)
        return export(self._core, who)

    def readable(self) -> list[personal_data.Remaining]:
        """Return data about persons that is readable without keys: rows from before their table was sealed,
        texts of migrations with rows, primary keys that identify persons. Read-only."""
        self._core.check_open()
        return list(personal_data.readable(self._core))

    def rotate_key(
        self, master_key: MasterKey | None = None, progress: OnProgress | None = None, **metadata: Any
    ) -> int:
        """Put all keys under another master key while others read and write. Return their number. Writes.

        `master_key`: the new one; None: the next one that the environment names. If the keys are under it
        already, it returns 0. Afterwards the database opens only with the new one. Interrupted work resumes
        where it stopped. A Notice with `actor` and `reason` is written first. Raises SealedError without
        the old key, OpenError without a new one.
        """
        self._core.check_writable()
        total, master, vault = 0, next_master_of(master_key), self._core.vault
        transaction = self._begin(**metadata, durability="sync")

        def notify(id: bytes) -> None:
            notice = log_pb2.Notice(kind=ROTATED, detail=id)
            self._core.commit(transaction, lambda commit: commit.notice.CopyFrom(notice))

        if not vault.changing.acquire(blocking=False):
            raise Error(
                f"the master key of {self._core.url} is being changed already; wait for it, and ask again"
            )
        try:
            for done, total in rotate(vault, master, notify):
                if progress is not None:
                    progress(Progress("rotate keys", done, total, "keys"))
        finally:
            vault.changing.release()
        return total
