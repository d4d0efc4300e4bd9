"""Fixtures of the suites that every implementation of an interface must pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.database_case import KINDS, Case, open_case


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    with open_case(request.param, tmp_path) as opened:
        yield opened


@pytest.fixture
def db(case: Case) -> Any:
    return case.db
