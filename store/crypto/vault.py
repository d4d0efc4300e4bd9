"""Vault: the keys of the people whose rows are sealed, and what is made with them.

    master key ─unwraps─▶ covering key ─opens─▶ root ─▶ tag of a person, values of hashed indexes
                                       └opens─▶ the person's key ─▶ seals and opens rows

    row bound to   database:16 space:u32be key        moved elsewhere it does not open

Invariants
  (1) a new key is on disk before the commit that uses it: whoever commits calls `settle` before;
  (2) a key that was forgotten is nowhere: not in the file, not in memory; one that comes back with an older
      copy of the file opens nothing, for the log says that it was forgotten;
  (3) the same person has the same key in all tables, and another one after having been forgotten;
  (4) what the log does not say was forgotten is not taken for it: a key that is missing is told apart,
      and as long as one is, no key is made, for whose it would be nobody could tell.

Opener: what opens the sealed rows of the feed, for who follows.

    changes ─▶ their key_ids ─▶ keys ─▶ rows; None where the person was forgotten

Here with the keys of the open database; `everlog.rpc.client.keys` has one that asks a server for them.

Rotation: all keys of a vault are put under another master key, while others read and write.

    a new covering key, under the old one ─▶ a Notice ─▶ slot after slot ─▶ under the new master ─▶ the old
                                                                                               one: zeros

    Notice { kind "keys.rotated", detail: the id of the new covering key }     who begins it, or goes on

Invariants
  (1) killed anywhere, the old master key opens everything until the new one does;
  (2) a slot says which covering key it is under, so that whoever begins again does what is left;
  (3) no key is under another master key of which the log does not say so: the Notice is on disk before.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from everlog.proto import log_pb2
from everlog.store.crypto import key_store
from everlog.store.crypto.cipher import KEY_SIZE, Cipher, hashed, hashed_pieces
from everlog.store.crypto.key_store import Cover, Covers, Slot, Slots, wrapped
from everlog.store.crypto.master_key import VARIABLE, Master
from everlog.store.errors import CorruptionError, DiskError, OpenError, SealedError
from everlog.store.keys import SPACE
from everlog.store.rocks import files

KEY_ID_SIZE = 16
HASH_SIZE = 16  # of a value in a hashed index
CIPHERS_MAX = 10_000  # keys that are kept open, of 3 KiB each
_ROOT_ID, _NO_TAG = bytes(KEY_ID_SIZE), bytes(32)


class Vault:
    """The key store of one open database. Safe to use from many threads.

    Raises OpenError if the master key is not the one of the key store, or the store is another
    database's.
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
        """`origin`: the database that this one was forked from: its keys will do."""
        self.path, self._at, self._origin = files.shown(path), path, origin
        self._database, self._master, self._read_only = database, master, read_only
        self.lock = threading.RLock()
        self.changing = threading.Lock()  # held by who changes the master key
        self.file: Slots | None = None
        self._numbers: dict[bytes, int] = {}  # key_id -> number of its slot
        self._slots: dict[bytes, Slot] = {}  # by key_id
        self._ids: dict[bytes, bytes] = {}  # tag -> key_id
        self._leaving: dict[bytes, int] = {}  # key_id -> number of its slot, which may not be zeros yet
        self._free: list[int] = []
        self._next = 0
        self._ciphers: dict[bytes, Cipher] = {}
        self.covers = Covers({}, b"")
        self._tag_key = self._index_key = b""
        self.is_dirty = False  # keys were made that may not be on disk yet
        self._failed: DiskError | None = None
        # What the log has to say: whether a key was forgotten; a sealed row whose key is missing, or none.
        self.is_shredded: Callable[[bytes], bool] = lambda _: False
        self.shredded: Callable[[], Iterable[bytes]] = tuple  # the ids of all that were
        self.lacking: Callable[[], str] = str
        self._whole, self._looking = False, threading.Lock()  # whether nothing is lacking
        self.locked = "" if master else f"no master key was given; set {VARIABLE}, or open with master_key"
        if self.is_there:
            self._read()

    @property
    def is_there(self) -> bool:
        """Whether the file exists."""
        return self._at.exists()

    @property
    def exists(self) -> bool:
        return self.file is not None

    def missing(self) -> None:
        """There are sealed rows, but not the file with their keys."""
        self.locked = f"the key store {self.path} is not there; bring it back from where it is kept"

    def check(self, table: str) -> None:
        """Raises SealedError if rows of a table can be neither sealed nor opened."""
        if self.locked:
            raise SealedError(f"the rows of table {table} are sealed, and {self.locked}", erased=False)

    # rows

    def key_of(self, person: bytes) -> bytes:
        """The id of a person's key, which is made if there is none. Writes. Not to disk yet."""
        tag = self._tag(person)
        found = self._ids.get(tag)
        if found is not None:
            return found
        if not self._whole:
            self._check_whole()
        with self.lock:
            found = self._ids.get(tag)
            return found if found is not None else self._make_key(tag)

    def find(self, person: bytes) -> bytes | None:
        """The id of a person's key, if there is one. Read-only."""
        return self._ids.get(self._tag(person))

    def has(self, key_id: bytes) -> bool:
        return key_id in self._numbers

    def came_back(self, gone: Iterable[bytes] | None = None) -> list[bytes]:
        """The ids of keys that were forgotten, as the log or `gone` says, and are in the file as it is now:
        an older copy of it was put back. Read-only. Raises as opening."""
        return sorted(self._on_disk() & set(self.shredded() if gone is None else gone))

    def lost(self) -> list[bytes]:
        """The ids of keys that are in memory, and not in the file as it is now: an older copy of it was put
        back while the database is open. Read-only. Raises as opening."""
        with self.lock:
            return sorted(self._numbers.keys() - self._on_disk()) if self.exists else []

    def _on_disk(self) -> set[bytes]:
        if not self.path.exists():
            return set()
        file = Slots(self.path, read_only=True)
        try:
            return {slot.key_id for _, slot in file.slots() if slot is not None}
        finally:
            file.close()

    def is_on_disk(self, key_id: bytes) -> bool:
        """Whether the file has it, for all one knows."""
        return key_id in self._numbers or key_id in self._leaving

    def seal(self, key_id: bytes, space_and_key: bytes, row: bytes) -> bytes:
        cipher = self._cipher(key_id)
        if cipher is None:
            raise self._gone(key_id)
        return cipher.seal(row, self._database + space_and_key)

    def open(self, key_id: bytes, space_and_key: bytes, sealed: bytes) -> bytes:
        """Raises SealedError if the key was forgotten or is missing, CorruptionError if these are other
        bytes than were sealed."""
        cipher = self._cipher(key_id)
        if cipher is None:
            raise self._gone(key_id)
        row = cipher.open(sealed, self._database + space_and_key)
        if row is None:
            raise CorruptionError(
                f"a sealed row is not what was sealed under key {key_id.hex()}: it was changed, or moved"
            )
        return row

    @property
    def sealed_in(self) -> bytes:
        """UUID of the database that rows are bound to."""
        return self._database

    def key(self, key_id: bytes) -> bytes | None:
        """A person's key as it is, for who may have it; None: it was forgotten. Raises SealedError if it is
        missing. The root is nobody's."""
        if self.is_shredded(key_id):
            return None
        with self.lock:
            slot = self._slots.get(key_id)
            if slot is None or slot.state != key_store.PERSON:
                raise self._gone(key_id)
            return self._opened(slot)

    def hash(self, *parts: bytes) -> bytes:
        """What stands in a hashed index for a value."""
        self._be_there()
        return hashed(self._index_key, *parts)[:HASH_SIZE]

    def hash_pieces(self, pieces: Iterable[bytes]) -> bytes:
        """The same as `hash`, of what does not lie in memory."""
        self._be_there()
        return hashed_pieces(self._index_key, pieces)[:HASH_SIZE]

    # the store

    def settle(self) -> None:
        """Waits until all keys are on disk. Raises DiskError; then none is made any more."""
        if not self.is_dirty:
            return
        with self.lock:
            if self._failed:
                raise self._failed
            assert self.file is not None
            try:
                self.file.sync()
                if not self.file.is_there():
                    raise DiskError(
                        f"{self.path}: another file was put in its place, or it was removed, while the"
                        " database is open: keys of new people would be lost with this process. Nothing was"
                        " written; bring the newest copy back, and open the database again",
                        outcome="nothing written",
                    )
            except DiskError as error:
                self._failed = error
                raise
            self.is_dirty = False

    def let_go(self, key_ids: Iterable[bytes]) -> None:
        """Nothing is sealed with these keys, or opened, from now on. They are on disk until `forget`."""
        with self.lock:
            for key_id in key_ids:
                if key_id in self._numbers and key_id != _ROOT_ID:
                    self._leaving[key_id] = self._numbers.pop(key_id)
                    self._ciphers.pop(key_id, None)
                    self._ids.pop(self._slots.pop(key_id).tag, None)

    @property
    def leaving(self) -> int:
        """The number of keys that were forgotten and are not overwritten yet."""
        return len(self._leaving)

    def forget(self, key_ids: Iterable[bytes]) -> None:
        """Write zeros over keys, durably. Missing ones are passed over. Raises DiskError: they are `leaving`,
        nobody has them any more all the same, and the committer's flusher tries again."""
        with self.lock:
            self.let_go(key_ids)
            if not self._leaving:
                return
            assert self.file is not None
            for number in self._leaving.values():
                self.file.put(number, None)
            self.file.sync()
            self._free += self._leaving.values()
            self._leaving.clear()

    def refresh(self, gone: Iterable[bytes] = ()) -> None:
        """As a reader beside a writer: sees what was made and forgotten since. Raises as opening.

        `gone`: the keys that were forgotten as of the files of the tables, in which nothing is sealed with
        them. These files were looked at before: other keys that went since are kept until the next time,
        by when the files have come to where they were forgotten."""
        with self.lock:
            if not self.is_there:
                return
            before = self._slots
            self.close()
            self._read()
            gone = set(gone)
            self.let_go(gone)  # an older copy of the file may have been put back
            for key_id, slot in before.items():
                if key_id not in self._slots and slot.cover in self.covers and key_id not in gone:
                    self._slots[key_id], self._numbers[key_id] = slot, -1

    # while the master key is being changed

    def cover_with(self, id: bytes, key: bytes) -> list[bytes]:
        """New keys are sealed with this one from now on; returns the ids of those that are not."""
        self.covers.take(id, key)
        return [key_id for key_id, slot in self._slots.items() if slot.cover != id]

    def cover_again(self, key_id: bytes) -> None:
        """Seals one with the newest covering key. Not to disk yet."""
        slot = self._slots.get(key_id)
        if slot is None:  # it was forgotten meanwhile
            return
        slot = self.covers.seal(slot.state, key_id, slot.tag, self._opened(slot))
        assert self.file is not None
        self.file.put(self._numbers[key_id], slot)
        self._slots[key_id] = slot

    def covered_by(self, master: Master) -> None:
        """Forgets the covering key before."""
        self._master = master
        self.covers.drop_others()

    def close(self) -> None:
        """Lets go of the file, and of all keys."""
        with self.lock:
            if self.file is not None:
                self.file.close()
            self.file = None
            self._ciphers, self.covers = {}, Covers({}, b"")

    def _tag(self, person: bytes) -> bytes:
        self._be_there()
        return hashed(self._tag_key, person)

    def _be_there(self) -> None:
        """The first that is sealed makes the file, and the root that all else is made of."""
        if not self._tag_key:
            assert not self.locked, "whoever seals has asked `check` before"
            with self.lock:
                if not self._tag_key:
                    self._make()

    def _check_whole(self) -> None:
        """Before the first new key. It takes its time where there are many rows: only who comes new waits."""
        with self._looking:
            if not self._whole and (row := self.lacking()):
                raise SealedError(
                    f"a person without a key yet gets none while keys are missing: {self.path} has none for"
                    f" row {row}. Bring back the newest copy; where there is none, or this is it and the"
                    " database was restored to before somebody was forgotten, forget those rows (`everlog"
                    " check` names them), which nobody can read",
                    erased=False,
                )
            self._whole = True

    def _make_key(self, tag: bytes) -> bytes:
        if self._failed:
            raise self._failed
        if self._read_only:
            raise SealedError("a person has no key yet, and this was opened for reading", erased=False)
        assert self.file is not None
        key_id, key = os.urandom(KEY_ID_SIZE), os.urandom(KEY_SIZE)
        slot = self.covers.seal(key_store.PERSON, key_id, tag, key)
        number = self._free.pop() if self._free else self._next
        self.file.put(number, slot)
        self._next = max(self._next, number + 1)
        self.is_dirty = True
        self._numbers[key_id], self._slots[key_id], self._ids[tag] = number, slot, key_id
        return key_id

    def _cipher(self, key_id: bytes) -> Cipher | None:
        """None if there is no such key, any more."""
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
        key = self.covers.open(slot)
        if key is None:
            raise CorruptionError(f"{self.path}: key {slot.key_id.hex()} does not open; restore a copy of it")
        return key

    def _make(self) -> None:
        """A new file, with a covering key and a root of its own."""
        if self._read_only:
            raise SealedError(f"there is no key store {self.path} yet", erased=False)
        assert self._master is not None
        (self.covers, cover), root = Covers.make(self._master), os.urandom(KEY_SIZE)
        slot = self.covers.seal(key_store.ROOT, _ROOT_ID, _NO_TAG, root)
        self.file = Slots.make(self._at, self._database, cover, slot)
        self._next, self._numbers[_ROOT_ID], self._slots[_ROOT_ID] = 1, 0, slot
        self._take_root(root)

    def _take_root(self, root: bytes) -> None:
        self._index_key = hashed(root, b"everlog index")  # before the other, which is looked at
        self._tag_key = hashed(root, b"everlog person")

    def _read(self) -> None:
        self.file = Slots(self._at, read_only=self._read_only)
        database = self.file.database()
        if database == self._origin:
            self._database = database  # rows are bound to the one that they were sealed in
        if database != self._database:
            raise OpenError(f"{self.path} has the keys of another database; bring back the one of this")
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
            raise CorruptionError(f"{self.path}: its first key is lost; restore a copy of the key store")
        self.covers = Covers.read(list(self.file.covers().values()), self._master, root.cover)
        if root.cover not in self.covers:
            raise OpenError(
                f"{self.path}: the master key is not the one that these keys are under; give the right"
                f" one in {VARIABLE}, or as master_key"
            )
        self._take_root(self._opened(root))
        if not self._read_only:
            self._end_change()

    def _end_change(self) -> None:
        """Writes zeros over the covering key before, if a change of the master key was killed just then."""
        assert self.file is not None
        in_use = {one.id: at for at, one in self.file.covers().items() if one.state == key_store.IN_USE}
        current = self.covers.current
        if len(in_use) > 1 and all(slot.cover == current for slot in self._slots.values()):
            del in_use[current]
            for at in in_use.values():
                self.file.put_cover(at, None)
            self.file.sync()

    def _gone(self, key_id: bytes) -> SealedError:
        """For a key that there is not."""
        if self.is_shredded(key_id):
            return SealedError(
                f"a row is sealed under key {key_id.hex()}, which was forgotten: nobody can read it any more",
                erased=True,
                key_id=key_id,
            )
        return SealedError(
            f"a row is sealed under key {key_id.hex()}, which {self.path} has not, and the log does not say"
            " that it was forgotten; bring back the newest copy of the key store. If this is it, and the"
            " database was restored to before the person was forgotten, forget that row",
            erased=False,
            key_id=key_id,
        )


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


