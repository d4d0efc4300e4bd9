"""The layout within rooms: packages, their imports, the number of modules, and their use.

order       a package or file of a room imports only from those that precede it in ORDER
circles     there are no circular imports, not even for type checkers
sides       clients do not import servers, and servers do not import clients
nouns       a small module with one importer has a name that a reader looks for
"""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Lowest first. Those on one line are on one level, and do not import each other.
ORDER = {
    "store": (
        "program_log",
        "clock errors keys measures progress",
        "environment process record urls user_code",
        "rocks",
        "crypto log",
        "schema",
        "tables",
        "tx",
        "core",
        "history online",
        "upkeep",
        "opening",
        "database",
    ),
    "feed": (
        "cursor filter message",
        "tail",
        "subscription",
        "feed",
    ),
    "fleet": (
        "migrations protocol selector",
        "status",
        "ledger member",
        "registry",
        "survey",
        "drift plan tasks waves",
        "members_file",
        "rollouts",
        "approvals runner",
        "coordinator planner",
        "hub",
    ),
    "migrations": (
        "digest lock people spill values",
        "folder rows",
        "migration",
        "build",
        "compatible status",
        "in_progress loader proposal schema_text",
        "baseline bootstrap checks dry_run testdata",
        "details estimate lint online recorded_folders",
        "plan reverse scaffold",
        "rollback runner",
        "approval prepared squash testing",
        "local",
    ),
    "audit": (
        "holds merkle note place segment",
        "manifest proof tiles",
        "source tree",
        "chain prover reader removed_records",
        "archived backup export known_hashes restore",
        "archive auditing verify_backup",
        "retention",
    ),
    "rpc": (
        "address calls certificates errors fleet traces wire",
        "security",
        "handles",
        "client embedded http2",
        "connect server",
        "testing",
    ),
    "consumers": (
        "follower protojson",
        "sqlite",
        "targets",
    ),
    "console": (
        "output",
        "export source",
        "web",
        "cli",
        "__main__",
    ),
}

MODULES_MAX = 265  # of store, rpc, migrations and console together
SMALL_LINES = 80

# Small modules with one importer, and with a name that a reader looks for.
NOUNS = {
    "audit.chain": "the rules that link a record of the log to its predecessor",
    "consumers.follower.bookmark": "the position that the source knows of a named follower",
    "store.rocks.wal": "the sync of RocksDB's write-ahead log without RocksDB",
}


@cache
def modules() -> dict[str, Path]:
    """Return every module of the rooms in ORDER, by its name after `everlog.`."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for room in ORDER
        for path in sorted((ROOT / room).rglob("*.py"))
        if path.stem != "__init__"
    }


@cache
def imports() -> dict[str, set[str]]:
    """Return for each module of the rooms its imports from the rooms, anywhere in the module."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("everlog."):
                package = str(node.module).removeprefix("everlog.")
                for alias in node.names:
                    full = f"{package}.{alias.name}"
                    target = full if full in modules() else package
                    if target in modules() and target != name:
                        found[name].add(target)
    return found


def test_a_package_imports_only_from_those_before_it() -> None:
    wrong = []
    for room, levels in ORDER.items():
        height = {unit: number for number, level in enumerate(levels) for unit in level.split()}
        units = {name.split(".")[1] for name in modules() if name.startswith(f"{room}.")}
        assert units == set(height), f"{room}/ and its levels in ORDER"
        for name, targets in imports().items():
            for target in targets:
                mine, other = name.split("."), target.split(".")
                if (
                    mine[0] == other[0] == room
                    and mine[1] != other[1]
                    and height[mine[1]] <= height[other[1]]
                ):
                    wrong.append(f"{name} imports {target}")
    assert not wrong


def test_no_files_import_in_a_circle() -> None:
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for target in sorted(imports().get(name, ())):
                visit(target, (*above, name))
            done.add(name)

    for name in modules():
        visit(name, ())


def test_clients_and_servers_import_nothing_of_each_other() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, targets in imports().items()
        for target in targets
        if (name.startswith("rpc.client.") and target.startswith(("rpc.server.", "rpc.http2.")))
        or (name.startswith(("rpc.server.", "rpc.http2.")) and target.startswith("rpc.client."))
    ]
    assert not wrong


def test_the_four_large_rooms_have_few_modules() -> None:
    counted = [name for name in modules() if name.split(".")[0] in {"store", "rpc", "migrations", "console"}]
    assert len(counted) <= MODULES_MAX


def test_a_small_module_with_one_importer_has_a_noun_to_look_for() -> None:
    importers: dict[str, int] = defaultdict(int)
    for targets in imports().values():
        for target in targets:
            importers[target] += 1
    small = {
        name
        for name, path in modules().items()
        if importers[name] == 1 and len(path.read_text(encoding="utf-8").splitlines()) < SMALL_LINES
    }
    assert small - NOUNS.keys() == set(), "merge it, or say in NOUNS what a reader looks for"
    assert NOUNS.keys() - small == set(), "in NOUNS, and large or used by more"
