"""Child: one bench of one subject in its own process, so that its memory can be measured.

python -m benchmarks.child BENCH SUBJECT N FOLDER PREPARED     prints a JSON array of measures

Exit code 3: the subject cannot run on this machine, for the printed reason.
"""

import sys
from pathlib import Path

import msgspec

from benchmarks.benches import BENCHES
from benchmarks.measure import MissingError, Run

MISSING = 3


def main(bench: str, subject: str, n: str, folder: str, prepared: str) -> None:
    run = Run(bench, subject, int(n), Path(folder), Path(prepared))
    try:
        found = BENCHES[bench].subjects[subject](run)
    except MissingError as error:
        print(error, file=sys.stderr)
        sys.exit(MISSING)
    print(msgspec.json.encode(found if isinstance(found, list) else [found]).decode())


if __name__ == "__main__":
    main(*sys.argv[1:])
