"""Access: `db.access` of a database on a server. Each call returns and raises the same as on an embedded
database.

A token is made here, and the server receives only its SHA-256, so a repeated request records it once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from everlog.proto import access_pb2 as pb
from everlog.proto import access_pb2_grpc
from everlog.rpc.client.channel import Channel
from everlog.rpc.wire import change_of, read_of
from everlog.store.schema import arguments
from everlog.store.schema.arguments import Position, Time, nanoseconds
from everlog.store.schema.schema import Schema
from everlog.store.tx.transaction import Metadata, proof_name
from everlog.store.upkeep import roles as values
from everlog.store.upkeep.access import (
    Caller,
    NewToken,
    Shown,
    check_asked,
    check_share,
    check_token,
    find_token,
    new_token,
    replacement,
)
from everlog.store.upkeep.allowance import LimitInForce
from everlog.store.upkeep.explanation import Explanation
from everlog.store.upkeep.read_audit import RecordedRead, check_asked_reads
from everlog.store.upkeep.roles import RIGHTS, Grant, Issued, Role, State, Token


class RemoteAccess:
    """See `everlog.store.upkeep.access.Access`."""

    def __init__(self, channel: Channel, uuid: Callable[[], bytes], schema: Callable[[], Schema]) -> None:
        self._channel = channel
        self._uuid = uuid  # of the database
        self._schema = schema
        self._database = channel.address.database
        self._stub = access_pb2_grpc.AccessStub(channel.grpc)

    def whoami(self) -> Caller:
        """Return the caller as the server sees it. Read-only."""
        answer = self._channel.call(self._stub.WhoAmI, pb.WhoAmIRequest(database=self._database))
        words = {number: word for word, number in RIGHTS.items()}
        rights = tuple(words[right] for right in answer.rights if right in words)
        proof = proof_name(answer.proof) if answer.name else "none"
        limits = tuple(LimitInForce(one.name, one.value, one.by_roles) for one in answer.limits)
        return Caller(answer.name, proof, answer.expires_ns, tuple(answer.roles), rights, limits)

    def show(self, at: Position | None = None) -> Shown:
        """Return all roles, grants and tokens, now or as of a record or a time. Read-only."""
        request = pb.ShowAccessRequest(database=self._database)
        _set_moment(request, at)
        answer = self._channel.call(self._stub.Show, request)
        return Shown(
            answer.seq,
            [
                (values.role_of(one.role), change_of(one.change) if one.HasField("change") else None)
                for one in answer.roles
            ],
            [(values.grant_of(one.grant), change_of(one.change)) for one in answer.grants],
            [
                Issued(
                    values.token_of(one.token),
                    change_of(one.created),
                    one.ends_ns,
                    change_of(one.ended) if one.HasField("ended") else None,
                )
                for one in answer.tokens
            ],
            list(answer.problems),
            [(one.table, one.share, change_of(one.change)) for one in answer.audits],
        )

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
        """Return whether `who` (empty: the caller) may do `verb` on a table, and why; with `key` and `field`,
        also whether that row and field are visible. Read-only."""
        if who:
            values.check_name(who, "an identity")
        values.check_verb(verb)
        arguments.text(table, "table")
        check_asked(table, key, field)
        request = pb.ExplainAccessRequest(
            database=self._database,
            who=who,
            verb=verb,
            table=table,
            key=None if key is None else self._schema().table(table).encode_key(key),
            field=field,
        )
        _set_moment(request, at)
        answer = self._channel.call(self._stub.Explain, request)
        return Explanation(answer.allowed, answer.seq, tuple(answer.sentences), tuple(answer.hidden))

    def define(self, role: Role, *, actor: str = "", reason: str = "") -> int:
        """Define a role, or replace the one of that name. Writes."""
        message = values.message_of_role(values.check_role(role))
        Metadata(actor, reason).check()
        request = pb.DefineRoleRequest(database=self._database, role=message, actor=actor, reason=reason)
        return self._seq(self._stub.DefineRole, request)

    def remove_role(self, name: str, *, actor: str = "", reason: str = "") -> int:
        """Remove an unused role. Writes."""
        arguments.text(name, "name")
        Metadata(actor, reason).check()
        request = pb.RemoveRoleRequest(database=self._database, name=name, actor=actor, reason=reason)
        return self._seq(self._stub.RemoveRole, request)

    def grant(
        self, identity: str, role: str, tables: tuple[str, ...] = (), *, actor: str = "", reason: str = ""
    ) -> int:
        """Give an identity a role, on some tables only if `tables` has names or patterns. Writes."""
        one = Grant(
            values.check_name(identity, "an identity"),
            values.check_name(role, "a role"),
            values.check_tables(tables),
        )
        return self._seq(self._stub.Grant, self._grant(one, actor, reason))

    def revoke(
        self,
        identity: str,
        role: str,
        tables: tuple[str, ...] | None = None,
        *,
        actor: str = "",
        reason: str = "",
    ) -> int:
        """Take a role from an identity: with `tables` only the grant on exactly these. Writes."""
        wanted = () if tables is None else values.check_tables(tables)
        one = Grant(values.check_name(identity, "an identity"), arguments.text(role, "role"), wanted)
        return self._seq(self._stub.Revoke, self._grant(one, actor, reason))

    def audit(self, table: str, share: float = 1.0, *, actor: str = "", reason: str = "") -> int:
        """Set the share of the reads of a table at servers that are recorded: 1 all, 0 none. Writes."""
        share, table = check_share(share), arguments.text(table, "table")
        Metadata(actor, reason).check()
        request = pb.AuditRequest(
            database=self._database, table=table, share=share, actor=actor, reason=reason
        )
        return self._seq(self._stub.Audit, request)

    def reads(
        self,
        *,
        who: str = "",
        table: str = "",
        since: Time | None = None,
        before: Time | None = None,
        limit: int | None = None,
    ) -> Iterator[RecordedRead]:
        """Yield the recorded reads at servers, oldest first. Read-only."""
        wanted = check_asked_reads(who, table, since, before, limit)
        request = pb.ReadsRequest(
            database=self._database,
            who=wanted.who,
            table=wanted.table,
            since_ns=wanted.since_ns,
            before_ns=wanted.before_ns,
            limit_plus_one=0 if wanted.limit is None else wanted.limit + 1,
        )
        answers = self._channel.stream(self._stub.Reads, request)
        return (read_of(one) for answer in answers for one in answer.reads)

    def create_token(
        self,
        name: str,
        roles: tuple[str, ...] = (),
        *,
        expires_ns: int = 0,
        actor: str = "",
        reason: str = "",
    ) -> NewToken:
        """Create a token of an identity and return it, with its text. Writes."""
        text, token = new_token(name, tuple(roles), expires_ns)
        return self._add(text, token, actor, reason)

    def rotate_token(self, which: str, *, keep_s: float = 0, actor: str = "", reason: str = "") -> NewToken:
        """Replace a token, named by its id or by its identity; the old one ends after `keep_s` seconds.
        Writes."""
        arguments.text(which, "a token")
        state = State()
        state.tokens = {one.token.id: one for one in self.show().tokens}
        now_ns = time.time_ns()
        text, token = replacement(find_token(state, which, self._uuid(), now_ns), now_ns, keep_s)
        return self._add(text, token, actor, reason)

    def revoke_token(self, which: str, *, actor: str = "", reason: str = "") -> int:
        """End a token, named by its id, or all of an identity. Writes."""
        arguments.text(which, "a token")
        Metadata(actor, reason).check()
        request = pb.RevokeTokenRequest(database=self._database, id=which, actor=actor, reason=reason)
        return self._seq(self._stub.RevokeToken, request)

    def _grant(self, one: Grant, actor: str, reason: str) -> pb.GrantRequest:
        Metadata(actor, reason).check()
        message = values.message_of_grant(one)
        return pb.GrantRequest(database=self._database, grant=message, actor=actor, reason=reason)

    def _add(self, text: str, token: Token, actor: str, reason: str) -> NewToken:
        check_token(token)
        Metadata(actor, reason).check()
        message = values.message_of_token(token)
        request = pb.CreateTokenRequest(database=self._database, token=message, actor=actor, reason=reason)
        return NewToken(text, token, self._seq(self._stub.CreateToken, request))

    def _seq(self, method: object, request: object) -> int:
        answer: pb.AccessResponse = self._channel.call(method, request)  # type: ignore[arg-type]
        return answer.seq


def _set_moment(request: pb.ShowAccessRequest | pb.ExplainAccessRequest, at: Position | None) -> None:
    if isinstance(at, int):
        request.at_seq = arguments.counted(at, "a seq")
    elif at is not None:
        request.at_time_ns = nanoseconds(at)
