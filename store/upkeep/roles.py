"""Roles: what a caller may do, as values: roles, rules, grants and tokens, and the decision about one call.

    identity ─ grants, or the roles of its token ─▶ roles ─▶ rules ─▶ Decision: allowed, and what it may see

    rule    := rights [on tables] [operations] [rows: conditions] [hidden fields]
    tables  := a name, or a pattern in which * stands for any characters; none: all tables
    row     := every condition holds: the field has one of the values; $who is the caller's name

A rule with conditions or hidden fields is bound to the tables and fields of the schema in which it is defined
(visibility.py): by id and number, so that it follows renames. It gives nothing on other tables.

Ready-made roles are constants of this module. Their content may grow with the program; own roles, which are
in the log, do not change by themselves.

Invariants
  (1) what no rule allows is denied; rules only add, so an unknown role, right or field takes nothing away but
      what it would have given;
  (2) a right about the database as a whole is given only by a rule without limits of tables, rows and fields;
  (3) a `State` is a value: it says what holds after one record of the log, and does not change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import msgspec
from google.protobuf.unknown_fields import UnknownFieldSet

from everlog.proto import access_pb2 as pb
from everlog.proto import log_pb2
from everlog.store.errors import RowError
from everlog.store.schema import arguments
from everlog.store.tx.transaction import proof_name
from everlog.store.upkeep.allowance import (
    NOTHING,
    Allowance,
    allowance_of,
    check_allowance,
    message_of_allowance,
    most,
)
from everlog.store.upkeep.conditions import (
    EQUAL,
    Comparison,
    are_known,
    check_comparisons,
    comparison_of,
    messages_of,
)

NAME_BYTES_MAX = 200
ASKED_MAX = 1000  # characters of the name of a table or database in a request; no longer one has rights
LIST_MAX = 1000  # rules of a role, tables of a rule, conditions, values, hidden fields
ALL = "*"
WHO = "$who"  # as a value of a condition: the caller's name

RIGHTS = {name.lower(): number for name, number in pb.Right.items() if number}
OPS = {"put": log_pb2.PUT, "delete": log_pb2.DELETE}
# Rights on tables, which rules may limit to tables, operations, rows and fields.
BY_TABLE = frozenset({pb.READ, pb.WRITE, pb.LOAD, pb.FEED, pb.HISTORY})
# Rights whose answers have only what the caller may see, so that rules with limits give them as well.
ANSWERS_LIMITED = BY_TABLE | {pb.STATUS, pb.CONSUMERS}
# Rights whose calls cannot be undone. A role has them only by name.
DANGEROUS = frozenset({pb.ROLLBACK, pb.RESTORE, pb.FORGET, pb.RELEASE, pb.REMOVE, pb.DROP})

_PATTERN = re.compile(r"[^\s?\[\]]+")
_FIELD = re.compile(r"\w+(\.\w+)*")


class Binding(msgspec.Struct, frozen=True):
    """A table that a rule with limits is about, by id and by its name when the role was defined; the space of
    its rows at that time; and the numbers of the fields."""

    table: int
    name: str
    space: int
    fields: dict[str, tuple[int, ...]]


class Rule(msgspec.Struct, frozen=True):
    """Rights, as words such as `read`, and their limits; an empty limit is none.

    `tables`: names or patterns. `ops`: `put`, `delete`. `rows`: for each field the values it may have.
    `comparisons`: other conditions on rows.
    `hidden`: the fields that are left out. `bindings`: set when the role is defined, if it limits rows or
    fields.
    """

    rights: tuple[str, ...]
    tables: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    rows: dict[str, tuple[str, ...]] = {}
    hidden: tuple[str, ...] = ()
    bindings: tuple[Binding, ...] = ()
    comparisons: tuple[Comparison, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether it has no limits."""
        return not (self.ops or self.limited) and (not self.tables or ALL in self.tables)

    @property
    def limited(self) -> bool:
        """Whether it limits rows or fields."""
        return bool(self.rows or self.hidden or self.comparisons)

    @property
    def unbound(self) -> Rule:
        """The rule as it is written."""
        return msgspec.structs.replace(self, bindings=())


