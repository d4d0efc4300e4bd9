"""Runner: every pass goes through all benches and all their subjects, so that whatever else the
machine does hits all of them alike.

    pass 1: commit everlog, sqlite, raw; commit_sync sqlite, raw, everlog; …
    pass 2: …

Each is a process of its own; a line of `results.jsonl` is written when it is through.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from benchmarks.benches import BENCHES
from benchmarks.child import MISSING
from benchmarks.measure import Measure, Run

RESULTS = Path(__file__).parent / "results.jsonl"
ROOT = Path(__file__).parent.parent
N_MIN = 20


class Failure(msgspec.Struct):
    """A subject that did not get through its bench, and what it said."""

    bench: str
    subject: str
    text: str


class Skipped(Failure):
    """A subject that cannot be run on this machine, and why."""


def run(
    names: Iterable[str],
    subjects: Iterable[str],
    *,
    passes: int,
    scale: float,
    folder: Path,
    timeout_s: float = 1800,
) -> Iterator[Measure | Failure]:
    """Measures, one by one, as they come in. A failure does not stop the rest.

    `scale` shrinks the work; `folder` is on the disk to be measured.
    """
    benches = [BENCHES[name] for name in names]
    wanted = set(subjects)
    with tempfile.TemporaryDirectory(prefix="everlog-bench-", dir=folder) as place:
        prepared = Path(place) / "prepared"
        prepared.mkdir()
        for number in range(1, passes + 1):
            for position, bench in enumerate(benches):
                turn = (position + number) % len(bench.subjects)
                order = [*bench.subjects][turn:] + [*bench.subjects][:turn]
                for subject in order:
                    if subject in wanted:
                        with tempfile.TemporaryDirectory(dir=place) as own:
                            n = max(int(bench.n * scale), N_MIN)
                            todo = Run(bench.name, subject, n, Path(own), prepared)
                            yield from _one(todo, number, timeout_s)


def _one(todo: Run, number: int, timeout_s: float) -> Iterator[Measure | Failure]:
    words = [todo.bench, todo.subject, str(todo.n), str(todo.folder), str(todo.prepared)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.child", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        kind = Skipped if error.returncode == MISSING else Failure
        yield kind(todo.bench, todo.subject, error.stderr.strip() or f"exit code {error.returncode}")
        return
    except subprocess.TimeoutExpired:
        yield Failure(todo.bench, todo.subject, f"expected it to end within {timeout_s} s")
        return
    for found in msgspec.json.decode(done.stdout, type=list[Measure]):
        found.number = number
        yield found


def read(path: Path = RESULTS) -> list[Measure]:
    """The measures of a file of results."""
    lines = path.read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Measure) for line in lines if line]