ROTATED = "keys.rotated"
EACH = 256  # slots that are written while nobody else gets at the vault


def rotate(vault: Vault, master: Master, tell: Callable[[bytes], object]) -> Iterator[tuple[int, int]]:
    """Puts all keys under `master`, and says how many of how many are done; of none, where they are under
    it already. `tell` tells the log, before anything is final, the id of the new covering key. Writes. One at
    a time (`Vault.changing`). Raises OpenError for a master key that wraps into too much, and SealedError if
    there is nothing to be opened."""
    with vault.lock:
        file = vault.file
        if file is None or vault.locked:
            why = vault.locked or f"there is no key store {vault.path} yet"
            raise SealedError(f"there are no keys to put under another master key: {why}", erased=False)
        covers = file.covers()
        in_use = {one.id: at for at, one in covers.items() if one.state == key_store.IN_USE}
        known = [id for id in (vault.covers.current, *in_use) if id in in_use and id in vault.covers]
        old = in_use[known[0]]
        if master.unwrap(covers[old].wrapped) is not None:
            return
        at = next(place for place in key_store.COVERS if place != old)
        cover = covers.get(at)
        key = vault.covers.next_key(cover) if cover is not None else None
        if cover is None or key is None:  # else it was killed, and is gone on with
            cover, key = vault.covers.make_next()
            file.put_cover(at, cover)
            file.sync()
        last = Cover(key_store.IN_USE, cover.id, wrapped(master, key))
        ids = vault.cover_with(cover.id, key)
    tell(cover.id)
    for done in range(0, len(ids), EACH):
        with vault.lock:
            for key_id in ids[done : done + EACH]:
                vault.cover_again(key_id)
            file.sync()
        yield min(done + EACH, len(ids)), len(ids)
    with vault.lock:
        file.put_cover(at, last)
        file.sync()
        file.put_cover(old, None)
        file.sync()
        vault.covered_by(master)
