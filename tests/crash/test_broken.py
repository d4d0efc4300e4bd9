"""Stores with deliberate faults: the campaign detects them. `python -m tests.crash.broken` tries all."""

from __future__ import annotations

import pytest

from tests.crash import disk
from tests.crash.broken import BREAKAGES, found

SOME = (
    "no lock",
    "a child keeps descriptors",
    "no close at the end",
    "times go back",
    "writing never resumes",
    "no watch",
    "no bound of keys and rows",
)


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", SOME)
def test_a_broken_store_is_found(name: str) -> None:
    if BREAKAGES[name].way in disk.WAYS and disk.library() is None:
        pytest.skip(disk.NO_COMPILER)
    took_s, said = found(name)
    assert took_s, f"not found: {name}"
    print(said)  # noqa: T201  shown where another one fails
