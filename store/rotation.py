"""Rotation: all keys of a vault are put under another master key, while others read and write.

    a new covering key, under the old one ─▶ a Notice ─▶ slot after slot ─▶ under the new master ─▶ the old
                                                                                               one: zeros

    Notice { kind "keys.rotated", detail: the id of the new covering key }     who begins it, or goes on

Invariants
  (1) killed anywhere, the old master key opens everything until the new one does;
  (2) a slot says which covering key it is under, so that whoever begins again does what is left;
  (3) no key is under another master key of which the log does not say so: the Notice is on disk before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from everlog.store import slots
from everlog.store.covers import wrapped
from everlog.store.errors import SealedError
from everlog.store.master import Master
from everlog.store.slots import Cover
from everlog.store.vault import Vault

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
        in_use = {one.id: at for at, one in covers.items() if one.state == slots.IN_USE}
        known = [id for id in (vault.covers.current, *in_use) if id in in_use and id in vault.covers]
        old = in_use[known[0]]
        if master.unwrap(covers[old].wrapped) is not None:
            return
        at = next(place for place in slots.COVERS if place != old)
        cover = covers.get(at)
        key = vault.covers.next_key(cover) if cover is not None else None
        if cover is None or key is None:  # else it was killed, and is gone on with
            cover, key = vault.covers.make_next()
            file.put_cover(at, cover)
            file.sync()
        last = Cover(slots.IN_USE, cover.id, wrapped(master, key))
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
