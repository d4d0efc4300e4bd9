"""Memory is bounded in bytes: the peak of a child process on rows of 4 MiB (docs/limits.md)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.memory.operations import OPERATIONS

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")

FEW, MANY = 40, 100  # rows of 4 MiB: together more than each limit
FEW_MIB, MANY_MIB = 150, 200


def peaks(directory: Path, rows: int, *names: str) -> dict[str, int]:
    """Return the MiB over the base of each operation, on a database that is created if it is missing."""
    asked = [sys.executable, "-m", "tests.memory.operations", str(directory / "db"), str(rows), *names]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return {name: int(mib) for name, mib in map(str.split, done.stdout.splitlines())}


@pytest.mark.long
def test_reading_and_replaying_large_rows_takes_bounded_memory(tmp_path: Path) -> None:
    found = peaks(tmp_path, FEW, "scan_index", "opening")
    assert len(found) == 2
    assert max(found.values()) <= FEW_MIB, found


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a database of many large rows."""
    directory = tmp_path_factory.mktemp("large")
    peaks(directory, MANY, "feed")
    return directory


@pytest.mark.long
@pytest.mark.timeout(400)  # memory is what is measured; the first one also creates the database
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_on_large_rows_takes_bounded_memory(name: str, large: Path) -> None:
    found = peaks(large, MANY, name)
    assert found[name] <= MANY_MIB, found
