"""Master: the key above all others. It is never on disk beside the database.

    EVERLOG_MASTER_KEY        32 bytes in base64
    EVERLOG_MASTER_KEY_FILE   a file that holds them, in base64 or as they are
    open(…, master_key=…)     the bytes, the path of such a file, or a Master: two calls of a KMS

It wraps one key of the key store, and nothing else: a KMS is asked once for each opening.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import Protocol

from everlog.store.cipher import KEY_SIZE, Cipher
from everlog.store.errors import OpenError

VARIABLE, FILE_VARIABLE = "EVERLOG_MASTER_KEY", "EVERLOG_MASTER_KEY_FILE"

_BOUND = b"everlog master"


class Master(Protocol):
    """Wraps and unwraps a key of 32 bytes, here or in a key management service."""

    def wrap(self, key: bytes) -> bytes:
        """At most 480 bytes that only `unwrap` can make the key of."""

    def unwrap(self, wrapped: bytes) -> bytes | None:
        """The key; None if it was wrapped by another."""


MasterKey = Master | bytes | str | os.PathLike[str]


class LocalMaster:
    """A master key that this process has. Raises OpenError if it is not 32 bytes."""

    def __init__(self, key: bytes, where: str = "the master key") -> None:
        if len(key) != KEY_SIZE:
            raise OpenError(
                f"{where}: expected {KEY_SIZE} bytes, found {len(key)}; make one with"
                f" `openssl rand -base64 {KEY_SIZE}`"
            )
        self._cipher = Cipher(key)

    def wrap(self, key: bytes) -> bytes:
        return self._cipher.seal(key, _BOUND)

    def unwrap(self, wrapped: bytes) -> bytes | None:
        return self._cipher.open(wrapped, _BOUND)


def master_of(given: MasterKey | None) -> Master | None:
    """The master key that was given, or that the environment names; None: neither. Read-only.
    Raises OpenError for one that is none."""
    if given is None:
        text, file = os.environ.get(VARIABLE), os.environ.get(FILE_VARIABLE)
        if text:
            return LocalMaster(_decoded(text.encode(), f"${VARIABLE}"), f"${VARIABLE}")
        return _of_file(Path(file)) if file else None
    if isinstance(given, bytes):
        return LocalMaster(given)
    if isinstance(given, str | os.PathLike):
        return _of_file(Path(given))
    return given


def _of_file(path: Path) -> Master:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise OpenError(f"{path}: the master key cannot be read: {error.strerror}") from None
    return LocalMaster(raw if len(raw) == KEY_SIZE else _decoded(raw, str(path)), str(path))


def _decoded(text: bytes, where: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        raise OpenError(f"{where}: expected {KEY_SIZE} bytes in base64, found something else") from None
