"""Bootstrap data is read in pieces: the peak of a child process with 100 MiB of it (docs/limits.md)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.memory.seeds import OPERATIONS

MIB, PEAK_MIB = 100, 200


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
@pytest.mark.parametrize("name", OPERATIONS)
def test_large_bootstrap_data_takes_bounded_memory(name: str) -> None:
    asked = [sys.executable, "-m", "tests.memory.seeds", str(MIB), name]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= PEAK_MIB
