import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_demo_of_a_fleet_proves_what_it_promises(tmp_path: Path) -> None:
    """Small, but whole: shops in three programs, of which two are killed, and so is the coordinator."""
    words = ["--shops", "4", "--programs", "3", "--directory", str(tmp_path / "demo")]
    done = subprocess.run(
        [sys.executable, "-m", "shops.demo", *words],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PROVEN  ") == 3
    assert done.stdout.count("SIGKILL to") == 3
    assert "4 shops have one schema" in done.stdout
    assert "the run is contracted" in done.stdout
