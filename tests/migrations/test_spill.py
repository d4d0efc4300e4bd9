"""Mappings that spill into a temporary file behave like a dict."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlog import DiskError
from everlog.migrations.spill import Spill, Spilled

KEYS = st.binary(max_size=2)
SETS = st.lists(st.tuples(st.integers(0, 2), KEYS, st.none() | st.binary(max_size=40)), max_size=60)


@settings(max_examples=60, deadline=None)
@given(SETS, st.integers(0, 2000))
def test_it_is_as_a_dict_wherever_it_spills(sets: list[tuple[int, bytes, bytes | None]], room: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("everlog.migrations.spill.RECENT_BYTES", room)
        spill = Spill()
        mappings, dicts = [Spilled(spill) for _ in range(3)], [dict[bytes, bytes | None]() for _ in range(3)]
        for at, key, value in sets:
            assert mappings[at].find(key) == (key in dicts[at], dicts[at].get(key))
            mappings[at][key] = dicts[at][key] = value
        for mapping, expected in zip(mappings, dicts, strict=True):
            assert dict(mapping.items()) == expected
            assert all(key in mapping for key in expected)


def test_one_is_read_while_another_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everlog.migrations.spill.RECENT_BYTES", 1000)
    spill = Spill()
    one, other = Spilled(spill), Spilled(spill)
    for at in range(100):
        one[b"%d" % at] = b"x"
    for key, value in one.items():
        other[key] = value
    assert dict(other.items()) == dict(one.items())


def test_a_full_disk_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everlog.migrations.spill.RECENT_BYTES", 0)
    spill = Spill()
    spill.file().execute("PRAGMA max_page_count = 1")
    with pytest.raises(DiskError, match="TMPDIR") as caught:
        Spilled(spill)[b"a"] = b"b"
    assert isinstance(caught.value.__cause__, sqlite3.Error)
