"""Withheld files: those with rows of sealed tables, of which the log keeps a keyed digest and no content.

    SourceFile { path, digest: HMAC(index key of the key store, path content)[:16] }     no content

With the keys, the digest reveals an edit; without them, it confirms no guess about the content. Without a key
store it is all zeros.

Invariants
  (1) The content of such a file is in no Migration record, neither of a step nor of a proposal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from everlog.migrations import digest as digests
from everlog.migrations.folder import ALWAYS_KEPT
from everlog.migrations.migration import Migration
from everlog.proto import log_pb2
from everlog.store.crypto.vault import Vault

if TYPE_CHECKING:
    from everlog.migrations.folder import Folder

_NO_KEYS = bytes(16)
_LARGE = b"(not shown: large)\n"


def paths(migration: Migration, brought: Iterable[Path], words: Collection[str] = ()) -> set[str]:
    """Return the files that may have rows of sealed tables, where the files in `brought` yielded some.

    If bootstrap.py did, that may be any file that it imports or reads. `words`: texts in those rows; other
    files that contain one are included as well.
    """
    root = migration.folder.path
    found = {path.relative_to(root).as_posix() for path in brought}
    if "bootstrap.py" in found:
        opened = {f"bootstrap_{table.name}" for table in migration.tables if table.person is None}
        for file in migration.folder.sources:
            if file.path not in ALWAYS_KEPT and Path(file.path).stem not in opened:
                found.add(file.path)
    said = [word.encode() for word in words]
    left = (file for file in migration.folder.sources if file.path not in found)
    found |= {file.path for file in left if _has_one(file, root, said)}
    return found


def _has_one(file: log_pb2.SourceFile, root: Path, words: Collection[bytes]) -> bool:
    """Whether one of these words is in a file, even across two pieces."""
    longest, before = max(map(len, words), default=1), b""
    for piece in digests.pieces(file, root) if words else ():
        looked = before + piece
        if any(word in looked for word in words):
            return True
        before = looked[len(looked) - longest + 1 :] if longest > 1 else b""
    return False


def same(recorded: bytes, file: log_pb2.SourceFile, folder: Folder, vault: Vault | None) -> bool:
    """Whether a file of a folder has the content of a recorded digest. False if unknown."""
    if len(recorded) == hashlib.sha256().digest_size:
        return recorded == digests.sha256(file)
    return recorded != _NO_KEYS and recorded == digest(file, folder, vault)


def is_known(recorded: bytes, vault: Vault | None) -> bool:
    """Whether `same` can decide for a recorded digest."""
    if len(recorded) == hashlib.sha256().digest_size:
        return True
    return vault is not None and not vault.locked and recorded != _NO_KEYS


def digest(file: log_pb2.SourceFile, folder: Folder, vault: Vault | None, *, make: bool = False) -> bytes:
    """Return what the log has of a file instead of its content. `make`: create a missing key store."""
    if vault is None or vault.locked or not (vault.exists or make):
        return _NO_KEYS
    head = b"source" + file.path.encode() + b"\0"
    return vault.hash_pieces(chain([head], digests.pieces(file, folder.path)))


def kept(folder: Folder, withheld: set[str], vault: Vault | None) -> Iterator[log_pb2.SourceFile]:
    """Yield the files of a folder as a Migration record has them; large files of rows have a SHA-256 of 32
    bytes.
    """
    for file in folder.sources:
        if file.path in withheld:
            yield log_pb2.SourceFile(path=file.path, digest=digest(file, folder, vault, make=True))
        else:
            yield file


def contents(
    ran: Iterable[log_pb2.SourceFile], folder: Folder, vault: Vault | None = None
) -> tuple[Mapping[str, bytes], Mapping[str, bytes]]:
    """Return the contents of the files that ran and of those of a folder, by path, for comparison.

    A withheld file is the same in both if it did not change, or if that is unknown.
    """
    now = {
        file.path: log_pb2.SourceFile(path=file.path, content=_LARGE) if digests.is_large(file) else file
        for file in folder.sources
    }
    sources = {file.path: file for file in folder.sources}
    was = dict[str, bytes]()
    for file in ran:
        mine = sources.get(file.path)
        was[file.path] = file.content
        if file.digest and mine is not None:
            is_hash = len(file.digest) == hashlib.sha256().digest_size
            if is_known(file.digest, vault) and not same(file.digest, mine, folder, vault):
                was[file.path] = (
                    b"(withheld: rows of a sealed table)\n" if not is_hash else b"(not kept: large)\n"
                )
                mine = log_pb2.SourceFile(content=b"(withheld: other rows of a sealed table)\n")
            else:
                mine = log_pb2.SourceFile(content=b"")
            now[file.path] = mine
    return was, {path: file.content for path, file in now.items()}
