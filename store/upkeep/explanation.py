"""Explanation: why a call is allowed or denied, in sentences.

    state, identity, right, table ─▶ decision ─▶ the rules that give it, or the grants that do not

    why       who granted it, when and for which reason, and other tokens of the name: for operators
    without   the roles that give it, and how they limit it: for a caller that asks about itself

Read-only.
"""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote
from typing import NamedTuple

from everlog.store.schema.arguments import time_text
from everlog.store.tx.transaction import marked
from everlog.store.upkeep.conditions import words_of
from everlog.store.upkeep.roles import (
    BY_TABLE,
    DANGEROUS,
    READY,
    RIGHTS,
    Change,
    Decision,
    Holder,
    State,
    check_verb,
)


class Explanation(NamedTuple):
    """Whether a call is allowed as of a record, and why: a sentence each. `hidden`: of an explanation about a
    row, the names of its hidden fields."""

    allowed: bool
    seq: int
    sentences: tuple[str, ...]
    hidden: tuple[str, ...] = ()


def explain(
    state: State, who: str, verb: str, table: str, *, database: bytes, now_ns: int, why: bool = True
) -> Explanation:
    """See `Access.explain`. `database` is its UUID, `now_ns` the time for which tokens are valid. `why`: say
    who granted it."""
    right, op = check_verb(verb)
    found = explain_as(state, state.holder(who), verb, table, why=why)
    said = list(found.sentences)
    for one in state.tokens.values() if why else ():
        if one.token.name == who and one.token.roles and one.valid(database, now_ns):
            other = state.holder(who, one.token.roles).decide(right, table, op)
            said.append(
                f"calls with token {one.token.id} have the roles {', '.join(one.token.roles)} instead:"
                f" they {'may' if other.allowed else 'may not'}"
            )
    return found._replace(sentences=tuple(said))


def explain_as(state: State, holder: Holder, verb: str, table: str, *, why: bool = True) -> Explanation:
    """Return whether a holder of rules may do `verb`, and by which roles. `why`: also who granted them."""
    right, op = check_verb(verb)
    decision = holder.decide(right, table, op)
    who = holder.name or "an anonymous caller"
    said = [f"{who} {'may' if decision.allowed else 'may not'} {verb}{f' {table}' if table else ''}"]
    said += _allowing(decision, why) if decision.allowed else _denying(state, holder.name, right, table, why)
    if decision.allowed and right in DANGEROUS:
        said.append(f"{verb} cannot be undone: each call needs a reason")
    return Explanation(decision.allowed, state.seq, tuple(said))


def _allowing(decision: Decision, why: bool) -> Iterator[str]:
    for held in decision.held:
        by = f", granted in commit {held.by.seq}{_by(held.by)}" if held.by and why else ""
        yield f"by role {held.role}{_limits(held.rule.tables)}{_limits(held.tables, 'granted on')}{by}"
        for words in words_of(held.rule.rows, held.rule.comparisons):
            yield f"only rows with {words}"
        if held.rule.hidden:
            yield f"without the fields {', '.join(held.rule.hidden)}"


def _denying(state: State, who: str, right: int, table: str, why: bool) -> Iterator[str]:
    granted = state.granted(who)
    for grant, by in granted.items():
        known = state.role(grant.role)
        if known is None:
            yield f"role {grant.role} does not exist"
        else:
            on = _limits(grant.tables, "granted on")
            granted_by = f" (granted in commit {by.seq}{_by(by)})" if why else ""
            yield f"role {grant.role}{on} does not give it{granted_by}"
    if not granted:
        yield f"no role is granted to {who}"
    word = next(word for word, number in RIGHTS.items() if number == right)
    sufficient = [name for name, role in READY.items() if any(word in rule.rights for rule in role.rules)]
    on = f" --table {quote(table)}" if table and right in BY_TABLE else ""
    yield f"to allow it: everlog access grant {quote(who)} {sufficient[0]}{on}"


def _limits(tables: tuple[str, ...], word: str = "on") -> str:
    return f" {word} {', '.join(tables)}" if tables else ""


def _by(change: Change) -> str:
    who = f" by {change.actor}{marked(change.proof)}" if change.actor else ""
    return f" at {time_text(change.time_ns)}{who}{f': {change.reason}' if change.reason else ''}"
