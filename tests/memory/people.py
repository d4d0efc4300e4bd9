"""The memory of an export of one person with much data: each operation in its own process.

python -m tests.memory.people MIB OPERATION     prints MiB over the base (see `tests.memory.seeds`)
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from pathlib import Path

from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.upkeep.personal_data import elements
from tests.memory.seeds import measured
from tests.store.models import declare
from tests.store.people import MASTER, PATIENTS, VISITS, visit

NOTE = 64 << 10  # characters of a row, which cannot be compressed


class People:
    """Each public method is an operation on a database with `mib` MiB of one person, written twice."""

    def __init__(self, directory: Path, mib: int) -> None:
        self.path, self.rows = directory / "db", max(1, (mib << 20) // NOTE // 2)
        source = random.Random(7)
        with EmbeddedDatabase(self.path, master_key=MASTER) as db:
            declare(db, PATIENTS, VISITS)
            for at in range(2 * self.rows):
                note = source.randbytes(NOTE // 2).hex()
                db.put(VISITS, visit(at % self.rows, "s-1", note), durability="os")

    def export(self) -> None:
        with EmbeddedDatabase(self.path, master_key=MASTER) as db:
            self._spend(db.people.stream(VISITS, person="s-1"))

    def remote_export(self) -> None:
        with (
            EmbeddedDatabase(self.path, master_key=MASTER) as db,
            Server({"clinic": db}) as server,
            RemoteDatabase(server.url("clinic")) as remote,
        ):
            self._spend(remote.people.stream(VISITS, person="s-1"))

    def _spend(self, pieces: Iterable[bytes]) -> None:
        assert sum(1 for section, _ in elements(pieces) if section == "versions") == 2 * self.rows


OPERATIONS = [name for name in vars(People) if not name.startswith("_")]


if __name__ == "__main__":
    mib, name = int(sys.argv[1]), sys.argv[2]
    found = measured(
        lambda path: getattr(People(path, mib), name), lambda path: getattr(People(path, 1), name)
    )
    sys.stdout.write(f"{found}\n")
