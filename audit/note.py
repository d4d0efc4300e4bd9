"""Note: signed text with Ed25519, as C2SP signed-note defines it.

    everlog/0f8fad5b-d9cb-469f-a165-70867728950e
    812                                                           the text, ends in a line feed
    sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=
                                                                  an empty line
    — everlog/0f8fad5b-… x08go/ZJkuBS9UG/Sf…                      signature: name, base64(id signature)

    — witness.example.com/w1 jWbPPwAAAABkGFDLEZMHw…                cosignature: name, base64(id time
    signature)

    verifier key := name+id+base64(0x01 public)                   id: 4 bytes of a hash, hexadecimal
    witness key  := name+id+base64(0x04 public)                   as in C2SP tlog-cosignature
    signer key   := PRIVATE+KEY+name+id+base64(0x01 seed)         as in golang.org/x/mod/sumdb/note

Invariants
  (1) text is returned only after a signature by a known key was verified, except by `split`;
  (2) a signer key never appears in a message or an error.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlog.store.errors import CorruptionError, Error

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ED25519, COSIGNATURE = b"\x01", b"\x04"
TIME_BYTES = 8
PRIVATE = "PRIVATE+KEY+"
SIGNATURES_MAX = 100
SHOWN_MAX = 100  # characters of an invalid key that an error shows

_NAME = re.compile(r"[^\s+]+")


class Verifier:
    """A public key and the name under which it signs."""

    def __init__(self, name: str, public: bytes) -> None:
        self.name, self.public = _checked_name(name), public
        self.id = sha256(name.encode() + b"\n" + ED25519 + public).digest()[:4]

    @classmethod
    def parse(cls, key: str) -> Verifier:
        """Parse `name+id+base64`. Raises Error if it is not a verifier key."""
        found = cls(*_parts(key.strip(), "verifier", "NAME+ID+BASE64"))
        if key.strip() != str(found):
            raise Error(f"expected a verifier key whose id is {found.id.hex()}, found {_shown(key.strip())}")
        return found

    def verify(self, text: str, signature: bytes) -> bool:
        """Return whether this key signed the text."""
        return _is_signed(self.public, signature, text)

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{_base64(ED25519 + self.public)}"


class Witness:
    """The public key of a witness, which cosigns checkpoints (C2SP tlog-cosignature, Ed25519)."""

    def __init__(self, name: str, public: bytes) -> None:
        self.name, self.public = _checked_name(name), public
        self.id = sha256(name.encode() + b"\n" + COSIGNATURE + public).digest()[:4]

    @classmethod
    def parse(cls, key: str) -> Witness:
        """Parse `name+id+base64`. Raises Error if it is not a witness key."""
        found = cls(*_parts(key.strip(), "witness", "NAME+ID+BASE64", COSIGNATURE))
        if key.strip() != str(found):
            raise Error(f"expected a witness key whose id is {found.id.hex()}, found {_shown(key.strip())}")
        return found

    def verify(self, text: str, signature: bytes) -> int | None:
        """Return the time of this witness's cosignature, in seconds since the Unix epoch; None if there is
        none."""
        if len(signature) != TIME_BYTES + 64:
            return None
        time_s = int.from_bytes(signature[:TIME_BYTES], "big")
        if time_s >= 1 << 63:
            return None
        message = f"cosignature/v1\ntime {time_s}\n{text}"
        return time_s if _is_signed(self.public, signature[TIME_BYTES:], message) else None

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{_base64(COSIGNATURE + self.public)}"


class Signer:
    """A private key and the name under which it signs. `signed`: the file that records what the key has
    signed (`prover.Memory`); None if there is none."""

    def __init__(self, name: str, seed: bytes) -> None:
        self.signed: Path | None = None
        self._seed = seed
        self._key: Ed25519PrivateKey = _ed25519().Ed25519PrivateKey.from_private_bytes(seed)
        self.verifier = Verifier(name, self._key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, name: str) -> Signer:
        """Make a new key from the operating system's randomness."""
        return cls(name, _ed25519().Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def parse(cls, key: str, where: str = "") -> Signer:
        """Parse the output of `secret`. Raises Error, without showing the key, if it is not a signer key."""
        key = key.strip()
        place = f"{where}: " if where else ""
        if not key.startswith(PRIVATE):
            raise Error(f"{place}expected a signer key, {PRIVATE}NAME+ID+BASE64; found something else")
        try:
            found = cls(*_parts(key.removeprefix(PRIVATE), "signer", "that"))
        except Error:
            found = None
        if found is None or key != found.secret():
            raise Error(f"{place}expected a signer key, {PRIVATE}NAME+ID+BASE64; found one that is damaged")
        return found

    @property
    def name(self) -> str:
        return self.verifier.name

    def secret(self) -> str:
        """Return the key as text. Keep it where nobody else can read it."""
        return f"{PRIVATE}{self.name}+{self.verifier.id.hex()}+{_base64(ED25519 + self._seed)}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.verifier}>"


def sign(text: str, signer: Signer) -> str:
    """Return the note: the text and its signature. Raises Error for text that a note cannot contain."""
    if not text.endswith("\n") or not _printable(text):
        raise Error("expected lines of text, each ended by a line feed, without control characters")
    signature = signer.verifier.id + signer._key.sign(text.encode())  # noqa: SLF001  same module
    return f"{text}\n— {signer.name} {_base64(signature)}\n"


def open_note(note: str, verifiers: Iterable[Verifier]) -> str:
    """Return the text of a note that one of these keys signed. Raises CorruptionError if none did, if a
    signature of one of them is invalid, and if the input is not a note."""
    text, signatures = split(note)
    known = {(one.name, one.id): one for one in verifiers}
    verified = False
    for name, signature in signatures:
        verifier = known.get((name, signature[:4]))
        if verifier is None:
            continue
        if not verifier.verify(text, signature[4:]):
            raise CorruptionError(
                f"the note has a signature of {name}, but the signature is not that key's over this text"
            )
        verified = True
    if not verified:
        signers = ", ".join(f"{name}+{signature[:4].hex()}" for name, signature in signatures)
        wanted = ", ".join(f"{name}+{id.hex()}" for name, id in known) or "nobody"
        raise CorruptionError(f"expected a note signed by {wanted}, found signatures of {signers}")
    return text


def cosigners(note: str, witnesses: Iterable[Witness], quorum: int) -> dict[str, int]:
    """Return when each of these witnesses cosigned a note: name to seconds since the Unix epoch.

    Signatures of others are ignored. Raises CorruptionError for fewer cosignatures than `quorum` and for an
    invalid one of a known witness; Error if two of the keys are the same.
    """
    known: dict[tuple[str, bytes], Witness] = {}
    for one in witnesses:
        if any(one.public == other.public for other in known.values()):
            raise Error(f"expected each witness once, found the key of {one.name} twice")
        known[one.name, one.id] = one
    if not 0 < quorum <= len(known):
        raise Error(f"expected a quorum of 1 to {len(known)}, the number of witnesses given, found {quorum}")
    text, signatures = split(note)
    found: dict[tuple[str, bytes], int] = {}
    for name, signature in signatures:
        witness = known.get((name, signature[:4]))
        if witness is None:
            continue
        time_s = witness.verify(text, signature[4:])
        if time_s is None:
            raise CorruptionError(
                f"the note has a cosignature of {name}, but the signature is not that witness's over this"
                " text"
            )
        found[name, witness.id] = time_s
    if len(found) < quorum:
        missing = ", ".join(f"{name}+{id.hex()}" for name, id in known if (name, id) not in found)
        raise CorruptionError(
            f"expected cosignatures of {quorum} of {len(known)} witnesses, found {len(found)}; missing:"
            f" {missing}"
        )
    return {name: time_s for (name, _), time_s in found.items()}


def split(note: str) -> tuple[str, list[tuple[str, bytes]]]:
    """Return the text and the signatures with their names, unverified. Raises CorruptionError."""
    text, gap, lines = note.rpartition("\n\n")
    signatures = []
    if not gap or not lines.endswith("\n") or not _printable(note):
        raise CorruptionError("expected a signed note: text, an empty line, signatures; found something else")
    for line in lines[:-1].split("\n"):
        dash, _, rest = line.partition(" ")
        name, _, encoded = rest.partition(" ")
        signature = decoded(encoded)
        if dash != "—" or not _NAME.fullmatch(name) or signature is None or len(signature) < 5:
            raise CorruptionError(f"expected a signature line, — NAME BASE64, found {line!r}")
        signatures.append((name, signature))
        if len(signatures) > SIGNATURES_MAX:
            raise CorruptionError(f"expected a note of at most {SIGNATURES_MAX} signatures, found more")
    return text + "\n", signatures


def decode_hash(line: str, what: str) -> bytes:
    """Decode a SHA-256 in base64. Raises CorruptionError."""
    found = decoded(line)
    if found is None or len(found) != 32:
        raise CorruptionError(f"expected {what}, 32 bytes in base64, found {line!r}")
    return found


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name) or not _printable(name):
        raise Error(f"expected a key name without spaces and plus signs, found {name!r}")
    return name


