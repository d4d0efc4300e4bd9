"""docs/architecture.md describes the tree: its tables of packages, and its walks, hop by hop."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import everlog
from everlog.console.cli.main import run
from everlog.console.cli.options import Settings
from everlog.consumers import Follower, SqliteSink
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from tests.migrations.conftest import project
from tests.migrations.project import Project
from tests.migrations.test_online import Airports
from tests.test_layout import ORDER

__all__ = ["project"]

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
HOP = re.compile(r"^\| `([\w.]+)` \| `([\w/]+\.py)` \| ", re.MULTILINE)
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
Hop = tuple[str, str]
WALKS: list[list[Hop]] = [
    HOP.findall(walk) for walk in PAGE.split("## Three walks")[1].split("\n## ")[0].split("\n### ")[1:]
]


def functions(file: str) -> set[str]:
    """Return the names of a file's functions, and of its methods with their classes."""
    found = set()
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{one.name}" for one in node.body if isinstance(one, FUNCTION)}
        elif isinstance(node, FUNCTION):
            found.add(node.name)
    return found


def test_each_hop_of_a_walk_is_a_function_of_its_file() -> None:
    assert [len(one) > 5 for one in WALKS] == [True] * 3
    assert [(name, file) for walk in WALKS for name, file in walk if name not in functions(file)] == []


def isgenerator(code: CodeType) -> bool:
    return bool(code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR))


class Calls:
    """The calls of the functions of the walks, in all threads that are started from now on, in order.

    The end of a generator counts as a call: it takes what the next hop has sent meanwhile.
    """

    def __init__(self) -> None:
        self.made: list[Hop] = []
        self._hops = {hop for walk in WALKS for hop in walk}
        self._files = {str((ROOT / file).resolve()): file for _, file in self._hops}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if (event == "call" or (event == "return" and isgenerator(code))) and (
            file := self._files.get(code.co_filename)
        ):
            hop = (code.co_qualname, file)
            if hop in self._hops:
                self.made.append(hop)

    def check(self, walk: list[Hop]) -> None:
        """Check that each hop was called after its predecessor in the walk."""
        calls = iter(self.made)
        missing = [hop for hop in walk if hop not in self.made]
        assert missing == [], "never called"
        for number, hop in enumerate(walk):
            assert hop in calls, f"{hop} is not called after {walk[number - 1]}"


@pytest.fixture
def calls() -> Iterator[Calls]:
    before, calls = sys.getprofile(), Calls()
    threading.setprofile(calls)
    sys.setprofile(calls)
    yield calls
    sys.setprofile(before)
    threading.setprofile(before)


@pytest.fixture
def airports(project: Project, tmp_path: Path) -> Iterator[Airports]:
    with EmbeddedDatabase(tmp_path / "db") as db:
        yield Airports(project, db, 20)


def at_server(airports: Airports, use: Callable[[Any, str], None]) -> None:
    assert isinstance(airports.db, EmbeddedDatabase)
    with (
        Server({"x": airports.db}, migrations={"x": str(airports.path)}) as server,
        everlog.open(server.url("x")) as remote,
    ):
        use(remote, server.url("x"))


def test_a_row_goes_this_way_from_put_to_a_table_of_a_follower(
    calls: Calls, airports: Airports, tmp_path: Path
) -> None:
    def use(remote: Any, _: str) -> None:
        with SqliteSink(tmp_path / "mirror.db") as sink:
            Follower(remote, sink).run(bounded=True)

    del calls.made[:]
    airports.db.put(airports.old, airports.old_row(99))
    at_server(airports, use)
    calls.check(WALKS[0])


def test_a_remote_history_goes_this_way(calls: Calls, airports: Airports) -> None:
    airports.db.put(airports.old, airports.old_row(1, "Jane" * 20_000))  # a large record is read again

    def use(remote: Any, _: str) -> None:
        del calls.made[:]
        assert len(list(remote.history(airports.old, "A00001"))) == 2

    at_server(airports, use)
    calls.check(WALKS[1])


def test_an_up_at_a_server_goes_this_way(
    calls: Calls, airports: Airports, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    def use(_: Any, url: str) -> None:
        del calls.made[:]
        assert run(["-u", url, "up"], Settings()) == 0

    at_server(airports, use)
    calls.check(WALKS[2])


def test_the_tables_of_packages_are_those_of_the_tree() -> None:
    packages = PAGE.split("## Packages")[1].split("\n## ")[0]
    store, others = re.split(r"\n\| package \|", packages)
    named = [
        name.strip("`/")
        for line in re.findall(r"^\| (`[^|]+`) \|", store, re.MULTILINE)
        for name in line.split()
        if name != "`store/`"
    ]
    assert named == [name for level in ORDER["store"] for name in sorted(level.split())]
    folders = re.findall(r"^\| `(\w+/\w+)/` \|", others, re.MULTILINE)
    assert sorted(folders) == sorted(
        f"{path.parent.parent.name}/{path.parent.name}"
        for room in ORDER
        if room != "store"
        for path in (ROOT / room).glob("*/__init__.py")
    )