class Role(msgspec.Struct, frozen=True):
    """A named set of rules. `audited`: the share of its reads that the read audit records, 0 to 1.
    `allowance`: how much its holders may have at a server."""

    name: str
    rules: tuple[Rule, ...]
    audited: float = 0.0
    allowance: Allowance = NOTHING


class Grant(msgspec.Struct, frozen=True):
    """A role given to an identity; `tables` limits its rules further."""

    identity: str
    role: str
    tables: tuple[str, ...] = ()


class Token(msgspec.Struct, frozen=True):
    """A token, without its text. `expires_ns`: 0 never. `roles`: those of its calls; none: those of its
    name."""

    id: str
    name: str
    sha256: bytes
    expires_ns: int = 0
    roles: tuple[str, ...] = ()
    database: bytes = b""
    replaces: str = ""
    replaced_ends_ns: int = 0


class Change(msgspec.Struct, frozen=True):
    """The commit that changed something."""

    seq: int
    time_ns: int
    actor: str
    reason: str
    proof: str = "claimed"


class Issued(msgspec.Struct, frozen=True):
    """A token of the log: when it ends (0: never), and the commit that revoked or replaced it."""

    token: Token
    created: Change
    ends_ns: int
    ended: Change | None = None

    def valid(self, database: bytes, now_ns: int) -> bool:
        """Return whether the token is accepted in this database at this time."""
        return self.token.database == database and (not self.ends_ns or now_ns < self.ends_ns)


def _ready(name: str, *rights: str) -> Role:
    return Role(name, (Rule(rights),))


_READER = ("read", "history", "status")
_OPERATOR = (
    *(
        "status",
        "check",
        "prove",
        "rebuild",
        "archive",
        "backup",
        "hold",
        "consumers",
        "sign",
        "admin",
        "audit",
    ),
)
# The ready-made roles, by name.
READY = {
    role.name: role
    for role in (
        _ready("reader", *_READER),
        _ready("writer", *_READER, "write", "load"),
        _ready("follower", "feed", "consumers", "status", "keys"),
        _ready("migrator", "migrate", "propose", "status"),
        _ready("approver", "approve", "status"),
        _ready("auditor", *_READER, "check", "prove", "audit"),
        _ready("operator", *_OPERATOR),
        _ready("member", "join"),
        _ready("owner", *RIGHTS),
    )
}
OWNER = READY["owner"]


class Held(NamedTuple):
    """A rule that an identity has: of which role, within which tables, and by which grant (None: its token,
    or the server's configuration)."""

    rule: Rule
    role: str
    tables: tuple[str, ...] = ()
    by: Change | None = None

    def gives(self, right: int, table: str, op: str, id: int = 0) -> bool:
        """Return whether it gives a right; `table` and `op` may be empty, for any. `id`: of the table."""
        rule = self.rule
        if right not in _numbers(rule.rights) or (op and rule.ops and op not in rule.ops):
            return False
        if right not in ANSWERS_LIMITED and not self.whole:
            return False
        if table and rule.limited:
            return self.bound(table, id) is not None
        return not table or (matches(rule.tables, table) and matches(self.tables, table))

    def bound(self, table: str, id: int) -> Binding | None:
        """Return the binding of a rule with limits to the table of this name and id (0: no table has the name
        any more); None: it is not bound to it."""
        for one in self.rule.bindings:
            is_it = one.table == id or (not id and one.name == table)
            if is_it and any(matches(self.tables, name) for name in (table, one.name)):
                return one
        return None

    @property
    def whole(self) -> bool:
        return self.rule.whole and (not self.tables or ALL in self.tables)


