"""Reader: read records from segments, one by one or all in order.

    seq ─▶ manifest: segment ─▶ its index: block ─▶ read, checked, decompressed ─▶ cached

The last blocks that were read are cached: a reader of one record usually reads its neighbours next.

Invariants
  (1) returned records are dense and were checked by their block's SHA-256.
"""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise

from everlog.audit import segment as segments
from everlog.audit.manifest import Manifest
from everlog.audit.place import Place
from everlog.audit.segment import END, Block, Segment
from everlog.audit.source import Records
from everlog.store import record
from everlog.store.errors import CorruptionError, CursorError

BLOCKS_KEPT, BYTES_KEPT = 8, 8 << 20
INDEX_BYTES = 16 << 10  # the last bytes of a segment that usually contain its index


class Reader:
    """The records of one manifest, from 1 on. Thread-safe."""

    def __init__(self, place: Place, manifest: Manifest) -> None:
        self._place = place
        self.manifest = manifest
        self._firsts = [one.first for one in manifest.segments]
        self._indexes: dict[str, list[Block]] = {}
        self._kept: OrderedDict[int, list[bytes]] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    @property
    def last(self) -> int:
        """The newest record in the manifest."""
        return self.manifest.head.seq

    def where(self, seq: int) -> str:
        """Return the full name of the segment that has a record."""
        return f"{self._place.url}/{self._segment(seq).name}"

    def get(self, seq: int) -> bytes:
        """Return one framed record. Raises CursorError for a seq out of range, CorruptionError naming the
        segment."""
        first, records = self._block(seq)
        return records[seq - first]

    def some(self, after: int, until: int, max_bytes: int) -> tuple[list[bytes], int]:
        """Return records after `after`, up to the end of their block and `max_bytes`, at least one; and the
        seq of the last."""
        first, records = self._block(after + 1)
        found, size = list[bytes](), 0
        for framed in records[after + 1 - first : until + 1 - first]:
            size += len(framed)
            if found and size > max_bytes:
                break
            found.append(framed)
        return found, after + len(found)

    def blocks(self, after: int, until: int) -> Iterator[Records]:
        """Yield all records after `after`, up to `until`, in order; segments are read and checked as a
        whole."""
        for one in self.manifest.segments:
            if one.last <= after or one.first > until:
                continue
            data = self._place.read(one.name)
            where = f"{self._place.url}/{one.name}"
            check_file(data, one, where)
            index = segments.read_index(data, where)
            for first, last, block in ranges(one, index):
                if last <= after or first > until:
                    continue
                records = segments.unpack_block(data[block.offset : block.offset + block.size], block, where)
                if first <= after or last > until:
                    split = list(record.split(records))
                    low, high = max(first, after + 1), min(last, until)
                    first, last = low, high  # noqa: PLW2901  only a part of the block
                    records = b"".join(split[low - block.first : high + 1 - block.first])
                yield Records(first, last, records)

    def _segment(self, seq: int) -> Segment:
        if not 1 <= seq <= self.last:
            raise CursorError(f"{self._place.url} has records 1 to {self.last}, not {seq}", seq=seq)
        return self.manifest.segments[bisect_right(self._firsts, seq) - 1]

    def _block(self, seq: int) -> tuple[int, list[bytes]]:
        """Return the block with a record: the seq of its first, and its records."""
        one = self._segment(seq)
        where = f"{self._place.url}/{one.name}"
        with self._lock:
            index = self._indexes.get(one.name)
            if index is None:
                index = self._indexes[one.name] = self._index(one, where)
            block = index[bisect_right(index, seq, key=lambda block: block.first) - 1]
            records = self._kept.get(block.first)
            if records is None:
                data = self._place.read(one.name, block.offset, block.size)
                records = list(record.split(segments.unpack_block(data, block, where)))
                self._kept[block.first] = records
                self._kept_bytes += block.raw
                while len(self._kept) > 1 and (
                    len(self._kept) > BLOCKS_KEPT or self._kept_bytes > BYTES_KEPT
                ):
                    self._kept_bytes -= sum(map(len, self._kept.popitem(last=False)[1]))
            self._kept.move_to_end(block.first)
        if not 0 <= seq - block.first < len(records):
            raise CorruptionError(f"{where}: record {seq} is missing", place=where, seq=seq)
        return block.first, records

    def _index(self, one: Segment, where: str) -> list[Block]:
        end = self._place.read(one.name, max(0, one.size - INDEX_BYTES))
        size = segments.index_size(end[-END.size :], where)
        if size > len(end):
            end = self._place.read(one.name, max(0, one.size - size))
        return segments.read_index(end, where)


def check_file(data: bytes, one: Segment, where: str) -> None:
    """Raise CorruptionError if a segment is not, byte for byte, what the manifest says."""
    sha256 = hashlib.sha256(data).hexdigest()
    if len(data) != one.size or sha256 != one.sha256:
        raise CorruptionError(
            f"{where}: expected {one.size:,} bytes with SHA-256 {one.sha256[:16]}…, found {len(data):,} with"
            f" {sha256[:16]}…: it was changed. It has records {one.first} to {one.last}",
            place=where,
            seq=one.first,
        )


def ranges(one: Segment, index: list[Block]) -> Iterator[tuple[int, int, Block]]:
    """Yield first and last seq of each block, with the block."""
    for block, following in pairwise([*index, None]):
        assert block is not None
        yield block.first, following.first - 1 if following else one.last, block
