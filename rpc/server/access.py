"""Access: the Access service: who the caller is, roles, grants and tokens of a database.

    CreateToken(id, SHA-256)      the client makes the token, so its text never comes here

Names that the server's configuration knows (--tokens, --acts-for-others, --keys-for) may get a token of a log
only from a caller whose rights are from the configuration: otherwise a caller with the right `grant` in one
database could take over their names.

Invariants
  (1) no response contains the hash of a token;
  (2) a caller without the right `audit` sees only its own rights and their roles, and not who granted them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from shlex import quote
from typing import Any

from everlog.proto import access_pb2 as pb
from everlog.proto import access_pb2_grpc
from everlog.rpc.http2.grpc import Context
from everlog.rpc.security import Identity
from everlog.rpc.server.host import Hosting, ResponseStream
from everlog.rpc.wire import message_of_change, message_of_read
from everlog.store.database import Database
from everlog.store.errors import AccessError
from everlog.store.tx.transaction import Proof, proof_of
from everlog.store.upkeep import roles as values
from everlog.store.upkeep.access import check_asked, shown
from everlog.store.upkeep.allowance import HELD, LIMITS, NOTHING, in_force
from everlog.store.upkeep.explanation import explain, explain_as
from everlog.store.upkeep.roles import OWNER, State


class AccessService(access_pb2_grpc.AccessServicer):
    """See proto/access.proto."""

    def __init__(self, hosting: Hosting) -> None:
        self._hosting = hosting

    async def WhoAmI(self, request: pb.WhoAmIRequest, context: Any) -> pb.WhoAmIResponse:
        identity = self._hosting.rights.within(context.identity, request.database)
        answer = pb.WhoAmIResponse(
            name=identity.name, proof=proof_of(identity.name), expires_ns=identity.expires_ns
        )
        allowance = NOTHING
        if request.database:
            holder = self._hosting.rights.holder(identity, request.database)
            answer.roles.extend(dict.fromkeys(held.role for held in holder.held))
            answer.rights.extend(pb.Right.ValueType(right) for right in holder.rights())
            allowance = holder.allowance
        answer.methods.extend(
            path.removeprefix("/") for path in self._hosting.rights.callable(identity, request.database)
        )
        limits = self._hosting.limits_of(str(identity.name), context.peer)
        if request.database and pb.HOLD not in answer.rights:
            limits |= {name: LIMITS[name].default for name in HELD}
        for one in in_force(limits, allowance):
            answer.limits.add(name=one.name, value=one.value, by_roles=one.by_roles)
        return answer

    async def Show(self, request: pb.ShowAccessRequest, context: Any) -> pb.ShowAccessResponse:
        return await self._hosting.read(_show, self._hosting.database(request.database), request)

    async def Explain(self, request: pb.ExplainAccessRequest, context: Any) -> pb.ExplainAccessResponse:
        db, identity = self._hosting.database(request.database), context.identity

        def run() -> pb.ExplainAccessResponse:
            state = _state(db, request)
            why = context.scope.holder.decide(pb.AUDIT).allowed
            who = request.who or (str(identity.name) if not identity.roles else "")
            if who:
                values.check_name(who, "an identity")
                how: dict[str, Any] = {"database": db.uuid, "now_ns": db.clock.read(), "why": why}
                found, holder = explain(state, who, request.verb, request.table, **how), state.holder(who)
            else:  # its roles are not those of a name
                holder = context.scope.holder
                found = explain_as(state, holder, request.verb, request.table, why=why)
            key = request.key if request.HasField("key") else None
            if key is not None or request.field:
                check_asked(request.table, key, request.field)
                seq = request.at_seq or None
                if request.at_time_ns:
                    seq = db.past.position(time=request.at_time_ns)
                asked = (request.verb, request.table, key, request.field, seq)
                found = db.access.seen(found, holder, *asked, why=why)
            return pb.ExplainAccessResponse(
                allowed=found.allowed, seq=found.seq, sentences=found.sentences, hidden=found.hidden
            )

        return await self._hosting.read(run)

    async def DefineRole(self, request: pb.DefineRoleRequest, context: Any) -> pb.AccessResponse:
        access = self._hosting.database(request.database).access
        return await self._change(access.define, context, request, values.role_of(request.role))

    async def RemoveRole(self, request: pb.RemoveRoleRequest, context: Any) -> pb.AccessResponse:
        access = self._hosting.database(request.database).access
        return await self._change(access.remove_role, context, request, request.name)

    async def Grant(self, request: pb.GrantRequest, context: Any) -> pb.AccessResponse:
        access, one = self._hosting.database(request.database).access, values.grant_of(request.grant)
        return await self._change(access.grant, context, request, one.identity, one.role, one.tables)

    async def Revoke(self, request: pb.GrantRequest, context: Any) -> pb.AccessResponse:
        access, one = self._hosting.database(request.database).access, values.grant_of(request.grant)
        tables = one.tables or None
        return await self._change(access.revoke, context, request, one.identity, one.role, tables)

    async def Audit(self, request: pb.AuditRequest, context: Any) -> pb.AccessResponse:
        access = self._hosting.database(request.database).access
        return await self._change(access.audit, context, request, request.table, request.share)

    async def Reads(self, request: pb.ReadsRequest, context: Any) -> AsyncIterator[pb.ReadsResponse]:
        db = self._hosting.database(request.database)

        def run(responses: ResponseStream[pb.ReadsResponse]) -> None:
            for answer in _reads(db, request):
                self._hosting.check_going()
                responses.send(answer)

        async for answer in self._hosting.stream(run, goes_on=False, stops=True):
            yield answer

    async def CreateToken(self, request: pb.CreateTokenRequest, context: Any) -> pb.AccessResponse:
        db, token = self._hosting.database(request.database), values.token_of(request.token)
        identity: Identity = context.identity
        configured = identity.databases is None and (identity.roles or proof_of(identity.name) == Proof.TOKEN)
        if token.name in self._hosting.auth.configured and not configured:
            raise AccessError(
                f"the configuration of the server has a token named {token.name}, so only callers with a"
                " token of the configuration may create tokens with this name; take another name",
                actor=str(identity.name),
            )
        if identity.anonymous and not db.access.state.tokens and OWNER.name not in token.roles:
            raise AccessError(
                "the first token of a database must have the role"
                f" {OWNER.name}, because this server requires tokens for the database from then on:"
                f" everlog token create --name {quote(token.name)} --role {OWNER.name}"
            )
        return await self._change(db.access.add_token, context, request, token)

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Any) -> pb.AccessResponse:
        access = self._hosting.database(request.database).access
        return await self._change(access.revoke_token, context, request, request.id)

    async def _change(
        self, call: Callable[..., int], context: Context, request: Any, *args: Any
    ) -> pb.AccessResponse:
        actor = self._hosting.auth.actor(context, request.actor)
        seq = await self._hosting.write(call, *args, actor=actor, reason=request.reason)
        return pb.AccessResponse(seq=seq)


READS = 256  # in one message


def _reads(db: Database, request: pb.ReadsRequest) -> Iterator[pb.ReadsResponse]:
    answer = pb.ReadsResponse()
    limit = request.limit_plus_one - 1 if request.limit_plus_one else None
    since, before = request.since_ns or None, request.before_ns or None
    for one in db.access.reads(who=request.who, table=request.table, since=since, before=before, limit=limit):
        answer.reads.append(message_of_read(one))
        if len(answer.reads) >= READS:
            yield answer
            answer = pb.ReadsResponse()
    yield answer


def _state(db: Database, request: pb.ShowAccessRequest | pb.ExplainAccessRequest) -> State:
    if not (request.at_seq or request.at_time_ns):
        return db.access.state
    return db.access.at(request.at_seq or None, time_ns=request.at_time_ns)


def _show(db: Database, request: pb.ShowAccessRequest) -> pb.ShowAccessResponse:
    state = _state(db, request)
    found = shown(state, db.schema, db.access.problems() if state is db.access.state else ())
    answer = pb.ShowAccessResponse(seq=found.seq, problems=found.problems)
    for role, change in found.roles:
        answer.roles.add(
            role=values.message_of_role(role),
            change=message_of_change(change) if change is not None else None,
        )
    for grant, change in found.grants:
        answer.grants.add(grant=values.message_of_grant(grant), change=message_of_change(change))
    for table, share, change in found.audits:
        answer.audits.add(table=table, share=share, change=message_of_change(change))
    for one in found.tokens:
        answer.tokens.add(
            token=values.message_of_token(one.token),
            created=message_of_change(one.created),
            ends_ns=one.ends_ns,
            ended=message_of_change(one.ended) if one.ended is not None else None,
        )
    return answer
