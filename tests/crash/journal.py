"""Journal: the intentions of a process of the campaign, and the results that it received.

    {"op": "3.0.17", "writes": {"12": ["a b", 5], "13": null}, …}     before it commits
    {"yes": "3.0.17", "seq": 812}      it was acknowledged
    {"no": "3.0.17"}                   it was refused: none of it may ever be visible
                                       neither: the process was killed, or the outcome is unknown
    {"failed": "Traceback …"}          a finding

A line is one write to a file: a killed process leaves whole lines (a partial last line does not count).
Each attempt to commit is a separate op, named in its record's `correlation_id`.
"""

from __future__ import annotations

import json
import os
import traceback
from pathlib import Path
from typing import Any, NamedTuple


class Journal:
    """The writing side."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def say(self, **line: Any) -> None:
        os.write(self._file, (json.dumps(line) + "\n").encode())

    def failed(self) -> None:
        """Record the exception that is being handled as a finding."""
        self.say(failed=traceback.format_exc())


class Told(NamedTuple):
    """The reading side: everything that one process recorded."""

    ops: dict[str, dict[str, Any]]
    yes: dict[str, int]
    no: set[str]
    failed: list[str]
    did: list[dict[str, Any]]  # its other operations: migrations, rebuilds

    @classmethod
    def read(cls, path: Path) -> Told:
        told = cls({}, {}, set(), [], [])
        if not path.exists():
            return told
        for raw in path.read_bytes().splitlines(keepends=True):
            if not raw.endswith(b"\n"):
                break
            line = json.loads(raw)
            if "op" in line:
                told.ops[line["op"]] = line
            elif "yes" in line:
                told.yes[line["yes"]] = line["seq"]
            elif "no" in line:
                told.no.add(line["no"])
            elif "failed" in line:
                told.failed.append(line["failed"])
            else:
                told.did.append(line)
        return told
