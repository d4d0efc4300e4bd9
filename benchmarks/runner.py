"""Runner: every pass runs all benches of all subjects, so that other load on the machine affects all of them
equally.

    pass 1: commit everlog, sqlite, raw; commit_sync sqlite, raw, everlog; …
    pass 2: …

Each runs in its own process; its line of `results.jsonl` is written when it ends.
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
    """A subject that failed in a bench, and its error."""

    bench: str
    subject: str
    text: str


class Skipped(Failure):
    """A subject that cannot run on this machine, and the reason."""


def run(
    names: Iterable[str],
    subjects: Iterable[str],
    *,
    passes: int,
    scale: float,
    folder: Path,
    timeout_s: float = 1800,
) -> Iterator[Measure | Failure]:
    """Yield each measure when its bench ends. A failure does not stop the others.

    `scale`: fraction of the full size; `folder`: on the measured disk.
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
        yield Failure(todo.bench, todo.subject, f"did not end within {timeout_s} s")
        return
    for found in msgspec.json.decode(done.stdout, type=list[Measure]):
        found.number = number
        yield found


def read(path: Path = RESULTS) -> list[Measure]:
    """Return the measures in a file of results."""
    lines = path.read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Measure) for line in lines if line]
