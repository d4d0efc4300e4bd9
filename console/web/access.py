"""Access: who may do what in a database, and why: grants, roles, tokens, and explanations.

/db/{database}/access                    identities with their roles
    ?revoke=ann&role=reader&table=book*  the form to take a role away
/db/{database}/access/roles              roles with their rules; ?remove=clerk
/db/{database}/access/tokens             tokens; ?rotate=ID, ?revoke=ID
/db/{database}/access/explain            ?who=ann&verb=delete&table=orders&key=17&field=price&at=812

Invariants
  (1) the text of a token is in one response, to the form that made it, and nowhere else;
  (2) what cannot be undone, or gives rights whose calls cannot be, asks for a typed name.
"""

from __future__ import annotations

import re
import time
from typing import Any

import msgspec
from starlette.responses import Response

from everlog.console.web.format import href
from everlog.console.web.page import Page, View, answered, render, route
from everlog.console.web.tables import encoded_key
from everlog.store.errors import RowError
from everlog.store.upkeep.access import NewToken, Shown
from everlog.store.upkeep.allowance import LIMITS
from everlog.store.upkeep.conditions import read_conditions, words_of
from everlog.store.upkeep.roles import DANGEROUS, OPS, RIGHTS, Issued, Role, Rule

TABS = (("", "Identities"), ("roles", "Roles"), ("tokens", "Tokens"), ("explain", "Explain"))
_OPERATOR = re.compile(r"\s*(<=|>=|\^=|[=<>])\s*")
SOON_NS, DAY_NS = 30 * 86_400 * 10**9, 86_400 * 10**9
DAYS_MAX = 36_500.0

CONFIRMED = frozenset(word for word, number in RIGHTS.items() if number in DANGEROUS) | {"grant"}


def access(view: View) -> Page:
    found, now_ns = view.db.access.show(), time.time_ns()
    identities: dict[str, list[dict[str, Any]]] = {}
    for grant, change in found.grants:
        one = {"role": grant.role, "tables": list(grant.tables), "change": msgspec.to_builtins(change)}
        identities.setdefault(grant.identity, []).append(one)
    tokens = [one for one in found.tokens if one.valid(view.db.uuid, now_ns)]
    values = {
        "seq": found.seq,
        "identities": [
            {
                "identity": name,
                "grants": identities.get(name, []),
                "tokens": sum(one.token.name == name for one in tokens),
                "token_roles": sorted(
                    {role for one in tokens if one.token.name == name for role in one.token.roles}
                ),
            }
            for name in sorted({*identities, *(one.token.name for one in tokens)})
        ],
        "audits": [
            {"table": table, "share": share, "change": msgspec.to_builtins(change)}
            for table, share, change in found.audits
        ],
        "problems": found.problems,
    }
    chosen = {
        "identity": view.query("revoke") or view.field("identity"),
        "role": view.query("role") or view.field("role"),
        "tables": view.queries("table") or view.field("tables").split(),
    }
    shown = {
        **_shell(view, ""),
        "chosen": chosen if view.query("revoke") or view.field("revoke") == "1" else None,
        "roles_known": [role.name for role, _ in found.roles],
        "dangerous": sorted(role.name for role, _ in found.roles if _is_dangerous(role)),
        "tables_known": sorted(view.db.schema.tables),
    }
    return Page("access.html", values, 200, shown)


def _shell(view: View, tab: str) -> dict[str, Any]:
    """Return what every page of this section needs."""
    return {"tabs": TABS, "tab": tab, "may_grant": "grant" in view.rights}


def _is_dangerous(role: Role) -> bool:
    return any(right in CONFIRMED for rule in role.rules for right in rule.rights)


def _role(found: Shown, name: str) -> Role | None:
    return next((role for role, _ in found.roles if role.name == name), None)


def _home(view: View, *parts: str) -> str:
    return href("db", view.database, "access", *parts)


def grant(view: View) -> Page | Response:
    def work() -> Response:
        who, name, reason = view.field("identity").strip(), view.field("role"), view.reason()
        role = _role(view.db.access.show(), name)
        if role is not None and _is_dangerous(role):
            view.check_typed(who)
        seq = view.db.access.grant(who, name, tuple(view.field("tables").split()), reason=reason)
        return view.done(_home(view), _words(seq, f"{who} has the role {name}"))

    return answered(view, work, access)


def revoke(view: View) -> Page | Response:
    def work() -> Response:
        who, name = view.field("identity"), view.field("role")
        view.check_typed(who)
        tables = tuple(view.field("tables").split())
        seq = view.db.access.revoke(who, name, tables or None, reason=view.reason())
        return view.done(_home(view), _words(seq, f"{who} lost the role {name}"))

    return answered(view, work, access)


