"""Bootstrap data and exports of people are processed in pieces: the peak of a child process with 100 MiB of
it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.memory import people, seeds

MIB, PEAK_MIB = 100, 200


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
@pytest.mark.parametrize(
    ("module", "name"),
    [*(("seeds", name) for name in seeds.OPERATIONS), *(("people", name) for name in people.OPERATIONS)],
)
def test_much_data_takes_bounded_memory(module: str, name: str) -> None:
    asked = [sys.executable, "-m", f"tests.memory.{module}", str(MIB), name]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= PEAK_MIB
