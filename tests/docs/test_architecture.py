"""The walks of docs/architecture.md name existing functions."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
HOP = re.compile(r"^\| `([\w.]+)` \| `([\w/]+\.py)` \| ", re.MULTILINE)


def functions(file: str) -> set[str]:
    """Return the names of a file's functions, and of its methods with their classes."""
    found = set()
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{one.name}" for one in node.body if isinstance(one, FUNCTION)}
        elif isinstance(node, FUNCTION):
            found.add(node.name)
    return found


FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def test_each_hop_of_a_walk_is_a_function_of_its_file() -> None:
    walks = PAGE.split("## Three walks")[1].split("\n## ")[0].split("\n### ")[1:]
    hops = [HOP.findall(walk) for walk in walks]
    assert [len(one) > 5 for one in hops] == [True] * 3
    assert [(name, file) for walk in hops for name, file in walk if name not in functions(file)] == []
