"""Access: roles, grants and tokens of one database, in its log: `db.access`.

    define, grant, create_token … ─▶ Notice ─▶ a note in the tables ─▶ State, folded from all notes
                                                                        ├─▶ decisions of a server
                                                                        └─▶ explain: as of any record

    kind                  subject     detail
    access.role           role        everlog.v1.Role       replaces the role of that name
    access.role.removed   role
    access.granted        identity    everlog.v1.Grant
    access.revoked        identity    everlog.v1.Grant      the same as it was granted
    token.created         identity    everlog.v1.Token      its SHA-256, not its text
    token.revoked         token id
    access.audited        table       everlog.v1.Audited    the share of its reads that are recorded

A server enforces this (rpc/server/rights.py). A program that opens the files of a database is not restricted:
it could read them anyway.

    log trimmed            notes stay: state and explanations are complete
    rebuild                from the log, the same
    restore, to a record   as of that record: a later revocation is undone, so revoke again
    fork                   roles and grants as at the origin; its tokens end, because they name the origin's
    UUID

Invariants
  (1) the text of a token is nowhere but with its owner;
  (2) what was ever in force can be explained: notes are only added;
  (3) a change is durable before its call returns, and in force for every later call.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
from google.protobuf.message import DecodeError, Message

from everlog.proto import access_pb2, log_pb2
from everlog.store import keys, program_log
from everlog.store.core import Core
from everlog.store.errors import AccessError, CorruptionError, CursorError, RowError, SealedError
from everlog.store.history.past import Past
from everlog.store.schema import arguments, codec
from everlog.store.schema.arguments import Position, Time, nanoseconds, time_text
from everlog.store.schema.schema import Schema, TableInfo
from everlog.store.tables import projection as kinds
from everlog.store.tx.transaction import Metadata
from everlog.store.upkeep import roles as values
from everlog.store.upkeep import visibility
from everlog.store.upkeep.allowance import NOTHING, Allowance, LimitInForce, most
from everlog.store.upkeep.explanation import Explanation, explain, explain_as
from everlog.store.upkeep.read_audit import RecordedRead, check_asked_reads, recorded
from everlog.store.upkeep.roles import (
    OWNER,
    READY,
    RIGHTS,
    Change,
    Grant,
    Holder,
    Issued,
    Role,
    State,
    Token,
    check_name,
    check_tables,
    check_verb,
)

PREFIX = "evl_"  # of tokens, by which scanners of secrets find them
SECRET_BYTES, ID_BYTES = 32, 6
_CREATED = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")  # SECRET_BYTES in base64
_KINDS = {
    kinds.ROLE: "role",
    kinds.ROLE_REMOVED: "role.removed",
    kinds.GRANTED: "granted",
    kinds.REVOKED: "revoked",
    kinds.TOKEN: "created",
    kinds.TOKEN_REVOKED: "token.revoked",
    kinds.AUDITED: "audited",
}


class Shown(NamedTuple):
    """Roles (None: a ready-made one), grants, tokens and audited tables (name and share), each with the
    commit that made it, after record `seq`."""

    seq: int
    roles: list[tuple[Role, Change | None]]
    grants: list[tuple[Grant, Change]]
    tokens: list[Issued]
    problems: list[str]
    audits: list[tuple[str, float, Change]]


def shown(state: State, schema: Schema, problems: Iterable[str] = ()) -> Shown:
    """Return what a state holds, for people, with the names of tables in a schema. Tokens have no hashes."""
    names = {info.proto.id: name for name, info in schema.tables.items()}
    audits = [
        (names.get(id, f"{name} (dropped)"), share, change)
        for id, (name, share, change) in state.audits.items()
    ]
    ready: list[tuple[Role, Change | None]] = [(role, None) for role in READY.values()]
    tokens = [
        msgspec.structs.replace(one, token=msgspec.structs.replace(one.token, sha256=b""))
        for one in state.tokens.values()
    ]
    return Shown(
        state.seq, [*ready, *state.roles.values()], list(state.grants.items()), tokens, list(problems), audits
    )


def allowances(found: Shown) -> dict[str, Allowance]:
    """Return the limits that roles set, of each identity that has some by its grants."""
    said = {role.name: role.allowance for role, _ in found.roles}
    names: dict[str, list[Allowance]] = {}
    for grant, _ in found.grants:
        names.setdefault(grant.identity, []).append(said.get(grant.role, NOTHING))
    return {name: limits for name, several in names.items() if (limits := most(several))}


class Caller(NamedTuple):
    """A caller as a server sees it: how its name was proven, the end of the proof (nanoseconds since the Unix
    epoch; 0: never), its roles and rights in the database, and the limits of what it may have there."""

    name: str
    proof: str
    expires_ns: int
    roles: tuple[str, ...]
    rights: tuple[str, ...]
    limits: tuple[LimitInForce, ...] = ()


class NewToken(NamedTuple):
    """A token with its text, which cannot be had again."""

    text: str
    token: Token
    seq: int


def hash_of(text: str | bytes) -> bytes:
    """Return the SHA-256 of a token's text."""
    return hashlib.sha256(text if isinstance(text, bytes) else text.encode()).digest()


