"""Access: roles, grants and tokens in the log, what they decide, and why, as of any record."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from everlog.audit.archive import archive
from everlog.audit.backup import backup
from everlog.audit.restore import restore
from everlog.proto import access_pb2, log_pb2
from everlog.store.database import Database
from everlog.store.errors import CursorError, ReadOnlyError, RowError
from everlog.store.upkeep.access import Access, hash_of
from everlog.store.upkeep.roles import (
    BY_TABLE,
    OPS,
    READY,
    RIGHTS,
    Grant,
    Held,
    Holder,
    Role,
    Rule,
    role_of,
)
from tests.store.conftest import Opener
from tests.store.models import ITEMS, items

READ, WRITE, STATUS, ADMIN, FORGET = (RIGHTS[word] for word in ("read", "write", "status", "admin", "forget"))


def allowed(access: Access, who: str, right: int, table: str = "", op: str = "") -> bool:
    return access.state.holder(who).decide(right, table, op).allowed


def test_what_is_granted_is_in_the_log_and_in_force_until_it_is_revoked(opening: Opener) -> None:
    db = opening()
    assert not allowed(db.access, "ann", READ, "items")
    seq = db.access.grant("ann", "reader", ("items", "book*"), actor="root", reason="joins")
    notice = db.log.commit(db.head)
    assert (notice.seq, notice.actor, notice.reason, notice.notice.kind, notice.notice.subject) == (
        seq,
        "root",
        "joins",
        "access.granted",
        "ann",
    )
    assert access_pb2.Grant.FromString(notice.notice.detail).tables == ["items", "book*"]
    assert db.access.grant("ann", "reader", ("items", "book*")) == 0
    for table, may in (("items", True), ("bookings", True), ("airports", False), ("", True)):
        assert allowed(db.access, "ann", READ, table) is may
    assert not allowed(db.access, "ann", WRITE, "items")
    assert allowed(db.access, "ann", STATUS)
    assert not allowed(db.access, "bob", READ, "items")
    db.close()
    db = opening()
    db.admin.rebuild()
    assert db.access.grants() == [Grant("ann", "reader", ("items", "book*"))]
    db.access.revoke("ann", "reader")
    assert not allowed(db.access, "ann", READ, "items")
    with pytest.raises(RowError, match="ann was not granted the role 'reader'; granted are: none"):
        db.access.revoke("ann", "reader")


def test_a_grant_on_some_tables_gives_nothing_about_the_whole_database(db: Database) -> None:
    db.access.grant("ann", "operator", ("items",))
    assert not allowed(db.access, "ann", ADMIN)
    assert allowed(db.access, "ann", STATUS)
    db.access.grant("bob", "operator")
    assert allowed(db.access, "bob", ADMIN)


def test_an_own_role_limits_tables_operations_rows_and_fields(db: Database) -> None:
    role = Role(
        "clerk",
        (
            Rule(("read",), ("air*",), rows={"city": ("$who", "acme")}, hidden=("name",)),
            Rule(("write",), ("airports",), ("put",)),
        ),
    )
    seq = db.access.define(role, actor="root")
    assert db.access.define(role) == 0
    known = db.access.state.role("clerk")
    assert known is not None
    assert [rule.unbound for rule in known.rules] == list(role.rules)
    (binding,) = known.rules[0].bindings
    assert (binding.name, binding.fields) == ("airports", {"city": (4,), "name": (2,)})
    assert db.access.define(known) == 0
    db.access.grant("ann", "clerk")
    holder = db.access.state.holder("ann")
    (sight,) = holder.decide(READ, "airports").visibility or ()
    assert (sight.rows, sight.hidden) == ((("city", "=", frozenset({"ann", "acme"})),), ("name",))
    assert holder.decide(WRITE, "airports", "put").visibility is None
    assert not holder.decide(WRITE, "airports", "delete").allowed
    assert not holder.decide(WRITE, "airstrips", "put").allowed
    assert not holder.decide(READ, "airstrips").allowed
    db.access.grant("ann", "reader", ("airports",))  # rules only add
    assert db.access.state.holder("ann").decide(READ, "airports").visibility is None
    with pytest.raises(RowError, match="role clerk is in use: revoke it first from ann"):
        db.access.remove_role("clerk")
    db.access.revoke("ann", "clerk")
    db.access.remove_role("clerk", reason="moved")
    assert db.access.state.role("clerk") is None
    assert db.access.at(seq).role("clerk") == known


@pytest.mark.parametrize(
    ("role", "says"),
    [
        (Role("reader", (Rule(("read",)),)), "reader is a ready-made role"),
        (Role("", (Rule(("read",)),)), "expected the name of a role of 1 to 200 bytes"),
        (Role("r", ()), "expected at least one rule in role r"),
        (Role("r", (Rule(()),)), "a rule with at least one right"),
        (Role("r", (Rule(("reed",)),)), "expected a right of .*, found 'reed'"),
        (Role("r", (Rule(("read",), ("a b",)),)), "expected the name of a table, or a pattern"),
        (Role("r", (Rule(("read",), ops=("get",)),)), "expected an operation of put, delete, found 'get'"),
        (Role("r", (Rule(("read",), rows={"a..b": ("x",)}),)), "expected the name of a field"),
        (Role("r", (Rule(("read",), rows={"a": ()}),)), "expected values that a may have, found none"),
        (Role("r", (Rule(("admin",), ("items",)),)), "admin: expected a rule of its own without limits"),
        (Role("r", (Rule(("read",)),), 2.0), "expected `audited` from 0 to 1"),
        ("reader", "expected a Role, found str"),
    ],
)
def test_a_role_that_is_none_is_refused_and_changes_nothing(db: Database, role: Any, says: str) -> None:
    head = db.head
    with pytest.raises(RowError, match=says):
        db.access.define(role)
    assert db.head == head


def test_a_role_that_does_not_exist_is_not_granted(db: Database) -> None:
    with pytest.raises(RowError, match="there is no role 'migrate'; the roles are: reader, writer"):
        db.access.grant("ann", "migrate")
    with pytest.raises(RowError, match="there is no role 'migrate'"):
        db.access.create_token("ann", ("migrate",))
    with pytest.raises(RowError, match="there is no own role 'reader'"):
        db.access.remove_role("reader")
    for name in ("", " ann", "a\nb", "x" * 201):
        with pytest.raises(RowError, match="expected an identity of 1 to 200 bytes"):
            db.access.grant(name, "reader")


def test_the_text_of_a_token_is_nowhere_in_the_database(opening: Opener, path: Path) -> None:
    db = opening()
    made = db.access.create_token("deploy", ("migrator",), actor="root")
    assert made.text.startswith("evl_")
    db.close()
    for file in path.rglob("*"):
        if file.is_file():
            assert made.text.encode() not in file.read_bytes()
    (one,) = opening().access.tokens()
    assert (one.token.name, one.token.roles, one.token.sha256) == (
        "deploy",
        ("migrator",),
        hash_of(made.text),
    )
    assert one.created.actor == "root"


def test_a_token_ends_when_it_expires_is_revoked_or_replaced(db: Database) -> None:
    now = db.clock.read()
    first = db.access.create_token("deploy", expires_ns=now + 10**12)

    def valid(id: str, at_ns: int = 0) -> bool:
        return db.access.state.tokens[id].valid(db.uuid, at_ns or db.clock.read())

    assert valid(first.token.id)
    assert not valid(first.token.id, now + 10**12)
    second = db.access.rotate_token("deploy", keep_s=60)
    assert valid(first.token.id)
    assert not valid(first.token.id, db.clock.read() + 61 * 10**9)
    assert second.token.expires_ns >= first.token.expires_ns  # as long as the first, from now on
    with pytest.raises(RowError, match=r"expected one valid token 'deploy', found 2: .*; name one by its id"):
        db.access.rotate_token("deploy")
    third = db.access.rotate_token(second.token.id)
    assert not valid(second.token.id)
    assert db.access.revoke_token("deploy", reason="leaked")
    assert not valid(first.token.id)
    assert not valid(third.token.id)
    assert db.access.revoke_token(third.token.id) == 0
    with pytest.raises(RowError, match="there is no token 'nobody'"):
        db.access.revoke_token("nobody")
    with pytest.raises(RowError, match="expected one valid token 'deploy', found 0"):
        db.access.rotate_token("deploy")
    with pytest.raises(RowError, match="expected a token that ends later than now"):
        db.access.create_token("deploy", expires_ns=1)


def test_the_same_token_twice_is_recorded_once_and_another_of_its_id_never(db: Database) -> None:
    made = db.access.create_token("deploy")
    head = db.head
    assert db.access.add_token(made.token) == made.seq
    with pytest.raises(RowError, match="another token of that id, or of that text"):
        db.access.add_token(type(made.token)("0" * 12, "eve", made.token.sha256))
    with pytest.raises(RowError, match="12 hexadecimal digits and a SHA-256 of 32 bytes"):
        db.access.add_token(type(made.token)("../etc", "eve", bytes(32)))
    assert db.head == head


def test_any_past_decision_can_be_explained(db: Database) -> None:
    before = db.head
    granted = db.access.grant("ann", "writer", ("items",), actor="root", reason="joins")
    revoked = db.access.revoke("ann", "writer", actor="root")
    found = db.access.explain("ann", "delete", "items", at=granted)
    assert (found.allowed, found.seq) == (True, granted)
    assert found.sentences[0] == "ann may delete items"
    assert f"by role writer granted on items, granted in commit {granted}" in found.sentences[1]
    assert "by root: joins" in found.sentences[1]
    for at in (before, revoked, None):
        found = db.access.explain("ann", "delete", "items", at=at)
        assert not found.allowed
        assert found.sentences == (
            "ann may not delete items",
            "no role is granted to ann",
            "to allow it: everlog access grant ann writer --table items",
        )
    time_ns = db.log.commit(granted).time_ns
    day_before = datetime.fromtimestamp(time_ns / 1e9 - 86_400, UTC)
    assert db.access.explain("ann", "delete", "items", at=day_before).seq == 0
    with pytest.raises(CursorError, match="expected a record up to"):
        db.access.explain("ann", "read", at=db.head + 1)
    with pytest.raises(RowError, match=r"expected a right .* put or delete, found 'drop table'"):
        db.access.explain("ann", "drop table")


def test_a_trimmed_log_still_explains_what_it_held(opening: Opener, tmp_path: Path) -> None:
    db = opening(idempotency_s=0)
    granted = db.access.grant("ann", "reader")
    revoked = db.access.revoke("ann", "reader")
    db.access.grant("bob", "reader")
    for number in range(20):
        db.put(ITEMS, *items(number, number))
    archive(db, str(tmp_path / "archive"))
    assert db.log.trimmed.base > revoked
    db.log.trimmed.older = None  # as if the archive were lost
    assert db.access.explain("ann", "read", at=granted).allowed
    assert not db.access.explain("ann", "read").allowed
    db.close()
    db = opening(idempotency_s=0)
    assert db.access.explain("ann", "read", at=granted).allowed
    assert db.access.explain("bob", "read").allowed


def test_a_restored_database_is_as_of_its_record_and_a_fork_accepts_no_token(
    opening: Opener, tmp_path: Path
) -> None:
    db = opening()
    db.access.grant("ann", "reader")
    made = db.access.create_token("ann")
    before = db.head
    db.access.revoke_token("ann")
    backup(db, str(tmp_path / "backup"))
    restore(tmp_path / "backup", tmp_path / "same")
    restore(tmp_path / "backup", tmp_path / "earlier", at=before)
    restore(tmp_path / "backup", tmp_path / "fork", at=before, fork=True)
    for name, valid in (("same", False), ("earlier", True), ("fork", False)):
        with Database(tmp_path / name) as other:
            assert other.access.explain("ann", "read").allowed
            one = other.access.state.tokens[made.token.id]
            assert one.valid(other.uuid, other.clock.read()) is valid


def test_a_reader_beside_the_writer_sees_changes_after_refresh(opening: Opener, path: Path) -> None:
    db = opening()
    with Database(path, read_only=True) as reader:
        assert not allowed(reader.access, "ann", READ)
        with pytest.raises(ReadOnlyError):
            reader.access.grant("ann", "reader")
        db.access.grant("ann", "reader")
        reader.refresh()
        reader.access.refresh()
        assert allowed(reader.access, "ann", READ)


def test_what_gives_nothing_is_told_to_the_operator(db: Database) -> None:
    db.access.define(Role("r", (Rule(("read",), ("items", "gone")),)))
    assert db.access.problems() == ["role r refers to table gone, which does not exist"]


def test_a_rule_with_a_limit_of_a_newer_program_gives_nothing() -> None:
    rule = access_pb2.Rule(rights=[access_pb2.READ]).SerializeToString() + b"\x9a\x06\x01x"  # field 99
    role = access_pb2.Role(name="r", rules=[access_pb2.Rule.FromString(rule)])
    assert role_of(role).rules == ()
    unknown = access_pb2.Role(name="r", rules=[access_pb2.Rule(rights=[99, access_pb2.READ])])  # type: ignore[list-item]
    assert role_of(unknown).rules == (Rule(("read",)),)
    op = access_pb2.Role(name="r", rules=[access_pb2.Rule(rights=[access_pb2.WRITE], ops=[9])])  # type: ignore[list-item]
    holder = Holder("ann", [Held(rule, "r") for rule in role_of(op).rules])
    assert not any(holder.decide(WRITE, "items", one).allowed for one in OPS)


def test_owner_has_every_right_and_dangerous_ones_are_of_nobody_else() -> None:
    assert {RIGHTS[word] for rule in READY["owner"].rules for word in rule.rights} == set(RIGHTS.values())
    assert set(RIGHTS.values()) == set(access_pb2.Right.values()) - {0}
    for name, role in READY.items():
        holder = Holder("ann", [Held(rule, name) for rule in role.rules])
        if name != "owner":
            assert not holder.decide(FORGET).allowed
            assert not {"rollback", "release", "remove", "drop", "restore", "grant"} & set(
                role.rules[0].rights
            )
    assert set(RIGHTS.values()) > BY_TABLE
    assert OPS["put"] == log_pb2.PUT
