"""Slots: the file KEYS, in which a key is forgotten by writing zeros over it.

    file   := head two-covers slot*
    head   := "everlogK" format:u32be slot_size:u32be database:16 crc:u32be             at 0
    cover  := state:u8 0x000000 id:8 size:u16be 0x0000 wrapped:480 crc:u32be            at 512, at 1024
    slot   := state:u8 0x000000 cover:8 key_id:16 tag:32 sealed:60 crc:u32be 0x00000000 at 4096 + 128 n

    cover  holds the covering key, wrapped by the master key. state 0: none, 1: in use, 2: the next,
           while the master key is being changed
    slot   holds one key, sealed with the covering key that `cover` names, bound to key_id and tag.
           state 0: free, all of it zeros; 1: a person's; 2: the root, of which tags and the values of
           hashed indexes are made. tag: HMAC of the person

No journal, no copy, no tree in which what was deleted lives on: a slot is written in place, and is
never across two sectors of a disk. crc: CRC-32 of the bytes of its part before it.

Numbers are on disk: never reuse one. The whole format: docs/format.md, "Key store".

Covers: the keys that all other keys of the key store are sealed with, one at a time.

    master key ─▶ cover in use ─▶ slots           while the master key is being changed:
                       └─▶ the next cover ─▶ slots      it is under the one before, and is
                                                        under the new master key at the end

A slot says which cover it is under. Whoever has the master key of the cover in use opens all slots.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from everlog.store.crypto.cipher import KEY_SIZE, Cipher
from everlog.store.crypto.master_key import Master
from everlog.store.errors import CorruptionError, DiskError, OpenError
from everlog.store.rocks import files

FORMAT = 1
FREE, PERSON, ROOT = 0, 1, 2  # states of a slot
NONE, IN_USE, NEXT = 0, 1, 2  # states of a cover
SLOT_SIZE, FIRST_SLOT = 128, 4096
COVERS = (512, 1024)
WRAPPED_MAX = 480

_MAGIC = b"everlogK"
_HEAD = struct.Struct(">8sII16s")
_COVER = struct.Struct(">B3x8sH2x480s")
_SLOT = struct.Struct(">B3x8s16s32s60s")
_CRC = struct.Struct(">I")


class Cover(NamedTuple):
    """A covering key, wrapped."""

    state: int
    id: bytes
    wrapped: bytes


class Slot(NamedTuple):
    """One key, sealed."""

    state: int
    cover: bytes
    key_id: bytes
    tag: bytes
    sealed: bytes


def pack_head(database: bytes) -> bytes:
    return _checked(_HEAD.pack(_MAGIC, FORMAT, SLOT_SIZE, database))


def pack_cover(cover: Cover) -> bytes:
    return _checked(_COVER.pack(cover.state, cover.id, len(cover.wrapped), cover.wrapped))


def pack_slot(slot: Slot) -> bytes:
    return _checked(_SLOT.pack(*slot)).ljust(SLOT_SIZE, b"\x00")


class Slots:
    """The open file. Not safe to use from many threads: the vault is."""

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self.path = files.shown(path)
        with _on(self.path):
            self._file = os.open(path, os.O_RDONLY if read_only else os.O_RDWR)

    @classmethod
    def make(cls, path: Path, database: bytes, cover: Cover, root: Slot) -> Slots:
        """A new file, durably, whole or not at all."""
        begun = path.with_name(path.name + ".new")
        with _on(files.shown(path)):
            with open(begun, "wb", opener=files.private) as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(pack_head(database).ljust(COVERS[0], b"\x00"))
                file.write(pack_cover(cover).ljust(FIRST_SLOT - COVERS[0], b"\x00"))
                file.write(pack_slot(root))
                file.flush()
                os.fsync(file.fileno())
            begun.replace(path)
            files.sync_directory(path.parent)
        return cls(path, read_only=False)

    def database(self) -> bytes:
        """The uuid of the database that the keys are of. Raises OpenError and CorruptionError."""
        part = self._part(0, _HEAD.size, "head")
        magic, version, size, database = _HEAD.unpack(part)
        if magic != _MAGIC:
            raise OpenError(f"{self.path}: expected everlog's key store, found something else")
        if version > FORMAT or size != SLOT_SIZE:
            raise OpenError(f"{self.path} has format {version}, this everlog knows {FORMAT}; use a newer one")
        return bytes(database)

    def covers(self) -> dict[int, Cover]:
        """Those there are, by their place."""
        found: dict[int, Cover] = {}
        for at in COVERS:
            if not any(os.pread(self._file, _COVER.size + _CRC.size, at)):
                continue
            try:
                state, id_, size, wrapped = _COVER.unpack(self._part(at, _COVER.size, f"cover at {at}"))
            except CorruptionError:
                if found or at == COVERS[0]:
                    continue  # one of the two was being written: the other counts
                raise
            found[at] = Cover(state, id_, wrapped[:size])
        if not found:
            raise CorruptionError(f"{self.path}: no covering key is left; restore a copy of the key store")
        return found

    def put_cover(self, at: int, cover: Cover | None) -> None:
        self._write(at, pack_cover(cover) if cover else bytes(_COVER.size + _CRC.size))

    def slots(self) -> Iterator[tuple[int, Slot | None]]:
        """All of them by their number; None: free. Raises CorruptionError for one that does not check."""
        number = 0
        while True:
            block = os.pread(self._file, SLOT_SIZE * 4096, FIRST_SLOT + number * SLOT_SIZE)
            for at in range(0, len(block) - SLOT_SIZE + 1, SLOT_SIZE):
                raw = block[at : at + SLOT_SIZE]
                yield number, self._slot(raw, number) if raw[0] else None
                number += 1
            if len(block) < SLOT_SIZE * 4096:
                return

    def _slot(self, raw: bytes, number: int) -> Slot:
        if crc32(raw[: _SLOT.size]) != _CRC.unpack_from(raw, _SLOT.size)[0]:
            raise CorruptionError(
                f"{self.path}: slot {number} does not match its checksum; restore a copy of the key store",
                place=f"{self.path}, byte {FIRST_SLOT + number * SLOT_SIZE}",
            )
        return Slot(*_SLOT.unpack_from(raw))

    def put(self, number: int, slot: Slot | None) -> None:
        """Writes a slot; None writes zeros over it. Not to disk yet."""
        self._write(FIRST_SLOT + number * SLOT_SIZE, pack_slot(slot) if slot else bytes(SLOT_SIZE))

    def is_there(self) -> bool:
        """Whether its path still leads to this file: another may have been put in its place."""
        try:
            return os.path.samestat(os.fstat(self._file), self.path.stat())
        except OSError:
            return False

    def sync(self) -> None:
        """Waits for the disk. Raises DiskError."""
        with _on(self.path, "unknown"):
            os.fsync(self._file)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _part(self, at: int, size: int, what: str) -> bytes:
        with _on(self.path):
            raw = os.pread(self._file, size + _CRC.size, at)
        if len(raw) < size + _CRC.size or crc32(raw[:size]) != _CRC.unpack_from(raw, size)[0]:
            raise CorruptionError(
                f"{self.path}: its {what} does not match its checksum; restore a copy of the key store",
                place=f"{self.path}, byte {at}",
            )
        return raw[:size]

    def _write(self, at: int, raw: bytes) -> None:
        with _on(self.path):
            if os.pwrite(self._file, raw, at) != len(raw):
                raise DiskError(f"{self.path}: the disk is full", outcome="nothing written")


class _on:  # noqa: N801  reads as a word: with _on(path)
    """Turns the operating system's errors about the file into everlog's."""

    def __init__(self, path: Path, outcome: str = "nothing written") -> None:
        self._path, self._outcome = path, outcome

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, OSError):
            raise DiskError(f"{self._path}: {error.strerror}", outcome=self._outcome) from error


def _checked(part: bytes) -> bytes:
    return part + _CRC.pack(crc32(part))


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
            key = master.unwrap(cover.wrapped) if cover.state == IN_USE else None
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
        return cls({id_: Cipher(key)}, id_), Cover(IN_USE, id_, wrapped(master, key))

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
        if cover.state != NEXT:
            return None
        found = (one.open(cover.wrapped, cover.id) for one in self._ciphers.values())
        return next((key for key in found if key is not None), None)

    def make_next(self) -> tuple[Cover, bytes]:
        """The next one, under the one in use; and its key."""
        id_, key = os.urandom(ID_SIZE), os.urandom(KEY_SIZE)
        return Cover(NEXT, id_, self._ciphers[self.current].seal(key, id_)), key

    def take(self, id: bytes, key: bytes) -> None:
        """New keys are sealed with this one from now on."""
        self.current, self._ciphers[id] = id, Cipher(key)

    def drop_others(self) -> None:
        """Forgets the one before."""
        self._ciphers = {self.current: self._ciphers[self.current]}


def wrapped(master: Master, key: bytes) -> bytes:
    """A covering key under the master key. Raises OpenError."""
    made = master.wrap(key)
    if not 0 < len(made) <= WRAPPED_MAX:
        raise OpenError(f"a master key wraps into 1 to {WRAPPED_MAX} bytes, this one made {len(made)}")
    return made
