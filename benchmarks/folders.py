"""folders: a database that is opened with many folders of migrations, each of a table.

The first opening applies all of them; what is measured is that, and the next, which has nothing to do.
"""

import importlib
import sys
import time
from pathlib import Path

import everlog
from benchmarks.measure import Measure, Run
from everlog import migrations

PER_MINUTE = 60

_MODEL = """syntax = "proto3";

package {package}.v{version};

message Row{at} {{
  uint64 id = 1;
  string name = 2;
  int64 size_{at} = 3;
}}
"""
_CODE = """from everlog.migrations import *
from .model_pb2 import *

field = Fields(Row{at})
ROWS = Table("rows_{at}", Row{at}, key=field("id", 1, UINT64),
             indexes=[Index("by_name", field("name", 2, STRING))])
MIGRATION = Migration(tables=[ROWS])
"""


def write(directory: Path, package: str, count: int) -> Path:
    """A package of so many folders, built."""
    root = directory / package
    root.mkdir(parents=True)
    (root / "__init__.py").touch()
    for at in range(count):
        version = 20260101000000 + at // PER_MINUTE * 100 + at % PER_MINUTE
        folder = root / f"v{version}_create_rows_{at}"
        folder.mkdir()
        model = _MODEL.format(package=package, version=version, at=at)
        (folder / "model.proto").write_text(model, encoding="utf-8")
        (folder / "__init__.py").write_text(_CODE.format(at=at), encoding="utf-8")
    migrations.build(root)
    return root


def everlog_new(run: Run) -> Measure:
    return _opened(run, applied=False)


def everlog_applied(run: Run) -> Measure:
    return _opened(run, applied=True)


def _opened(run: Run, *, applied: bool) -> Measure:
    package = f"folders{run.n}{'a' if applied else 'n'}"
    write(run.folder, package, run.n)
    sys.path.insert(0, str(run.folder))
    importlib.invalidate_caches()
    url = f"file:{run.folder / 'folders.db'}"
    if applied:
        everlog.open(url, migrations=package).close()
    started = time.perf_counter()
    with everlog.open(url, migrations=package):
        seconds = time.perf_counter() - started
    return run.measure(run.n, seconds)