class Visibility(NamedTuple):
    """What one rule of a role lets see of a table: rows for which all conditions hold, without the hidden
    fields, by the names and numbers of the rule's binding."""

    role: str
    binding: Binding
    rows: tuple[tuple[str, str, frozenset[str]], ...]  # field, how it compares, values
    hidden: tuple[str, ...]


class Decision(NamedTuple):
    """The decision about one right on one table, or on any.

    `visibility`: None: unlimited; else a row is visible if one of them shows it. `whole`: unlimited on all
    tables. `held`: the rules that give the right.
    """

    allowed: bool
    visibility: tuple[Visibility, ...] | None = None
    whole: bool = False
    held: tuple[Held, ...] = ()


DENIED = Decision(allowed=False)


def _no_id(_: str) -> int:
    return 0


class Holder:
    """The rules that one identity has in one state. Decisions are kept, so that the next is a look-up."""

    def __init__(
        self,
        name: str,
        held: Iterable[Held],
        id_of: Callable[[str], int] = _no_id,
        audited: float = 0.0,
        allowance: Allowance = NOTHING,
    ) -> None:
        """`id_of`: returns the id of the table that has a name now; 0: none. `audited`: the share of its
        reads of any table that are recorded. `allowance`: of its roles."""
        self.name = name
        self.audited = audited
        self.allowance = allowance
        self.held = tuple(held)
        # Whether some rule limits rows or fields.
        self.limited = any(one.rule.limited for one in self.held)
        self._id_of = id_of
        self._decided: dict[tuple[int, str, str, int], Decision] = {}

    def decide(self, right: int, table: str = "", op: str = "") -> Decision:
        """Return the decision about a right on a table; empty: on any."""
        if len(table) > ASKED_MAX:  # neither kept nor matched: both cost its length, patterns its square
            return DENIED
        id = self._id_of(table) if self.limited and table else 0
        found = self._decided.get((right, table, op, id))
        if found is None:
            if len(self._decided) > LIST_MAX:  # names come from callers
                self._decided.clear()
            found = self._decided[right, table, op, id] = self._decide(right, table, op, id)
        return found

    def bound(self, right: int, id: int) -> tuple[Visibility, ...]:
        """Return what the rules show that are bound to a table by its id, also if it was dropped."""
        return tuple(
            self._visibility(one, binding)
            for one in self.held
            if one.rule.limited and right in _numbers(one.rule.rights)
            for binding in one.rule.bindings
            if binding.table == id
        )

    def rights(self) -> list[int]:
        """Return all rights that it has, on some table at least."""
        return [right for right in RIGHTS.values() if self.decide(right).allowed]

    def sees(self, table: str) -> bool:
        """Return whether it has some right on a table, and so may know of it."""
        return any(self.decide(right, table).allowed for right in BY_TABLE) or self.everywhere

    @cached_property
    def rules(self) -> frozenset[tuple[str, tuple[str, ...]]]:
        """What decides about rows, fields and tables, without who granted it, to be compared."""
        return frozenset((str(one.rule), one.tables) for one in self.held)

    @property
    def everywhere(self) -> bool:
        """Whether some rule has no limits: such a caller may know the names of all tables."""
        return any(one.whole for one in self.held)

    def _decide(self, right: int, table: str, op: str, id: int) -> Decision:
        held = tuple(one for one in self.held if one.gives(right, table, op, id))
        if not held:
            return DENIED
        whole = any(one.whole for one in held)
        plain = [one for one in held if not one.rule.limited]
        if plain and (table or whole):
            return Decision(True, None, whole, held)
        bound = [(one, one.bound(table, id)) for one in held] if table else []
        return Decision(True, tuple(self._visibility(one, to) for one, to in bound if to), whole, held)

    def _visibility(self, held: Held, binding: Binding) -> Visibility:
        rows = tuple(
            (
                field,
                EQUAL,
                frozenset(
                    self.name if value == WHO else value for value in values if value != WHO or self.name
                ),
            )
            for field, values in held.rule.rows.items()
        )
        rows += tuple((one.field, one.how, frozenset(one.values)) for one in held.rule.comparisons)
        return Visibility(held.role, binding, rows, held.rule.hidden)


