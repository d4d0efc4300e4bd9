"""Master key: the key that wraps the key store's key. It is never on disk beside the database.

    EVERLOG_MASTER_KEY             32 bytes in base64
    EVERLOG_MASTER_KEY_FILE        a file with them, in base64 or raw
    EVERLOG_NEXT_MASTER_KEY_FILE   such a file with the next master key; it need not exist yet
    open(…, master_key=…)          the bytes, the path of such a file, or a Master: two calls of a KMS

It wraps one key of the key store and nothing else: a KMS is called once per opening. If the next master
key is named, either one opens: a process can start with the same settings before and after the change.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import Protocol

from everlog.store.crypto.cipher import KEY_SIZE, Cipher
from everlog.store.environment import read_secret, variable
from everlog.store.errors import OpenError

VARIABLE, FILE_VARIABLE = "EVERLOG_MASTER_KEY", "EVERLOG_MASTER_KEY_FILE"
NEXT_VARIABLE = "EVERLOG_NEXT_MASTER_KEY_FILE"

_BOUND = b"everlog master"


class Master(Protocol):
    """Wraps and unwraps a key of 32 bytes, here or in a key management service."""

    def wrap(self, key: bytes) -> bytes:
        """Return at most 480 bytes from which only `unwrap` can recover the key."""

    def unwrap(self, wrapped: bytes) -> bytes | None:
        """Return the key; None if it was wrapped by another master key."""


MasterKey = Master | bytes | str | os.PathLike[str]


class LocalMaster:
    """A master key held by this process. Raises OpenError if it is not 32 bytes."""

    def __init__(self, key: bytes, where: str = "the master key") -> None:
        if len(key) != KEY_SIZE:
            raise OpenError(
                f"{where}: expected {KEY_SIZE} bytes, found {len(key)}; generate a key with"
                f" `openssl rand -base64 {KEY_SIZE}`"
            )
        self._cipher = Cipher(key)

    def wrap(self, key: bytes) -> bytes:
        return self._cipher.seal(key, _BOUND)

    def unwrap(self, wrapped: bytes) -> bytes | None:
        return self._cipher.open(wrapped, _BOUND)


class Successive:
    """A master key, and the file of the next one. Unwraps what either has wrapped; wraps with the first."""

    def __init__(self, first: Master, then: Path) -> None:
        self._first, self._then = first, then

    def wrap(self, key: bytes) -> bytes:
        return self._first.wrap(key)

    def unwrap(self, wrapped: bytes) -> bytes | None:
        found = self._first.unwrap(wrapped)
        return _of_file(self._then).unwrap(wrapped) if found is None and self._then.exists() else found


def master_of(given: MasterKey | None, then: str | os.PathLike[str] | None = None) -> Master | None:
    """Return the given master key, or the one that the environment names; None: neither. Read-only.

    `then`: the file of the next master key, or the one that the environment names. Raises OpenError for an
    invalid key.
    """
    first = _first(given)
    then = then or (variable(NEXT_VARIABLE) if given is None else None)
    return Successive(first, Path(then)) if first is not None and then else first


def next_master_of(given: MasterKey | None) -> Master:
    """Return the next master key: the given one, or the one that the environment names. Read-only.

    Raises OpenError if there is none.
    """
    named = given if given is not None else variable(NEXT_VARIABLE)
    found = _first(named) if named else None
    if found is None:
        raise OpenError(
            f"no next master key is configured: set its file in {NEXT_VARIABLE}, or with"
            " `everlog serve --next-master-key`"
        )
    return found


def _first(given: MasterKey | None) -> Master | None:
    if given is None:
        text, file = variable(VARIABLE), variable(FILE_VARIABLE)
        if text:
            return LocalMaster(_decoded(text.encode(), f"${VARIABLE}"), f"${VARIABLE}")
        return _of_file(Path(file)) if file else None
    if isinstance(given, bytes):
        return LocalMaster(given)
    if isinstance(given, str | os.PathLike):
        return _of_file(Path(given))
    if not (hasattr(given, "wrap") and hasattr(given, "unwrap")):
        raise OpenError(
            f"expected a master key as {KEY_SIZE} bytes, the path of its file, or an object with `wrap` and"
            f" `unwrap`, found {type(given).__name__}"
        )
    return given


def _of_file(path: Path) -> Master:
    raw = read_secret(path, "the master key")
    return LocalMaster(raw if len(raw) == KEY_SIZE else _decoded(raw, str(path)), str(path))


def _decoded(text: bytes, where: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        raise OpenError(f"{where}: expected {KEY_SIZE} bytes in base64, found invalid base64") from None
