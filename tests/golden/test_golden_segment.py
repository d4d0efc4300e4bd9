"""A stored segment can be read permanently: by the code, and by a reader written from the page alone."""

from __future__ import annotations

import hashlib
import re
import struct
from pathlib import Path

import zstandard

from everlog.audit import segment
from tests.golden.samples import DATABASE, TIME_NS, samples

NAME, _, HEX = (Path(__file__).parent / "segment.hex").read_text(encoding="ascii").strip().partition(": ")
GOLDEN = bytes.fromhex(HEX)
PAGE = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
RECORDS = samples()["records"]


def test_a_segment_of_then_is_read() -> None:
    assert segment.read_header(GOLDEN, NAME) == (DATABASE.bytes, 3, 4)
    (block,) = segment.read_index(GOLDEN, NAME)
    records = segment.unpack_block(GOLDEN[block.offset :][: block.size], block, NAME)
    assert records == RECORDS["put"] + RECORDS["replace"]
    assert segment.check_records(records, 3, NAME) == RECORDS["replace"]


def test_a_segment_of_now_is_laid_out_as_one_of_then() -> None:
    (block,) = segment.read_index(GOLDEN, NAME)
    before, first, last = (segment.position_of(RECORDS[name]) for name in ("migration", "put", "replace"))
    packed = segment.Packed(first, last, block.raw, GOLDEN[block.offset :][: block.size], block.sha256)
    found, parts = segment.pack(DATABASE.bytes, before, [packed])
    data = b"".join(parts)
    assert (found.name, data) == (NAME, GOLDEN)


def test_the_page_has_every_byte_of_it_and_says_what_it_is() -> None:
    section = PAGE.partition("\n## Segments\n")[2].partition("\n### ")[0]
    cells = [
        bytes.fromhex(cell) for cell in re.findall(r"^\| `((?:[0-9a-f]{2} ?)+)` \|", section, re.MULTILINE)
    ]
    assert b"".join(cells) == GOLDEN
    numbers = [int.from_bytes(cells[at], "big") for at in (3, 4, 5, 6, 7)]
    assert numbers == [3, 4, TIME_NS, TIME_NS, 20260102030405]
    assert struct.unpack(">QQII", b"".join(cells[12:16])) == (3, 80, 126, 145)
    assert zstandard.ZstdDecompressor().decompress(cells[10]) == RECORDS["put"] + RECORDS["replace"]
    assert hashlib.sha256(cells[10]).digest() == cells[16]
    assert hashlib.sha256(GOLDEN[:-32]).digest() == cells[18]
