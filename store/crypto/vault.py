"""Vault: the keys of the persons whose rows are sealed, and everything derived from them.

    master key ─unwraps─▶ key encryption key ─opens─▶ root ─▶ tag of a person, values of hashed indexes
                                             └opens─▶ the person's key ─▶ seals and opens rows

    row bound to   database:16 space:u32be key        elsewhere it does not open

An `Opener` opens the sealed rows of the feed for followers: `VaultOpener` with the keys of the open
database, `everlog.rpc.client.people` with keys requested from a server.

    changes ─▶ their key_ids ─▶ keys ─▶ rows; None if the person was forgotten

`rotate` puts all keys of a vault under another master key, while others read and write:

    a new key encryption key, under the old one ─▶ a Notice ─▶ slot after slot ─▶ under the new master key
                                                                                     ─▶ the old one: zeros

    Notice { kind "keys.rotated", detail: the id of the new key encryption key }     when begun or resumed

Invariants
  (1) a new key is on disk before the commit that uses it: the committer calls `sync` first;
  (2) a forgotten key is nowhere: neither in the file nor in memory. If it reappears with an older copy of
      the file, it opens nothing, because the log says that it was forgotten;
  (3) the same person has the same key in all tables, and a new one after having been forgotten;
  (4) a key is forgotten only if the log records it; otherwise it is missing. While a key is missing, none is
      created: its owner would be ambiguous;
  (5) a rotation killed at any point: the old master key opens everything until the new one does;
  (6) a slot names its key encryption key, so a resumed rotation does what is left;
  (7) no key is under another master key without a record in the log: the Notice is on disk first.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from everlog.proto import log_pb2
from everlog.store.crypto import key_store
from everlog.store.crypto.cipher import KEY_SIZE, Cipher, hashed, hashed_pieces
from everlog.store.crypto.key_store import KeyEncryptionKeys, KeyStore, Slot, WrappedKey, wrap
from everlog.store.crypto.master_key import VARIABLE, Master
from everlog.store.errors import CorruptionError, DiskError, OpenError, SealedError
from everlog.store.keys import SPACE
from everlog.store.rocks import files

KEY_ID_SIZE = 16
HASH_SIZE = 16  # of a value in a hashed index
CIPHERS_MAX = 10_000  # keys kept open in memory, of 3 KiB each
_ROOT_ID, _NO_TAG = bytes(KEY_ID_SIZE), bytes(32)


class Vault:
    """The key store of one open database. Safe to use from many threads.

    Raises OpenError if the master key is not that of the key store, or the key store belongs to another
    database.
    """

    def __init__(
        self,
        path: Path,
        database: bytes,
        master: Master | None,
        *,
        read_only: bool,
        origin: bytes = b"",
    ) -> None:
        """`origin`: the database that this one was forked from; its keys are accepted."""
        self.path, self._at, self._origin = files.real_path(path), path, origin
        self._database, self._master, self._read_only = database, master, read_only
        self.lock = threading.RLock()
        self.changing = threading.Lock()  # held while the master key is being changed
        self.file: KeyStore | None = None
        self._numbers: dict[bytes, int] = {}  # key_id -> number of its slot
        self._slots: dict[bytes, Slot] = {}  # by key_id
        self._ids: dict[bytes, bytes] = {}  # tag -> key_id
        self._leaving: dict[bytes, int] = {}  # key_id -> number of its slot, not overwritten on disk yet
        self._free: list[int] = []
        self._next = 0
        self._ciphers: dict[bytes, Cipher] = {}
        self.key_encryption_keys = KeyEncryptionKeys({}, b"")
        self._tag_key = self._index_key = b""
        self.is_dirty = False  # new keys may not be on disk yet
        self._failed: DiskError | None = None
        self.refused = ""  # why the disk refused the last key of a new person; empty: it did not
        # Supplied by the database, from the log:
        self.is_shredded: Callable[[bytes], bool] = lambda _: False  # whether a key was forgotten
        self.shredded: Callable[[], Iterable[bytes]] = tuple  # the ids of all forgotten keys
        self.lacking: Callable[[], str] = str  # a sealed row whose key is missing; empty: none
        self._is_complete, self._looking = False, threading.Lock()  # whether no key is missing
        self.locked = "" if master else f"no master key was given; set {VARIABLE}, or open with master_key"
        if self.file_exists:
            self._read()

    @property
    def file_exists(self) -> bool:
        """Whether the file exists."""
        return self._at.exists()

    @property
    def is_open(self) -> bool:
        """Whether the key store is open."""
        return self.file is not None

    def missing(self) -> None:
        """Lock the vault: there are sealed rows, but the file with their keys is missing."""
        self.locked = f"the key store {self.path} is missing; restore the file"

    def check(self, table: str) -> None:
        """Raise SealedError if rows of a table can be neither sealed nor opened."""
        if self.locked:
            raise SealedError(f"the rows of table {table} are sealed, and {self.locked}", erased=False)

    # rows

    def key_of(self, person: bytes) -> bytes:
        """Return the id of a person's key, created if there is none. Writes, without a sync."""
        tag = self._tag(person)
        found = self._ids.get(tag)
        if found is not None:
            return found
        if not self._is_complete:
            self._check_complete()
        with self.lock:
            found = self._ids.get(tag)
            return found if found is not None else self._make_key(tag)

    def find(self, person: bytes) -> bytes | None:
        """Return the id of a person's key; None if there is none. Read-only."""
        return self._ids.get(self._tag(person)) if self._tag_key else None  # no root: no keys

    def has(self, key_id: bytes) -> bool:
        """Return whether there is a key with this id."""
        return key_id in self._numbers

    def forgotten_in_file(self, gone: Iterable[bytes] | None = None) -> list[bytes]:
        """Return the ids of forgotten keys (by the log, or `gone`) that are in the current file. Read-only.

        They come from an older copy of the file that was restored. Raises as opening does.
        """
        return sorted(self._on_disk() & set(self.shredded() if gone is None else gone))

    def lost(self) -> list[bytes]:
        """Return the ids of keys that are in memory but not in the current file. Read-only.

        An older copy of the file was restored while the database is open. Raises as opening does.
        """
        with self.lock:
            return sorted(self._numbers.keys() - self._on_disk()) if self.is_open else []

    def _on_disk(self) -> set[bytes]:
        if not self.path.exists():
            return set()
        file = KeyStore(self.path, read_only=True)
        try:
            return {slot.key_id for _, slot in file.slots() if slot is not None}
        finally:
            file.close()

    def is_on_disk(self, key_id: bytes) -> bool:
        """Return whether the file has the key, as far as this process knows."""
        return key_id in self._numbers or key_id in self._leaving

    def seal(self, key_id: bytes, space_and_key: bytes, row: bytes) -> bytes:
        """Return a row sealed with a key. Raises SealedError if the key does not exist."""
        cipher = self._cipher(key_id)
        if cipher is None:
            raise self._no_key(key_id)
        return cipher.seal(row, self._database + space_and_key)

    def open(self, key_id: bytes, space_and_key: bytes, sealed: bytes) -> bytes:
        """Return the plaintext of a sealed row.

        Raises SealedError if the key was forgotten or is missing, and CorruptionError if the bytes were
        changed.
        """
        cipher = self._cipher(key_id)
        if cipher is None:
            raise self._no_key(key_id)
        row = cipher.open(sealed, self._database + space_and_key)
        if row is None:
            raise CorruptionError(
                f"a row sealed under key {key_id.hex()} does not open: it was changed or moved"
            )
        return row

    @property
    def sealed_in(self) -> bytes:
        """UUID of the database that rows are bound to."""
        return self._database

    def key(self, key_id: bytes) -> bytes | None:
        """Return a person's raw key, for authorized callers; None: it was forgotten. Raises SealedError if
        it is missing.

        Never returns the root.
        """
        if self.is_shredded(key_id):
            return None
        with self.lock:
            slot = self._slots.get(key_id)
            if slot is None or slot.state != key_store.PERSON:
                raise self._no_key(key_id)
            return self._opened(slot)

    def hash(self, *parts: bytes) -> bytes:
        """Return the value that a hashed index stores for these parts.

        The first call in a writer creates the key store: the values of a transaction's lookups and those of
        rows that others commit meanwhile must be equal. A reader without a key store gets a value that no
        row has, as nothing is sealed yet.
        """
        if self._read_only and not self._tag_key and not self.locked:
            return hashed(bytes(KEY_SIZE), *parts)[:HASH_SIZE]
        self._ensure_created()
        return hashed(self._index_key, *parts)[:HASH_SIZE]

    def hash_pieces(self, pieces: Iterable[bytes]) -> bytes:
        """Return `hash` of data given in pieces, which need not be in memory at once."""
        self._ensure_created()
        return hashed_pieces(self._index_key, pieces)[:HASH_SIZE]

    # the store

    def sync(self) -> None:
        """Wait until all keys are on disk. Raises DiskError; from then on no key is created."""
        if not self.is_dirty:
            return
        with self.lock:
            if self._failed:
                raise self._failed
            assert self.file is not None
            try:
                self.file.sync()
                if not self.file.is_current():
                    raise DiskError(
                        f"{self.path} was replaced or removed while the database is open: keys of new persons"
                        " would be lost with this process. Nothing was written; restore the newest copy, and"
                        " open the database again",
                        outcome="nothing written",
                    )
            except DiskError as error:
                self._failed, self.refused = error, str(error)
                raise
            self.is_dirty = False

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        """Note whether the disk refused a new key."""
        try:
            yield
        except DiskError as error:
            self.refused = str(error)
            raise
        self.refused = ""

    def retire(self, key_ids: Iterable[bytes]) -> None:
        """Stop using these keys: nothing is sealed or opened with them. They stay on disk until `forget`."""
        with self.lock:
            for key_id in key_ids:
                if key_id in self._numbers and key_id != _ROOT_ID:
                    self._leaving[key_id] = self._numbers.pop(key_id)
                    self._ciphers.pop(key_id, None)
                    self._ids.pop(self._slots.pop(key_id).tag, None)

    @property
    def pending_deletions(self) -> int:
        """The number of forgotten keys that are not overwritten yet."""
        return len(self._leaving)

    def forget(self, key_ids: Iterable[bytes]) -> None:
        """Overwrite keys with zeros, durably. Missing keys are skipped.

        Raises DiskError: the keys are unusable all the same, and the committer's flusher tries again.
        """
        with self.lock:
            self.retire(key_ids)
            if not self._leaving:
                return
            assert self.file is not None
            for number in self._leaving.values():
                self.file.put(number, None)
            self.file.sync()
            self._free += self._leaving.values()
            self._leaving.clear()

    def refresh(self, gone: Iterable[bytes] = ()) -> None:
        """As a reader beside a writer: see the keys created and forgotten since. Raises as opening does.

        `gone`: the keys forgotten as of the files of the tables, in which nothing is sealed with them.
        Those files were read earlier, so other keys that disappeared since are kept until the next refresh,
        when the files have caught up.
        """
        with self.lock:
            if not self.file_exists:
                return
            before = self._slots
            self.close()
            self._read()
            gone = set(gone)
            self.retire(gone)  # an older copy of the file may have been restored
            for key_id, slot in before.items():
                if key_id not in self._slots and slot.kek in self.key_encryption_keys and key_id not in gone:
                    self._slots[key_id], self._numbers[key_id] = slot, -1

    # while the master key is being changed

    def seal_with(self, id: bytes, key: bytes) -> list[bytes]:
        """Seal new keys with this key encryption key. Return the ids of the keys that are sealed with
        another one."""
        self.key_encryption_keys.take(id, key)
        return [key_id for key_id, slot in self._slots.items() if slot.kek != id]

    def reseal(self, key_id: bytes) -> None:
        """Seal a key with the newest key encryption key. Does not sync."""
        slot = self._slots.get(key_id)
        if slot is None:  # forgotten meanwhile
            return
        slot = self.key_encryption_keys.seal(slot.state, key_id, slot.tag, self._opened(slot))
        assert self.file is not None
        self.file.put(self._numbers[key_id], slot)
        self._slots[key_id] = slot

    def finish_rotation(self, master: Master) -> None:
        """Discard the previous key encryption key; `master` wraps the current one."""
        self._master = master
        self.key_encryption_keys.drop_others()

    def close(self) -> None:
        """Release the file, and all keys."""
        with self.lock:
            if self.file is not None:
                self.file.close()
            self.file = None
            self._ciphers, self.key_encryption_keys = {}, KeyEncryptionKeys({}, b"")

    def _tag(self, person: bytes) -> bytes:
        self._ensure_created()
        return hashed(self._tag_key, person)

    def _ensure_created(self) -> None:
        """Create the file, and the root that everything is derived from, with the first sealed row."""
        if not self._tag_key:
            assert not self.locked, "callers that seal have called `check` before"
            with self.lock:
                if not self._tag_key:
                    self._make()

    def _check_complete(self) -> None:
        """Raise SealedError before the first new key if a key is missing.

        It takes long with many rows; only new persons wait for it.
        """
        with self._looking:
            if not self._is_complete and (row := self.lacking()):
                raise SealedError(
                    f"no key is created for a new person while keys are missing: {self.path} has none for row"
                    f" {row}. Restore the newest copy. If there is no newer one, or the database was restored"
                    " to a time before somebody was forgotten, forget these unreadable rows (`everlog check`"
                    " lists them)",
                    erased=False,
                )
            self._is_complete = True

    def _make_key(self, tag: bytes) -> bytes:
        if self._failed:
            raise self._failed
        if self._read_only:
            raise SealedError("the person has no key yet, and the database is open for reading", erased=False)
        assert self.file is not None
        key_id, key = os.urandom(KEY_ID_SIZE), os.urandom(KEY_SIZE)
        slot = self.key_encryption_keys.seal(key_store.PERSON, key_id, tag, key)
        number = self._free[-1] if self._free else self._next
        with self._noting():
            self.file.put(number, slot)
        if self._free:
            self._free.pop()
        self._next = max(self._next, number + 1)
        self.is_dirty = True
        self._numbers[key_id], self._slots[key_id], self._ids[tag] = number, slot, key_id
        return key_id

    def _cipher(self, key_id: bytes) -> Cipher | None:
        """Return the cipher of a key; None if the key does not exist or was forgotten."""
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            with self.lock:
                slot = self._slots.get(key_id)
                if slot is None:
                    return None
                cipher = self._ciphers[key_id] = Cipher(self._opened(slot))
                if len(self._ciphers) > CIPHERS_MAX:
                    self._ciphers = {key_id: cipher}
        return cipher

    def _opened(self, slot: Slot) -> bytes:
        key = self.key_encryption_keys.open(slot)
        if key is None:
            raise CorruptionError(
                f"{self.path}: key {slot.key_id.hex()} does not open; restore a copy of the key store"
            )
        return key

    def _make(self) -> None:
        """Create the file, with a key encryption key and a root."""
        if self._read_only:
            raise SealedError(f"there is no key store {self.path} yet", erased=False)
        assert self._master is not None
        (self.key_encryption_keys, wrapped), root = KeyEncryptionKeys.make(self._master), os.urandom(KEY_SIZE)
        slot = self.key_encryption_keys.seal(key_store.ROOT, _ROOT_ID, _NO_TAG, root)
        with self._noting():
            self.file = KeyStore.make(self._at, self._database, wrapped, slot)
        self._next, self._numbers[_ROOT_ID], self._slots[_ROOT_ID] = 1, 0, slot
        self._take_root(root)

    def _take_root(self, root: bytes) -> None:
        self._index_key = hashed(root, b"everlog index")  # first: other threads check `_tag_key`
        self._tag_key = hashed(root, b"everlog person")

    def _read(self) -> None:
        self.file = KeyStore(self._at, read_only=self._read_only)
        database = self.file.database()
        if database == self._origin:
            self._database = database  # rows are bound to the database that sealed them
        if database != self._database:
            raise OpenError(
                f"{self.path} belongs to another database; restore the key store of this database"
            )
        self._numbers, self._slots, self._ids, self._leaving, self._free = {}, {}, {}, {}, []
        number = 0
        for number, slot in self.file.slots():
            if slot is None:
                self._free.append(number)
                continue
            self._numbers[slot.key_id], self._slots[slot.key_id] = number, slot
            if slot.state == key_store.PERSON:
                self._ids[slot.tag] = slot.key_id
        self._next = number + 1
        if self._master is None:
            return
        root = self._slots.get(_ROOT_ID)
        if root is None:
            raise CorruptionError(f"{self.path}: the root key is lost; restore a copy of the key store")
        self.key_encryption_keys = KeyEncryptionKeys.read(
            list(self.file.wrapped_keys().values()), self._master, root.kek
        )
        if root.kek not in self.key_encryption_keys:
            raise OpenError(
                f"{self.path}: these keys are under another master key; pass the right one in {VARIABLE},"
                " or as master_key"
            )
        self._take_root(self._opened(root))
        if not self._read_only:
            self._end_change()

    def _end_change(self) -> None:
        """Overwrite the previous key encryption key if a change of the master key was killed just before
        that."""
        assert self.file is not None
        in_use = {one.id: at for at, one in self.file.wrapped_keys().items() if one.state == key_store.IN_USE}
        current = self.key_encryption_keys.current
        if len(in_use) > 1 and all(slot.kek == current for slot in self._slots.values()):
            del in_use[current]
            for at in in_use.values():
                self.file.put_wrapped(at, None)
            self.file.sync()

    def _no_key(self, key_id: bytes) -> SealedError:
        """Return the error for a key that does not exist."""
        if self.is_shredded(key_id):
            return SealedError(
                f"a row is sealed under key {key_id.hex()}, which was forgotten: it can no longer be read",
                erased=True,
                key_id=key_id,
            )
        return SealedError(
            f"a row is sealed under key {key_id.hex()}, which is missing in {self.path}, and the log does not"
            " say that it was forgotten; restore the newest copy of the key store. If this is the newest, and"
            " the database was restored to a time before the person was forgotten, forget that row",
            erased=False,
            key_id=key_id,
        )


