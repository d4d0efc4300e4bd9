"""Giving: the keys of people go to those who may have them, and the log says to whom.

    Keys(key_ids) ─▶ may they? ─▶ a Notice on disk, once a day ─▶ the keys

    Notice { kind "keys.given", subject: the name of the token }       the actor is the same

A commit for each time would fill the log with what auditors already know: who has been given one key has it
for good. So it is one for each name and day, from a server's start on.

Invariants
  (1) nobody has a key of whom the log does not say so: the Notice is on disk before;
  (2) nobody is given a key that the log says was forgotten, nor the root, of which hashes are made.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from everlog.proto import log_pb2, people_pb2
from everlog.rpc.protocol import ASKED_KEYS_MAX
from everlog.store.database import Database
from everlog.store.errors import RowError, SealedError

KIND = "keys.given"
EVERY_S = 24 * 3600.0


class Giving:
    """The keys of a server's databases. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: dict[tuple[bytes, str], float] = {}  # when the log was told, by database and name

    def give(self, db: Database, name: str, key_ids: Sequence[bytes]) -> people_pb2.KeysResponse:
        """Keys for `name`, who may have them. Writes, once a day. Raises SealedError without the master
        key, ReadOnlyError where the log cannot be told."""
        if len(key_ids) > ASKED_KEYS_MAX:
            raise RowError(f"expected to be asked for at most {ASKED_KEYS_MAX} keys, found {len(key_ids)}")
        vault = db.tables.vault
        assert vault is not None
        if vault.locked:
            raise SealedError(f"there are no keys to give: {vault.locked}", erased=False)
        self._tell(db, name)
        answer = people_pb2.KeysResponse(sealed_in=vault.sealed_in)
        for key_id in key_ids:
            key = vault.key(key_id)
            if key is not None:
                answer.keys.add(key_id=key_id, key=key)
        return answer

    def _tell(self, db: Database, name: str) -> None:
        with self._lock:
            last = self._told.get((db.uuid, name))
            if last is not None and time.monotonic() - last < EVERY_S:
                return

            def about(commit: log_pb2.Commit) -> None:
                commit.notice.CopyFrom(log_pb2.Notice(kind=KIND, subject=name))

            db._commit(db.transaction(actor=name, durability="sync"), about)
            self._told[db.uuid, name] = time.monotonic()
