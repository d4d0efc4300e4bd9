"""Key store: the file KEYS. A key is shredded by overwriting it with zeros.

    file    := header wrapped wrapped slot*
    header  := "everlogK" format:u32be slot_size:u32be database:16 crc:u32be             at 0
    wrapped := state:u8 0x000000 id:8 size:u16be 0x0000 key:480 crc:u32be                at 512, at 1024
    slot    := state:u8 0x000000 kek:8 key_id:16 tag:32 sealed:60 crc:u32be 0x00000000   at 4096 + 128 n

    wrapped  a key encryption key (kek), wrapped by the master key. state 0: none, 1: in use, 2: the next
             one, while the master key is being changed
    slot     one key, sealed with the key encryption key whose id is `kek`, bound to key_id and tag.
             state 0: free, all zeros; 1: a person's key; 2: the root, from which tags and the values of
             hashed indexes are derived. tag: HMAC of the person

No journal, no copy, no tree in which a deleted key could survive: a slot is written in place, and never
spans two sectors of a disk. crc: CRC-32 of the preceding bytes of the part.

`KeyEncryptionKeys` are the keys that seal all other keys of the store, one at a time:

    master key ─▶ key in use ─▶ slots           while the master key is being changed:
                      └─▶ the next key ─▶ slots       the next one is wrapped by the one in use, and
                                                      by the new master key at the end

A slot names its key encryption key. The master key of the one in use opens all slots.

Numbers are on disk: never reuse one. Format reference: docs/format.md, "Key store".
"""

from __future__ import annotations

import errno
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
from everlog.store.rocks.errors import NO_INODES, lacks_inodes

FORMAT = 1
FREE, PERSON, ROOT = 0, 1, 2  # states of a slot
NONE, IN_USE, NEXT = 0, 1, 2  # states of a wrapped key
SLOT_SIZE, FIRST_SLOT = 128, 4096
WRAPPED_AT = (512, 1024)  # offsets of the wrapped keys
WRAPPED_MAX = 480

_MAGIC = b"everlogK"
_HEADER = struct.Struct(">8sII16s")
_WRAPPED = struct.Struct(">B3x8sH2x480s")
_SLOT = struct.Struct(">B3x8s16s32s60s")
_CRC = struct.Struct(">I")


class WrappedKey(NamedTuple):
    """A wrapped key encryption key."""

    state: int
    id: bytes
    wrapped: bytes


class Slot(NamedTuple):
    """One sealed key."""

    state: int
    kek: bytes  # id of the key encryption key
    key_id: bytes
    tag: bytes
    sealed: bytes


def pack_header(database: bytes) -> bytes:
    """Encode the header of the file."""
    return _checked(_HEADER.pack(_MAGIC, FORMAT, SLOT_SIZE, database))


def pack_wrapped(key: WrappedKey) -> bytes:
    """Encode a wrapped key."""
    return _checked(_WRAPPED.pack(key.state, key.id, len(key.wrapped), key.wrapped))


def pack_slot(slot: Slot) -> bytes:
    """Encode a slot, padded to SLOT_SIZE."""
    return _checked(_SLOT.pack(*slot)).ljust(SLOT_SIZE, b"\x00")


class KeyStore:
    """The open file. Not safe to use from many threads; the vault is."""

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self.path = files.real_path(path)
        with _on(self.path):
            self._file = os.open(path, os.O_RDONLY if read_only else os.O_RDWR)

    @classmethod
    def make(cls, path: Path, database: bytes, key: WrappedKey, root: Slot) -> KeyStore:
        """Create the file durably and atomically, with one key encryption key and the root."""
        begun = path.with_name(path.name + ".new")
        with _on(files.real_path(path)):
            with open(begun, "wb", opener=files.private) as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(pack_header(database).ljust(WRAPPED_AT[0], b"\x00"))
                file.write(pack_wrapped(key).ljust(FIRST_SLOT - WRAPPED_AT[0], b"\x00"))
                file.write(pack_slot(root))
                file.flush()
                os.fsync(file.fileno())
            begun.replace(path)
            files.sync_directory(path.parent)
        return cls(path, read_only=False)

    def database(self) -> bytes:
        """Return the UUID of the database that the keys belong to. Raises OpenError and CorruptionError."""
        part = self._part(0, _HEADER.size, "header")
        magic, version, size, database = _HEADER.unpack(part)
        if magic != _MAGIC:
            raise OpenError(f"{self.path} is not a key store of everlog")
        if version > FORMAT or size != SLOT_SIZE:
            raise OpenError(
                f"{self.path} has format {version}, this version of everlog supports up to {FORMAT};"
                " use a newer version"
            )
        return bytes(database)

    def wrapped_keys(self) -> dict[int, WrappedKey]:
        """Return the wrapped keys by offset. Raises CorruptionError if none is left."""
        found: dict[int, WrappedKey] = {}
        for at in WRAPPED_AT:
            if not any(os.pread(self._file, _WRAPPED.size + _CRC.size, at)):
                continue
            try:
                state, id_, size, wrapped = _WRAPPED.unpack(
                    self._part(at, _WRAPPED.size, f"wrapped key at {at}")
                )
            except CorruptionError:
                if found or at == WRAPPED_AT[0]:
                    continue  # its writing was interrupted: the other one is valid
                raise
            found[at] = WrappedKey(state, id_, wrapped[:size])
        if not found:
            raise CorruptionError(
                f"{self.path}: no key encryption key is left; restore a copy of the key store"
            )
        return found

    def put_wrapped(self, at: int, key: WrappedKey | None) -> None:
        """Write a wrapped key at an offset; None overwrites it with zeros. Does not sync."""
        self._write(at, pack_wrapped(key) if key else bytes(_WRAPPED.size + _CRC.size))

    def slots(self) -> Iterator[tuple[int, Slot | None]]:
        """Yield all slots with their numbers; None: free. Raises CorruptionError for a damaged one."""
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
        """Write a slot; None overwrites it with zeros. Does not sync."""
        self._write(FIRST_SLOT + number * SLOT_SIZE, pack_slot(slot) if slot else bytes(SLOT_SIZE))

    def is_current(self) -> bool:
        """Whether the path still leads to this file, which may have been replaced."""
        try:
            return os.path.samestat(os.fstat(self._file), self.path.stat())
        except OSError:
            return False

    def sync(self) -> None:
        """Wait until all writes are on disk. Raises DiskError."""
        with _on(self.path, "unknown"):
            os.fsync(self._file)

    def close(self) -> None:
        """Close the file; may be called twice."""
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
                raise OSError(errno.ENOSPC, "the disk is full")