class State:
    """Roles, grants and tokens after one record of the log, each with the commit that made it."""

    def __init__(self, seq: int = 0, id_of: Callable[[str], int] = _no_id) -> None:
        """`id_of`: returns the id of the table that has a name then; 0: none."""
        self.seq = seq
        self.id_of = id_of
        self.roles: dict[str, tuple[Role, Change]] = {}
        self.grants: dict[Grant, Change] = {}
        self.tokens: dict[str, Issued] = {}
        # By id of the table: its name then, and the share of its reads that are recorded.
        self.audits: dict[int, tuple[str, float, Change]] = {}
        self._holders: dict[tuple[str, tuple[str, ...]], Holder] = {}

    def share(self, table: int) -> float:
        """Return the share of the reads of a table, by its id, that are recorded."""
        return self.audits[table][1] if table in self.audits else 0.0

    def role(self, name: str) -> Role | None:
        """Return a ready-made or own role; None if there is none of that name."""
        return READY.get(name) or self.roles.get(name, (None,))[0]

    def holder(self, name: str, roles: tuple[str, ...] = ()) -> Holder:
        """Return what an identity has: these roles, or those granted to its name."""
        found = self._holders.get((name, roles))
        if found is None:
            if len(self._holders) > LIST_MAX:
                self._holders.clear()
            held = tuple(self._held(name, roles))
            own = [self.roles[one.role][0] for one in held if one.role in self.roles]
            audited, allowed = (
                max((one.audited for one in own), default=0.0),
                most(one.allowance for one in own),
            )
            found = self._holders[name, roles] = Holder(name, held, self.id_of, audited, allowed)
        return found

    def granted(self, name: str) -> dict[Grant, Change]:
        """Return the grants of an identity."""
        return {grant: by for grant, by in self.grants.items() if grant.identity == name} if name else {}

    def _held(self, name: str, roles: tuple[str, ...]) -> Iterator[Held]:
        given: list[tuple[str, tuple[str, ...], Change | None]] = [(role, (), None) for role in roles]
        if not roles:
            given = [(grant.role, grant.tables, by) for grant, by in self.granted(name).items()]
        for role, tables, by in given:
            known = self.role(role)
            for rule in known.rules if known else ():
                yield Held(rule, role, tables, by)

    def take(self, seq: int, commit: log_pb2.Commit, kind: str) -> None:
        """Apply one Notice. `kind` is the part after the dot of its kinds; see `access`."""
        notice = commit.notice
        change = Change(seq, commit.time_ns, commit.actor, commit.reason, proof_name(commit.proof))
        if kind == "role":
            self.roles[notice.subject] = role_of(pb.Role.FromString(notice.detail)), change
        elif kind == "role.removed":
            self.roles.pop(notice.subject, None)
        elif kind == "granted":
            self.grants[grant_of(pb.Grant.FromString(notice.detail))] = change
        elif kind == "revoked":
            self.grants.pop(grant_of(pb.Grant.FromString(notice.detail)), None)
        elif kind == "created":
            token = token_of(pb.Token.FromString(notice.detail))
            self.tokens[token.id] = Issued(token, change, token.expires_ns)
            if token.replaces:
                self._end(token.replaces, token.replaced_ends_ns or change.time_ns, change)
        elif kind == "audited":
            audited = pb.Audited.FromString(notice.detail)
            self.audits.pop(audited.table, None)
            if audited.share:
                self.audits[audited.table] = notice.subject, audited.share, change
        else:
            self._end(notice.subject, change.time_ns, change)

    def _end(self, id: str, ends_ns: int, by: Change) -> None:
        known = self.tokens.get(id)
        if known is not None:
            ends_ns = min(ends_ns, known.ends_ns or ends_ns)
            self.tokens[id] = Issued(known.token, known.created, ends_ns, by)


