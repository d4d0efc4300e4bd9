"""Elle: the anomalies of a history, found by the cycles among its transactions.

    history ─▶ edges ─▶ strongly connected parts (Tarjan) ─▶ the shortest cycle in each ─▶ its name

    G0          ww alone                         dirty write
    G1c         ww and wr                        circular information flow
    G-single    one rw                           read skew; lost update if both wrote what both read
    G2-item     two rw and more                  write skew
    G2          one of them from a range         phantom
    …-realtime  only with rt                     serializable, but not in real-time order

G1a, G1b and anomalies that a list alone shows are found while the edges are computed (`history`). The names
are those of Adya, "Weak Consistency" (1999).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator

from tests.model.history import Anomaly, Edge, Graph, Lists, Registers, Txn, real_time

LEVELS = (("ww",), ("ww", "wr"), ("ww", "wr", "rw"))


def anomalies(*found: Lists | Registers) -> list[Anomaly]:
    """Return everything that is wrong with a history; nothing if it is strictly serializable. A history with
    lists and registers is checked for both.
    """
    histories = [txn for one in found for txn in one.history]
    graph = graph_of([*(edge for one in found for edge in one.edges()), *real_time(found[0].history)])
    cycles: list[Anomaly] = []
    for level in LEVELS:
        for real in ((), ("rt",)):
            if not cycles:
                kinds = {*level, *real}
                cycles = [_named(cycle, graph, histories, kinds) for cycle in _cycles(graph, kinds)]
    return [*(anomaly for one in found for anomaly in one.anomalies), *cycles]


def graph_of(edges: Iterable[tuple[str, str, Edge]]) -> Graph:
    graph: Graph = defaultdict(lambda: defaultdict(set))
    for one, other, edge in edges:
        if one != other:
            graph[one][other].add(edge)
    return graph


def _next(graph: Graph, name: str, kinds: set[str]) -> list[str]:
    found = graph.get(name, {})
    return [other for other, edges in found.items() if any(edge.kind in kinds for edge in edges)]


def parts(graph: Graph, kinds: set[str]) -> Iterator[set[str]]:
    """Return the strongly connected components with more than one member (Tarjan 1972, without recursion)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    for root in list(graph):
        if root in number:
            continue
        work = [(root, iter(_next(graph, root, kinds)))]
        number[root] = low[root] = len(number)
        stack.append(root)
        on_stack.add(root)
        while work:
            name, others = work[-1]
            for other in others:
                if other not in number:
                    number[other] = low[other] = len(number)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(_next(graph, other, kinds))))
                    break
                if other in on_stack:
                    low[name] = min(low[name], number[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[name])
                if low[name] == number[name]:
                    part = set(stack[stack.index(name) :])
                    del stack[stack.index(name) :]
                    on_stack -= part
                    if len(part) > 1:
                        yield part


def _cycles(graph: Graph, kinds: set[str]) -> Iterator[list[str]]:
    """Return a cycle in each component, with the fewest rw edges, and of those a shortest."""
    for part in parts(graph, kinds):
        plain = kinds - {"rw"}
        found = None
        for name in sorted(part):
            for other in _next(graph, name, {"rw"} & kinds):
                if other in part:
                    path = _path(graph, other, name, plain, part)
                    if path and (found is None or len(path) < len(found)):
                        found = path
        if found is None:
            found = min(
                filter(None, (_path(graph, *_step(graph, one, kinds, part), kinds, part) for one in part)),
                key=len,
            )
        yield found


def _step(graph: Graph, name: str, kinds: set[str], part: set[str]) -> tuple[str, str]:
    return next(other for other in _next(graph, name, kinds) if other in part), name


def _path(graph: Graph, start: str, end: str, kinds: set[str], part: set[str]) -> list[str] | None:
    """Return the shortest path from `start` to `end`, both included."""
    came: dict[str, str | None] = {start: None}
    queue = deque([start])
    while queue:
        name = queue.popleft()
        if name == end:
            path: list[str] = []
            at: str | None = name
            while at is not None:
                path.append(at)
                at = came[at]
            return path[::-1]
        for other in _next(graph, name, kinds):
            if other in part and other not in came:
                came[other] = name
                queue.append(other)
    return None


def _named(cycle: list[str], graph: Graph, history: list[Txn], kinds: set[str]) -> Anomaly:
    order = ["ww", "wr", "rt", "rw"]
    steps = []
    for one, other in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
        steps.append(
            min((e for e in graph[one][other] if e.kind in kinds), key=lambda e: order.index(e.kind))
        )
    text = " ".join(f"{name} ─{step.kind} {step.key}→" for name, step in zip(cycle, steps, strict=True))
    reads = [step for step in steps if step.kind == "rw"]
    name = "G0" if all(step.kind in ("ww", "rt") for step in steps) else "G1c"
    if any(step.phantom for step in reads):
        name = "G2"
    elif len({step.key for step in reads}) == 1 and _lost_update(cycle, reads[0], history):
        name = "lost update"
    elif len(reads) == 1:
        name = "G-single"
    elif reads:
        name = "G2-item"
    return Anomaly(name + ("-realtime" if any(step.kind == "rt" for step in steps) else ""), text + cycle[0])


def _lost_update(cycle: list[str], read: Edge, history: list[Txn]) -> bool:
    """Return whether two transactions of a cycle both read and wrote the key of the rw edge."""
    of = ({op.kind for op in txn.ops if op.key == read.key} for txn in history if txn.name in cycle)
    both = [kinds for kinds in of if {"read"} < kinds]
    return len(both) > 1
