"""Rights: who may make which call at a server, and what a caller learns of what it may not see."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from everlog import AccessError, OpenError, RowError, UnavailableError
from everlog.audit.backup import backup
from everlog.audit.restore import restore
from everlog.proto import access_pb2 as pb
from everlog.proto import access_pb2_grpc, log_pb2, store_pb2_grpc
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.http2.grpc import Aborted, Call
from everlog.rpc.security import Identity
from everlog.rpc.server.rights import LOOK_S, Rights, Tokens
from everlog.rpc.server.server import DESCRIPTORS, Server
from everlog.store.database import Database
from everlog.store.upkeep.roles import READY, Role, Rule
from tests.conformance.database_case import AIRPORTS, FLIGHTS, Airport, Flight
from tests.store.models import open_flights

JFK = Airport(faa="JFK", name="Kennedy")
READING = (
    "Store/Describe Store/Get Store/BatchGet Store/Scan Store/Count History/At History/History History/Diff"
    " History/Log History/Positions Admin/Status Admin/Health Admin/Samples Migrations/List"
    " Migrations/Status"
    " Migrations/Plan Migrations/Proposals Migrations/PlanRollback Archive/Holds Archive/Removable"
    " Consumers/List Access/Explain Fleet/Status Fleet/Watch Fleet/Plans Fleet/Rollouts"
)
SEEING = (
    "Store/Describe History/Positions Admin/Status Admin/Health Admin/Samples Migrations/List"
    " Migrations/Status"
    " Migrations/Plan Migrations/Proposals Migrations/PlanRollback Archive/Holds Archive/Removable"
    " Consumers/List Access/Explain Fleet/Status Fleet/Watch Fleet/Plans Fleet/Rollouts"
)
PROVING = "Proofs/Head Proofs/Kept Proofs/ProveFrom Proofs/Entries"
# Answer, or end, what the caller may see, which is little or nothing.
SERVER = "Admin/ListDatabases Admin/Calls Admin/Kill Access/WhoAmI"
# What each ready-made role may call.
MAY = {
    "reader": READING,
    "writer": f"{READING} Store/Commit Store/Turn Store/Load Admin/Testdata",
    "follower": f"{SEEING} Feed/Subscribe Consumers/Register Consumers/Bookmark People/Keys",
    "migrator": f"{SEEING} Migrations/Apply Migrations/Propose Migrations/Complete Migrations/Cancel"
    " Migrations/Prepare Migrations/CommitPrepared Migrations/AbortPrepared"
    " Migrations/Load Migrations/Baseline Migrations/Accept Migrations/Folders Migrations/Show"
    " Fleet/Survey Fleet/Start Fleet/Abort Fleet/Remove Fleet/Contract Fleet/Plan Fleet/Upgrade"
    " Fleet/StartRollout Fleet/StopRollout",
    "approver": f"{SEEING} Migrations/Approve Migrations/Reject Migrations/Show Fleet/Survey Fleet/Approve"
    " Fleet/Reject Fleet/ApproveWave Fleet/StopRollout",
    "auditor": f"{READING} {PROVING} Proofs/Prove Admin/Check Access/Show Access/Reads"
    " People/Readable Migrations/Folders Migrations/Show Fleet/Survey",
    "operator": f"{SEEING} {PROVING} Admin/Check Admin/Rebuild Admin/Expire Admin/CorrectClock"
    " Admin/SetProduction Archive/Archive Archive/Hold Consumers/Register Consumers/Bookmark"
    " Feed/Subscribe Proofs/Checkpoint Proofs/Keep People/RotateKey Access/Show Access/Reads People/Readable"
    " Migrations/Folders Migrations/Show Fleet/Survey",
    "member": "Store/Describe Access/Explain Fleet/Join",
}
METHODS: dict[str, MethodDescriptor] = {
    f"{service.name}/{method.name}": method for service in DESCRIPTORS for method in service.methods
}


def path_of(name: str) -> str:
    return f"/everlog.v1.{name}"


def request_of(name: str, **fields: Any) -> Any:
    """A request that names the database, a table and a reason, where it has such fields."""
    made: Any = GetMessageClass(METHODS[name].input_type)()
    for field, value in {"database": "x", "table": "airports", "reason": "because", **fields}.items():
        if field in METHODS[name].input_type.fields_by_name:
            setattr(made, field, value)
    if name == "Store/Commit":
        made.writes.add(table="airports", op=log_pb2.PUT)
    return made


def test_every_call_declares_what_it_needs() -> None:
    undeclared = [name for name, method in METHODS.items() if not method.GetOptions().Extensions[pb.needs]]
    assert not undeclared, "declare `option (needs)` in the proto"
    assert METHODS.keys() >= {name for text in MAY.values() for name in text.split()}


def gate(db: Database) -> Rights:
    return Rights({"x": db}, Tokens({}, {}), DESCRIPTORS)


def admitted(rights: Rights, name: str, request: Any, identity: Identity) -> bool:
    call = Call(SimpleNamespace(connection=None, headers={}), name)  # type: ignore[arg-type]
    call.identity = identity
    try:
        rights.admit(call, path_of(name), request)
    except AccessError:
        return False
    return True


@pytest.mark.parametrize("role", READY)
def test_a_role_may_make_its_calls_and_no_others(db: EmbeddedDatabase, role: str) -> None:
    rights = gate(db)
    may = {
        name for name in METHODS if admitted(rights, name, request_of(name), Identity("ann", None, (role,)))
    }
    expected = set(METHODS) if role == "owner" else {*MAY[role].split(), *SERVER.split()}
    assert may == expected


def test_a_call_that_declares_nothing_is_refused_to_everybody(db: EmbeddedDatabase) -> None:
    rights = gate(db)
    call = Call(SimpleNamespace(connection=None, headers={}), "Store/New")  # type: ignore[arg-type]
    call.identity = Identity("ann", None, ("owner",))
    with pytest.raises(Aborted, match="does not declare which right it needs"):
        rights.admit(call, path_of("Store/New"), request_of("Store/Get"))


@contextlib.contextmanager
def served(db: EmbeddedDatabase, *roles: str, **how: Any) -> Iterator[Server]:
    """A server whose callers are named and authorised by role: `reader` has the token `token-of-reader`."""
    tokens = {role: f"token-of-{role}" for role in roles}
    with Server({"x": db}, tokens=tokens, roles={role: (role,) for role in roles}, **how) as server:
        yield server


def opened(server: Server, token: str, name: str = "x") -> RemoteDatabase:
    return RemoteDatabase(f"{server.url(name)}?token={token}", retry_s=2)


def code_of(server: Server, token: str, name: str, request: Any) -> grpc.StatusCode:
    """The status of a call, which is cancelled at its first answer."""
    method, raw = METHODS[name], request.SerializeToString()
    with grpc.insecure_channel(server.address) as channel:
        how: dict[str, Any] = {"metadata": (("authorization", f"Bearer {token}"),), "timeout": 20}
        try:
            if method.client_streaming:
                next(channel.stream_stream(path_of(name))(iter([raw]), **how))
            elif method.server_streaming:
                next(channel.unary_stream(path_of(name))(raw, **how))
            else:
                channel.unary_unary(path_of(name))(raw, **how)
        except StopIteration:
            pass
        except grpc.RpcError as error:
            found: grpc.StatusCode = error.code()
            return found
    return grpc.StatusCode.OK


def test_what_a_role_may_not_do_is_denied_over_the_network(db: EmbeddedDatabase) -> None:
    head = db.head
    with served(db, *MAY) as server:
        for role, may in MAY.items():
            for name in METHODS.keys() - set(may.split()) - set(SERVER.split()):
                found = code_of(server, f"token-of-{role}", name, request_of(name))
                assert found is grpc.StatusCode.PERMISSION_DENIED, (role, name)
    assert db.head == head


def test_a_name_without_roles_has_those_that_the_log_grants(db: EmbeddedDatabase) -> None:
    with Server({"x": db}, tokens={"ann": "sesame"}) as server:
        with pytest.raises(AccessError, match="to give some: everlog access grant ann reader"):
            opened(server, "sesame")
        db.access.grant("ann", "reader", ("airports",))
        with opened(server, "sesame") as ann:
            ann.get(AIRPORTS, "JFK")
            with pytest.raises(AccessError, match="lacks the right write on airports in database x; to"):
                ann.put(AIRPORTS, JFK)
            db.access.grant("ann", "writer")
            ann.put(AIRPORTS, JFK)
            db.access.revoke("ann", "writer")
            with pytest.raises(AccessError, match="ann lacks the right write on airports"):
                ann.put(AIRPORTS, JFK)
        assert db.log.commit(db.head - 1).actor == "ann"


def test_rights_are_by_table_and_operation(db: EmbeddedDatabase) -> None:
    db.access.define(Role("clerk", (Rule(("read", "write"), ("air*",), ("put",)), Rule(("read",)))))
    db.access.grant("ann", "clerk")
    with Server({"x": db}, tokens={"ann": "sesame"}) as server, opened(server, "sesame") as ann:
        ann.put(AIRPORTS, JFK)
        with pytest.raises(AccessError, match="lacks the right write on airports"):
            ann.delete(AIRPORTS, "JFK")
        head = db.head
        tx = ann.transaction()
        tx.put(AIRPORTS, JFK)
        tx.put(FLIGHTS, Flight(carrier="AA", number=1))
        with pytest.raises(AccessError, match="lacks the right write on flights"):
            tx.commit()
        assert db.head == head


def test_what_a_caller_may_not_see_is_as_if_it_did_not_exist(db: EmbeddedDatabase, tmp_path: Path) -> None:
    db.access.grant("ann", "reader", ("airports",))
    with (
        open_flights(tmp_path / "other") as other,
        Server({"x": db, "secret": other}, tokens={"ann": "sesame"}) as server,
    ):
        said = set()
        for name in ("secret", "nothing"):
            with pytest.raises(AccessError) as caught:
                opened(server, "sesame", name)
            said.add(str(caught.value).replace(name, "NAME"))
        assert len(said) == 1
        with opened(server, "sesame") as ann:
            assert ann.admin.databases() == ["x"]
            assert list(ann.schema.tables) == ["airports"]
            names = [name for file in ann.schema.proto.models.file for name in file.message_type]
            assert "Flight" not in str(names)
            assert [table.name for table in ann.admin.status().tables] == ["airports"]
            assert list(ann.admin.hashes()) == ["airports"]
            for table in ("flights", "nothing"):
                request = request_of("Store/Get", table=table)
                found = code_of(server, "sesame", "Store/Get", request)
                assert found is grpc.StatusCode.PERMISSION_DENIED
            db.access.grant("ann", "reader", ("air*",))
            stub = store_pb2_grpc.StoreStub(ann.channel.grpc)
            request = request_of("Store/Get", table="airstrips")
            with pytest.raises(grpc.RpcError, match="no such table, index or version is visible"):
                stub.Get(request, metadata=ann.channel.metadata)


def test_an_owner_is_told_which_databases_there_are(db: EmbeddedDatabase) -> None:
    with served(db, "owner") as server, pytest.raises(OpenError, match="hosts no database 'y'; it hosts: x"):
        opened(server, "token-of-owner", "y")


def test_what_cannot_be_undone_needs_a_reason_of_an_authenticated_caller(db: EmbeddedDatabase) -> None:
    db.archive.hold("audit", 1)
    with served(db, "owner", "operator") as server:
        with (
            opened(server, "token-of-operator") as operator,
            pytest.raises(AccessError, match="operator lacks the right release"),
        ):
            operator.archive.release("audit", reason="over")
        with opened(server, "token-of-owner") as owner:
            head = db.head
            for call in (
                lambda: owner.archive.release("audit"),
                lambda: owner.consumers.remove("nobody", reason=" "),
                owner.migrations.rollback,
            ):
                with pytest.raises(RowError, match="cannot be undone, so it needs a reason"):
                    call()
            assert db.head == head
            owner.archive.release("audit", reason="audit closed")
    assert db.archive.holds() == {}
    commit = db.log.commit(db.head)
    assert (commit.actor, commit.reason, commit.notice.kind, commit.notice.subject) == (
        "owner",
        "audit closed",
        "hold.released",
        "audit",
    )


def test_a_server_without_tokens_on_this_machine_is_open_until_the_first_token(db: EmbeddedDatabase) -> None:
    with Server({"x": db}) as server:
        with RemoteDatabase(server.url("x")) as anybody:
            anybody.put(AIRPORTS, JFK)
            stub = access_pb2_grpc.AccessStub(anybody.channel.grpc)
            token = pb.Token(id="0" * 12, name="ann", sha256=bytes(32))
            with pytest.raises(grpc.RpcError, match="the first token of a database must have the role owner"):
                stub.CreateToken(pb.CreateTokenRequest(database="x", token=token))
            made = db.access.create_token("ann")
            with pytest.raises(UnavailableError, match="expected a token, found none"):
                anybody.put(AIRPORTS, JFK)
            assert anybody.admin.databases() == []
        db.access.revoke_token("ann")
        with pytest.raises(UnavailableError, match="expected a token, found none"):  # it stays so
            RemoteDatabase(server.url("x"), retry_s=0)
        with pytest.raises(UnavailableError, match="this token has ended"):
            opened(server, made.text)


@pytest.mark.parametrize("how", ["revoked", "replaced", "grant revoked"])
def test_a_stream_ends_within_a_second_of_its_token_or_right(db: EmbeddedDatabase, how: str) -> None:
    db.access.grant("mirror", "follower")
    made, kept = db.access.create_token("mirror"), db.access.create_token("mirror")
    assert LOOK_S <= 0.5
    with (
        Server({"x": db}) as server,
        opened(server, kept.text) as other,
        opened(server, made.text) as mirror,
    ):
        goes_on, feed = iter(other.feed(now=True)), iter(mirror.feed(now=True))
        db.put(AIRPORTS, JFK)
        assert next(feed).seq == next(goes_on).seq == db.head
        if how == "revoked":
            db.access.revoke_token(made.token.id)
        elif how == "replaced":
            db.access.rotate_token(made.token.id)
        else:
            db.access.revoke("mirror", "follower")
        with pytest.raises((UnavailableError, AccessError)) as ended:
            list(feed)
        denied = how == "grant revoked"
        says = "mirror has no rights in database 'x'" if denied else "this token has ended"
        assert says in str(ended.value)
        if not denied:
            db.put(AIRPORTS, JFK, actor="me")
            while next(goes_on).actor != "me":
                pass


def test_a_stream_ends_when_its_token_expires(db: EmbeddedDatabase) -> None:
    db.access.grant("mirror", "follower")

    seen = list[int]()

    def follow(server: Server, token: str) -> None:
        with opened(server, token) as mirror:
            seen.extend(commit.seq for commit in mirror.feed())

    with Server({"x": db}) as server:
        for lifetime_s in (0.5, 5, 60):  # a slow machine needs more
            made = db.access.create_token("mirror", expires_ns=db.clock.read() + int(lifetime_s * 1e9))
            with pytest.raises(UnavailableError, match="this token has ended"):
                follow(server, made.text)
            if seen:
                break
        assert seen[-1] == db.head


def test_a_token_is_of_its_database_and_of_no_other(db: EmbeddedDatabase, tmp_path: Path) -> None:
    made = db.access.create_token("ann", ("owner",))
    backup(db, str(tmp_path / "backup"))
    restore(tmp_path / "backup", tmp_path / "fork", fork=True)
    with (
        open_flights(tmp_path / "other") as other,
        EmbeddedDatabase(tmp_path / "fork") as fork,
        Server({"x": db, "y": other}) as server,
        Server({"fork": fork}) as forked,
    ):
        with opened(server, made.text) as ann:
            ann.put(AIRPORTS, JFK)
            assert ann.admin.databases() == ["x"]
        assert (db.log.commit(db.head).actor, db.log.commit(db.head).proof) == ("ann", log_pb2.Commit.TOKEN)
        with pytest.raises(AccessError, match="ann has no rights in database 'y'"):
            opened(server, made.text, "y")
        with pytest.raises(UnavailableError, match="or is of another database"):
            opened(forked, made.text, "fork")


def test_a_token_with_roles_has_these_and_not_those_of_its_name(db: EmbeddedDatabase) -> None:
    db.access.grant("ann", "owner")
    made = db.access.create_token("ann", ("reader",))
    with (
        Server({"x": db}) as server,
        opened(server, made.text) as ann,
        pytest.raises(AccessError, match="ann lacks the right write"),
    ):
        ann.put(AIRPORTS, JFK)


def test_names_of_the_configuration_get_their_tokens_only_from_it(db: EmbeddedDatabase) -> None:
    made = db.access.create_token("eve", ("owner",))
    with Server({"x": db}, tokens={"mirror": "sesame"}, roles={"mirror": ("owner",)}) as server:
        for text, code in ((made.text, grpc.StatusCode.PERMISSION_DENIED), ("sesame", grpc.StatusCode.OK)):
            request = request_of("Access/CreateToken")
            request.token.MergeFrom(pb.Token(id="1" * 12, name="mirror", sha256=bytes(32)))
            assert code_of(server, text, "Access/CreateToken", request) is code


def test_a_caller_sees_who_it_is_and_no_hash_of_a_token(db: EmbeddedDatabase) -> None:
    db.access.create_token("ann")
    with served(db, "auditor", "reader") as server, grpc.insecure_channel(server.address) as channel:
        stub = access_pb2_grpc.AccessStub(channel)
        as_reader = (("authorization", "Bearer token-of-reader"),)
        who = stub.WhoAmI(pb.WhoAmIRequest(database="x"), metadata=as_reader)
        assert (who.name, list(who.roles), who.proof) == ("reader", ["reader"], log_pb2.Commit.TOKEN)
        assert set(who.rights) == {pb.READ, pb.HISTORY, pb.STATUS}
        shown = stub.Show(
            pb.ShowAccessRequest(database="x"), metadata=(("authorization", "Bearer token-of-auditor"),)
        )
        assert [(one.token.name, one.token.sha256) for one in shown.tokens] == [("ann", b"")]
        mine = stub.Explain(pb.ExplainAccessRequest(database="x", verb="delete"), metadata=as_reader)
        assert (mine.allowed, mine.sentences[0]) == (False, "reader may not delete")
        with pytest.raises(grpc.RpcError, match="reader lacks the right audit"):
            stub.Explain(pb.ExplainAccessRequest(database="x", who="ann", verb="read"), metadata=as_reader)


def test_a_caller_learns_which_role_allows_a_call_and_an_auditor_who_granted_it(db: EmbeddedDatabase) -> None:
    db.access.grant("ann", "reader", ("airports",), actor="boss", reason="on probation")
    db.access.grant("eve", "auditor")
    db.access.create_token("ann", ("writer",))
    secrets = ("boss", "probation", "commit", "token")

    def said(caller: str, asked: str, verb: str) -> list[str]:
        with opened(server, f"token-of-{caller}") as remote:
            stub = access_pb2_grpc.AccessStub(remote.channel.grpc)
            request = pb.ExplainAccessRequest(database="x", who=asked, verb=verb, table="airports")
            return list(stub.Explain(request, metadata=remote.channel.metadata).sentences)

    with Server({"x": db}, tokens={name: f"token-of-{name}" for name in ("ann", "eve")}) as server:
        with pytest.raises(grpc.RpcError, match="ann lacks the right audit"):
            said("ann", "ann", "read")
        assert said("ann", "", "read") == ["ann may read airports", "by role reader granted on airports"]
        denied = said("ann", "", "write")
        assert denied[:2] == [
            "ann may not write airports",
            "role reader granted on airports does not give it",
        ]
        assert not [one for one in denied for secret in secrets if secret in one]
        for verb in ("read", "write"):
            shown = " ".join(said("eve", "ann", verb))
            assert all(secret in shown for secret in secrets)


def test_the_warnings_of_the_server_are_for_those_who_see_all(db: EmbeddedDatabase) -> None:
    db.access.grant("ann", "reader", ("airports",))
    with Server({"x": db}, tokens={"ann": "sesame", "bob": "thyme"}, roles={"bob": ("operator",)}) as server:
        server.hosting.warnings = ["a certificate ends"]
        for token, expected in (("sesame", []), ("thyme", ["a certificate ends"])):
            with opened(server, token) as caller:
                assert caller.admin.status().warnings == expected