@lru_cache(512)
def _numbers(rights: tuple[str, ...]) -> frozenset[int]:
    return frozenset(RIGHTS.get(one, 0) for one in rights)


def matches(patterns: tuple[str, ...], table: str) -> bool:
    """Return whether a table is one of those; no patterns are all."""
    return not patterns or table in patterns or any(_compiled(one).fullmatch(table) for one in patterns)


@lru_cache(1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split(ALL)), re.DOTALL)


# messages


def role_of(message: pb.Role) -> Role:
    """Decode a role. What this program does not know gives nothing: rights, operations, rules with other
    limits."""
    known = {number: word for word, number in RIGHTS.items()}
    ops = {number: word for word, number in OPS.items()}
    return Role(
        message.name,
        tuple(
            Rule(
                tuple(known[right] for right in rule.rights if right in known),
                tuple(rule.tables),
                tuple(ops.get(op, "?") for op in rule.ops),
                {one.field: tuple(one.values) for one in rule.rows if not one.comparison},
                tuple(rule.hidden),
                tuple(
                    Binding(one.table, one.name, one.space, {it.name: tuple(it.numbers) for it in one.fields})
                    for one in rule.bindings
                ),
                tuple(comparison_of(one) for one in rule.rows if one.comparison),
            )
            for rule in message.rules
            if _is_known(rule)
        ),
        message.audited,
        allowance_of(message.allowance),
    )


def _is_known(rule: pb.Rule) -> bool:
    """Return whether a rule has no limit that this program does not know."""
    return are_known(rule.rows) and not any(len(UnknownFieldSet(one)) for one in (rule, *rule.rows))


def message_of_role(role: Role) -> pb.Role:
    """Encode a role, which was checked."""
    return pb.Role(
        name=role.name,
        rules=[
            pb.Rule(
                rights=[pb.Right.ValueType(RIGHTS[right]) for right in rule.rights],
                tables=rule.tables,
                ops=[OPS[op] for op in rule.ops],
                rows=messages_of(rule.rows, rule.comparisons),
                hidden=rule.hidden,
                bindings=[
                    pb.Binding(
                        table=one.table,
                        name=one.name,
                        space=one.space,
                        fields=[
                            pb.BoundField(name=name, numbers=numbers)
                            for name, numbers in sorted(one.fields.items())
                        ],
                    )
                    for one in rule.bindings
                ],
            )
            for rule in role.rules
        ],
        audited=role.audited,
        allowance=message_of_allowance(role.allowance) if role.allowance else None,
    )


def grant_of(message: pb.Grant) -> Grant:
    return Grant(message.identity, message.role, tuple(message.tables))


def message_of_grant(grant: Grant) -> pb.Grant:
    return pb.Grant(identity=grant.identity, role=grant.role, tables=grant.tables)


def token_of(message: pb.Token) -> Token:
    return Token(
        message.id,
        message.name,
        message.sha256,
        message.expires_ns,
        tuple(message.roles),
        message.database,
        message.replaces,
        message.replaced_ends_ns,
    )


def message_of_token(token: Token) -> pb.Token:
    return pb.Token(**{**msgspec.structs.asdict(token), "roles": list(token.roles)})


# arguments


def check_name(name: Any, what: str) -> str:
    """Return the name of a role or an identity. Raises RowError."""
    arguments.text(name, what)
    if not name.isprintable() or name != name.strip() or not 0 < len(name.encode()) <= NAME_BYTES_MAX:
        raise RowError(
            f"expected {what} of 1 to {NAME_BYTES_MAX} bytes, without line ends, found {name!r}", name=name
        )
    return str(name)