def _parts(key: str, what: str, form: str, kind: bytes = ED25519) -> tuple[str, bytes]:
    words = key.split("+", 2)
    data = decoded(words[-1]) if len(words) == 3 else None
    if data is None or len(data) != 33 or data[:1] != kind or not _NAME.fullmatch(words[0]):
        found = f", found {_shown(key)}" if what != "signer" else ""
        raise Error(f"expected a {what} key of Ed25519 (type {kind.hex()}), {form}{found}")
    return words[0], data[1:]


def _shown(key: str) -> str:
    """Return what was given for a public key, as an error may show it: it may be the private one."""
    if PRIVATE in key:
        return f"a private key ({PRIVATE}…), which a verifier must not have: keygen printed the public one"
    return repr(key if len(key) <= SHOWN_MAX else key[:SHOWN_MAX] + "…")


def _printable(text: str) -> bool:
    # A surrogate stands for a byte that is not UTF-8, in a file read with surrogateescape.
    return not any((char < " " and char != "\n") or "\ud800" <= char <= "\udfff" for char in text)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def decoded(text: str) -> bytes | None:
    """Decode base64 in its canonical form; None for anything else."""
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return found if _base64(found) == text else None


def _is_signed(public: bytes, signature: bytes, text: str) -> bool:
    try:
        _ed25519().Ed25519PublicKey.from_public_bytes(public).verify(signature, text.encode())
    except import_module("cryptography.exceptions").InvalidSignature:
        return False
    return True


def _ed25519() -> Any:
    try:
        return import_module("cryptography.hazmat.primitives.asymmetric.ed25519")
    except ModuleNotFoundError:
        raise Error(
            "signing and verifying checkpoints needs the library cryptography, which is not installed:"
            " pip install 'everlog[audit]'"
        ) from None
