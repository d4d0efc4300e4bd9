"""Times and positions as arguments of calls."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from everlog.store.errors import CursorError, RowError
from everlog.store.schema.arguments import Time, nanoseconds, position, seq_of

AT_NS = 1_767_605_400 * 10**9  # 2026-01-05T09:30:00Z


@pytest.mark.parametrize(
    ("time", "found"),
    [
        ("2026-01-05T09:30:00Z", AT_NS),
        ("2026-01-05T09:30", AT_NS),
        ("2026-01-05T10:30+01:00", AT_NS),
        ("2026-01-05 09:30:00.000000001", AT_NS + 1),
        ("2026-01-05T09:30:00,123456789Z", AT_NS + 123_456_789),
        ("1969-12-31T23:59:59.999999999Z", -1),
        (datetime(2026, 1, 5, 9, 30), AT_NS),  # noqa: DTZ001  without a zone it is UTC
        (datetime(2026, 1, 5, 10, 30, tzinfo=timezone(timedelta(hours=1))), AT_NS),
        (datetime(2026, 1, 5, 9, 30, 0, 1, tzinfo=UTC), AT_NS + 1000),
        (AT_NS + 1, AT_NS + 1),
    ],
)
def test_a_time_keeps_its_nanoseconds(time: Time, found: int) -> None:
    assert nanoseconds(time) == found


@pytest.mark.parametrize("time", ["yesterday", "", "2026-13-01", True, 1.5, None])
def test_an_invalid_time_is_refused(time: object) -> None:
    with pytest.raises(RowError, match="expected a time"):
        nanoseconds(time)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["812", "0812", "18446744073709551615"])
def test_digits_alone_are_a_seq(text: str) -> None:
    assert position(text) == seq_of(text) == int(text)


def test_other_text_is_a_time_with_its_nanoseconds() -> None:
    found = position("2026-01-05T09:30:00.000000001Z")
    assert isinstance(found, str)
    assert nanoseconds(found) == AT_NS + 1


@pytest.mark.parametrize(
    "text", ["", "yesterday", "-1", "+5", " 5", "1_000", "\N{ARABIC-INDIC DIGIT THREE}", "9" * 5000]
)
def test_what_is_neither_is_refused(text: str) -> None:
    assert seq_of(text) is None
    with pytest.raises(CursorError, match="expected a seq, or a time like 2026-01-05T09:30:00Z") as caught:
        position(text)
    assert len(str(caught.value)) < 150