def check_tables(tables: Any) -> tuple[str, ...]:
    """Return names and patterns of tables. Raises RowError."""
    found = tuple(arguments.several(tables, "tables"))
    for one in found:
        if not _PATTERN.fullmatch(arguments.text(one, "tables")):
            raise RowError(f"expected the name of a table, or a pattern with *, found {one!r}")
    return _few(found, "tables")


def check_role(role: Any) -> Role:
    """Return a role, checked and without duplicates. Raises RowError."""
    if not isinstance(role, Role):
        raise RowError(f"expected a Role, found {type(role).__name__} {role!r}")
    check_name(role.name, "the name of a role")
    if role.name in READY:
        raise RowError(f"{role.name} is a ready-made role; define yours under another name", name=role.name)
    audited: Any = role.audited
    if not isinstance(audited, int | float) or not 0 <= audited <= 1:
        raise RowError(f"expected `audited` from 0 to 1, found {audited!r}")
    if not role.rules:
        raise RowError(f"expected at least one rule in role {role.name}, found none")
    rules = tuple(_check_rule(rule) for rule in _few(tuple(role.rules), "rules"))
    return Role(role.name, rules, float(role.audited), check_allowance(role.allowance))


def check_verb(verb: Any) -> tuple[int, str]:
    """Return the number of a right, and the operation: `put` and `delete` are operations of `write`. Raises
    RowError."""
    arguments.text(verb, "the right")
    if verb in OPS:
        return pb.WRITE, verb
    if verb not in RIGHTS:
        raise RowError(f"expected a right ({', '.join(sorted(RIGHTS))}), put or delete, found {verb!r}")
    return RIGHTS[verb], ""


def _check_rule(rule: Any) -> Rule:
    if not isinstance(rule, Rule):
        raise RowError(f"expected a Rule, found {type(rule).__name__} {rule!r}")
    rights = _few(tuple(dict.fromkeys(arguments.several(rule.rights, "rights"))), "rights")
    for right in rights:
        if right not in RIGHTS:
            raise RowError(f"expected a right of {', '.join(sorted(RIGHTS))}, found {right!r}")
    if not rights:
        raise RowError("expected a rule with at least one right, found none")
    for op in arguments.several(rule.ops, "ops"):
        if op not in OPS:
            raise RowError(f"expected an operation of {', '.join(OPS)}, found {op!r}")
    if not isinstance(rule.rows, Mapping):
        raise RowError(f"expected `rows` as a dict of fields and values, found {type(rule.rows).__name__}")
    rows = {_field(name): _values(name, values) for name, values in rule.rows.items()}
    hidden = tuple(_field(name) for name in arguments.several(rule.hidden, "hidden"))
    made = Rule(
        rights,
        check_tables(rule.tables),
        tuple(rule.ops),
        rows,
        _few(hidden, "hidden fields"),
        tuple(rule.bindings),
        _few(check_comparisons(rule.comparisons), "comparisons"),
    )
    wide = sorted(right for right in rights if RIGHTS[right] not in ANSWERS_LIMITED)
    if wide and not made.whole:
        raise RowError(
            f"{', '.join(wide)}: expected a rule of its own without limits, because it concerns the whole"
            " database;"
            " found one with limits of tables, operations, rows or fields"
        )
    return made


def _field(name: Any) -> str:
    if not _FIELD.fullmatch(arguments.text(name, "a field")):
        raise RowError(f"expected the name of a field, such as tenant or owner.id, found {name!r}")
    return str(name)


def _values(name: str, values: Any) -> tuple[str, ...]:
    found = tuple(arguments.text(one, f"a value of {name}") for one in arguments.several(values, "values"))
    if not found:
        raise RowError(f"expected values that {name} may have, found none")
    return _few(found, "values")


def _few(found: tuple[Any, ...], what: str) -> tuple[Any, ...]:
    if len(found) > LIST_MAX:
        raise RowError(f"expected at most {LIST_MAX} {what}, found {len(found)}")
    return found
