"""Opener: what opens the sealed rows of the feed, for who follows.

    changes ─▶ their key_ids ─▶ keys ─▶ rows; None where the person was forgotten

Here with the keys of the open database; `everlog.rpc.remote_keys` has one that asks a server for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from everlog.proto import log_pb2
from everlog.store.errors import SealedError
from everlog.store.keys import SPACE
from everlog.store.vault import Vault


class Opener(Protocol):
    """Opens sealed rows."""

    def open(self, changes: Sequence[log_pb2.Change]) -> list[bytes | None]:
        """The rows of sealed changes; None: its person was forgotten. Raises SealedError where keys are not
        at hand, and CorruptionError for other bytes than were sealed."""

    def drop(self, key_id: bytes) -> None:
        """Lets go of a key: the log has come to where it is forgotten."""


class VaultOpener:
    """Opens with the keys of a database of this process."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def open(self, changes: Sequence[log_pb2.Change]) -> list[bytes | None]:
        return [self._row(change) for change in changes]

    def drop(self, key_id: bytes) -> None:
        """It is gone already: the vault forgets with the log."""

    def _row(self, change: log_pb2.Change) -> bytes | None:
        self._vault.check(f"of space {change.space}")
        try:
            return self._vault.open(change.key_id, SPACE.pack(change.space) + change.key, change.row)
        except SealedError as error:
            if not error.erased:
                raise
            return None