def is_created(text: str) -> bool:
    """Return whether a text has the form of a token that `new_token` returns: such a token cannot be
    guessed."""
    return _CREATED.fullmatch(text) is not None


def new_token(
    name: str, roles: tuple[str, ...] = (), expires_ns: int = 0, *, replaces: str = "", ends_ns: int = 0
) -> tuple[str, Token]:
    """Return the text of a new random token, and what the log keeps of it. Writes nothing."""
    text = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    token = Token(
        id=secrets.token_hex(ID_BYTES),
        name=name,
        sha256=hash_of(text),
        expires_ns=expires_ns,
        roles=roles,
        replaces=replaces,
        replaced_ends_ns=ends_ns,
    )
    return text, token


class Access:
    """Roles, grants and tokens of an open database. Safe to use from many threads."""

    def __init__(self, core: Core, past: Past) -> None:
        self._core = core
        self._past = past
        self._changing = threading.Lock()
        self._state: State | None = None
        self._wakers: list[Callable[[], None]] = []

    # what is in force

    @property
    def state(self) -> State:
        """The state in force, as this process has last read it. Read-only."""
        found = self._state
        return found if found is not None else self.refresh()

    def refresh(self) -> State:
        """Return the state in force, after looking for changes: those that another process wrote, for one.
        Read-only."""
        note = self._core.tables.get(keys.NOTE_ACCESS)
        seq: int = keys.SEQ.unpack(note)[0] if note else 0
        found = self._state
        if found is None or found.seq != seq:
            found = self._state = self.at(None)
            for wake in tuple(self._wakers):
                wake()
        return found

    def add_waker(self, wake: Callable[[], None]) -> None:
        """Call `wake` after each change of the state in force, in the thread that has found it."""
        self._wakers.append(wake)

    def remove_waker(self, wake: Callable[[], None]) -> None:
        """Undo `add_waker`."""
        self._wakers = [one for one in self._wakers if one != wake]

    def at(self, moment: Position | None, *, time_ns: int = 0) -> State:
        """Return the state after a record (a seq), at a time (not an int), or now. Read-only. `time_ns`: a
        time, in nanoseconds since the Unix epoch. Raises CursorError for a record that does not exist yet."""
        seq: int | None = None
        if isinstance(moment, int):
            seq, head = arguments.whole(moment, "a seq"), self._core.head
            if not 0 <= seq <= head:
                raise CursorError(f"expected a record up to {head}, found {seq}", seq=seq, head=head)
        elif moment is not None:
            time_ns = nanoseconds(moment)
        state = State(id_of=self._id_of)
        for found, commit in self._changes():
            if (seq is not None and found > seq) or (time_ns and commit.time_ns > time_ns):
                break
            try:
                state.take(found, commit, _KINDS[commit.notice.kind])
            except DecodeError as error:
                raise CorruptionError(
                    f"the change of access in commit {found} cannot be read: {error}"
                ) from None
            state.seq = found
        if moment is not None or time_ns:
            state.id_of = _id_in(
                self._past.schemas.at(self._position(time_ns, state) if seq is None else seq)
            )
        return state

    def _position(self, time_ns: int, state: State) -> int:
        try:
            return self._past.position(time=time_ns)
        except CursorError:  # the log does not reach back to it
            return state.seq

    def _id_of(self, table: str) -> int:
        info = self._core.schema.tables.get(table)
        return 0 if info is None else int(info.proto.id)

    def roles(self) -> list[Role]:
        """Return all roles, the ready-made ones first. Read-only."""
        return [*READY.values(), *(role for role, _ in self.state.roles.values())]

    def grants(self) -> list[Grant]:
        """Return all grants. Read-only."""
        return list(self.state.grants)

    def tokens(self) -> list[Issued]:
        """Return all tokens of the log, also ended ones, oldest first. Read-only."""
        return list(self.state.tokens.values())

    def show(self, at: Position | None = None) -> Shown:
        """Return all roles, grants and tokens with the commits that made them, and what an operator should
        repair; or those as of a record or a time. Read-only. Raises CursorError."""
        if at is not None:
            return shown(self.at(at), self._core.schema)
        return shown(self.refresh(), self._core.schema, self.problems())

    def whoami(self) -> Caller:
        """Return the caller: a program that opens the files of a database may do everything. Read-only."""
        return Caller("", "files", 0, (OWNER.name,), tuple(RIGHTS))

    def problems(self, schema: Schema | None = None) -> list[str]:
        """Return what is granted and gives nothing, a sentence each: roles that do not exist, and rules about
        fields or tables that the schema in force does not have, or that are newer. Read-only."""
        state, schema = self.state, schema or self._core.schema
        found = [
            f"{grant.identity} has the role {grant.role}, which does not exist; define it, or revoke it"
            for grant in state.grants
            if state.role(grant.role) is None
        ]
        for role, _ in state.roles.values():
            found.extend(visibility.problems(role, schema))
        return found

    # changes

    def define(self, role: Role, *, actor: str = "", reason: str = "") -> int:
        """Define a role, or replace the one of that name. Return the seq of the commit, 0 if it is defined
        like this. Writes. Raises ReadOnlyError, and RowError, also for a limit on rows or fields that the
        schema does not have."""
        role = values.check_role(role)
        with self._changing:
            before = self.refresh().role(role.name)
            role = visibility.bind(role, before, self._core.schema)
            if before == role:
                return 0
            return self._notice(kinds.ROLE, role.name, values.message_of_role(role), actor, reason)

    def remove_role(self, name: str, *, actor: str = "", reason: str = "") -> int:
        """Remove an unused role. Writes. Raises RowError if it does not exist, or if it is granted."""
        with self._changing:
            state = self.refresh()
            if name not in state.roles:
                own = ", ".join(sorted(state.roles)) or "none"
                raise RowError(
                    f"there is no own role {arguments.text(name, 'name')!r}; there are: {own}", name=name
                )
            now = self._core.clock.read()
            users = sorted(
                {grant.identity for grant in state.grants if grant.role == name}
                | {
                    f"token {one.token.id}"
                    for one in state.tokens.values()
                    if name in one.token.roles and one.valid(self._core.uuid, now)
                }
            )
            if users:
                raise RowError(f"role {name} is in use: revoke it first from {', '.join(users)}", name=name)
            return self._notice(kinds.ROLE_REMOVED, name, None, actor, reason)

    def grant(
        self, identity: str, role: str, tables: tuple[str, ...] = (), *, actor: str = "", reason: str = ""
    ) -> int:
        """Give an identity a role, on some tables only if `tables` has names or patterns. Return the seq of
        the commit, 0 if it has it. Writes. Raises RowError for a role that does not exist."""
        one = Grant(check_name(identity, "an identity"), check_name(role, "a role"), check_tables(tables))
        with self._changing:
            state = self.refresh()
            self._check_role(state, role)
            if one in state.grants:
                return 0
            return self._notice(kinds.GRANTED, identity, values.message_of_grant(one), actor, reason)

    def revoke(
        self,
        identity: str,
        role: str,
        tables: tuple[str, ...] | None = None,
        *,
        actor: str = "",
        reason: str = "",
    ) -> int:
        """Take a role from an identity: with `tables` only the grant on exactly these. Return the seq of the
        last commit. Writes. Raises RowError if it does not have the role."""
        check_name(identity, "an identity")
        wanted = None if tables is None else check_tables(tables)
        with self._changing:
            state = self.refresh()
            found = [
                one for one in state.granted(identity) if one.role == role and wanted in (None, one.tables)
            ]
            if not found:
                has = ", ".join(sorted({one.role for one in state.granted(identity)})) or "none"
                raise RowError(
                    f"{identity} was not granted the role {role!r}; granted are: {has}", identity=identity
                )
            seq = 0
            for one in found:
                seq = self._notice(kinds.REVOKED, identity, values.message_of_grant(one), actor, reason)
            return seq

    def audit(self, table: str, share: float = 1.0, *, actor: str = "", reason: str = "") -> int:
        """Set the share of the reads of a table at servers that are recorded: 1 all, 0 none. Return the seq
        of the commit, 0 if it is that. Writes. Raises RowError, SchemaError."""
        share, info = check_share(share), self._core.schema.table(arguments.text(table, "table"))
        id = info.proto.id
        with self._changing:
            if self.refresh().share(id) == share:
                return 0
            return self._notice(
                kinds.AUDITED, table, access_pb2.Audited(table=id, share=share), actor, reason
            )

    def reads(
        self,
        *,
        who: str = "",
        table: str = "",
        since: Time | None = None,
        before: Time | None = None,
        limit: int | None = None,
    ) -> Iterator[RecordedRead]:
        """Yield the recorded reads at servers, oldest first: only those by an identity, of a table, and at or
        after `since`, before `before`. Read-only. Raises RowError, DiskError."""
        wanted = check_asked_reads(who, table, since, before, limit)
        return recorded(self._core, self._past, wanted)

    def create_token(
        self,
        name: str,
        roles: tuple[str, ...] = (),
        *,
        expires_ns: int = 0,
        actor: str = "",
        reason: str = "",
    ) -> NewToken:
        """Create a token of an identity and return it, with its text. `roles`: those of its calls; none: the
        roles granted to the name. `expires_ns`: its end, nanoseconds since the Unix epoch; 0: never. Writes.
        Raises RowError."""
        text, token = new_token(name, tuple(roles), expires_ns)
        return NewToken(text, token, self.add_token(token, actor=actor, reason=reason))

    def rotate_token(self, which: str, *, keep_s: float = 0, actor: str = "", reason: str = "") -> NewToken:
        """Replace a token, named by its id or by its identity, with a new one of the same roles and length of
        life. The old one ends after `keep_s` seconds. Writes. Raises RowError."""
        arguments.text(which, "a token")
        now_ns = self._core.clock.read()
        text, token = replacement(find_token(self.refresh(), which, self._core.uuid, now_ns), now_ns, keep_s)
        return NewToken(text, token, self.add_token(token, actor=actor, reason=reason))

    def add_token(self, token: Token, *, actor: str = "", reason: str = "") -> int:
        """Record a token whose text somebody else has. Return the seq of the commit; the same token again
        returns the first. Writes. Raises RowError."""
        check_token(token)
        with self._changing:
            state, now = self.refresh(), self._core.clock.read()
            known = state.tokens.get(token.id)
            if known is not None and known.token.sha256 == token.sha256:
                return known.created.seq
            if known is not None or any(one.token.sha256 == token.sha256 for one in state.tokens.values()):
                raise RowError(
                    "there is another token of that id, or of that text; create a new one", id=token.id
                )
            for role in token.roles:
                self._check_role(state, role)
            if token.expires_ns and token.expires_ns <= now:
                raise RowError(
                    f"expected a token that ends later than now, found one of {time_text(token.expires_ns)}"
                )
            if token.replaces and not self._valid(state, token.replaces, now):
                raise RowError(f"token {token.replaces} has ended, or does not exist; create a new one")
            message = values.message_of_token(token)
            message.database = self._core.uuid
            return self._notice(kinds.TOKEN, token.name, message, actor, reason)

    def revoke_token(self, which: str, *, actor: str = "", reason: str = "") -> int:
        """End a token, named by its id, or all of an identity. Return the seq of the last commit, 0 if it has
        ended. Writes. Raises RowError if there is none."""
        arguments.text(which, "a token")
        with self._changing:
            state, now = self.refresh(), self._core.clock.read()
            found = [one for one in state.tokens.values() if which in (one.token.id, one.token.name)]
            if not found:
                raise RowError(
                    f"there is no token {which!r}, by id or by name (`everlog token list`)", id=which
                )
            seq = 0
            for one in found:
                if self._valid(state, one.token.id, now):
                    seq = self._notice(kinds.TOKEN_REVOKED, one.token.id, None, actor, reason)
            return seq

    # why

    def explain(
        self,
        who: str,
        verb: str,
        table: str = "",
        *,
        key: Any = None,
        field: str = "",
        at: Position | None = None,
    ) -> Explanation:
        """Return whether `who` (empty: the caller) may do `verb` (a right, `put` or `delete`) on a table
        (empty: any), and why, as of a record or a time; with `key` and `field`, also whether that row and
        field are visible, and which condition hides them. It is about the roles granted to the name; tokens
        with roles of their own are listed. Read-only. Raises RowError, CursorError, SchemaError."""
        state = self.state if at is None else self.at(at)
        check_asked(table, key, field)
        if who:
            check_name(who, "an identity")
            holder, now_ns = state.holder(who), self._core.clock.read()
            found = explain(state, who, verb, table, database=self._core.uuid, now_ns=now_ns)
        else:
            holder = state.holder("", (OWNER.name,))
            found = explain_as(state, holder, verb, table)
        if key is None and not field:
            return found
        seq = None
        if at is not None:
            seq = at if isinstance(at, int) else self._past.position(time=at)
        schema = self._core.schema if seq is None else self._past.schemas.at(seq)
        encoded = None if key is None else schema.table(table).encode_key(key)
        return self.seen(found, holder, verb, table, encoded, field, seq)

    def seen(  # noqa: PLR0917  of an explanation
        self,
        found: Explanation,
        holder: Holder,
        verb: str,
        table: str,
        key: bytes | None,
        field: str,
        seq: int | None = None,
        *,
        why: bool = True,
    ) -> Explanation:
        """Return an explanation with sentences about one row and one field, now or after a record. Without
        `why`, a row that is not visible is as one that does not exist. Read-only. Raises SchemaError."""
        right, op = check_verb(verb)
        decision = holder.decide(right, table, op)
        if not decision.allowed:
            return found
        schema = self._core.schema if seq is None else self._past.schemas.at(seq)
        info = schema.table(table)
        row = None if key is None else self._row(info, key, seq)
        hidden: tuple[str, ...] = ()
        if decision.visibility is None:
            said = ["all rows and fields are visible"]
        else:
            of = visibility.Limits(decision.visibility, holder.name, table)
            try:
                said = list(visibility.invisible(of, info, row, field))
                if key is not None and not why and not (row is not None and of.hidden(info, row) is not None):
                    row, said = None, []
                names = of.hidden(info, row) if row is not None else None
                hidden = tuple(sorted(of.hidden_by_any(info) if names is None else names))
            except AccessError as error:
                said = [str(error)]
        if key is not None and row is None:
            said = ["no row has this key" if why else "no row that is visible has this key"]
        return found._replace(sentences=(*found.sentences, *said), hidden=hidden)

    def _row(self, info: TableInfo, key: bytes, seq: int | None) -> Message | None:
        full = info.row_prefix + key
        value = self._core.tables.get(full) if seq is None else self._past.at(seq=seq).view.get(full)
        try:
            return None if value is None else info.salvage(info.row_in(key, value))
        except SealedError:
            return None

    # in the log

    def _changes(self) -> Iterator[tuple[int, log_pb2.Commit]]:
        """Yield the notes of all changes, oldest first."""
        start = keys.NOTE_ACCESS
        view, _ = self._core.tables.snapshot()
        try:
            for note, value in view.items(start, codec.after(start)):
                if len(note) > len(start):
                    yield keys.SEQ.unpack(note[len(start) :])[0], log_pb2.Commit.FromString(value)
        finally:
            view.close()

    def _check_role(self, state: State, name: str) -> None:
        if state.role(name) is None:
            known = ", ".join([*READY, *sorted(state.roles)])
            raise RowError(f"there is no role {name!r}; the roles are: {known}", role=name)

    def _valid(self, state: State, id: str, now_ns: int) -> bool:
        known = state.tokens.get(id)
        return known is not None and known.valid(self._core.uuid, now_ns)

    def _notice(self, kind: str, subject: str, detail: Message | None, actor: str, reason: str) -> int:
        raw = detail.SerializeToString(deterministic=True) if detail is not None else b""

        def about(commit: log_pb2.Commit) -> None:
            commit.notice.CopyFrom(log_pb2.Notice(kind=kind, subject=subject, detail=raw))

        metadata = Metadata(actor, reason, durability="sync").check()
        seq = self._core.commit(self._core.transaction(metadata), about).seq
        self.refresh()
        path = str(self._core.path)
        extra = program_log.about(kind, database=path, identity=actor, subject=subject, seq=seq)
        program_log.quiet.info("%s %s", _SAYS[kind], subject, extra=extra)
        return seq


