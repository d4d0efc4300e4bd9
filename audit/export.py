"""Export: write the tree and its entries to a directory that C2SP tlog-tiles tools read, from disk or from
any web server.

    DIR/checkpoint              the signed checkpoint of everything in the directory
    DIR/tile/0/x001/234         tiles                 DIR/tile/0/001.p/7       partial tiles of that size
    DIR/tile/entries/x001/234   entry bundles: for each record 0x0020 and its SHA-256

Invariants
  (1) the checkpoint is replaced last, after the tiles were read again and gave its root: after a kill, the
      checkpoint there has all its tiles, and the next run continues from it;
  (2) an earlier export is never overwritten by another history: that is an error;
  (3) a changed file of an earlier export is written again; a file that is not part of the tree is reported
      and left alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from everlog.audit import merkle, note, proof
from everlog.audit.prover import Prover
from everlog.audit.tiles import WIDTH, Growing, full_width, nodes, path, place
from everlog.store.errors import CorruptionError, DiskError, quantity
from everlog.store.progress import OnProgress, Progress
from everlog.store.rocks import files
from everlog.store.rocks.errors import reason

CHECKPOINT = "checkpoint"
LENGTH = b"\x00\x20"
ENTRY_BYTES = len(LENGTH) + merkle.HASH_BYTES
WRITERS = 8


class Exported(NamedTuple):
    """Result of an export: the number of records in it now, and before; the files that were rewritten
    because they had been changed; and the files that are not part of the tree."""

    size: int
    before: int
    repaired: tuple[str, ...] = ()
    strange: tuple[str, ...] = ()


class Directory:
    """An exported tree."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def checkpoint(self) -> str | None:
        """Return its signed checkpoint, unverified; None if there is none."""
        try:
            return (self.where / CHECKPOINT).read_text(encoding="utf-8", errors="surrogateescape")
        except FileNotFoundError:
            return None

    def head(self) -> proof.Checkpoint | None:
        """Return what its checkpoint states, unverified; None if there is none. Raises CorruptionError naming
        the file."""
        text = self.checkpoint()
        if text is None:
            return None
        try:
            stated, signatures = note.split(text)
            found = proof.read(stated)
            names = {name for name, _ in signatures}
            if found.origin not in names:
                raise CorruptionError(
                    f"expected a checkpoint signed by {found.origin}, which it names as its log, found"
                    f" signatures of {', '.join(sorted(names))}"
                )
        except CorruptionError as error:
            raise CorruptionError(f"{self.where / CHECKPOINT}: {error}") from None
        return found

    def tile(self, level: int, index: int, width: int) -> bytes:
        """Return the first `width` hashes of a tile. Raises CorruptionError naming the file."""
        return self._read(level, index, width, merkle.HASH_BYTES)

    def bundle(self, index: int, width: int) -> bytes:
        """Return the first `width` entries of a bundle, without their lengths. Raises CorruptionError naming
        the file."""
        found = self._read("entries", index, width, ENTRY_BYTES)
        entries = [found[at : at + ENTRY_BYTES] for at in range(0, len(found), ENTRY_BYTES)]
        for at, entry in enumerate(entries):
            if entry[: len(LENGTH)] != LENGTH:
                raise CorruptionError(
                    f"expected entries of {merkle.HASH_BYTES} bytes in {self._file('entries', index, width)},"
                    f" found another length before entry {index * WIDTH + at}"
                )
        return b"".join([entry[len(LENGTH) :] for entry in entries])

    def problems(self, size: int, progress: OnProgress | None = None) -> Iterator[str]:
        """Yield each difference from a tree of `size` records as a sentence: every tile, bundle and file is
        read. Read-only."""
        growing, known = Growing(0, self.tile), {CHECKPOINT}
        for start in range(0, size, WIDTH):
            index, width = start // WIDTH, min(WIDTH, size - start)
            leaves, hashed = b"", b""
            try:
                leaves = self.tile(0, index, width)
            except CorruptionError as error:
                yield str(error)
            try:
                hashed = _leaves(self.bundle(index, width))
            except CorruptionError as error:
                yield str(error)
            if leaves and hashed and leaves != hashed:
                at = merkle.differs_at(leaves, hashed)
                yield (
                    f"record {start + at + 1} has one hash in {self._file('entries', index, width)} and"
                    f" another in {self._file(0, index, width)}: one of them was changed"
                )
            known |= {path("entries", index, width), path(0, index, width)}
            if not (leaves or hashed):
                yield f"{self.where}: records after {start} could not be verified"
                return
            for (level, above), tile in growing.add(leaves or hashed).items():
                wide = len(tile) // merkle.HASH_BYTES
                if level and (wide == WIDTH or full_width(size, level) == above * WIDTH + wide):
                    known.add(path(level, above, wide))
                    yield from self._differs(level, above, tile)
            if progress is not None:
                progress(Progress("verify tiles", start + width, size, "records"))
        yield from self._others(size, known)

    def _differs(self, level: int, index: int, expected: bytes) -> Iterator[str]:
        width = len(expected) // merkle.HASH_BYTES
        try:
            if self.tile(level, index, width) != expected:
                yield (
                    f"{self._file(level, index, width)} does not have the hashes of the tiles below it: it,"
                    " or one of them, was changed"
                )
        except CorruptionError as error:
            yield str(error)

    def _others(self, size: int, known: set[str]) -> Iterator[str]:
        """Yield files that are not part of the tree; an earlier partial tile must begin the current one."""
        for file in self.files():
            if file in known:
                continue
            data = self.beginning(file, size)
            if data is None:
                yield (
                    f"{self.where / file} is not part of the tree of {quantity(size, 'record')}; if an"
                    " export was interrupted, run `everlog tiles` again"
                )
            elif data != (self.where / file).read_bytes():
                yield f"{self.where / file} is not a prefix of the tile that replaced it: it was changed"

    def beginning(self, file: str, size: int) -> bytes | None:
        """Return the expected content of a partial tile or bundle of an earlier size; None for another
        path."""
        found = place(file)
        if found is None:
            return None
        level, index, width = found
        most = min(WIDTH, full_width(size, level if isinstance(level, int) else 0) - index * WIDTH)
        if not 0 < width < most:
            return None
        try:
            if isinstance(level, int):
                return self.tile(level, index, most)[: width * merkle.HASH_BYTES]
            return _bundle(self.bundle(index, most)[: width * merkle.HASH_BYTES])
        except CorruptionError:
            return b""

    def files(self) -> list[str]:
        """Return all files in it, as relative paths."""
        there = [file for file in files.below(self.where) if file.is_symlink() or not file.is_dir()]
        return sorted(file.relative_to(self.where).as_posix() for file in there)

    def _file(self, level: int | str, index: int, width: int) -> Path:
        """Return the file of a tile or bundle: the full one, if it exists."""
        whole = self.where / path(level, index)
        return whole if whole.exists() else self.where / path(level, index, width)

    def _read(self, level: int | str, index: int, width: int, each: int) -> bytes:
        for wide in (WIDTH, width):
            file = self.where / path(level, index, wide)
            try:
                found = file.read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                continue
            if len(found) == wide * each:
                return found[: width * each]
            raise CorruptionError(
                f"expected {wide * each:,} bytes in {file}, found {len(found):,}",
                place=str(file),
            )
        file = self.where / path(level, index, width)
        what = "a bundle of entries" if level == "entries" else "a tile of the tree"
        raise CorruptionError(f"expected {what} in {file}, found no such file", place=str(file))

    def root(self, size: int) -> bytes:
        """Return the root that the tiles give. Raises CorruptionError."""
        return merkle.root(nodes(size, self.tile), size)