class _on:  # noqa: N801  reads as a phrase: with _on(path)
    """Translates the operating system's errors about the file."""

    def __init__(self, path: Path, outcome: str = "nothing written") -> None:
        self._path, self._outcome = path, outcome

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, OSError):
            if error.errno in {errno.ENOSPC, errno.EDQUOT} and self._outcome != "unknown":
                lacks, remedy = "the disk is full", "Free some space"
                if error.errno == errno.ENOSPC and lacks_inodes(self._path):
                    lacks, remedy = NO_INODES, "Remove files from it"
                elif error.errno == errno.EDQUOT:
                    lacks = "the disk quota is used up"
                raise DiskError(
                    f"{self._path}: {lacks}; nothing was written. {remedy}, and commit again",
                    outcome=self._outcome,
                    full=True,
                ) from error
            raise DiskError(f"{self._path}: {error.strerror}", outcome=self._outcome) from error


def _checked(part: bytes) -> bytes:
    return part + _CRC.pack(crc32(part))


ID_SIZE = 8


class KeyEncryptionKeys:
    """The key encryption keys that this process can open. Changed only under the vault's lock."""

    def __init__(self, ciphers: dict[bytes, Cipher], current: bytes) -> None:
        self._ciphers = ciphers
        self.current = current  # id of the one that seals new keys

    @classmethod
    def read(cls, found: Iterable[WrappedKey], master: Master, root: bytes) -> KeyEncryptionKeys:
        """Unwrap those that a master key opens: none, if it is another master key.

        `root`: the id of the root's key encryption key, which identifies the newer of two in use.
        """
        ciphers = dict[bytes, Cipher]()
        for one in found:
            key = master.unwrap(one.wrapped) if one.state == IN_USE else None
            if key is not None:
                ciphers[one.id] = Cipher(key)
        known = cls(ciphers, root if root in ciphers else next(iter(ciphers), b""))
        for one in found:
            key = known.next_key(one)
            if key is not None:
                ciphers[one.id] = Cipher(key)
        return known

    @classmethod
    def make(cls, master: Master) -> tuple[KeyEncryptionKeys, WrappedKey]:
        """Return a new one, also wrapped. Raises OpenError."""
        id_, key = os.urandom(ID_SIZE), os.urandom(KEY_SIZE)
        return cls({id_: Cipher(key)}, id_), WrappedKey(IN_USE, id_, wrap(master, key))

    def __contains__(self, id: bytes) -> bool:
        return id in self._ciphers

    def seal(self, state: int, key_id: bytes, tag: bytes, key: bytes) -> Slot:
        """Return the slot of a key."""
        sealed = self._ciphers[self.current].seal(key, key_id + tag)
        return Slot(state, self.current, key_id, tag, sealed)

    def open(self, slot: Slot) -> bytes | None:
        """Return the key in a slot; None if it cannot be opened."""
        cipher = self._ciphers.get(slot.kek)
        return cipher.open(slot.sealed, slot.key_id + slot.tag) if cipher else None

    # while the master key is being changed

    def next_key(self, wrapped: WrappedKey) -> bytes | None:
        """Return the next key encryption key; None if `wrapped` is not in that state."""
        if wrapped.state != NEXT:
            return None
        found = (one.open(wrapped.wrapped, wrapped.id) for one in self._ciphers.values())
        return next((key for key in found if key is not None), None)

    def make_next(self) -> tuple[WrappedKey, bytes]:
        """Return the next one, wrapped by the one in use and in plaintext."""
        id_, key = os.urandom(ID_SIZE), os.urandom(KEY_SIZE)
        return WrappedKey(NEXT, id_, self._ciphers[self.current].seal(key, id_)), key

    def take(self, id: bytes, key: bytes) -> None:
        """Seal new keys with this one from now on."""
        self.current, self._ciphers[id] = id, Cipher(key)

    def drop_others(self) -> None:
        """Discard the previous one."""
        self._ciphers = {self.current: self._ciphers[self.current]}


def wrap(master: Master, key: bytes) -> bytes:
    """Return a key encryption key wrapped by the master key. Raises OpenError."""
    result = master.wrap(key)
    if not 0 < len(result) <= WRAPPED_MAX:
        raise OpenError(
            f"expected `wrap` of the master key to return 1 to {WRAPPED_MAX} bytes, found {len(result)}"
        )
    return result
