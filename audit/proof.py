"""Proof: text files that a verifier checks with a public key, without a database.

    checkpoint      origin, size, root; signed                          C2SP tlog-checkpoint
    inclusion       c2sp.org/tlog-proof@v1, extra the record itself,    C2SP tlog-proof
                    index, hashes, an empty line, the checkpoint
    consistency     old SIZE, hashes, an empty line, the checkpoint     C2SP tlog-witness, add-checkpoint

    prove ─▶ text ─▶ (mail, a disk, another country) ─▶ parse ─▶ verify with a key

Invariants
  (1) a checkpoint is returned only after its signature by a known key and its origin were verified;
  (2) other content of a file is trusted only as far as the hashes prove it.
"""

from __future__ import annotations

import base64
from typing import NamedTuple

from everlog.audit import merkle, note
from everlog.audit.merkle import entry_of
from everlog.audit.note import Signer, Verifier
from everlog.store.errors import CorruptionError, Error
from everlog.store.record import read_varint

INCLUSION = "c2sp.org/tlog-proof@v1"
OLD = "old "
EMPTY = merkle.EMPTY
SEQ_TAG = b"\x08"  # tag of a record's first field


class Checkpoint(NamedTuple):
    """The state of a log: its origin, the number of entries, the root of the tree over them."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n"

    def sign(self, signer: Signer) -> str:
        """Return the signed checkpoint."""
        return note.sign(self.text(), signer)


class Inclusion(NamedTuple):
    """A proof that a record is in the tree of a checkpoint."""

    leaf_index: int
    record: bytes
    hashes: list[bytes]
    note: str

    def text(self) -> str:
        lines = (
            INCLUSION,
            f"extra {_base64(self.record)}",
            f"index {self.leaf_index}",
            *map(_base64, self.hashes),
        )
        return "\n".join(lines) + "\n\n" + self.note

    def verify(self, checkpoint: Checkpoint) -> None:
        """Verify that the record is at this index of that tree and has that seq. Raises CorruptionError."""
        leaf = merkle.leaf_hash(entry_of(self.record))
        merkle.verify_inclusion(self.leaf_index, checkpoint.size, leaf, self.hashes, checkpoint.root)
        seq = read_varint(self.record, 1)[0] if self.record[:1] == SEQ_TAG else 0
        if seq != self.leaf_index + 1:
            raise CorruptionError(
                f"expected record {self.leaf_index + 1} at index {self.leaf_index}, found one with seq"
                f" {seq or 'none'}: it is in the tree, but it is not the record of that position",
                seq=self.leaf_index + 1,
            )


class Consistency(NamedTuple):
    """A proof that the tree of a checkpoint begins with an earlier tree, of `old` entries."""

    old: int
    hashes: list[bytes]
    note: str

    def text(self) -> str:
        return "\n".join((f"{OLD}{self.old}", *map(_base64, self.hashes))) + "\n\n" + self.note

    def verify(self, earlier: Checkpoint, later: Checkpoint) -> None:
        """Verify that the later checkpoint's tree begins with the earlier one's. Raises CorruptionError."""
        if (earlier.size, earlier.origin) != (self.old, later.origin):
            raise CorruptionError(
                f"expected the earlier checkpoint to be {later.origin} of size {self.old}, found"
                f" {earlier.origin} of size {earlier.size}"
            )
        merkle.verify_consistency(self.old, later.size, earlier.root, later.root, self.hashes)


Proof = Inclusion | Consistency | str
"""The content of a proof file; a plain text is a signed checkpoint."""


def parse(text: str) -> Proof:
    """Parse a file with a proof or a checkpoint, without verifying it. Raises CorruptionError."""
    if text.startswith(INCLUSION + "\n"):
        return _inclusion(text)
    if text.startswith(OLD):
        lines, signed = _parted(text)
        hashes = [note.decode_hash(line, "a hash of the proof") for line in lines[1:]]
        return Consistency(_number(lines[0].removeprefix(OLD), "the earlier size"), hashes, signed)
    note.split(text)
    return text


def open_checkpoint(text: str, verifier: Verifier, origin: str | None = None) -> Checkpoint:
    """Return the checkpoint that this key signed. `origin`: the expected log; by default the log with the
    key's name. Raises CorruptionError."""
    found = read(note.open_note(text, [verifier]))
    expected = origin or verifier.name
    if found.origin != expected:
        raise CorruptionError(
            f"expected a checkpoint of {expected}, found one of {found.origin}; to accept that log, pass"
            f" --origin {found.origin}",
            origin=found.origin,
        )
    return found


def read(text: str) -> Checkpoint:
    """Parse the text of a note as a checkpoint. Raises CorruptionError."""
    lines = text.split("\n")
    if len(lines) < 4 or not lines[0] or lines[-1] or not all(lines[3:-1]):
        raise CorruptionError("expected a checkpoint: lines of origin, size and root; found something else")
    return Checkpoint(lines[0], _number(lines[1], "a size"), note.decode_hash(lines[2], "a root"))


def check_origin(origin: str) -> str:
    """Return a valid origin. Raises Error for text that cannot be the first line of a checkpoint."""
    if not origin or any(char.isspace() or char < " " for char in origin):
        raise Error(f"expected an origin without spaces, such as example.com/log, found {origin!r}")
    return origin


def _inclusion(text: str) -> Inclusion:
    lines, signed = _parted(text)
    extra = b""
    del lines[0]
    if lines and lines[0].startswith("extra "):
        decoded = note.decoded(lines[0].removeprefix("extra "))
        if decoded is None:
            raise CorruptionError("expected the record in base64 after extra, found something else")
        extra = decoded
        del lines[0]
    if not lines or not lines[0].startswith("index "):
        raise CorruptionError("expected a line `index N` in a proof of inclusion, found none")
    hashes = [note.decode_hash(line, "a hash of the proof") for line in lines[1:]]
    return Inclusion(_number(lines[0].removeprefix("index "), "an index"), extra, hashes, signed)


def _parted(text: str) -> tuple[list[str], str]:
    proof, gap, signed = text.partition("\n\n")
    if not gap:
        raise CorruptionError("expected an empty line and a checkpoint after the hashes, found none")
    return proof.split("\n"), signed


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or str(int(text)) != text:
        raise CorruptionError(f"expected {what}, a decimal number, found {text[:40]!r}")
    return int(text)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
