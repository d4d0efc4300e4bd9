"""Fuzz: the decoders, with fuzzing guided by the coverage of their code (Atheris, libFuzzer).

    python -m tests.crash.fuzz --minutes 10            all decoders, in sequence
    python -m tests.crash.fuzz --minutes 1 "rows.csv"  one decoder

Each decoder has its own process. A crash, a hang of 10 s or more than 1 GB of memory is a finding; its input
is kept in the printed directory. Atheris is in the extra `fuzz`; without it, test_decoders tries unguided
mutations.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

MISSING = 'expected Atheris to fuzz with: pip install -e ".[fuzz]"'
FINDING = 77  # libFuzzer's exit code for a finding
HANGS_S, MEMORY_MB, BYTES_MAX = 10, 1024, 4096


def run(minutes: float, names: list[str], say: Callable[[str], object] = print) -> bool:
    """Return whether there were no findings. Raises RuntimeError if nothing is installed to fuzz with."""
    if importlib.util.find_spec("atheris") is None:
        raise RuntimeError(MISSING)
    from tests.crash.decoders import decoders

    directory = Path(tempfile.mkdtemp(prefix="everlog-fuzz-"))
    known = decoders(directory)
    wanted = names or list(known)
    seconds = max(1, round(minutes * 60 / len(wanted)))
    right = True
    for name in wanted:
        corpus = directory / name.replace(" ", "-")
        corpus.mkdir()
        for at, raw in enumerate(known[name].whole):
            (corpus / f"whole-{at}").write_bytes(raw)
        words = [sys.executable, "-m", "tests.crash.fuzz", "--one", name, "--minutes", str(seconds / 60)]
        done = subprocess.run(
            [*words, "--corpus", str(corpus)],
            check=False,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        lines = done.stderr.splitlines()
        tried = next((line.split()[-1] for line in lines if "number_of_executed_units" in line), "?")
        say(f"  {name}: {tried} inputs, {len(list(corpus.iterdir()))} of them new ways through it")
        if done.returncode:
            right = False
            say("\n".join(lines[-40:]))
            say(f"found in {name}, kept in {corpus}")
    return right


def one(name: str, corpus: Path, seconds: int) -> None:
    """Fuzz one decoder in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=["everlog"]):
        from everlog.store.errors import Error
        from tests.crash.decoders import decoders
    scratch = corpus.with_name(f"{corpus.name}-scratch")
    scratch.mkdir(exist_ok=True)
    call = decoders(scratch)[name].call

    def check(raw: bytes) -> None:
        with contextlib.suppress(Error):
            call(raw)

    limits = [f"-max_total_time={seconds}", f"-timeout={HANGS_S}", f"-rss_limit_mb={MEMORY_MB}"]
    kept = [f"-max_len={BYTES_MAX}", f"-artifact_prefix={corpus}/found-", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *limits, *kept, str(corpus)], check)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.fuzz")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--one")
    parser.add_argument("--corpus", type=Path)
    given = parser.parse_args()
    os.environ.pop("DATABASE_URL", None)
    if given.one:
        one(given.one, given.corpus, round(given.minutes * 60))
    else:
        raise SystemExit(not run(given.minutes, given.names))


if __name__ == "__main__":
    main()