def audit(view: View) -> Page | Response:
    def work() -> Response:
        table, word = view.field("table"), view.field("percent").strip() or "100"
        try:
            percent = float(word)
        except ValueError:
            percent = -1.0
        if not 0 <= percent <= 100:
            raise RowError(f"expected a share of reads from 0 to 100 %, found {word[:40]!r}")
        seq = view.db.access.audit(table, percent / 100, reason=view.reason())
        return view.done(_home(view), _words(seq, f"{percent:g} % of the reads of {table} are recorded"))

    return answered(view, work, access)


def _words(seq: int, text: str) -> str:
    return f"{text} (commit {seq:,})." if seq else "Nothing had to change."


# roles


def roles(view: View) -> Page:
    found = view.db.access.show()
    used = [grant.role for grant, _ in found.grants]
    values = {
        "roles": [
            {
                "name": role.name,
                "ready": change is None,
                "rules": [_rule(rule) for rule in role.rules],
                "audited": role.audited,
                "limits": [
                    f"{value:,} {LIMITS[name].what}" if value else f"{LIMITS[name].what}: no limit"
                    for name, value in role.allowance.by_name()
                ],
                "granted": used.count(role.name),
                "change": msgspec.to_builtins(change),
            }
            for role, change in found.roles
        ]
    }
    removed = view.query("remove") or (view.field("name") if view.field("remove") == "1" else "")
    shown = {
        **_shell(view, "roles"),
        "removed": removed,
        "rights_known": [(word, number in DANGEROUS) for word, number in RIGHTS.items()],
        "chosen": set(view.form.getlist("right")),
        "ops_chosen": set(view.form.getlist("op")),
    }
    return Page("roles.html", values, 200, shown)


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "rights": list(rule.rights),
        "tables": list(rule.tables),
        "ops": list(rule.ops),
        "rows": {field: list(values) for field, values in sorted(rule.rows.items())},
        "conditions": list(words_of(rule.rows, rule.comparisons)),
        "hidden": list(rule.hidden),
    }


def define(view: View) -> Page | Response:
    def work() -> Response:
        name, reason = view.field("name").strip(), view.reason()
        rows, comparisons = read_conditions(_conditions(view.field("rows")))
        made = Rule(
            tuple(str(one) for one in view.form.getlist("right")),
            tuple(view.field("tables").split()),
            tuple(str(one) for one in view.form.getlist("op")),
            rows,
            tuple(view.field("hidden").split()),
            comparisons=comparisons,
        )
        known = _role(view.db.access.show(), name) if view.field("add") == "1" else None
        before = known or Role(name, ())
        role = Role(name, (*before.rules, made), before.audited, before.allowance)
        if _is_dangerous(role):
            view.check_typed(name)
        return view.done(
            _home(view, "roles"),
            _words(view.db.access.define(role, reason=reason), f"Role {name} is defined"),
        )

    return answered(view, work, roles)


def _conditions(text: str) -> list[str]:
    """Return the conditions on rows, one a line, without spaces around their operator."""
    return [_OPERATOR.sub(r"\1", line, count=1) for line in filter(None, map(str.strip, text.splitlines()))]


def remove_role(view: View) -> Page | Response:
    def work() -> Response:
        name = view.field("name")
        view.check_typed(name)
        seq = view.db.access.remove_role(name, reason=view.reason())
        return view.done(_home(view, "roles"), _words(seq, f"Role {name} is removed"))

    return answered(view, work, roles)


# tokens


def tokens(view: View) -> Page:
    found, now_ns, uuid = view.db.access.show(), time.time_ns(), view.db.uuid
    every = view.query("all") == "1"
    valid = [one for one in found.tokens if one.valid(uuid, now_ns)]
    told = [_token(one, uuid, now_ns) for one in sorted(found.tokens, key=lambda one: -one.created.seq)]
    id = view.query("rotate") or view.query("revoke") or view.field("id")
    values = {"tokens": [one for one in told if every or one["valid"]], "ended": len(told) - len(valid)}
    shown = {
        **_shell(view, "tokens"),
        "every": every,
        "chosen": next((one for one in told if one["id"] == id and one["valid"]), None),
        "verb": "rotate" if view.query("rotate") or view.field("verb") == "rotate" else "revoke",
        "roles_known": [role.name for role, _ in found.roles],
        "roles_chosen": set(view.form.getlist("role")),
        "once": view.session.leave("token"),
        "first": not found.tokens and not view.session.signed_in,
    }
    return Page("tokens.html", values, 200, shown)


