"""Sealing: one table whose rows are sealed, each under the key of its person.

    row ─▶ its person ─▶ key_id ─▶ sealed row       to the log, and to the tables: header key_id sealed
    value (keys.py) ─▶ key_id ─▶ row                 for whoever reads it here

    values of a hashed index := 0x00 | 0x01 HMAC(index key, prefix:6 field:u8 value)[:16]   of each field

Where there is no vault, in a client of a server, rows are open: the server seals and opens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everlog.store import keys
from everlog.store.binding import person_part
from everlog.store.errors import SealedError
from everlog.store.fields import descriptor_of, resolve
from everlog.store.vault import Vault

if TYPE_CHECKING:
    from everlog.store.schema import TableInfo


class Sealing:
    """Seals and opens the rows of a table."""

    def __init__(self, info: TableInfo, vault: Vault) -> None:
        self._info = info
        self._space = keys.SPACE.pack(info.space)
        self.vault = vault
        self.person_of = person_part(info, resolve(descriptor_of(info.model), info.proto.person.numbers))

    def check(self) -> None:
        """Raises SealedError if rows can be neither sealed nor opened."""
        self.vault.check(self._info.name)

    def seal(self, key: bytes, row: bytes) -> tuple[bytes, bytes]:
        """The key_id of the row's person, and the row sealed. Raises SealedError and RowError."""
        self.check()
        key_id = self.vault.key_of(self.person_of(self._info.salvage(row)))
        return key_id, self.vault.seal(key_id, self._space + key, row)

    def open(self, key: bytes, key_id: bytes, sealed: bytes) -> bytes:
        """Raises SealedError, of which those who were forgotten are told without any keys, and
        CorruptionError."""
        if self.vault.locked and not self.vault.is_shredded(key_id):
            self.check()
        try:
            return self.vault.open(key_id, self._space + key, sealed)
        except SealedError as error:
            raise SealedError(f"{self._info.name_key(key)}: {error}", **error.facts) from None

    def value(self, key: bytes, value: bytes) -> bytes:
        """A stored value with its row open. Raises SealedError and CorruptionError."""
        key_id = keys.key_id_of(value)
        if not key_id:
            return value
        row = self.open(key, key_id, keys.row_of(value))
        return keys.opened_value(value, row)
