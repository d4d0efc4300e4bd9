"""The keys of recent commits, and conflicts with them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from everlog.store.tables import tables
from everlog.store.tables.tables import Window

KEYS = st.binary(min_size=1, max_size=2)
RANGES = st.lists(st.tuples(KEYS, KEYS), max_size=20)


@given(st.lists(st.lists(KEYS, max_size=5), max_size=8), st.integers(0, 9), st.sets(KEYS, max_size=5), RANGES)
def test_a_conflict_is_found_exactly_where_there_is_one(
    commits: list[list[bytes]], snapshot: int, keys: set[bytes], ranges: list[tuple[bytes, bytes]]
) -> None:
    recent = Window(0)
    for seq, touched in enumerate(commits, 1):
        recent.add(seq, tuple(touched))
    expected = [
        (seq, key)
        for seq, touched in enumerate(commits, 1)
        for key in touched
        if seq > snapshot and (key in keys or any(start <= key < end for start, end in ranges))
    ]
    found = recent.conflict(snapshot, keys, ranges)
    assert (found is None) == (not expected)
    assert found is None or found in expected
    assert found is None or found[0] == expected[-1][0]


def test_who_read_before_the_window_runs_again() -> None:
    recent = Window(5)
    assert recent.conflict(4, [b"a"], []) == (5, b"")
    assert recent.conflict(5, [b"a"], []) is None
    recent.reset(9)
    assert recent.conflict(8, [], [(b"", b"z")]) == (9, b"")


def test_the_window_is_bounded_in_bytes() -> None:
    recent = Window(0)
    for seq in range(1, 101):
        recent.add(seq, (bytes(1 << 20), b"a"))
    assert 80 < recent.floor < 90
    assert recent.conflict(recent.floor, [b"a"], []) == (100, b"a")
    assert recent.conflict(recent.floor - 1, [b"b"], []) == (recent.floor, b"")


def test_the_window_forgets_whole_commits_and_says_so() -> None:
    recent = Window(0)
    half = tables.KEYS_MAX // 2
    for seq in range(1, 4):
        recent.add(seq, (b"%d" % seq,) * half)
    assert recent.floor == 1
    assert recent.conflict(0, [b"2"], []) == (1, b"")
    assert recent.conflict(1, [b"2"], []) == (2, b"2")
    recent.add(4, (b"4",) * (3 * half))
    assert recent.floor == 3
    assert recent.conflict(3, [b"4"], []) == (4, b"4")


def test_commits_that_were_not_written_conflict_with_nothing() -> None:
    window = Window(0)
    for seq in (1, 2, 3):
        window.add(seq, (b"a%d" % seq,))
    window.cut(1)
    assert window.conflict(0, [b"a2", b"a3"], [(b"a2", b"a4")]) is None
    assert window.conflict(0, [b"a1"], []) == (1, b"a1")
    window.add(2, (b"b",))
    assert window.conflict(1, [b"b"], []) == (2, b"b")
    assert window.touched(1, {b"a2", b"a3", b"b"}) == {b"b"}
