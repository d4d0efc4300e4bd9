"""Covers: the keys that all other keys of the key store are sealed with, one at a time.

    master key ─▶ cover in use ─▶ slots           while the master key is being changed:
                       └─▶ the next cover ─▶ slots      it is under the one before, and is
                                                        under the new master key at the end

A slot says which cover it is under. Whoever has the master key of the cover in use opens all slots.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from everlog.store import slots
from everlog.store.cipher import KEY_SIZE, Cipher
from everlog.store.errors import OpenError
from everlog.store.master import Master
from everlog.store.slots import Cover, Slot

ID_SIZE = 8


class Covers:
    """The covering keys that are known here. Changed only with the vault's lock."""

    def __init__(self, ciphers: dict[bytes, Cipher], current: bytes) -> None:
        self._ciphers = ciphers
        self.current = current  # the id of the one that new keys are sealed with

    @classmethod
    def read(cls, covers: Iterable[Cover], master: Master, root: bytes) -> Covers:
        """Those that a master key gives: none, if it is not the one. `root`: the id of the cover that the
        root is under, which tells the later of two in use."""
        ciphers = dict[bytes, Cipher]()
        for cover in covers:
            key = master.unwrap(cover.wrapped) if cover.state == slots.IN_USE else None
            if key is not None:
                ciphers[cover.id] = Cipher(key)
        known = cls(ciphers, root if root in ciphers else next(iter(ciphers), b""))
        for cover in covers:
            key = known.next_key(cover)
            if key is not None:
                ciphers[cover.id] = Cipher(key)
        return known

    @classmethod
    def make(cls, master: Master) -> tuple[Covers, Cover]:
        """A new one, and as the file keeps it. Raises OpenError."""
        id_, key = os.urandom(ID_SIZE), os.urandom(KEY_SIZE)
        return cls({id_: Cipher(key)}, id_), Cover(slots.IN_USE, id_, wrapped(master, key))

    def __contains__(self, id: bytes) -> bool:
        return id in self._ciphers

    def seal(self, state: int, key_id: bytes, tag: bytes, key: bytes) -> Slot:
        """A key as its slot keeps it."""
        sealed = self._ciphers[self.current].seal(key, key_id + tag)
        return Slot(state, self.current, key_id, tag, sealed)

    def open(self, slot: Slot) -> bytes | None:
        """The key in a slot; None if it cannot be opened."""
        cipher = self._ciphers.get(slot.cover)
        return cipher.open(slot.sealed, slot.key_id + slot.tag) if cipher else None

    # while the master key is being changed

    def next_key(self, cover: Cover) -> bytes | None:
        """The key of a cover that is the next one; None if it is not."""
        if cover.state != slots.NEXT:
            return None
        found = (one.open(cover.wrapped, cover.id) for one in self._ciphers.values())
        return next((key for key in found if key is not None), None)

    def make_next(self) -> tuple[Cover, bytes]:
        """The next one, under the one in use; and its key."""
        id_, key = os.urandom(ID_SIZE), os.urandom(KEY_SIZE)
        return Cover(slots.NEXT, id_, self._ciphers[self.current].seal(key, id_)), key

    def take(self, id: bytes, key: bytes) -> None:
        """New keys are sealed with this one from now on."""
        self.current, self._ciphers[id] = id, Cipher(key)

    def drop_others(self) -> None:
        """Forgets the one before."""
        self._ciphers = {self.current: self._ciphers[self.current]}


def wrapped(master: Master, key: bytes) -> bytes:
    """A covering key under the master key. Raises OpenError."""
    made = master.wrap(key)
    if not 0 < len(made) <= slots.WRAPPED_MAX:
        raise OpenError(f"a master key wraps into 1 to {slots.WRAPPED_MAX} bytes, this one made {len(made)}")
    return made
