"""The context of an operation of the campaign."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

from everlog.rpc.embedded import EmbeddedDatabase
from tests.crash.clocks import WallClock
from tests.crash.folders import Folders, Way
from tests.crash.forks import Forks
from tests.crash.journal import Journal


class Maintenance(NamedTuple):
    """The context of an operation. `name` is unique to it, and the same in every replay."""

    db: EmbeddedDatabase
    folders: Folders
    journal: Journal
    random: random.Random
    name: str
    scratch: Path  # a directory beside the database, for the operation's files
    clock: WallClock
    forks: Forks

    def way(self) -> Way:
        return self.folders.ways[self.db.schema.version]
