"""Master: the key above all others. It is never on disk beside the database.

    EVERLOG_MASTER_KEY             32 bytes in base64
    EVERLOG_MASTER_KEY_FILE        a file that holds them, in base64 or as they are
    EVERLOG_NEXT_MASTER_KEY_FILE   such a file with the one that is to follow; it need not be there yet
    open(…, master_key=…)          the bytes, the path of such a file, or a Master: two calls of a KMS

It wraps one key of the key store, and nothing else: a KMS is asked once for each opening. Where the next
one is named, either opens: a process starts with the same settings before the change and after it.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import Protocol

from everlog.store.crypto.cipher import KEY_SIZE, Cipher
from everlog.store.environment import variable
from everlog.store.errors import OpenError
from everlog.store.rocks.files import read_secret

VARIABLE, FILE_VARIABLE = "EVERLOG_MASTER_KEY", "EVERLOG_MASTER_KEY_FILE"
NEXT_VARIABLE = "EVERLOG_NEXT_MASTER_KEY_FILE"

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


class Successive:
    """A master key, and the file of the one that is to follow. What either has wrapped is unwrapped."""

    def __init__(self, first: Master, then: Path) -> None:
        self._first, self._then = first, then

    def wrap(self, key: bytes) -> bytes:
        return self._first.wrap(key)

    def unwrap(self, wrapped: bytes) -> bytes | None:
        found = self._first.unwrap(wrapped)
        return _of_file(self._then).unwrap(wrapped) if found is None and self._then.exists() else found


def master_of(given: MasterKey | None, then: str | os.PathLike[str] | None = None) -> Master | None:
    """The master key that was given, or that the environment names; None: neither. `then`: the file of the
    one that is to follow, or that the environment names. Read-only. Raises OpenError for one that is none."""
    first = _first(given)
    then = then or (variable(NEXT_VARIABLE) if given is None else None)
    return Successive(first, Path(then)) if first is not None and then else first


def next_master_of(given: MasterKey | None) -> Master:
    """The master key that is to follow: the one that was given, or that the environment names. Read-only.
    Raises OpenError if there is none."""
    named = given if given is not None else variable(NEXT_VARIABLE)
    found = _first(named) if named else None
    if found is None:
        raise OpenError(
            "nobody has said where the next master key is: whoever runs the database names its file, in"
            f" {NEXT_VARIABLE}, or with `everlog serve --next-master-key`"
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
        raise OpenError(f"{where}: expected {KEY_SIZE} bytes in base64, found something else") from None
