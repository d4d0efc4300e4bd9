"""Manifest: compare RocksDB's directory with its MANIFEST and its checksums.

    CURRENT ─▶ MANIFEST-000017 ─▶ 000027.sst, 10,966 bytes ─▶ exists? size? every block's checksum?
                              └─▶ the oldest write-ahead log ─▶ does one as new exist?

Beside a writer, RocksDB opens a directory for reading even if files are missing, and the rows do not
show it. The MANIFEST does: it is a log of edits, which add and remove files.

    MANIFEST := blocks of 32 KiB of (crc32c:u32 length:u16 type:u8 fragment)        records of the log format
    edit     := (tag:varint32 fields)…                                             one record
    table    := (block compression:u8 checksum:u32)… footer                        one .sst
    footer   := checksum_type:u8 metaindex index zeros version:u32 magic:u64       53 bytes

Formats: RocksDB, `db/log_format.h`, `db/version_edit.h`, `table/format.h`.

Invariants
  (1) nothing is written, and at most one block of a table is in memory;
  (2) a file that a writer removes meanwhile is no problem: the MANIFEST is read again before one is reported.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from xxhash import xxh3_64_intdigest

from everlog.store.errors import CorruptionError
from everlog.store.record import read_varint
from everlog.store.rocks import files
from everlog.store.rocks.errors import check_damage, translated

REMEDY = "Restore a backup, or salvage the rest with `everlog repair`"
_BLOCK, _HEADER = 32 << 10, struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_NO_FAMILY, _LOOKS = 0, 10
_LOG_NUMBER, _DELETED, _NEW, _FAMILY, _FAMILY_ADD, _FAMILY_DROP = 2, 6, 103, 200, 201, 202
# The fields after each tag of an edit: numbers (n) and strings (s).
_SHAPES = dict.fromkeys((_LOG_NUMBER, 3, 4, 9, 10, _FAMILY, 203, 300), "n")
_SHAPES |= {1: "s", _FAMILY_ADD: "s", 5: "ns", _DELETED: "nn", _FAMILY_DROP: ""}
_IGNORABLE = 1 << 13  # a tag with this bit is followed by a string
_FOOTER, _MAGIC, _VERSION, _XXH3 = 53, 0x88E241B785F4CFF7, 5, 4
_TRAILER = 5
_LAST_BYTE = 0x6B9083D9
_NO_COMPRESSION, _LZ4 = 0, 4


class Listed(NamedTuple):
    """The content of a MANIFEST: the size of each table file by number, and the oldest write-ahead log that
    may hold records which no table file has."""

    name: str
    tables: dict[int, int]
    oldest_log: int


def check_listed(path: Path) -> None:
    """Compare names and sizes of the files of the database in `path` with the MANIFEST. Read-only.

    Raises CorruptionError for the first file that is missing or has another size, and DiskError if the files
    cannot be read for another reason.
    """
    with translated(f"reading {path}"):
        found = _absent(path / "db")
    for problem in found:
        text = problem if problem.endswith(REMEDY) else f"{problem}. {REMEDY}"
        raise CorruptionError(text, place=str(path / "db"))


def has_unlisted(path: Path) -> bool:
    """Return whether there are table files that the MANIFEST does not list: a kill left them, or the MANIFEST
    is cut or an older copy. Read-only. Raises CorruptionError and DiskError."""
    directory = path / "db"
    with translated(f"reading {path}"):
        listed = _listed(directory).tables
        return any(
            file.stem.isdecimal() and int(file.stem) not in listed
            for file in files.matching(directory, "*.sst")
        )


def problems(path: Path, rocksdb: str = "db") -> Iterator[str]:
    """Yield a sentence for each file of the database in `path` that is missing or damaged. Read-only.

    `rocksdb`: the name of RocksDB's directory in it. It checks names and sizes, then every block of every
    table file against its checksum. Raises DiskError if the files cannot be read for a reason that is no
    damage.
    """
    with translated(f"reading {path}"):
        yield from _problems(path, path / rocksdb)


def _problems(path: Path, directory: Path) -> Iterator[str]:
    if not (path / files.HEAD).exists():
        yield (
            f"{path / files.HEAD} is missing: a loss at the end of the log could not be detected; opening the"
            " database for writing creates it again"
        )
    reported = False
    for problem in _absent(directory):
        reported = True
        yield problem
    for name, why in (("IDENTITY", "IDENTITY"), ("OPTIONS", "OPTIONS-*")):
        if not any(file.stat().st_size for file in files.matching(directory, why)):
            yield f"{directory}/{name} is missing or empty; opening the database for writing creates it again"
    try:
        listed = _listed(directory)
        _check_manifest(directory / listed.name)
    except CorruptionError as error:
        if not reported:
            yield str(error)
        return
    for number, size in sorted(listed.tables.items()):
        yield from _table_problems(directory, number, size)


def _absent(directory: Path) -> list[str]:
    """Return the problems with listed files; after changes by a writer, check again."""
    found: list[str] = []
    for _ in range(_LOOKS):
        try:
            listed = _listed(directory)
        except CorruptionError as error:
            found = [str(error)]
            continue
        logs = [int(file.stem) for file in files.matching(directory, "*.log") if file.stem.isdecimal()]
        found = []
        for number, size in sorted(listed.tables.items()):
            file = directory / f"{number:06}.sst"
            try:
                is_size = file.stat().st_size
            except FileNotFoundError:
                found.append(f"{file} is missing: {listed.name} lists it with {size:,} bytes")
                continue
            if is_size != size:
                found.append(f"{file}: expected {size:,} bytes as {listed.name} lists it, found {is_size:,}")
        if max(logs, default=-1) < listed.oldest_log:
            found.append(
                f"{directory}: expected the write-ahead log {listed.oldest_log:06}.log or a later one, found"
                " none: records that were not in table files yet are lost"
            )
        if not found:
            break
    return found


def _listed(directory: Path) -> Listed:
    """Read CURRENT and the MANIFEST that it names. Raises CorruptionError."""
    try:
        name = (directory / "CURRENT").read_text(errors="replace").rstrip("\n")
        raw = (directory / name).read_bytes()
    except (OSError, ValueError) as error:
        check_damage(error, f"reading {directory}")
        raise CorruptionError(
            f"{directory}: CURRENT or the MANIFEST that it names cannot be read ({error}). {REMEDY}",
            place=str(directory),
        ) from None
    try:
        return _apply(name, raw)
    except (CorruptionError, IndexError, KeyError, ValueError, struct.error) as error:
        raise CorruptionError(
            f"{directory / name} is damaged: an edit in it cannot be read ({error}). {REMEDY}",
            place=str(directory / name),
        ) from None


def _apply(name: str, raw: bytes) -> Listed:
    """Return the result of all edits in a MANIFEST. Raises ValueError and IndexError."""
    families: dict[int, dict[int, int]] = {_NO_FAMILY: {}}
    logs = {_NO_FAMILY: 0}
    for record in _records(raw):
        edit = list(_edit(record))
        family = next((numbers[0] for tag, numbers in edit if tag == _FAMILY), _NO_FAMILY)
        sizes = families.get(family, {})  # edits of a dropped family have no effect
        for tag, numbers in edit:
            if tag == _FAMILY_ADD:
                families[family], logs[family] = {}, 0
            elif tag == _FAMILY_DROP:
                families.pop(family, None)
                logs.pop(family, None)
            elif tag == _DELETED:
                sizes.pop(numbers[1], None)
            elif tag == _NEW:
                sizes[numbers[0]] = numbers[1]
            elif tag == _LOG_NUMBER and family in logs:
                logs[family] = numbers[0]
    tables = {number: size for sizes in families.values() for number, size in sizes.items()}
    return Listed(name, tables, min(logs.values(), default=0))


def _edit(record: bytes) -> Iterator[tuple[int, list[int]]]:
    """Yield the fields of an edit: each its tag, and its numbers; for a new file, its number and size."""
    at = 0
    while at < len(record):
        tag, at = read_varint(record, at)
        if tag == _NEW:
            numbers, at = _new_file(record, at)
        else:
            if tag not in _SHAPES and not tag & _IGNORABLE:
                raise ValueError(f"unknown tag {tag}")
            numbers = []
            for kind in _SHAPES.get(tag, "s"):
                if kind == "s":
                    at = _skip(record, at)
                else:
                    number, at = read_varint(record, at)
                    numbers.append(number)
        yield tag, numbers


def _new_file(edit: bytes, at: int) -> tuple[list[int], int]:
    _, at = read_varint(edit, at)  # its level
    number, at = read_varint(edit, at)
    size, at = read_varint(edit, at)
    at = _skip(edit, _skip(edit, at))  # its first and last key
    _, at = read_varint(edit, at)
    _, at = read_varint(edit, at)
    while True:
        tag, at = read_varint(edit, at)
        if tag == 1:
            return [number, size], at
        at = _skip(edit, at)


def _records(raw: bytes) -> Iterator[bytes]:
    """Yield the records of a file in RocksDB's log format. A record truncated at the end is ignored."""
    whole = b""
    for kind, fragment, _, _ in _fragments(raw):
        if kind in {_FULL, _FIRST}:
            whole = b""
        whole += fragment
        if kind in {_FULL, _LAST}:
            yield whole