_SAYS = {
    kinds.ROLE: "defined the role",
    kinds.ROLE_REMOVED: "removed the role",
    kinds.GRANTED: "granted a role to",
    kinds.REVOKED: "revoked a role of",
    kinds.TOKEN: "created a token of",
    kinds.TOKEN_REVOKED: "revoked the token",
    kinds.AUDITED: "changed the read audit of",
}


def check_share(share: Any) -> float:
    """Return the share of reads that are recorded. Raises RowError."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise RowError(f"expected a share of reads from 0 to 1, found {share!r}")
    return float(share)


def check_asked(table: str, key: Any, field: str) -> None:
    """Raise RowError for a row or a field without a table."""
    arguments.text(field, "field")
    if not table and (key is not None or field):
        raise RowError("expected the name of the table of the row and the field, found none")


def _id_in(schema: Schema) -> Callable[[str], int]:
    ids = {name: info.proto.id for name, info in schema.tables.items()}
    return lambda table: ids.get(table, 0)


def check_token(token: Token) -> None:
    """Raise RowError for a token that cannot be recorded."""
    check_name(token.name, "the name of a token")
    if len(arguments.binary(token.sha256, "sha256")) != 32 or not _is_token_id(token.id):
        raise RowError("expected a token with an id of 12 hexadecimal digits and a SHA-256 of 32 bytes")
    arguments.counted(token.expires_ns, "the end of a token")


def _is_token_id(id: str) -> bool:
    """Return whether this is the id of a token."""
    return len(id) == 2 * ID_BYTES and all(digit in "0123456789abcdef" for digit in id)


def find_token(state: State, which: str, database: bytes, now_ns: int) -> Issued:
    """Return the valid token of this id, or the only one of this identity. Raises RowError."""
    found = [
        one
        for one in state.tokens.values()
        if which in (one.token.id, one.token.name) and one.valid(database, now_ns)
    ]
    if len(found) != 1:
        ids = ", ".join(one.token.id for one in found)
        raise RowError(
            f"expected one valid token {which!r}, found {len(found)}"
            + (f": {ids}; name one by its id" if ids else ""),
            id=which,
        )
    return found[0]


def replacement(old: Issued, now_ns: int, keep_s: float) -> tuple[str, Token]:
    """Return text and record of the token that replaces `old`: the same name, roles and length of life."""
    arguments.seconds(keep_s, "`keep_s`")
    token = old.token
    expires_ns = now_ns + token.expires_ns - old.created.time_ns if token.expires_ns else 0
    ends_ns = now_ns + int(keep_s * 1e9) if keep_s else 0
    return new_token(token.name, token.roles, expires_ns, replaces=token.id, ends_ns=ends_ns)
