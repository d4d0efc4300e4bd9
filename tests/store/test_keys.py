"""The layout of keys and of the header of a row's value."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from everlog.store import keys

SPACES = st.integers(1, 2**32 - 2)
U64 = st.integers(0, 2**64 - 1)


@given(SPACES, st.integers(0, 2**16 - 1), st.binary())
def test_all_that_a_space_holds_lies_between_its_number_and_the_next(
    space: int, index: int, rest: bytes
) -> None:
    start, end = keys.space_range(space)
    assert start <= keys.prefix(space, index) + rest < end


@given(SPACES, st.binary())
def test_the_notes_of_the_store_lie_below_every_table(space: int, rest: bytes) -> None:
    for note in (keys.NOTE_APPLIED, keys.NOTE_COMMIT + rest, keys.NOTE_MIGRATION, keys.rows_note(space)):
        assert note < keys.prefix(1)


@given(
    seq=U64,
    row=st.binary(),
    version=U64,
    expires_ns=U64,
    key_id=st.just(b"") | st.binary(min_size=16, max_size=16),
)
def test_a_value_tells_who_wrote_the_row_whatever_else_it_says(
    seq: int, row: bytes, version: int, expires_ns: int, key_id: bytes
) -> None:
    value = keys.pack_value(seq, row, version=version, expires_ns=expires_ns, key_id=key_id)
    assert keys.row_of(value) == row
    assert keys.seq_of(value) == seq
    assert keys.version_of(value) == (version or seq)
    parts = 8 * bool(version) + 8 * bool(expires_ns) + len(key_id)
    assert len(value) == keys.HEADER_SIZE + parts + len(row)


def test_the_layouts_are_those_of_the_format() -> None:
    assert keys.prefix(3).hex() == "000000030000"
    assert keys.prefix(3, 2).hex() == "000000030002"
    assert keys.rows_note(3).hex() == "000000000005" + "00000003"
    assert keys.pack_value(258, b"row").hex() == "00" + "0000000000000102" + b"row".hex()
    assert keys.pack_value(1, b"", version=2, expires_ns=3, key_id=b"k" * 16).hex() == (
        "07" + "0000000000000001" + "0000000000000002" + "0000000000000003" + b"k".hex() * 16
    )
