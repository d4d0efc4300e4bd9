"""House rules that linters cannot check. Each rule is a table and one test that reads it.

floors      a room imports from the floors below it, and never from its own floor
seams       a library is imported only by the rooms that translate its errors and types
sizes       a file is one noun: at most 650 lines, or a reason
headers     a module starts with a docstring that says what it is
strangers   no file mentions one machine, or one person's folders
dead files  every module is imported by another, or started by name
mirrors     the folders of the tests are the rooms, or a kind of test
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from everlog.console.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent

FLOORS = (
    ("proto",),
    ("store",),
    ("audit", "migrations", "feed"),
    ("fleet",),
    ("rpc",),
    ("consumers",),
    ("console",),
    ("everlog",),
)
ROOMS = [room for floor in FLOORS for room in floor if (ROOT / room).is_dir()]

# Libraries that belong to rooms: elsewhere their errors and types would leak.
SEAMS = {
    "apprise": {"migrations"},
    "cryptography": {"store", "audit", "rpc"},  # rpc: the end of a certificate
    "fsspec": {"audit"},
    "zstandard": {"audit"},
    "rocksdict": {"store"},
    "grpc": {"rpc", "proto"},
    "grpc_health": {"rpc"},
    "grpc_reflection": {"rpc"},
    "grpc_tools": {"migrations", "proto"},
    "hpack": {"rpc"},
    "click": {"console"},
    "jinja2": {"console"},
    "pygments": {"console"},
    "starlette": {"console"},
    "uvicorn": {"console"},
    "mimesis": {"migrations"},
    "tqdm": {"console"},
    "sqlite3": {"consumers", "migrations"},
}

LINES_MAX = 650
# file: the reason for its length.
LONGER = {
    "migrations/rows.py": "three formats of files, with one way to refuse a row",
    "migrations/values.py": "every kind of field, as text and as JSON, there and back",
    "rpc/handles.py": "what each call of a database and its handles does, embedded and remote",
    "store/rocks/engine.py": "one object: an open RocksDB",
}

# file: how it is started, if no other module imports it.
STARTED = {
    "console/cli/main.py": "the command `everlog`",
    **{f"console/cli/{module}.py": "a command of it" for module in COMMANDS.values()},
    "everlog/testing.py": "pytest finds it, by its entry point",
    "proto/generate.py": "make proto",
}

# Folders of tests/ that are not rooms: the kinds of tests that cross rooms.
KINDS = {
    "benchmarks": "tiny runs, so that they cannot rot",
    "conformance": "suites that every database and every sink must pass",
    "crash": "kill at a point, open again, check",
    "docs": "what the documents say is run",
    "examples": "the examples are run",
    "golden": "bytes that were written once can be read permanently",
    "memory": "the peak of memory of each operation, on large rows",
    "model": "random operations against a dict",
}

STRANGERS = {
    r"(?<![\w.~$}<>-])/(home|root|Users|work)/\w": "a folder of one machine",
    r"[A-Za-z]:\\\\?Users\\": "a folder of one machine",
    r"\b(index-url|find-links|trusted-host)\b": "the place packages come from is each machine's own",
}

GENERATED = re.compile(r"_pb2(_grpc)?\.pyi?$")
TEXT = {".py", ".pyi", ".proto", ".md", ".toml", ".txt", ".csv", ".jsonl", ".in", ".sh", ""}


def files(*folders: str) -> Iterator[Path]:
    """Return files of the project below these folders, except generated ones."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            parts = path.relative_to(ROOT).parts
            if path.is_file() and "__pycache__" not in parts and not GENERATED.search(path.name):
                yield path


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def code(*folders: str) -> list[Path]:
    return [path for path in files(*folders) if path.suffix == ".py"]


@cache
def imports(path: Path) -> list[tuple[int, str]]:
    """Return line and full name of everything that a file imports, anywhere in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def below(room: str) -> set[str]:
    """Return the rooms that a room may import from: itself, and those of the floors below."""
    height = next(number for number, floor in enumerate(FLOORS) if room in floor)
    return {room}.union(*FLOORS[:height])


def test_a_room_imports_only_from_floors_below() -> None:
    wrong = []
    for room in ROOMS:
        for path in code(room):
            for line, full in imports(path):
                package, _, rest = full.partition(".")
                if package == "everlog" and rest.partition(".")[0] not in below(room):
                    wrong.append(f"{name(path)}:{line} imports {full}")
    assert not wrong, f"floors, lowest first: {FLOORS}"


def test_every_room_stands_on_a_floor() -> None:
    assert sorted(path.parent.name for path in ROOT.glob("*/py.typed")) == sorted(ROOMS)


def test_a_library_is_known_only_at_its_seam() -> None:
    wrong = []
    for room in ROOMS:
        for path in code(room):
            for line, full in imports(path):
                if room not in SEAMS.get(full.partition(".")[0], {room}):
                    wrong.append(f"{name(path)}:{line} imports {full}")
    assert not wrong, f"seams: {SEAMS}"


def test_a_file_is_one_noun_and_short_or_says_why_not() -> None:
    lengths = {
        name(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in code(*ROOMS, "tests", "benchmarks", "examples")
    }
    long = {file: lines for file, lines in lengths.items() if lines > LINES_MAX}
    assert long.keys() - LONGER.keys() == set(), f"over {LINES_MAX} lines, without a reason in LONGER: {long}"
    assert LONGER.keys() - long.keys() == set(), "in LONGER, and no longer long"


def test_a_module_opens_by_saying_what_it_is() -> None:
    silent = [
        name(path)
        for path in code(*ROOMS, "benchmarks")
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent, "no docstring at the top"


def test_no_file_tells_of_one_machine() -> None:
    places = [path for path in ROOT.iterdir() if path.is_file() and path.name not in {".env", ".git"}]
    places += files(*ROOMS, "tests", "benchmarks", "examples", "docs", ".ci")
    found = []
    for path in places:
        if path.suffix not in TEXT or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            found += [
                f"{name(path)}:{number} {why}" for what, why in STRANGERS.items() if re.search(what, line)
            ]
    assert not found


def test_every_module_is_used_or_started_by_name() -> None:
    used = {full for path in code(*ROOMS, "benchmarks", "examples") for _, full in imports(path)}
    dead = []
    for path in code(*ROOMS):
        module = f"everlog.{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}"
        if path.stem not in {"__init__", "__main__"} and name(path) not in STARTED:
            used_here = any(full == module or full.startswith(f"{module}.") for full in used)
            dead += [] if used_here else [name(path)]
    assert not dead, "nothing imports these"


def test_the_tests_mirror_the_rooms() -> None:
    folders = {path.parent.relative_to(ROOT / "tests").parts[0] for path in ROOT.glob("tests/*/**/*.py")}
    assert folders <= {*ROOMS, *KINDS}, "a folder of tests/ is a room, or a kind of tests in KINDS"
    untested = [room for room in ROOMS if room not in {*folders, "everlog"}]
    assert not untested, "rooms without tests"
