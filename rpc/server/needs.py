"""Needs: what a method needs, as its proto declares it, and what a holder of rights gives.

option (needs) = {right: READ, table: "table"} ─ needs_of ─▶ Need, by path of the method
Need, request ───────────────────────────────── the gate ──▶ may this call be made? (rights.py)
Need, tables ────────────────────────────────── possible ──▶ may the caller make any call of the method?
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from google.protobuf.descriptor import ServiceDescriptor

from everlog.proto import access_pb2 as pb
from everlog.store.upkeep.roles import OPS, Decision, Holder

_OPS = {number: word for word, number in OPS.items()}


class Need(NamedTuple):
    """What a method needs; see the proto."""

    rights: tuple[int, ...]
    tables: Callable[[Any], Iterable[tuple[str, str]]] | None  # with the operation, which may be empty
    when: str
    whole: bool
    dangerous: bool
    server: bool
    ops: tuple[str, ...] = ("",)  # that it may name for a table


def needs_of(services: Iterable[ServiceDescriptor]) -> dict[str, tuple[Need, ...]]:
    """Return what each method of these services needs, by path; without those that do not declare it."""
    found = {}
    for service in services:
        for method in service.methods:
            declared = method.GetOptions().Extensions[pb.needs]
            if declared:
                found[f"/{service.full_name}/{method.name}"] = tuple(_need(one) for one in declared)
    return found


def _need(one: pb.Need) -> Need:
    return Need(
        tuple(one.right),
        _tables(one.table, one.op) if one.table else None,
        one.when,
        one.whole,
        one.dangerous,
        one.server,
        tuple(OPS) if one.op else ("",),
    )


def _tables(path: str, op: str) -> Callable[[Any], Iterable[tuple[str, str]]]:
    """Return the function that reads the tables that a request names."""
    outer, _, inner = path.partition(".")
    if inner:
        by = op.partition(".")[2]

        def each(request: Any) -> Iterable[tuple[str, str]]:
            found = getattr(request, outer)
            return dict.fromkeys((getattr(one, inner), _OPS[getattr(one, by)] if by else "") for one in found)

        return each

    def named(request: Any) -> Iterable[tuple[str, str]]:
        found = getattr(request, path)
        names = (found,) if isinstance(found, str) else found
        return [(name, "") for name in names if name]

    return named


def gives(holder: Holder, right: int, table: str, op: str, *, whole: bool) -> tuple[bool, bool]:
    """Return whether a holder has a right as a method needs it, and whether it has it at all."""
    found: Decision = holder.decide(right, table, op)
    unlimited = found.visibility is None if table else found.whole
    return found.allowed and (unlimited or not whole), found.allowed


def possible(need: Need, holder: Holder, tables: Iterable[str]) -> bool:
    """Return whether there are requests for which a holder has what a method needs."""
    if need.when or not need.rights:
        return True
    named = tables if need.tables is not None else ()
    return any(
        gives(holder, right, table, op, whole=need.whole)[0]
        for right in need.rights
        for table, op in (("", ""), *((table, op) for table in named for op in need.ops))
    )
