"""The subject `dbmate`: its command `up` on an SQLite database.

    ~/.cache/everlog-bench/dbmate-<version>/    installed by npm at the first use

The time is that of the whole process. Starting node takes about a tenth of a second of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.measure import MissingError, once

VERSION = "2.36.0"
INSTALL_S = 120
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
PLACE = CACHE / "everlog-bench" / f"dbmate-{VERSION}"


def up(folder: Path, database: Path, sql: str) -> float:
    """Return the seconds that `dbmate up` takes for one migration with this SQL. Raises MissingError."""
    words = [
        *program(),
        f"--url=sqlite:{database}",
        f"--migrations-dir={folder / 'migrations'}",
        "--no-dump-schema",
        "up",
    ]
    (folder / "migrations").mkdir()
    file = folder / "migrations" / "20260101000001_change.sql"
    file.write_text(f"-- migrate:up\n{sql};\n\n-- migrate:down\n")
    return once(lambda: subprocess.run(words, check=True, capture_output=True, cwd=folder))


def program() -> list[str]:
    """Return the command of dbmate. Raises MissingError if node is missing, or npm cannot install dbmate."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise MissingError(f"dbmate is started by {'npm' if node else 'node'}, which is not here")
    if not script().exists():
        PLACE.mkdir(parents=True, exist_ok=True)
        words = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(PLACE), f"dbmate@{VERSION}"]
        try:
            subprocess.run(words, check=True, capture_output=True, text=True, timeout=INSTALL_S)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            said = str(error.stderr or error).strip().splitlines()
            raise MissingError(f"npm cannot install dbmate {VERSION}: {said[-1]}") from error
    return [node, str(script())]


def script() -> Path:
    return PLACE / "node_modules" / "dbmate" / "dist" / "cli.js"
