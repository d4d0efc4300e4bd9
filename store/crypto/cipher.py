"""Cipher: the one place that knows the library that encrypts.

    sealed := nonce:12 AES-256-GCM(plain)        NIST SP 800-38D: the ciphertext, then a tag of 16 bytes

The nonce is random; a key seals the rows of one person, far fewer than the 2^32 that are safe.
What a sealed thing is bound to (`bound`) is authenticated with it: moved elsewhere it does not open.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable

from everlog.store.errors import SealedError

KEY_SIZE, NONCE_SIZE, TAG_SIZE = 32, 12, 16
OVERHEAD = NONCE_SIZE + TAG_SIZE


class Cipher:
    """Seals and opens with one key. Raises SealedError if the library is not there."""

    def __init__(self, key: bytes) -> None:
        try:
            from cryptography.exceptions import InvalidTag  # noqa: PLC0415  of an extra, and slow to load
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415
        except ImportError:
            raise SealedError(
                "sealed rows need the library `cryptography`: pip install 'everlog[seal]'", erased=False
            ) from None
        self._aead, self._refused = AESGCM(key), (InvalidTag, ValueError)

    def seal(self, plain: bytes, bound: bytes) -> bytes:
        nonce = os.urandom(NONCE_SIZE)
        return nonce + self._aead.encrypt(nonce, plain, bound)

    def open(self, sealed: bytes, bound: bytes) -> bytes | None:
        """None if it was sealed with another key, bound to something else, or changed since."""
        try:
            return self._aead.decrypt(sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], bound)
        except self._refused:
            return None


def hashed_pieces(key: bytes, pieces: Iterable[bytes]) -> bytes:
    """The same as `hashed`, of what does not lie in memory."""
    made = hmac.new(key, digestmod=hashlib.sha256)
    for piece in pieces:
        made.update(piece)
    return made.digest()


def hashed(key: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA-256 (RFC 2104) over the parts, joined."""
    return hmac.digest(key, b"".join(parts), hashlib.sha256)
