from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import everlog
from everlog.feed import cursor
from everlog.proto import log_pb2

cursors = st.builds(
    log_pb2.Cursor,
    database=st.binary(min_size=16, max_size=16),
    seq=st.integers(0, 2**64 - 1),
    checksum=st.integers(0, 2**32 - 1),
)


@given(cursors)
def test_a_cursor_is_the_same_after_it_was_text(known: log_pb2.Cursor) -> None:
    assert cursor.parse(cursor.show(known)) == known


def test_the_text_of_a_cursor_is_uuid_seq_checksum() -> None:
    known = log_pb2.Cursor(database=bytes(range(16)), seq=812, checksum=0xDEADBEEF)
    assert cursor.show(known) == "00010203-0405-0607-0809-0a0b0c0d0e0f:812:deadbeef"


def test_a_mere_number_is_a_seq() -> None:
    assert cursor.parse("812") == log_pb2.Cursor(seq=812)


@pytest.mark.parametrize(
    "text",
    ["", "-1", "1:2", "x:1:2", "00010203-0405-0607-0809-0a0b0c0d0e0f:x:1", "1:2:3:4", "9" * 5000]
    + [f"00010203-0405-0607-0809-0a0b0c0d0e0f:{seq}:1" for seq in (" 5", "1_0", "9" * 20)],
)
def test_text_that_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(everlog.CursorError, match="expected a cursor as uuid:seq:checksum"):
        cursor.parse(text)


class Trimmed:
    """The ends of a log whose first records were removed."""

    oldest, head = 100, 200

    def checksum_at(self, seq: int) -> int:
        return seq


def test_a_cursor_before_the_oldest_record_is_told_what_was_removed() -> None:
    with pytest.raises(everlog.CursorError, match="records before 100 were removed") as caught:
        cursor.check(98, Trimmed(), bytes(16))
    assert (caught.value.why, caught.value.oldest) == ("removed", 100)
    assert cursor.check(99, Trimmed(), bytes(16)) == 99