def _fragments(raw: bytes) -> Iterator[tuple[int, bytes, int, int]]:
    """Yield type, bytes, masked checksum and end of each fragment."""
    at = 0
    while True:
        if _BLOCK - at % _BLOCK < _HEADER.size:
            at += _BLOCK - at % _BLOCK
        if at + _HEADER.size > len(raw):
            return
        checksum, length, kind = _HEADER.unpack_from(raw, at)
        at += _HEADER.size
        if kind not in {_FULL, _FIRST, _MIDDLE, _LAST} or at + length > len(raw):
            return  # the rest was never a complete record
        yield kind, raw[at : at + length], checksum, at + length
        at += length


def _check_manifest(path: Path) -> None:
    """Verify the checksum of every record, and that nothing follows the last. Raises CorruptionError."""
    end = 0
    for _ in range(_LOOKS):  # a writer may be about to append one
        raw = path.read_bytes()
        for kind, fragment, checksum, end in _fragments(raw):
            crc = _crc32c(bytes([kind]) + fragment)
            if (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF != checksum:
                raise CorruptionError(
                    f"{path}: the record that ends at byte {end:,} does not match its checksum. {REMEDY}",
                    place=str(path),
                )
        if not any(raw[end:]):
            return
    raise CorruptionError(f"{path} is cut or damaged at byte {end:,}. {REMEDY}", place=str(path))


def _make_crc_table() -> list[int]:
    table = []
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_CRC_TABLE = _make_crc_table()


def _crc32c(data: bytes) -> int:
    crc, table = 0xFFFFFFFF, _CRC_TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


# table files


def _table_problems(directory: Path, number: int, size: int) -> Iterator[str]:
    path = directory / f"{number:06}.sst"
    try:
        if path.stat().st_size != size:
            return  # reported already
        _check_table(path, size)
    except FileNotFoundError:
        return  # compacted away meanwhile, or reported already
    except (CorruptionError, OSError, IndexError, struct.error) as error:
        check_damage(error, f"reading {directory}")
        yield f"{path} is damaged: {error}. {REMEDY}"


def _check_table(path: Path, size: int) -> None:
    """Read a table file from end to end. Raises CorruptionError, OSError, IndexError or struct.error."""
    with path.open("rb") as file:
        file.seek(size - _FOOTER)
        footer = file.read(_FOOTER)
        version, magic = struct.unpack_from("<IQ", footer, 41)
        if (footer[0], version, magic) != (_XXH3, _VERSION, _MAGIC):
            raise CorruptionError("its footer is not that of a table file")
        at, handles = 1, []
        for _ in range(2):
            one, at = _handle(footer, at)
            handles.append(one)
        if any(footer[at:41]):
            raise CorruptionError("its footer is not that of a table file")
        metas = [one for _, one in _entries(_block(file, handles[0]), has_length=True)]
        blocks = [one for _, one in _entries(_block(file, handles[1]), has_length=False)]
        end = 0
        for start, length in sorted({*blocks, *metas, *handles}):
            if start != end:
                raise CorruptionError(f"bytes {end:,} to {start:,} are in no block")
            _block(file, (start, length), whole=False)
            end = start + length + _TRAILER
        if end != size - _FOOTER:
            raise CorruptionError(f"bytes {end:,} to {size - _FOOTER:,} are in no block")


def _block(file: BinaryIO, handle: tuple[int, int], *, whole: bool = True) -> bytes:
    start, length = handle
    file.seek(start)
    raw = file.read(length + _TRAILER)
    if len(raw) != length + _TRAILER:
        raise CorruptionError(f"the block at byte {start:,} is beyond its end")
    kind, checksum = struct.unpack_from("<BI", raw, length)
    found = xxh3_64_intdigest(memoryview(raw)[:length]) & 0xFFFFFFFF ^ (kind * _LAST_BYTE & 0xFFFFFFFF)
    if found != checksum:
        raise CorruptionError(f"the block at byte {start:,} does not match its checksum")
    if not whole or kind == _NO_COMPRESSION:
        return raw[:length]
    if kind != _LZ4:
        raise CorruptionError(f"the block at byte {start:,} is of an unknown compression {kind}")
    return _decompressed(raw[:length])


def _entries(block: bytes, *, has_length: bool) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Yield keys and block handles of an index (`has_length`: of a metaindex, whose values carry their
    length)."""
    restarts: int = struct.unpack_from("<I", block, len(block) - 4)[0] & 0x7FFFFFFF
    at, end = 0, len(block) - 4 - 4 * restarts
    while at < end:
        _, at = read_varint(block, at)  # bytes shared with the previous key: 0, at a restart interval of 1
        length, at = read_varint(block, at)
        if has_length:
            _, at = read_varint(block, at)
        key = block[at : at + length]
        handle, at = _handle(block, at + length)
        yield key, handle


def _handle(raw: bytes, at: int) -> tuple[tuple[int, int], int]:
    start, at = read_varint(raw, at)
    length, at = read_varint(raw, at)
    return (start, length), at


def _decompressed(raw: bytes) -> bytes:
    """Return the decompressed content of an LZ4 block, which starts with its length as a varint."""
    size, at = read_varint(raw, 0)
    out = bytearray()
    while at < len(raw):
        token, at = raw[at], at + 1
        length, at = _lz4_length(raw, at, token >> 4)
        out += raw[at : at + length]
        at += length
        if at >= len(raw):
            break
        back, at = raw[at] | raw[at + 1] << 8, at + 2
        length, at = _lz4_length(raw, at, token & 15)
        length += 4
        start = len(out) - back
        if back >= length:
            out += out[start : start + length]
        else:
            piece = out[start:]
            out += (piece * (length // back + 1))[:length]
    if len(out) != size:
        raise CorruptionError(f"a block has {len(out):,} bytes decompressed, expected {size:,}")
    return bytes(out)


def _lz4_length(raw: bytes, at: int, length: int) -> tuple[int, int]:
    if length == 15:
        while True:
            more, at = raw[at], at + 1
            length += more
            if more != 255:
                break
    return length, at


def _skip(raw: bytes, at: int) -> int:
    """Return the end of a string."""
    length, at = read_varint(raw, at)
    return at + length
