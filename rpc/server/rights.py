"""Rights: the gate of a server: who calls, and whether the caller may.

    headers ─ identify ─▶ Identity ─┐
    request ─ needs of the method ──┴─ admit ─▶ Scope: what the caller may do and see in the database
                                          └──▶ AccessError

    token of the file        name, and roles from the file, else those granted to the name in the log
    token of a log           the same, in that database alone, until it ends
    unnamed token            no name, owner of all databases
    JWT of an issuer         name, with the roles that are granted to it, or those that the configuration
                             maps its claims to (issuer.py)
    certificate, no token    name, with the roles that are granted to it
    nothing, on loopback     owner of a database that never had a token, while the server has none

Every call passes `admit` once, after its request is parsed. A method whose proto does not declare what it
needs is refused. Streams are checked again when rights change: a stream that is not allowed any more ends.

Invariants
  (1) tokens are found by their SHA-256 and compared in constant time, in constant work for any number of
      tokens and databases;
  (2) what a caller may not see looks to it as if it did not exist, and an error names only what it named;
  (3) a stream whose token ended, whose right was revoked, or whose table has another name, ends within a
      second;
  (4) a token that several databases recorded is in each of them what that one says: the owner of one
      gives nothing in another;
  (5) the loop of events waits for nothing here: decisions are look-ups in memory;
  (6) a token alone says who calls: a certificate gives its calls neither a name nor a right, and ends them
      when it ends; an unknown token is refused, whatever the certificate.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from shlex import quote
from typing import Any, NamedTuple

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from everlog.proto import access_pb2 as pb
from everlog.rpc import security
from everlog.rpc.http2.grpc import OPEN_METHODS, Aborted, Call, end
from everlog.rpc.security import ANONYMOUS, Identity
from everlog.rpc.server.issuer import Issuer, is_jwt
from everlog.rpc.server.needs import Need, gives, needs_of, possible
from everlog.rpc.server.read_audit import ReadAudits
from everlog.store.database import Database
from everlog.store.errors import (
    AccessError,
    ConflictError,
    Error,
    OpenError,
    RowError,
    SchemaError,
    SealedError,
    UniqueError,
)
from everlog.store.schema.schema import Schema
from everlog.store.tx.transaction import Actor, Proof
from everlog.store.upkeep.roles import (
    ASKED_MAX,
    BY_TABLE,
    OWNER,
    READY,
    RIGHTS,
    Held,
    Holder,
    Issued,
    State,
    Visibility,
)

NAME_SHOWN = 80  # characters of a name that a caller has sent
LOOK_S = 0.25  # between two looks for changes
REFLECTION = "/grpc.reflection."  # of the services, which are public: any caller that is authenticated
BEARER = "Bearer "
HOW = "set EVERLOG_TOKEN, or put ?token-file=FILE into the URL"
READS = frozenset({pb.READ, pb.HISTORY, pb.FEED})
READ_ALL = (pb.READ, pb.FEED, pb.BACKUP, pb.CHECK)  # each shows all that a table has now
READ_ALL_PAST = (pb.HISTORY, pb.FEED, pb.BACKUP, pb.CHECK)  # and what it had
FLEET = "/everlog.v1.Fleet/"  # of the service's methods
# Rights that change rows or the schema. A ledger of a fleet is changed by its coordinator alone.
WRITES = frozenset(
    {pb.WRITE, pb.LOAD, pb.MIGRATE, pb.PROPOSE, pb.APPROVE, pb.ROLLBACK, pb.DROP, pb.FORGET, pb.RESTORE}
)
WORDS: dict[int, str] = {number: word for word, number in RIGHTS.items()}
EVERYTHING = Holder("", [Held(rule, OWNER.name) for rule in OWNER.rules])


class Scope(NamedTuple):
    """What a caller may do and see in one database."""

    holder: Holder
    identity: Identity

    @property
    def everywhere(self) -> bool:
        """Whether the caller may know of all tables."""
        return self.holder.everywhere

    def sees(self, table: str) -> bool:
        """Whether the caller may know of a table."""
        return self.holder.sees(table)

    def reads_all(self, table: str, past: Schema | None = None, now: Schema | None = None) -> bool:
        """Whether the caller may read, follow, copy or check a table without limits of rows and fields.
        `past`: the table of that schema, as it was then; `now`: the schema in force."""
        rights = READ_ALL if past is None else READ_ALL_PAST
        names = {table}
        if past is not None and now is not None:
            names.update(self._renamed(rights, {past.table(table).proto.id}, now))
        decided = [[self.holder.decide(right, name) for right in rights] for name in names]
        return all(any(one.allowed and one.visibility is None for one in found) for found in decided)

    def reads_history(self, table: str) -> bool:
        """Whether the caller may read the history of a table without limits of rows and fields."""
        found = self.holder.decide(pb.HISTORY, table)
        return found.allowed and found.visibility is None

    def check_renamed(self, rights: Iterable[int], table: str, ids: Container[int], now: Schema) -> None:
        """Check that a request which names a table by an earlier name may have it by its current one: rights
        are on current names. `ids`: of the tables that the name refers to. Raises AccessError."""
        rights = tuple(rights)
        if self._renamed(rights, ids, now):
            who, word = str(self.identity.name) or "the caller", WORDS[rights[0]]
            raise AccessError(
                f"{who} lacks the right {word} on the table that was named {table}; rights are on its"
                " current name",
                actor=str(self.identity.name),
                right=word,
                table=table,
            )

    def _renamed(self, rights: tuple[int, ...], ids: Container[int], now: Schema) -> list[str]:
        """Return the current names of those of these tables on which the caller has none of these rights."""
        if any(self.holder.decide(right).whole for right in rights):
            return []
        found = []
        for info in now.tables.values():
            names = {info.name, info.other_generation.name if info.other_generation else info.name}
            if info.proto.id in ids and not any(
                self.holder.decide(right, name).allowed for right in rights for name in names
            ):
                found.append(info.name)
        return found

    @property
    def limited(self) -> bool:
        """Whether some rule of the caller limits rows or fields."""
        return self.holder.limited

    def visibility(self, right: int, table: str, op: str = "") -> tuple[Visibility, ...] | None:
        """Return what the caller may see of a table; None: all. Raises AccessError if it has no such
        right."""
        found = self.holder.decide(right, table, op)
        if not found.allowed:
            raise denied(self.identity, right, table)
        return found.visibility


def denied(identity: Identity, right: int, table: str = "", database: str = "") -> AccessError:
    """Return the error for a missing right. It names only what the caller has named."""
    word = WORDS[right]
    who = str(identity.name) or ("a caller without a name" if identity.token else "an anonymous caller")
    on = f" on {table}" if table and right in BY_TABLE else ""
    where = f" in database {database}" if database else ""
    limit = f" --table {quote(table)}" if on else ""
    role = next(name for name in _GIVES if right in _GIVES[name])
    how = f"; to allow it: everlog access grant {quote(who)} {role}{limit}" if identity.name else ""
    return AccessError(
        f"{who} lacks the right {word}{on}{where}{how}", actor=str(identity.name), right=word, table=table
    )


def _check_ledger(path: str, needs: Iterable[Need], database: str) -> None:
    """Raise AccessError for a call that would change the ledger of a fleet beside its coordinator. It could
    forge decisions and approvals."""
    if path.startswith(FLEET):
        return
    for need in needs:
        if need.rights and not need.when and WRITES.issuperset(need.rights):
            raise AccessError(
                f"{database} is the ledger of a fleet, and only its coordinator writes there; use `everlog"
                " fleet`",
                right=WORDS[need.rights[0]],
            )


def unknown_database(name: str, databases: Iterable[str]) -> OpenError:
    """Return the error for a database that a server does not host, with those that it hosts."""
    known = ", ".join(sorted(databases)) or "none"
    return OpenError(f"this server hosts no database {_short(name)!r}; it hosts: {known}", database=name)


def _check_length(name: str, what: str) -> None:
    """Raise RowError for a name that nothing has: it would be kept, matched and repeated in errors."""
    if len(name) > ASKED_MAX:
        raise RowError(
            f"expected the name of a {what} of at most {ASKED_MAX} characters, found {len(name):,}"
        )


_GIVES = {
    name: frozenset(RIGHTS[right] for rule in role.rules for right in rule.rights)
    for name, role in READY.items()
}


class Tokens:
    """The tokens of a server's configuration, by their SHA-256."""

    def __init__(self, tokens: Mapping[str, str], roles: Mapping[str, Iterable[str]]) -> None:
        self._found = {
            hashlib.sha256(token.encode()).digest(): Identity(
                Actor(name, Proof.TOKEN) if name else "",
                None,
                tuple(roles.get(name, ())) if name else (OWNER.name,),
                token=hashlib.sha256(token.encode()).digest(),
            )
            for name, token in tokens.items()
            if token
        }
        self.names = frozenset(tokens) - {""}

    def __bool__(self) -> bool:
        return bool(self._found)

    def get(self, digest: bytes) -> Identity | None:
        """Return whose token has this hash."""
        found = self._found.get(digest)
        return found if found is not None and hmac.compare_digest(found.token, digest) else None


