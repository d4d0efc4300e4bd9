"""Prover: signs checkpoints of a log and proves its content, in this process or on a server.

    Prover ─┬─ LocalProver    the tree of an open database
            └─ RemoteProver   a server's (everlog.rpc.client.audit)

    checkpoint ─▶ head, signed, stored in the log as a Notice      prove ─▶ a file (proof.py)
        └─▶ KEY.signed    {origin: the largest checkpoint that the key signed}, beside the key

Invariants
  (1) a checkpoint is stored in the log only if it is of that log, and says something new; no key signs what
      contradicts the last checkpoint that it signed, as far as the log has it. The log does not know the
      signers: a holder of the public key finds that key's checkpoints (`newest`), whatever others stored;
  (2) a proof is verified before it is returned: a damaged tree proves nothing;
  (3) a key with a memory signs only a log that begins with the largest checkpoint that it signed of that
      origin, whatever became of the database: the memory is durable before the signature is returned.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import UUID

import msgspec

from everlog.audit import merkle, note, proof
from everlog.audit.merkle import entry_of
from everlog.audit.note import Signer, Verifier
from everlog.audit.proof import Checkpoint, Consistency, Inclusion
from everlog.audit.tree import KIND, Tree
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import CorruptionError, CursorError, Error, PreconditionError, RowError, quantity
from everlog.store.progress import OnProgress
from everlog.store.record import unframe
from everlog.store.rocks.files import sync_directory

KEPT_MAX = 100
ENTRIES_AT_ONCE = 256


class Kept(NamedTuple):
    """A checkpoint in the log."""

    size: int
    seq: int
    note: str


class Prover(Protocol):
    """The proofs that both kinds of databases offer. Raises CursorError for positions outside of the log."""

    @property
    def database(self) -> bytes:
        """UUID of the database."""

    def head(self, size: int = 0, progress: OnProgress | None = None) -> tuple[int, bytes]:
        """Return size and root of the tree of the first `size` records; 0 means all durable ones."""

    def prove(self, seq: int, size: int) -> tuple[bytes, list[bytes]]:
        """Return a record, unframed, and the proof that it is in the tree of that size."""

    def prove_from(
        self, first: int, size: int, *, check: bool = False, progress: OnProgress | None = None
    ) -> list[bytes]:
        """Return the proof that the tree of `size` begins with that of `first`. `check`: compare all these
        records with the tree first. Raises CorruptionError naming the first record that differs."""

    def kept(self, since: int) -> list[Kept]:
        """Return the checkpoints in the log of at least `since` records: the newest 100, by size."""

    def keep(self, text: str, actor: str = "") -> int:
        """Write a checkpoint of this log into it; return its seq. Raises PreconditionError."""

    def checkpoint(self) -> str | None:
        """Return a new checkpoint that the server signed and stored; None if it has no key."""

    def entries(self, after: int, until: int) -> Iterator[bytes]:
        """Yield the entries of the records after `after` up to `until`: SHA-256 of each, joined, 256 at a
        time."""


class Memory:
    """The largest checkpoint that a key signed of each origin, in a file beside the key. Processes that sign
    with one key wait for each other."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Exclude others that sign with the key. Raises Error if the file cannot be written."""
        try:
            handle = os.open(self.file.with_name(self.file.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def last(self, verifier: Verifier, origin: str) -> Checkpoint | None:
        """Return the last checkpoint that the key signed of an origin; None if there is none. Raises
        CorruptionError for a file that the key did not sign."""
        text = self._all().get(origin)
        return None if text is None else proof.open_checkpoint(text, verifier, origin)

    def remember(self, origin: str, text: str) -> None:
        """Store a checkpoint, durably. Raises Error."""
        data = msgspec.json.format(msgspec.json.encode({**self._all(), origin: text})) + b"\n"
        temporary = self.file.with_name(self.file.name + ".new")
        try:
            with open(temporary, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(self.file)
            sync_directory(self.file.parent)
        except OSError as error:
            raise self._unwritable(error) from error

    def _all(self) -> dict[str, str]:
        try:
            return msgspec.json.decode(self.file.read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._unwritable(error) from error
        except (msgspec.DecodeError, ValueError) as error:
            raise CorruptionError(
                f"{self.file}: expected the checkpoints that the key has signed, found something else"
                f" ({error}); restore the file",
                place=str(self.file),
            ) from None

    def _unwritable(self, error: OSError) -> Error:
        return Error(
            f"{self.file}: cannot record what the key signs ({error.strerror}), and so nothing was signed:"
            " move the key to a directory where this file can be written; for a server, name another file:"
            " `serve --audit-signed FILE`"
        )


class LocalProver:
    """The prover of an open database."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._tree = Tree(db)
        self.database = db.uuid

    def head(self, size: int = 0, progress: OnProgress | None = None) -> tuple[int, bytes]:
        size = size or self._tree.catch_up(progress)
        if size > self._tree.size:
            self._tree.catch_up(progress)
        return size, self._tree.root(size)

    def prove(self, seq: int, size: int) -> tuple[bytes, list[bytes]]:
        hashes = self._tree.inclusion(seq, size)
        record = unframe(self._db.log.get(seq), seq)
        self._tree.check_record(seq, record)
        return record, hashes

    def prove_from(
        self, first: int, size: int, *, check: bool = False, progress: OnProgress | None = None
    ) -> list[bytes]:
        if check:
            self._tree.check_records(size, progress)
        return self._tree.consistency(first, size)

    def kept(self, since: int) -> list[Kept]:
        places = self._tree.signed(since)[-KEPT_MAX:]
        return [
            Kept(size, seq, self._db.log.commit(seq).notice.detail.decode(errors="replace"))
            for size, seq in places
        ]

    def keep(self, text: str, actor: str = "", by: Verifier | None = None) -> int:
        """Write a checkpoint; with `by`, only one that this key signed, which is verified."""
        if by is not None and not _is_by(text, by):
            raise PreconditionError(
                f"this server stores only checkpoints of its own key, {by.name}+{by.id.hex()}, and found"
                " one of another key: let the server sign, `everlog checkpoint` without --signing-key;"
                " nothing was written"
            )
        try:
            checkpoint = proof.read(note.split(text)[0])
        except CorruptionError as error:  # of what the caller sent, not of the log
            raise RowError(f"{error}; nothing was written") from None
        if checkpoint.size > self.head()[0] or self._tree.root(checkpoint.size) != checkpoint.root:
            raise PreconditionError(
                f"the checkpoint of {quantity(checkpoint.size, 'record')} of {checkpoint.origin} is not"
                f" one of this log ({UUID(bytes=self.database)}); nothing was written"
            )

        def about(commit: log_pb2.Commit) -> None:
            detail = text.encode()
            commit.notice.CopyFrom(log_pb2.Notice(kind=KIND, subject=checkpoint.origin, detail=detail))

        return self._db.core.commit(self._db.transaction(actor=actor), about).seq

    def checkpoint(self) -> str | None:
        return None

    def entries(self, after: int, until: int) -> Iterator[bytes]:
        found: list[bytes] = []
        for seq, framed in self._db.log.scan(after, until):
            found.append(entry_of(unframe(framed, seq)))
            if len(found) == ENTRIES_AT_ONCE:
                yield b"".join(found)
                found.clear()
        if found:
            yield b"".join(found)


def origin_of(prover: Prover) -> str:
    """Return the default first line of a database's checkpoints."""
    return f"everlog/{UUID(bytes=prover.database)}"


def checkpoint(
    prover: Prover,
    signer: Signer,
    origin: str | None = None,
    *,
    progress: OnProgress | None = None,
    actor: str = "",
) -> tuple[str, bool]:
    """Sign the current state of the log, and store the checkpoint in the log.

    Returns the note, and whether it is new: if only checkpoints were written since the last one of this key,
    that one is returned. Raises CorruptionError, and signs nothing, if the log does not begin with the last
    checkpoint that this key signed, according to the log and to the file `signer.signed`, if there is one.
    Writes to the log and to that file."""
    origin = proof.check_origin(origin or origin_of(prover))
    if signer.signed is None:
        return _checkpoint(prover, signer, origin, progress=progress, actor=actor)
    memory = Memory(signer.signed)
    with memory.exclusive():
        last = memory.last(signer.verifier, origin)
        if last is not None:
            _check_grown(prover, last, memory, progress)
        text, new = _checkpoint(prover, signer, origin, progress=progress, actor=actor, memory=memory)
        if last is None and not new:  # signed before there was a memory
            memory.remember(origin, text)
        return text, new


def _check_grown(prover: Prover, last: Checkpoint, memory: Memory, progress: OnProgress | None) -> None:
    """Raise CorruptionError unless the log begins with the last checkpoint that its key signed."""
    size, root = prover.head(progress=progress)
    if size < last.size:
        raise CorruptionError(
            f"the log {last.origin} ends at record {size}, but its key has signed"
            f" {quantity(last.size, 'record')}: record {size + 1} is the first that is missing. The database"
            " was rolled back or restored, or this is an older copy; nothing was signed. Restore the"
            " missing records; or, if they are lost, remove"
            f" {memory.file} and inform the holders of checkpoints",
            seq=size + 1,
        )
    hashes = prover.prove_from(last.size, size)
    merkle.verify_consistency(last.size, size, last.root, root, hashes)


def _checkpoint(
    prover: Prover,
    signer: Signer,
    origin: str,
    *,
    progress: OnProgress | None,
    actor: str,
    memory: Memory | None = None,
) -> tuple[str, bool]:
    size, root = prover.head(progress=progress)
    now = Checkpoint(origin, size, root)
    kept = prover.kept(0)
    seqs, since = {one.seq for one in kept}, size
    while since in seqs:
        since -= 1
    last = next((one for one in reversed(kept) if _is_by(one.note, signer.verifier, now.origin)), None)
    if last is not None:
        if last.size >= since:
            return last.note, False
        before = proof.read(note.split(last.note)[0])
        hashes = prover.prove_from(before.size, size)
        merkle.verify_consistency(before.size, size, before.root, root, hashes)
    text = now.sign(signer)
    if memory is not None:
        memory.remember(origin, text)
    prover.keep(text, actor)
    return text, True


def prove(
    prover: Prover,
    seq: int,
    text: str | None = None,
    *,
    by: Verifier | None = None,
    origin: str | None = None,
) -> Inclusion:
    """Return the proof that a record is in the log, with the checkpoint `text`, or with the `newest` one in
    the log. Raises Error if no checkpoint covers it."""
    prover.head()
    text = text or newest(prover, seq, by=by, origin=origin)
    covering = proof.read(note.split(text)[0])
    record, hashes = prover.prove(seq, covering.size)
    found = Inclusion(seq - 1, record, hashes, text)
    found.verify(covering)
    return found


def prove_from(
    prover: Prover,
    first: int,
    text: str | None = None,
    *,
    by: Verifier | None = None,
    origin: str | None = None,
    check: bool = True,
    progress: OnProgress | None = None,
) -> Consistency:
    """Return the proof that the log of a checkpoint begins with its first `first` records; `text` as in
    `prove`.

    `check`: read every covered record and compare it with the tree; otherwise the tree is trusted. Raises
    CorruptionError naming the first record that differs.
    """
    prover.head()
    text = text or newest(prover, first, by=by, origin=origin)
    covering = proof.read(note.split(text)[0])
    if first > covering.size:
        raise CursorError(f"expected a size up to that of the checkpoint, {covering.size}, found {first}")
    found = Consistency(first, prover.prove_from(first, covering.size, check=check, progress=progress), text)
    found.verify(
        covering._replace(size=first, root=prover.head(first)[1] if first else proof.EMPTY), covering
    )
    return found


def newest(prover: Prover, since: int = 0, *, by: Verifier | None = None, origin: str | None = None) -> str:
    """Return the newest checkpoint in the log of at least `since` records: one that the key `by` signed,
    which is verified; otherwise one of `origin`, or else of the log's own origin before any other. Raises
    Error if there is none."""
    kept = prover.kept(since)
    own = origin or origin_of(prover)
    if by is not None:
        found = [one for one in kept if _is_by(one.note, by, origin)]
    else:
        found = [one for one in kept if _origin_in(one.note) == own] or ([] if origin else kept)
    if not found:
        what = f"covers record {since}" if since else "is there"
        signed = f" that {by.name}+{by.id.hex()} signed" if by else ""
        raise Error(
            f"no checkpoint in the log{signed} {what}: sign one with --signing-key FILE (`everlog keygen`"
            " makes the key), or run `everlog checkpoint --signing-key FILE`",
            seq=since,
        )
    return found[-1].note


def _is_by(text: str, by: Verifier, origin: str | None = None) -> bool:
    """Return whether a key signed a checkpoint, of this origin if one is given."""
    try:
        return origin in {None, proof.read(note.open_note(text, [by])).origin}
    except Error:
        return False


def _origin_in(text: str) -> str:
    return text.partition("\n")[0]
