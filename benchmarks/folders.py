"""folders, tables: open a database with many folders of migrations, each with a table; or with one folder of
many tables.

The first opening applies all migrations, the second has nothing to do. Both are measured.
"""

import importlib
import sys
import time
from pathlib import Path

from benchmarks.measure import Measure, Run
from everlog import migrations
from everlog import open as open_database

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
_MESSAGE = "message Row{at} {{ uint64 id = 1; string name = 2; int64 size_{at} = 3; }}\n"
_TABLE = """field_{at} = Fields(Row{at})
TABLES.append(
    Table("rows_{at}", Row{at}, key=field_{at}("id", 1, UINT64),
          indexes=[Index("by_name", field_{at}("name", 2, STRING))]))
"""


def write_tables(directory: Path, package: str, count: int) -> Path:
    """Build a package of one folder with `count` tables."""
    root = _root(directory, package)
    folder = root / "v20260101000000_create_tables"
    folder.mkdir()
    model = [f'syntax = "proto3";\n\npackage {package}.v20260101000000;\n\n']
    code = ["from everlog.migrations import *\nfrom .model_pb2 import *\n\nTABLES = []\n"]
    for at in range(count):
        model.append(_MESSAGE.format(at=at))
        code.append(_TABLE.format(at=at))
    code.append("MIGRATION = Migration(tables=TABLES)\n")
    (folder / "model.proto").write_text("".join(model), encoding="utf-8")
    (folder / "__init__.py").write_text("".join(code), encoding="utf-8")
    migrations.build(root)
    return root


def _root(directory: Path, package: str) -> Path:
    root = directory / package
    root.mkdir(parents=True)
    (root / "__init__.py").touch()
    return root


def write(directory: Path, package: str, count: int) -> Path:
    """Build a package of `count` folders."""
    root = _root(directory, package)
    for at in range(count):
        version = 20260101000000 + at // PER_MINUTE * 100 + at % PER_MINUTE
        folder = root / f"v{version}_create_rows_{at}"
        folder.mkdir()
        model = _MODEL.format(package=package, version=version, at=at)
        (folder / "model.proto").write_text(model, encoding="utf-8")
        (folder / "__init__.py").write_text(_CODE.format(at=at), encoding="utf-8")
    migrations.build(root)
    return root


def everlog(run: Run, *, applied: bool, tables: bool = False) -> Measure:
    """Open with the folders; `applied`: open again, with nothing to do."""
    package = f"{'tables' if tables else 'folders'}{run.n}{'a' if applied else 'n'}"
    (write_tables if tables else write)(run.folder, package, run.n)
    sys.path.insert(0, str(run.folder))
    importlib.invalidate_caches()
    url = f"file:{run.folder / 'folders.db'}"
    if applied:
        open_database(url, migrations=package).close()
    started = time.perf_counter()
    with open_database(url, migrations=package):
        seconds = time.perf_counter() - started
    return run.measure(run.n, seconds)