def _short(name: str) -> str:
    return name if len(name) <= NAME_SHOWN else f"{name[:NAME_SHOWN]}…"


class Rights:
    """The gate of one server; see `everlog.rpc.http2.grpc.Gate`. `certified`: callers present
    certificates. `ledgers`: databases that are written by the coordinators of fleets alone."""

    def __init__(
        self,
        databases: Mapping[str, Database],
        tokens: Tokens,
        services: Iterable[ServiceDescriptor],
        *,
        certified: bool = False,
        issuer: Issuer | None = None,
        ledgers: Collection[str] = (),
    ) -> None:
        self.databases = dict(databases)
        self._ledgers = frozenset(ledgers)
        self.tokens = tokens
        self._certified = certified
        self._issuer = issuer
        self._generation = 0  # of the issuer's keys
        self._needs = needs_of(services)
        self._streams: set[Call] = set()
        self._issued: dict[bytes, dict[str, Issued]] = {}  # tokens of logs by SHA-256, and by database
        self._states: dict[str, State] = {}
        self._schemas: dict[str, Schema] = {}
        self._stale = True  # a log has other tokens
        self._changed = True  # streams may not be allowed any more
        self._call_ends_ns = 0  # when the next caller's proof ends; 0: none does
        self._audits = ReadAudits(self.databases, self._needs)
        for db in self.databases.values():
            db.access.add_waker(self._wake)
        self._refresh()

    def close(self) -> None:
        """Look for changes no more, and end the read audits."""
        self._audits.close()
        for db in self.databases.values():
            db.access.remove_waker(self._wake)

    def _wake(self) -> None:
        """Note that a log has other roles, grants or tokens; from any thread."""
        self._stale = self._changed = True

    @property
    def open(self) -> bool:
        """Whether callers need no identity, for databases that never had a token."""
        return not self._certified and not self.tokens and self._issuer is None

    # who

    def identify(self, call: Call, path: str) -> None:
        """Authenticate the caller."""
        stream = call.stream
        connection = stream.connection
        found = self._identity(stream.headers.get(security.HEADER, ""), connection.certified, path)
        end = connection.certified_until_ns
        if end:
            if time.time_ns() >= end:
                raise Aborted(
                    grpc.StatusCode.UNAUTHENTICATED,
                    "the certificate of the client has ended; connect again with a new one",
                )
            found = found._replace(expires_ns=min(found.expires_ns or end, end))
        call.identity = found
        stream.who = found.name

    def _identity(self, header: str, certified: str, path: str) -> Identity:
        found: Identity | None = None
        text = header.removeprefix(BEARER) if header.startswith(BEARER) else ""
        digest = hashlib.sha256(text.encode()).digest() if text else b""
        if digest:
            found = self.tokens.get(digest) or self._of_log(digest)
        if found is None and self._issuer is not None and is_jwt(text) and not path.startswith(OPEN_METHODS):
            found = self._of_issuer(self._issuer, text, digest)
        if found is not None:
            return found
        required = (
            self.tokens
            or (self._issuer is not None and not certified)
            or (header and (self._issued or not self.open))
        )
        if required and not path.startswith(OPEN_METHODS):
            raise Aborted(
                grpc.StatusCode.UNAUTHENTICATED,
                f"expected a token of this server, found {'another one' if header else 'none'}; {HOW}",
            )
        return Identity(certified) if certified else ANONYMOUS

    def _of_issuer(self, issuer: Issuer, text: str, digest: bytes) -> Identity:
        """Return whose JWT this is. Raises Aborted."""
        found = issuer.identify(text, digest)
        if found.name in self.tokens.names:
            raise Aborted(
                grpc.StatusCode.UNAUTHENTICATED,
                "the name of this token is that of a token of the server's configuration; rename one of"
                " them, or start the server with --jwt-name-prefix",
            )
        return found

    def _of_log(self, digest: bytes) -> Identity | None:
        """Return whose token of a log has this hash. Raises Aborted for one that has ended."""
        if self._stale:
            self._refresh()
        found, now_ns = self._issued.get(digest, {}), time.time_ns()
        known = [(name, one) for name, one in found.items() if hmac.compare_digest(one.token.sha256, digest)]
        valid = [(name, one) for name, one in known if one.valid(self.databases[name].uuid, now_ns)]
        if known and not valid:
            raise Aborted(
                grpc.StatusCode.UNAUTHENTICATED,
                "this token has ended: it expired, was revoked or replaced, or is of another database",
            )
        if not valid:
            return None
        return _identity_of(valid[0][1])._replace(databases=frozenset(name for name, _ in valid))

    def within(self, identity: Identity, database: str) -> Identity:
        """Return who a caller is in a database: a token of logs is in each of them what that log says."""
        if identity.databases is None or database not in identity.databases:
            return identity
        issued = self._issued.get(identity.token, {}).get(database)
        if issued is None:  # just gone: the call ends at the next look
            return identity._replace(databases=identity.databases - {database})
        found = _identity_of(issued)
        ends_ns = min(filter(None, (found.expires_ns, identity.expires_ns)), default=0)
        return found._replace(databases=identity.databases, expires_ns=ends_ns)

    # whether

    def admit(self, call: Call, path: str, request: Any) -> None:
        """Check that the caller may make this request."""
        if path.startswith((OPEN_METHODS, REFLECTION)):
            if not call.identity.anonymous:
                self._watch(call)
            return
        needs = self._needs.get(path)
        if needs is None:
            raise Aborted(grpc.StatusCode.PERMISSION_DENIED, f"{path} does not declare which right it needs")
        identity: Identity = call.identity
        if not needs[0].server:
            database = request.database
            _check_length(database, "database")
            identity = call.identity = self.within(identity, database)
            call.stream.who = identity.name
            holder = self._holder(identity, database)
            call.scope = Scope(holder, identity)
            for need in needs:
                if not need.when or getattr(request, need.when):
                    self._check(need, holder, identity, database, request)
            if database in self._ledgers:
                _check_ledger(path, needs, database)
            if call not in self._streams:  # it begins
                if self.databases[database].schema is not self._schemas[database]:
                    self._end_renamed()  # this call is not among them
                tables = needs[0].tables
                call.before = self._audits.before(path, holder, identity.name, tables, request)
        self._watch(call)

    def _watch(self, call: Call) -> None:
        """End the call when its caller may no longer make it."""
        ends = call.identity.expires_ns
        if ends and (not self._call_ends_ns or ends < self._call_ends_ns):
            self._call_ends_ns = ends
        self._streams.add(call)

    def holder(self, identity: Identity, database: str) -> Holder:
        """Return what a caller has in a database. Raises AccessError if it has nothing there, the same
        whether or not the database exists."""
        return self._holder(self.within(identity, database), database)

    def _holder(self, identity: Identity, database: str) -> Holder:
        """As `holder`, of a caller as it is in the database (`within`)."""
        db = self.databases.get(database)
        if db is None or (identity.databases is not None and database not in identity.databases):
            if identity.databases is None and (OWNER.name in identity.roles or self._open(identity)):
                raise unknown_database(database, self.databases)
            raise self._nothing(identity, database)
        if identity.anonymous:
            if not self._open(identity) or db.access.state.tokens:
                raise Aborted(
                    grpc.StatusCode.UNAUTHENTICATED,
                    f"expected a token, found none; {HOW}",
                )
            return EVERYTHING
        holder = db.access.state.holder(identity.name, identity.roles)
        if not holder.held:
            raise self._nothing(identity, database)
        return holder

    def _open(self, identity: Identity) -> bool:
        return identity.anonymous and self.open

    def _nothing(self, identity: Identity, database: str) -> AccessError:
        if identity.anonymous:
            return AccessError(
                f"an anonymous caller has no rights in database {_short(database)!r}", database=database
            )
        who = identity.name or "this token"
        return AccessError(
            f"{who} has no rights in database {_short(database)!r}; to give some: everlog access grant"
            f" {quote(who)} reader",
            actor=str(identity.name),
            database=database,
        )

    def _check(self, need: Need, holder: Holder, identity: Identity, database: str, request: Any) -> None:
        rights = need.rights
        if not rights:
            return
        named = need.tables(request) if need.tables is not None else ()
        for table, op in named:
            _check_length(table, "table")
            self._decide(rights, holder, identity, database, table, op, whole=need.whole)
        if not named:
            self._decide(rights, holder, identity, database, "", "", whole=need.whole)
        if need.dangerous and not identity.anonymous and not request.reason.strip():
            raise RowError(
                f"{WORDS[rights[0]]} cannot be undone, so it needs a reason; found none (--reason, `reason=`)"
            )

    def _decide(  # noqa: PLR0917  for every call
        self,
        rights: tuple[int, ...],
        holder: Holder,
        identity: Identity,
        database: str,
        table: str,
        op: str,
        *,
        whole: bool,
    ) -> None:
        limited = False
        for right in rights:
            given, has = gives(holder, right, table, op, whole=whole)
            if given:
                return
            limited = limited or has
        if limited and table:
            raise AccessError(
                f"the roles of {identity.name} limit the rows or fields of {table}, so it cannot follow,"
                " load or export that table",
                actor=str(identity.name),
                table=table,
            )
        raise denied(identity, rights[0], table, database)

    def databases_of(self, identity: Identity) -> list[str]:
        """Return the names of the databases in which a caller has some right."""
        return sorted(name for name in self.databases if self.knows(identity, name))

    def knows(self, identity: Identity, database: str) -> bool:
        """Return whether a caller has some right in a database, and so may know of it."""
        try:
            self.holder(identity, database)
        except (AccessError, OpenError, Aborted):
            return False
        return True

    def callable(self, identity: Identity, database: str) -> list[str]:
        """Return the paths that a caller may call in a database, on some table at least; without a database,
        those that are of the server. Raises AccessError if it has nothing there."""
        holder = self.holder(identity, database) if database else None
        tables = self.databases[database].schema.tables if database else ()
        return sorted(
            path
            for path, needs in self._needs.items()
            if needs[0].server
            or (holder is not None and all(possible(need, holder, tables) for need in needs))
        )

    def refusal(self, call: Call, error: Exception) -> Exception:
        """Return the error that the caller receives: without tables and rows that it may not see."""
        scope: Scope | None = call.scope
        if scope is None or not isinstance(error, Error) or isinstance(error, AccessError):
            return error
        table = error.facts.get("table", "")
        if isinstance(error, UniqueError) and (scope.limited or not scope.reads_all(table)):
            index = error.facts.get("index", "")
            return UniqueError(
                f"another row has the same values in the unique index {index}", table=table, index=index
            )
        if scope.limited and isinstance(error, (SealedError, ConflictError)):
            return _without_rows(error)
        if isinstance(error, (SchemaError, OpenError)) and not scope.everywhere:
            return _without_schema(error)
        if table and not scope.sees(table):
            return type(error)("the call concerns a table that is not visible to the caller")
        return error

    def ended(self, call: Call) -> None:
        self._streams.discard(call)

    # changes

    def replace(self, tokens: Tokens) -> None:
        """Accept other tokens from now on, and end the calls of those that are gone. For any thread."""
        self.tokens = tokens
        self._changed = True

    async def watch(self, read: Callable[[Callable[[], None]], Any]) -> None:
        """Look for changes until the task is cancelled, and end the streams that are not allowed any more.
        `read` runs a function in a thread that may wait for the disk."""
        followers = [db for db in self.databases.values() if db.read_only]

        def refresh() -> None:
            for db in followers:
                db.access.refresh()

        while True:
            await asyncio.sleep(LOOK_S)
            try:
                if followers:
                    await read(refresh)
                self.look()
            except Error:  # a database is closed, and its calls end by themselves
                continue

    def look(self) -> None:
        """End the streams of callers that may no longer have them, if anything has changed. A read also ends
        if its caller has lost a rule since it began: it may show rows, fields or tables that are hidden now.
        """
        self._end_renamed()
        generation = self._issuer.generation if self._issuer is not None else 0
        due = self._call_ends_ns and time.time_ns() >= self._call_ends_ns
        if not (self._changed or due or generation != self._generation):
            return
        self._changed, self._generation, self._call_ends_ns = False, generation, 0
        for call in list(self._streams):
            path, before = call.stream.headers[":path"], call.scope
            try:
                self.identify(call, path)
                self.admit(call, path, call.request)
                reads = before is not None and not READS.isdisjoint(self._needs[path][0].rights)
                if reads and not before.holder.rules <= call.scope.holder.rules:
                    end(
                        call, grpc.StatusCode.UNAVAILABLE, "the rights of the caller changed; repeat the call"
                    )
            except Aborted as error:
                end(call, error.code, str(error))
            except Error as error:
                end(call, grpc.StatusCode.PERMISSION_DENIED, error)

    def _end_renamed(self) -> None:
        """End the calls of limited callers in databases in which a table has another name: rights are on
        current names, and the calls are checked when their clients repeat them."""
        renamed = set()
        for name, db in self.databases.items():
            before, now = self._schemas[name], db.schema
            if now is not before:
                self._schemas[name] = now
                if _names(before).items() - _names(now).items():
                    renamed.add(name)
        for call in list(self._streams) if renamed else ():
            limited = call.scope is not None and not call.scope.everywhere
            if limited and getattr(call.request, "database", "") in renamed:
                end(call, grpc.StatusCode.UNAVAILABLE, "tables were renamed or deleted; repeat the call")

    def _refresh(self) -> None:
        self._stale = False
        for name, db in self.databases.items():
            self._schemas.setdefault(name, db.schema)
            before, state = self._states.get(name), db.access.state
            if state is before:
                continue
            for one in before.tokens.values() if before is not None else ():
                found = self._issued.get(one.token.sha256, {})
                found.pop(name, None)
                if not found:
                    self._issued.pop(one.token.sha256, None)
            for one in state.tokens.values():
                self._issued.setdefault(one.token.sha256, {})[name] = one
            self._states[name] = state


def _without_rows(error: SealedError | ConflictError) -> Error:
    if isinstance(error, SealedError):
        return SealedError("a row that this call reads is sealed, and cannot be opened", **error.facts)
    return ConflictError("rows that this transaction read were changed; run it again")


def _without_schema(error: SchemaError | OpenError) -> SchemaError:
    if "moved" in error.facts:
        return SchemaError(
            "the schema has changed; repeat the request with the new one", moved=error.facts["moved"]
        )
    return SchemaError("no such table, index or version is visible to the caller")


def _identity_of(issued: Issued) -> Identity:
    token = issued.token
    return Identity(Actor(token.name, Proof.TOKEN), None, token.roles, issued.ends_ns, token.sha256)


def _names(schema: Schema) -> dict[int, str]:
    """Return the names of tables by their ids."""
    return {info.proto.id: name for name, info in schema.tables.items()}
