"""Cipher: authenticated encryption and HMACs. The only module that uses the encryption library.

    sealed := nonce:12 AES-256-GCM(plain)        NIST SP 800-38D: the ciphertext, then a tag of 16 bytes

The nonce is random; a key seals the rows of one person, far fewer than the 2^32 that are safe. The
context of a sealed value (`bound`) is authenticated with it: elsewhere it does not open.
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
    """Seals and opens with one key. Raises SealedError if the library is not installed."""

    def __init__(self, key: bytes) -> None:
        try:
            from cryptography.exceptions import InvalidTag  # noqa: PLC0415  of an extra, and slow to load
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415
        except ImportError:
            raise SealedError(
                "sealed rows require the library `cryptography`: pip install 'everlog[seal]'", erased=False
            ) from None
        self._aead, self._refused = AESGCM(key), (InvalidTag, ValueError)

    def seal(self, plain: bytes, bound: bytes) -> bytes:
        """Return `plain` sealed and bound to `bound`."""
        nonce = os.urandom(NONCE_SIZE)
        return nonce + self._aead.encrypt(nonce, plain, bound)

    def open(self, sealed: bytes, bound: bytes) -> bytes | None:
        """Return the plaintext; None if it was sealed with another key, bound to another context, or
        changed."""
        try:
            return self._aead.decrypt(sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], bound)
        except self._refused:
            return None


def hashed_pieces(key: bytes, pieces: Iterable[bytes]) -> bytes:
    """Return `hashed` of data given in pieces, which need not be in memory at once."""
    digest = hmac.new(key, digestmod=hashlib.sha256)
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


def hashed(key: bytes, *parts: bytes) -> bytes:
    """Return the HMAC-SHA-256 (RFC 2104) of the joined parts."""
    return hmac.digest(key, b"".join(parts), hashlib.sha256)
