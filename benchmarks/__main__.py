"""The command: `python -m benchmarks`, and `python -m benchmarks report`."""

import argparse
import sys
from pathlib import Path

import msgspec

from benchmarks import report, runner
from benchmarks.benches import BENCHES
from benchmarks.measure import Measure


def main(words: list[str]) -> int:
    options = _parse(words)
    if options.names == ["report"]:
        print(report.table(runner.read(options.results)))
        return 0
    unknown = set(options.names) - set(BENCHES)
    if unknown:
        print(
            f"no bench named {', '.join(sorted(unknown))}; the benches are: {', '.join(BENCHES)}",
            file=sys.stderr,
        )
        return 2
    failed = 0
    with options.results.open("ab" if options.append else "wb") as out:
        for found in runner.run(
            options.names or BENCHES,
            options.subjects.split(","),
            passes=options.passes,
            scale=options.scale,
            folder=options.dir,
        ):
            if isinstance(found, Measure):
                out.write(msgspec.json.encode(found) + b"\n")
                out.flush()
                print(report.line(found), flush=True)
            elif isinstance(found, runner.Skipped):
                print(f"{found.bench} {found.subject} skipped: {found.text}", file=sys.stderr, flush=True)
            else:
                failed += 1
                print(f"{found.bench} {found.subject} failed: {found.text}", file=sys.stderr, flush=True)
    if measures := runner.read(options.results):
        print(report.table(measures))
    return 1 if failed else 0


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="everlog beside SQLite and the raw limit, in one run"
    )
    parser.add_argument("names", nargs="*", help=f"report, or any of: {' '.join(BENCHES)} (all)")
    parser.add_argument("--scale", type=float, default=1, help="fraction of the full size (1)")
    parser.add_argument("--passes", type=int, default=3, help="number of measurements of each (3)")
    parser.add_argument("--subjects", default=",".join(report.SUBJECTS), help=",".join(report.SUBJECTS))
    parser.add_argument("--dir", type=Path, default=runner.ROOT, help="directory on the disk to measure")
    parser.add_argument("--results", type=Path, default=runner.RESULTS, help="benchmarks/results.jsonl")
    parser.add_argument("--append", action="store_true", help="keep existing results")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