class Opener(Protocol):
    """Opens sealed rows of the feed."""

    def open(self, changes: Sequence[log_pb2.Change]) -> list[bytes | None]:
        """Return the rows of sealed changes; None: the person was forgotten.

        Raises SealedError if keys are not available, and CorruptionError if the bytes were changed.
        """

    def drop(self, key_id: bytes) -> None:
        """Discard a key: the log has reached the record that forgets it."""


class VaultOpener:
    """Opens with the keys of a database in this process."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def open(self, changes: Sequence[log_pb2.Change]) -> list[bytes | None]:
        return [self._row(change) for change in changes]

    def drop(self, key_id: bytes) -> None:
        """Does nothing: the vault forgets with the log."""

    def _row(self, change: log_pb2.Change) -> bytes | None:
        self._vault.check(f"of space {change.space}")
        try:
            return self._vault.open(change.key_id, SPACE.pack(change.space) + change.key, change.row)
        except SealedError as error:
            if not error.erased:
                raise
            return None


ROTATED = "keys.rotated"
EACH = 256  # slots written under one lock of the vault


def rotate(vault: Vault, master: Master, notify: Callable[[bytes], object]) -> Iterator[tuple[int, int]]:
    """Put all keys under `master`. Yield (keys done, keys in all); nothing if they are under it already.
    Writes.

    `notify` writes the id of the new key encryption key to the log, before anything is final. One rotation at
    a time (`Vault.changing`). Raises OpenError if `master` wraps into too many bytes, and SealedError if
    there is no key to rotate.
    """
    with vault.lock:
        file = vault.file
        if file is None or vault.locked:
            why = vault.locked or f"there is no key store {vault.path} yet"
            raise SealedError(f"no keys can be put under another master key: {why}", erased=False)
        wrapped = file.wrapped_keys()
        in_use = {one.id: at for at, one in wrapped.items() if one.state == key_store.IN_USE}
        known = [
            id
            for id in (vault.key_encryption_keys.current, *in_use)
            if id in in_use and id in vault.key_encryption_keys
        ]
        old = in_use[known[0]]
        if master.unwrap(wrapped[old].wrapped) is not None:
            return
        at = next(place for place in key_store.WRAPPED_AT if place != old)
        following = wrapped.get(at)
        key = vault.key_encryption_keys.next_key(following) if following is not None else None
        if following is None or key is None:  # otherwise resume a killed rotation
            following, key = vault.key_encryption_keys.make_next()
            file.put_wrapped(at, following)
            file.sync()
        last = WrappedKey(key_store.IN_USE, following.id, wrap(master, key))
        ids = vault.seal_with(following.id, key)
    notify(following.id)
    for done in range(0, len(ids), EACH):
        with vault.lock:
            for key_id in ids[done : done + EACH]:
                vault.reseal(key_id)
            file.sync()
        yield min(done + EACH, len(ids)), len(ids)
    with vault.lock:
        file.put_wrapped(at, last)
        file.sync()
        file.put_wrapped(old, None)
        file.sync()
        vault.finish_rotation(master)
