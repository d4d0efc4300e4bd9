"""Rows that expire, the same in every database."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.conformance.database_case import AIRPORTS, airport

LATER = datetime.now(UTC) + timedelta(days=1)


def test_a_row_says_when_its_life_ends(db: Any) -> None:
    db.put(AIRPORTS, airport("JFK"), expires=LATER)
    db.put(AIRPORTS, airport("LGA"))
    with db.transaction() as tx:
        tx.insert(AIRPORTS, airport("EWR"), expires=7 * 10**18)
        tx.update(AIRPORTS, airport("LGA"), expires=8 * 10**18)
    assert abs(db.expires_ns(AIRPORTS, "JFK") - LATER.timestamp() * 1e9) < 1e6
    assert [db.expires_ns(AIRPORTS, faa) for faa in ("EWR", "LGA", "BOS")] == [7 * 10**18, 8 * 10**18, 0]
    db.put(AIRPORTS, airport("JFK"), expires=0)
    assert db.expires_ns(AIRPORTS, "JFK") == 0
    assert db.admin.status().expiry.rows == 2
    assert db.admin.status().expiry.next_ns == 7 * 10**18


def test_rows_that_are_over_are_gone_after_expire(db: Any) -> None:
    over = time.time_ns()
    db.put(AIRPORTS, airport("JFK"), expires=LATER)
    db.load(AIRPORTS, [airport("LGA"), airport("EWR")], expires=over)
    db.put(AIRPORTS, airport("BOS"), expires=over)
    db.admin.expire()  # the writing process may have deleted it already
    assert [row.faa for row in db.scan(AIRPORTS)] == ["JFK"]
    assert db.admin.status().expiry.due == 0
    assert {commit.reason for commit in db.feed(bounded=True) if commit.actor == "everlog"} == {"expired"}