def _token(one: Issued, uuid: bytes, now_ns: int) -> dict[str, Any]:
    valid = one.valid(uuid, now_ns)
    soon = valid and 0 < one.ends_ns - now_ns < SOON_NS
    kind, state = ("waiting", "Ends soon") if soon else ("ok", "Valid") if valid else ("", "Ended")
    return {
        "id": one.token.id,
        "name": one.token.name,
        "roles": list(one.token.roles),
        "valid": valid,
        "kind": kind,
        "state": state,
        "ends_ns": one.ends_ns,
        "created": msgspec.to_builtins(one.created),
        "ended": msgspec.to_builtins(one.ended),
    }


def create_token(view: View) -> Page | Response:
    def work() -> Response:
        name, reason = view.field("name").strip(), view.reason()
        wanted = tuple(str(one) for one in view.form.getlist("role"))
        ends_ns = _ends_ns(view)
        known = view.db.access.show()
        if any(role.name in wanted and _is_dangerous(role) for role, _ in known.roles):
            view.check_typed(name)
        _take_once(view)
        return _made(view, view.db.access.create_token(name, wanted, expires_ns=ends_ns, reason=reason))

    return answered(view, work, tokens)


def rotate_token(view: View) -> Page | Response:
    def work() -> Response:
        hours, reason = _number(view, "hours", "0"), view.reason()
        view.check_typed(view.field("name"))
        _take_once(view)
        return _made(view, view.db.access.rotate_token(view.field("id"), keep_s=hours * 3600, reason=reason))

    return answered(view, work, tokens)


def revoke_token(view: View) -> Page | Response:
    def work() -> Response:
        view.check_typed(view.field("name"))
        seq = view.db.access.revoke_token(view.field("id"), reason=view.reason())
        return view.done(_home(view, "tokens"), _words(seq, f"The token of {view.field('name')} has ended"))

    return answered(view, work, tokens)


def _made(view: View, made: NewToken) -> Response:
    """Return the only response with the text of a token. It asks the server for nothing: after the first
    token of a server, a caller without one has no rights any more."""
    values = {"id": made.token.id, "name": made.token.name, "seq": made.seq}
    shown = {"text": made.text, "ends_ns": made.token.expires_ns, "reached": True}
    return render(view, Page("token.html", values, 200, shown))


def _take_once(view: View) -> None:
    """Raise RowError if the form was sent before: to load its page again would make another token."""
    if not view.session.take(view.field("once")):
        raise RowError("this form was sent already; fill it in again to make another token")


def _ends_ns(view: View) -> int:
    days = _number(view, "days", "90")
    return time.time_ns() + round(days * DAY_NS) if days else 0


def _number(view: View, name: str, default: str) -> float:
    word = view.field(name).strip() or default
    try:
        found = float(word)
    except ValueError:
        found = -1.0
    if not 0 <= found <= DAYS_MAX:
        raise RowError(f"expected {name} as a number from 0 to {DAYS_MAX:,.0f}, found {word[:40]!r}")
    return found


# why


def explain(view: View) -> Page:
    who, verb, table = view.query("who").strip(), view.query("verb"), view.query("table")
    key, field, at = view.query("key").strip(), view.query("field").strip(), view.whole("at")
    values: dict[str, Any] = {"who": who, "verb": verb, "table": table, "asked": bool(who and verb)}
    problem = ""
    if values["asked"]:
        try:
            if key and not table:
                raise RowError("expected the table of the row as well")
            words = encoded_key(view.db.refresh_schema().table(table), key.split("/")) if key else None
            found = view.db.access.explain(who, verb, table, key=words, field=field, at=at or None)
        except RowError as error:
            problem = str(error)
        else:
            values |= {"allowed": found.allowed, "seq": found.seq, "because": list(found.sentences)}
    shown = {
        **_shell(view, "explain"),
        "problem": problem,
        "verbs": [*RIGHTS, *OPS],
        "tables_known": sorted(view.db.schema.tables),
    }
    return Page("explain.html", {**values, "problem": problem}, 200, shown)


ROUTES = [
    *route("/db/{database}/access", access, "GET"),
    *route("/db/{database}/access/grant", grant, "POST"),
    *route("/db/{database}/access/revoke", revoke, "POST"),
    *route("/db/{database}/access/audit", audit, "POST"),
    *route("/db/{database}/access/roles", roles, "GET"),
    *route("/db/{database}/access/roles", define, "POST"),
    *route("/db/{database}/access/roles/remove", remove_role, "POST"),
    *route("/db/{database}/access/tokens", tokens, "GET"),
    *route("/db/{database}/access/tokens", create_token, "POST"),
    *route("/db/{database}/access/tokens/rotate", rotate_token, "POST"),
    *route("/db/{database}/access/tokens/revoke", revoke_token, "POST"),
    *route("/db/{database}/access/explain", explain, "GET"),
]
