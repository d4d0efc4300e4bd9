"""A fleet in which programs and the coordinator are killed at random: all or none, round after round."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlog.fleet.protocol import Decision
from tests.fleet.chaos import one


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_all_or_none_beside_random_kills_and_aborts(tmp_path: Path) -> None:
    """The form with 200 members: python -m tests.fleet.chaos --members 200."""
    found = one(members=12, programs=3, rounds=4, seed=2026, directory=tmp_path)
    assert sum(found.decisions.values()) == 4
    assert set(found.decisions) <= {decision.value.lower() for decision in Decision}
    assert sum(found.kills.values()) >= 4
    assert found.proven.form == f"v{found.decisions['commit']}"
    assert found.proven.written > 0
