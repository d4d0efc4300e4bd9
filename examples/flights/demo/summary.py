"""Summary: the figures of the demo, and commands to try next."""

import time
from pathlib import Path

from everlog import EmbeddedDatabase
from flights.demo.proofs import Read, Rebuilt

_NEXT = """\
     try next
       export DATABASE_URL=file:{database} EVERLOG_MIGRATIONS_DIR=examples/flights/migrations
       .venv/bin/everlog status
       .venv/bin/everlog get airports JFK
       .venv/bin/everlog scan flights --index by_route JFK LAX --limit 3
       .venv/bin/everlog log --table planes --actor writer --limit 5
       sqlite3 {sqlite} "select carrier, count(*) from flights group by 1 order by 2 desc"
       make serve, and follow it from another terminal"""


class Summary:
    """Collects the figures of the demo."""

    def __init__(self, database: Path, sqlite: Path) -> None:
        self._database = database
        self._sqlite = sqlite
        self._began = time.monotonic()
        self._rows = 0
        self._load_s = 0.0
        self.mirror_began = self.mirror_ended = 0.0
        self.read = Read(0, 0, 0)
        self.rebuilt = Rebuilt(0, 0, 0, 0)

    def created(self, db: EmbeddedDatabase, seconds: float) -> None:
        self._rows = sum(table.rows for table in db.admin.status().tables)
        self._load_s = seconds

    @property
    def load(self) -> str:
        rate = self._rows / self._load_s
        return (
            f"{self._rows:,} rows in {self._load_s:.1f} s, {rate:,.0f} a second, parsed from CSV and on disk"
        )

    def text(self, *, edits: int) -> str:
        read, rebuilt = self.read, self.rebuilt
        mirror_s = self.mirror_ended - self.mirror_began
        lines = [
            ("rows", f"{rebuilt.rows:,} in {rebuilt.tables} tables"),
            ("log", f"{read.commits:,} commits, {read.changes:,} changes; {edits:,} edits by the writer"),
            ("load", self.load),
            ("mirror", f"level with the log after {mirror_s:.1f} s, one SIGKILL included"),
            (
                "feed",
                f"the whole log in {read.seconds:.1f} s, {read.changes / read.seconds:,.0f} changes a second",
            ),
            (
                "rebuild",
                f"{rebuilt.seconds:.1f} s, {rebuilt.changes / rebuilt.seconds:,.0f} changes a second",
            ),
            (
                "on disk",
                f"everlog {_megabytes(self._database)}, log and tables; SQLite {_megabytes(self._sqlite)}",
            ),
            ("in all", f"{time.monotonic() - self._began:.0f} seconds"),
        ]
        shown = "\n".join(f"     {name:8} {what}" for name, what in lines)
        return f"{shown}\n\n{_NEXT.format(database=self._database, sqlite=self._sqlite)}"


def _megabytes(path: Path) -> str:
    files = path.rglob("*") if path.is_dir() else [path]
    return f"{sum(file.stat().st_size for file in files if file.is_file()) / 1e6:,.0f} MB"
