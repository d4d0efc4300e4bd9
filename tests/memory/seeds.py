"""The memory of bootstrap data of many bytes: each operation in its own process.

    python -m tests.memory.seeds MIB OPERATION     prints MiB over the base

Of two migrations, the first creates a table and the second loads MIB of rows into it. The base is the process
with all modules loaded, after the same operation with 1 MiB.
"""

from __future__ import annotations

import gc
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from everlog import migrations
from everlog.store.database import Database
from tests.memory.operations import peak_kib
from tests.migrations.project import Project

INDEXED = 'Table("airports", Airport, key=FAA, indexes=(Index("by_name", NAME, unique=True),))'
FIELDS = "string faa = 1; string name = 2; bytes more = 3;"
ROW = 700  # bytes of a row, which cannot be compressed
ROWS_THERE = 2000


def write_rows(file: Path, mib: int) -> int:
    """Write a CSV of `mib` MiB; return its number of rows."""
    source, count = random.Random(7), 0
    with file.open("w", encoding="utf-8", newline="\n") as out:
        out.write("faa,name,more\n")
        while out.tell() < mib << 20:
            more = source.randbytes(ROW).hex()
            out.write(f"A{count:08},seed{count:08},{more[: ROW // 4 * 4]}\n")
            count += 1
    return count


def project_at(directory: Path, mib: int) -> tuple[Project, int]:
    directory.mkdir()
    project = Project(directory)
    project.add("one", fields=FIELDS, table=INDEXED)
    folder = project.add("two", fields=FIELDS, table=INDEXED)
    count = write_rows(folder / "bootstrap_airports.csv", mib)
    sys.path.insert(0, str(directory))
    return project.build(), count


class Seeds:
    """Each public method is an operation on a project, and a database at its first migration."""

    def __init__(self, directory: Path, mib: int) -> None:
        self.directory = directory
        self.project, self.count = project_at(directory / "project", mib)
        self.path = directory / "db"
        with Database(self.path) as db:
            table = self.project.load()[0].tables[0]
            migrations.apply(db, self.project.path, to=20260101000000)
            db.load(table, (table.model(faa=f"A{at:08}", name=f"there{at}") for at in range(ROWS_THERE)))

    def lint(self) -> None:
        assert [one for one in migrations.lint(self.project.path) if str(one.severity) == "error"] == []

    def plan(self) -> None:
        with Database(self.path) as db:
            steps = migrations.plan(db, self.project.path, try_rows=True)[-1].steps
            assert not any(step.problem for step in steps)

    def up(self) -> None:
        with Database(self.path) as db:
            migrations.apply(db, self.project.path)
            assert db.count(self.project.load()[1].tables[0]) == max(self.count, ROWS_THERE)

    def up_anew(self) -> None:
        """Load into a new table."""
        with Database(self.directory / "new") as db:
            first, second = self.project.folders
            for file in second.glob("bootstrap*"):
                file.rename(first / file.name)
            migrations.build(self.project.path)
            migrations.apply(db, self.project.path)
            assert db.count(self.project.load()[1].tables[0]) == self.count


OPERATIONS = [name for name in vars(Seeds) if not name.startswith("_")]


def measured(make: Callable[[Path], Callable[[], None]], small: Callable[[Path], Callable[[], None]]) -> int:
    """Return the MiB that a call uses beyond the process after another call."""
    with tempfile.TemporaryDirectory() as made:
        small(Path(made))()
    gc.collect()
    base = peak_kib("VmRSS:")
    with tempfile.TemporaryDirectory() as made:
        call = make(Path(made))
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts at the current use
        call()
        return (peak_kib() - base) // 1024


if __name__ == "__main__":
    mib, name = int(sys.argv[1]), sys.argv[2]
    found = measured(lambda path: getattr(Seeds(path, mib), name), lambda path: getattr(Seeds(path, 1), name))
    sys.stdout.write(f"{found}\n")
