"""Times and durations as people write them, and times and positions as arguments of calls."""

from __future__ import annotations

import time as clocks
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlog.store.errors import CursorError, RowError
from everlog.store.schema.arguments import Time, nanoseconds, position, seq_of
from everlog.store.schema.times import duration_s, exact_text, time_ns_of

AT_NS = 1_767_605_400 * 10**9  # 2026-01-05T09:30:00Z
BERLIN, NEW_YORK, KATHMANDU = (
    ZoneInfo("Europe/Berlin"),
    ZoneInfo("America/New_York"),
    ZoneInfo("Asia/Kathmandu"),
)
ZONES = (UTC, BERLIN, NEW_YORK, KATHMANDU, ZoneInfo("Australia/Lord_Howe"), timezone(timedelta(hours=-3)))


@contextmanager
def local(zone: str) -> Iterator[None]:
    """Make a zone the local time of this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", zone)
        clocks.tzset()
        yield
    clocks.tzset()


def at(text: str, zone: tzinfo | None = UTC, *, future: bool = False, now: int = AT_NS) -> str:
    return exact_text(time_ns_of(text, zone=zone, future=future, now_ns=now)).removesuffix(".000000000Z")


@pytest.mark.parametrize(
    ("time", "found"),
    [
        ("2026-01-05T09:30:00Z", AT_NS),
        ("2026-01-05T09:30", AT_NS),
        ("2026-01-05T10:30+01:00", AT_NS),
        ("2026-01-05 10:30 +0100", AT_NS),
        ("20260105T0930Z", AT_NS),
        ("2026-01-05T09:30:00z", AT_NS),
        ("2026-01-05 09:30:00.123Z", AT_NS + 123_000_000),  # as commands print times
        ("2026-01-05 09:30:00.000000001", AT_NS + 1),
        ("2026-01-05T09:30:00,123456789Z", AT_NS + 123_456_789),
        ("20260105T093000.000000001Z", AT_NS + 1),
        ("1969-12-31T23:59:59.999999999Z", -1),
        (datetime(2026, 1, 5, 9, 30), AT_NS),  # noqa: DTZ001  without a zone it is UTC
        (datetime(2026, 1, 5, 10, 30, tzinfo=timezone(timedelta(hours=1))), AT_NS),
        (datetime(2026, 1, 5, 9, 30, 0, 1, tzinfo=UTC), AT_NS + 1000),
        (AT_NS + 1, AT_NS + 1),
    ],
)
def test_a_time_keeps_its_nanoseconds(time: Time, found: int) -> None:
    assert nanoseconds(time) == found


@pytest.mark.parametrize(
    "time", ["soon", "", "2026-13-01", "2026-02-30", "25:00", "1h ago ago", True, 1.5, None]
)
def test_an_invalid_time_is_refused(time: object) -> None:
    with pytest.raises(RowError, match="expected a time"):
        nanoseconds(time)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("now", "2026-01-05T09:30:00"),
        ("02:13", "2026-01-05T02:13:00"),
        ("09:30", "2026-01-05T09:30:00"),
        ("9:30", "2026-01-05T09:30:00"),
        ("09:31", "2026-01-04T09:31:00"),  # the last time that it was
        ("23:00:05", "2026-01-04T23:00:05"),
        ("today", "2026-01-05T00:00:00"),
        ("Today 08:00", "2026-01-05T08:00:00"),
        ("yesterday", "2026-01-04T00:00:00"),
        ("yesterday  14:00", "2026-01-04T14:00:00"),
        ("2025-11-30 02:13", "2025-11-30T02:13:00"),
        ("2025-11-30", "2025-11-30T00:00:00"),
        ("1h", "2026-01-05T08:30:00"),
        ("1h ago", "2026-01-05T08:30:00"),
        ("1 hour 30 minutes ago", "2026-01-05T08:00:00"),
        ("2d", "2026-01-03T09:30:00"),
        ("yesterday 14:00 +01:00", "2026-01-04T13:00:00"),
        ("12:30 Europe/Berlin", "2026-01-04T11:30:00"),
        ("2026-01-05 10:30 Europe/Berlin", "2026-01-05T09:30:00"),
    ],
)
def test_a_time_that_has_passed(text: str, found: str) -> None:
    assert at(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("90d", "2026-04-05T09:30:00"),
        ("in 2h", "2026-01-05T11:30:00"),
        ("in 2 hours", "2026-01-05T11:30:00"),
        ("09:30", "2026-01-06T09:30:00"),  # the next time that it will be
        ("09:31", "2026-01-05T09:31:00"),
        ("tomorrow", "2026-01-06T00:00:00"),
        ("tomorrow 14:00", "2026-01-06T14:00:00"),
        ("2027-01-01", "2027-01-01T00:00:00"),
    ],
)
def test_a_future_time(text: str, found: str) -> None:
    assert at(text, future=True) == found


@pytest.mark.parametrize(
    "text", ["1h ago", "yesterday 14:00", "2026-01-05T09:30Z", "0d", "now", "today 09:00"]
)
def test_a_time_that_has_passed_is_refused_where_a_future_one_is_expected(text: str) -> None:
    with pytest.raises(RowError, match=r"expected a time in the future, like 90d, in 2h, .* found"):
        at(text, future=True)


@pytest.mark.parametrize("text", ["in 2h", "tomorrow", "tomorrow 14:00"])
def test_a_relative_future_time_is_refused_elsewhere(text: str) -> None:
    with pytest.raises(RowError, match=r"expected a time that has passed, like .*1h ago, found"):
        at(text)


def test_a_time_of_the_calendar_may_lie_ahead_because_clocks_may_be_behind() -> None:
    assert at("2027-01-01") == "2027-01-01T00:00:00"


@pytest.mark.parametrize(
    ("zone", "found"),
    [
        ("UTC", "2026-01-04T14:00:00"),
        ("Europe/Berlin", "2026-01-04T13:00:00"),
        ("America/New_York", "2026-01-04T19:00:00"),
        ("Asia/Kathmandu", "2026-01-04T08:15:00"),
        ("Pacific/Kiritimati", "2026-01-04T00:00:00"),  # there it is 23:30 on the same day
        ("Pacific/Pago_Pago", "2026-01-05T01:00:00"),  # there it is 22:30 on the day before
    ],
)
def test_a_time_without_a_zone_is_local_for_the_command_line(zone: str, found: str) -> None:
    with local(zone):
        assert at("yesterday 14:00", None) == (
            found if zone != "Pacific/Pago_Pago" else "2026-01-04T01:00:00"
        )
        assert at("yesterday 14:00", ZoneInfo(zone)) == at("yesterday 14:00", None)
        assert at("yesterday 14:00 Z", None).endswith("T14:00:00")
        assert at("2026-01-05T09:30Z", None) == "2026-01-05T09:30:00"
        assert nanoseconds("2026-01-05T09:30") == AT_NS  # a program's is UTC
        assert position("2026-01-05T09:30") == "2026-01-05T09:30:00.000000000Z"


@pytest.mark.parametrize(
    ("zone", "text", "choices"),
    [
        ("Europe/Berlin", "2026-03-29 02:30", ("2026-03-29T01:30:00+01:00", "2026-03-29T03:30:00+02:00")),
        ("America/New_York", "2026-03-08 02:00", ("2026-03-08T01:00:00-05:00", "2026-03-08T03:00:00-04:00")),
        (
            "Australia/Lord_Howe",  # clocks change by half an hour
            "2026-10-04 02:15",
            ("2026-10-04T01:45:00+10:30", "2026-10-04T02:45:00+11:00"),
        ),
    ],
)
def test_a_local_time_that_does_not_exist_is_refused(zone: str, text: str, choices: tuple[str, str]) -> None:
    with local(zone):
        for where in (ZoneInfo(zone), None):
            with pytest.raises(RowError, match=r"does not exist in .*because clocks change") as caught:
                at(text, where)
            assert " or ".join(choices) in str(caught.value)
        for choice in choices:
            assert at(choice, None) == at(choice)


@pytest.mark.parametrize(
    ("zone", "text", "choices"),
    [
        ("Europe/Berlin", "2026-10-25 02:30", ("2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00")),
        ("America/New_York", "2026-11-01 01:00", ("2026-11-01T01:00:00-04:00", "2026-11-01T01:00:00-05:00")),
    ],
)
def test_a_local_time_that_exists_twice_is_refused(zone: str, text: str, choices: tuple[str, str]) -> None:
    with local(zone):
        for where in (ZoneInfo(zone), None):
            with pytest.raises(RowError, match="exists twice in") as caught:
                at(text, where)
            assert " or ".join(choices) in str(caught.value)
        assert at(f"{text}+02:00", None) == at(f"{text}+02:00")


def test_a_time_of_day_on_the_day_when_clocks_change() -> None:
    noon = time_ns_of("2026-03-29T12:00Z", zone=UTC)
    with pytest.raises(RowError, match="2026-03-29 02:30:00 does not exist in Europe/Berlin"):
        at("02:30", BERLIN, now=noon)
    assert at("03:30", BERLIN, now=noon) == "2026-03-29T01:30:00"
    assert at("24h", BERLIN, now=noon) == "2026-03-28T12:00:00"  # a day of 24 hours
    assert at("yesterday 13:00", BERLIN, now=noon) == "2026-03-28T12:00:00"


def test_a_day_begins_at_its_first_moment() -> None:
    assert at("2018-11-04", ZoneInfo("America/Sao_Paulo")) == "2018-11-04T03:00:00"  # 00:00 does not exist
    assert at("2026-11-01", ZoneInfo("America/Havana")) == "2026-11-01T04:00:00"  # 00:00 exists twice
    for zone, day, first in (
        ("America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00:00"),
        ("America/Havana", "2026-11-01", "2026-11-01T04:00:00"),
    ):
        with local(zone):
            assert at(day, None) == first
    with pytest.raises(RowError, match="2011-12-30 does not exist in Pacific/Apia"):
        at("2011-12-30", ZoneInfo("Pacific/Apia"))


@pytest.mark.parametrize("zone", ["Mars/Base", "+25:00", "+01:99", "../etc/passwd/x", "Etc/../x"])
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(RowError, match="expected a time"):
        at(f"2026-01-05 09:30 {zone}")


@pytest.mark.parametrize("text", ["812", "0812", "18446744073709551615"])
def test_digits_alone_are_a_seq(text: str) -> None:
    assert position(text) == seq_of(text) == int(text)


def test_other_text_is_a_time_with_its_nanoseconds() -> None:
    found = position("2026-01-05T09:30:00.000000001Z")
    assert isinstance(found, str)
    assert nanoseconds(found) == AT_NS + 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "-1",
        "+5",
        " 5",
        "1_000",
        "\N{ARABIC-INDIC DIGIT THREE}",
        "9" * 5000,
        "1h " * 50,
        "9" * 12 + "y",
    ],
)
def test_what_is_neither_is_refused(text: str) -> None:
    assert seq_of(text) is None
    with pytest.raises(CursorError, match="expected a seq, or a time like 2026-01-05T09:30Z, ") as caught:
        position(text)
    assert len(str(caught.value)) < 180


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(
            ("60s", 60),
            ("1m30s", 90),
            ("2h", 7200),
            ("1.5h", 5400),
            ("90 days", 90 * 86400),
            ("2W", 14 * 86400),
        ),
        *(("1y", 365 * 86400), ("1 hour 30 minutes", 5400), ("250ms", 0.25), ("0.5s", 0.5)),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration_s(text) == duration_s(text, unitless=True) == seconds


@pytest.mark.parametrize(
    "text", ["", "soon", "5x", "s", "5", "1h30", "-1h", "1e3s", "1..5h", "inf", "nan", "٣h"]
)
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(RowError, match="expected a duration like 90s, 1m30s, 12h, 90d"):
        duration_s(text)


def test_a_duration_is_bounded() -> None:
    assert duration_s("200y") == 200 * 365 * 86400
    with pytest.raises(RowError, match="at most 200y, found '201y'"):
        duration_s("201y")
    assert duration_s("5", unitless=True) == 5


times = st.datetimes(datetime(1902, 1, 1), datetime(2037, 12, 31))  # noqa: DTZ001  zones follow


@given(times.map(lambda found: found.replace(tzinfo=UTC)), st.integers(0, 999), st.sampled_from(ZONES))
def test_a_printed_time_is_read_as_itself(when: datetime, below: int, zone: tzinfo) -> None:
    time_ns = nanoseconds(when) + below
    assert time_ns_of(exact_text(time_ns), zone=zone) == time_ns
    assert time_ns_of(when.astimezone(zone).isoformat(), zone=None) == time_ns - below


@given(times, st.sampled_from(ZONES))
def test_a_local_time_is_read_as_the_one_moment_that_has_it_or_refused(when: datetime, zone: tzinfo) -> None:
    """Beside the rules of PEP 495 for `fold`, in which the two readings of a time differ where it does not
    exist, or exists twice."""
    written = [when.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
    shown = {one for one in written if one.astimezone(zone).replace(tzinfo=None) == when}
    if len(shown) == 1:
        assert time_ns_of(str(when), zone=zone) == nanoseconds(shown.pop())
    else:
        with pytest.raises(RowError, match=r"exists twice" if shown else "does not exist"):
            time_ns_of(str(when), zone=zone)


UNITS = ["s", "m", "h", "d", " weeks", " hour"]


@given(st.lists(st.tuples(st.integers(0, 2000), st.sampled_from(UNITS)), min_size=1, max_size=5))
def test_the_parts_of_a_duration_add_up(parts: list[tuple[int, str]]) -> None:
    text = " ".join(f"{number}{unit}" for number, unit in parts)
    assert duration_s(text) == sum(duration_s(f"{number}{unit}") for number, unit in parts)
    now = 200 * 365 * 86400 * 10**9
    assert time_ns_of(f"{text} ago", zone=UTC, now_ns=now) == now - round(duration_s(text) * 1e9)


@given(st.text(max_size=120) | st.from_regex(r"[0-9 :TZ+-]{1,30}"), st.sampled_from([UTC, BERLIN, None]))
def test_any_other_text_is_refused_with_an_error_of_this_module(text: str, zone: tzinfo | None) -> None:
    for read in (lambda: time_ns_of(text, zone=zone, now_ns=AT_NS), lambda: duration_s(text)):
        with suppress(RowError):
            assert read() is not None
