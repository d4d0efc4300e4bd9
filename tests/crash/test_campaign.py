"""A short campaign; `make torture` runs it for any length of time."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.crash import points
from tests.crash.campaign import Campaign
from tests.crash.test_kill_creating import campaign

LIVES = 1


@pytest.mark.timeout(0)
def test_after_each_death_the_database_is_what_the_model_says(tmp_path: Path) -> None:
    given = os.environ.get("EVERLOG_SEED")
    for turn in campaign(1):
        seed = int(given or 3) if turn == 1 else random.SystemRandom().randrange(1 << 32)
        print(f"EVERLOG_SEED={seed}")  # noqa: T201  shown where it fails
        directory = tmp_path / f"campaign-{turn}"
        directory.mkdir()
        Campaign(directory, seed).run(LIVES)


@pytest.mark.parametrize(("call", "side"), list(points.every()))
def test_every_point_is_a_call_that_there_is(call: str, side: str) -> None:
    for owner, name in points.CALLS[call]:
        assert callable(getattr(owner, name))
    point = points.Point(call, side, 3)
    assert points.Point.parse(str(point)) == point