def export(
    prover: Prover, text: str, where: Path, progress: OnProgress | None = None, *, verify: bool = True
) -> Exported:
    """Bring a directory to a signed checkpoint of a log.

    `verify`: read all earlier files, and rewrite those that differ from the log. Raises CorruptionError if
    the directory is of another history, and DiskError. An interrupted export continues when it is run
    again. Writes to the directory."""
    there, wanted = Directory(where), proof.read(note.split(text)[0])
    before = _before(prover, there, wanted)
    damaged = verify and any(True for _ in there.problems(before, progress))
    start = 0 if damaged else before // WIDTH * WIDTH
    growing, done = Growing(start, there.tile), start
    writing = _Writing(where, before if damaged else 0)
    try:
        for entries in prover.entries(start, wanted.size):
            writing.write("entries", done // WIDTH, _bundle(entries))
            for (level, index), tile in growing.add(_leaves(entries)).items():
                width = len(tile) // merkle.HASH_BYTES
                if width == WIDTH or full_width(wanted.size, level) == index * WIDTH + width:
                    writing.write(level, index, tile)
            done += len(entries) // merkle.HASH_BYTES
            if progress is not None:
                progress(Progress("tiles", done - start, wanted.size - start, "records"))
        writing.finish()
    finally:
        writing.close()
    found = there.root(wanted.size)
    if found != wanted.root:
        raise CorruptionError(
            f"expected the tiles in {where} to give the root {wanted.root.hex()} of"
            f" {quantity(wanted.size, 'record')}, found {found.hex()}: the log does not match its"
            " checkpoint, or a tile was changed"
        )
    repaired, strange = _repair_others(there, wanted.size) if damaged else ([], [])
    _write(where / CHECKPOINT, text.encode())
    return Exported(wanted.size, before, (*writing.repaired, *repaired), tuple(strange))


class _Writing:
    """Writes tiles and bundles concurrently. `before`: the size of an earlier export, of which only files
    that differ are written, and listed in `repaired`; 0: write all."""

    def __init__(self, where: Path, before: int) -> None:
        self.repaired: list[str] = []
        self._where, self._before = where, before
        self._writers = ThreadPoolExecutor(WRITERS)  # they wait for the disk
        self._writing: list[Future[None]] = []

    def write(self, level: int | str, index: int, data: bytes) -> None:
        width = len(data) // (ENTRY_BYTES if level == "entries" else merkle.HASH_BYTES)
        file = path(level, index, width)
        if self._before:
            if _has(self._where / file, data):
                return
            if index * WIDTH + width <= full_width(self._before, level if isinstance(level, int) else 0):
                self.repaired.append(file)
        self._writing.append(self._writers.submit(_write, self._where / file, data))
        if len(self._writing) >= WRITERS * 4:
            self._writing.pop(0).result()

    def finish(self) -> None:
        """Wait until all files are durable. Raises DiskError."""
        for one in self._writing:
            one.result()

    def close(self) -> None:
        self._writers.shutdown(cancel_futures=True)


def _repair_others(there: Directory, size: int) -> tuple[list[str], list[str]]:
    """Rewrite earlier partial tiles that were changed, and remove the files of an interrupted export.
    Return these files, and those that are not part of the tree."""
    repaired: list[str] = []
    strange: list[str] = []
    for file in there.files():
        found = place(file)
        level = found[0] if found and isinstance(found[0], int) else 0
        whole = found is not None and full_width(size, level) >= found[1] * WIDTH + found[2]
        data = there.beginning(file, size)
        if data is not None:
            if not _has(there.where / file, data):
                _write(there.where / file, data)
                repaired.append(file)
        elif place(file.removesuffix(".new")) is not None and file.endswith(".new"):
            (there.where / file).unlink()
            repaired.append(file)
        elif not whole and file not in {CHECKPOINT, f"{CHECKPOINT}.new"}:
            strange.append(file)
    return repaired, strange


def _has(file: Path, data: bytes) -> bool:
    try:
        return file.read_bytes() == data
    except OSError:
        return False


def _bundle(entries: bytes) -> bytes:
    """Return a bundle of joined entries, each after its length."""
    size = merkle.HASH_BYTES
    return b"".join([LENGTH + entries[at : at + size] for at in range(0, len(entries), size)])


def _leaves(entries: bytes) -> bytes:
    size = merkle.HASH_BYTES
    return b"".join([merkle.leaf_hash(entries[at : at + size]) for at in range(0, len(entries), size)])


def _before(prover: Prover, there: Directory, wanted: proof.Checkpoint) -> int:
    """Return how many records of this log were exported before."""
    try:
        earlier = there.head()
    except CorruptionError as error:
        raise CorruptionError(
            f"{error}. Remove that file and run this again, which compares all tiles with the log and writes"
            " it anew"
        ) from None
    if earlier is None:
        return 0
    if earlier.origin != wanted.origin:
        raise CorruptionError(
            f"{there.where} is of {earlier.origin}, not of {wanted.origin}; name another directory"
        )
    if earlier.size > wanted.size or prover.head(earlier.size)[1] != earlier.root:
        raise CorruptionError(
            f"{there.where} has a checkpoint of {quantity(earlier.size, 'record')} with which this log"
            " does not begin: the log was rewritten or cut since, or is another copy. `everlog audit"
            " --tiles` names the"
            " record",
            size=earlier.size,
        )
    return earlier.size


def _write(file: Path, data: bytes) -> None:
    """Replace a file atomically, and sync it."""
    try:
        files.make_directory(file.parent)
        temporary = file.with_name(file.name + ".new")
        temporary.write_bytes(data)
        _sync(temporary)
        temporary.replace(file)
        _sync(file.parent)
    except OSError as error:
        raise DiskError(f"{file} could not be written: {reason(error, file)}", outcome="unknown") from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
