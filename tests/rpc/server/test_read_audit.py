"""Read audit: every read of an audited table at a server is recorded before it is answered."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import everlog
from everlog.proto import access_pb2 as pb
from everlog.proto import history_pb2, log_pb2, store_pb2
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.read_audit import NO_ROWS, READING
from everlog.rpc.server.server import Server
from everlog.store.errors import DiskError, RowError, SchemaError
from everlog.store.rocks.files import READS
from everlog.store.schema.table import Table
from everlog.store.upkeep import read_audit
from everlog.store.upkeep.read_audit import HEADER_SIZE, ReadLog
from everlog.store.upkeep.roles import Role, Rule
from tests.conformance.database_case import (
    AIRPORTS,
    FAA,
    FLIGHTS,
    NAME,
    Airport,
    airport,
    flight,
    migrate,
    open_case,
)
from tests.rpc.server.test_rights import METHODS, path_of, request_of

OWNER: dict[str, Any] = {"tokens": {"ann": "sesame"}, "roles": {"ann": ("owner",)}}


@pytest.fixture
def ann(db: EmbeddedDatabase) -> Iterator[RemoteDatabase]:
    db.put(AIRPORTS, airport("JFK"))
    db.put(AIRPORTS, airport("LAX"))
    db.put(FLIGHTS, flight(1))
    db.access.audit("airports")
    with (
        Server({"x": db}, **OWNER) as server,
        RemoteDatabase(f"{server.url('x')}?token=sesame", retry_s=1) as remote,
    ):
        yield remote


def test_who_reads_what_when_by_which_call(ann: RemoteDatabase, db: EmbeddedDatabase) -> None:
    began_ns, seq = db.clock.read(), db.head
    calls: list[tuple[Callable[[], Any], str, dict[str, Any]]] = [
        (lambda: ann.get(AIRPORTS, "JFK"), "Store/Get", {"keys": ("JFK",)}),
        (lambda: ann.get(AIRPORTS, "XXX"), "Store/Get", {"keys": ("XXX",)}),
        (lambda: ann.get_many(AIRPORTS, ["JFK", "LAX"]), "Store/BatchGet", {"keys": ("JFK", "LAX")}),
        (lambda: list(ann.scan(AIRPORTS)), "Store/Scan", {}),
        (lambda: list(ann.scan(AIRPORTS, start="A", end="K")), "Store/Scan", {"range": "A to K"}),
        (lambda: list(ann.scan(AIRPORTS.by_city, "Rome")), "Store/Scan", {"index": "by_city"}),
        (lambda: ann.count(AIRPORTS), "Store/Count", {}),
        (lambda: list(ann.history(AIRPORTS, "JFK")), "History/History", {"keys": ("JFK",)}),
        (lambda: list(ann.past.diff(AIRPORTS, 1, seq)), "History/Diff", {}),
        (lambda: list(ann.past.log(table=AIRPORTS)), "History/Log", {}),
        (lambda: list(ann.past.log()), "History/Log", {}),
        (lambda: next(iter(ann.feed(tables=[AIRPORTS]))), "Feed/Subscribe", {}),
        (lambda: next(iter(ann.feed())), "Feed/Subscribe", {}),
    ]
    for call, name, expected in calls:
        before = len(list(db.access.reads()))
        call()
        (*_, found) = list(db.access.reads())[before:]
        assert (found.identity, found.proof, found.call, found.table) == ("ann", "token", name, "airports")
        assert found.time_ns >= began_ns
        for field, value in expected.items():
            assert getattr(found, field) == value, (name, field)
    moment = ann.at(seq=seq)
    moment.get(AIRPORTS, "JFK")
    assert list(db.access.reads())[-1].at_seq == seq
    ann.get(FLIGHTS, ("UA", 1))
    ann.put(AIRPORTS, airport("SFO"))
    ann.admin.status()
    count = len(list(db.access.reads()))
    assert {one.table for one in db.access.reads()} == {"airports"}
    assert list(ann.access.reads()) == list(db.access.reads())
    assert [one.call for one in ann.access.reads(limit=2)] == ["Store/Get", "Store/Get"]
    assert list(ann.access.reads(who="bob")) == list(ann.access.reads(table="flights")) == []
    assert len(list(ann.access.reads(who="ann", table="airports", since=began_ns))) == count
    assert list(ann.access.reads(before=began_ns)) == []


def test_the_share_is_declared_in_the_log_and_follows_a_table(
    ann: RemoteDatabase, db: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = ann.access.show()
    ((table, share, change),) = shown.audits
    assert (table, share, change.seq) == ("airports", 1.0, db.head)
    assert ann.access.audit("airports") == 0
    assert ann.access.audit("airports", 0.25, reason="less") == db.head
    assert db.log.commit(db.head).notice.kind == "access.audited"
    monkeypatch.setattr("random.random", lambda: 0.3)
    ann.get(AIRPORTS, "JFK")
    assert list(db.access.reads()) == []
    monkeypatch.setattr("random.random", lambda: 0.2)
    ann.get(AIRPORTS, "JFK")
    assert [one.share for one in db.access.reads()] == [0.25]
    ann.access.audit("airports", 0)
    assert db.access.show().audits == []
    ann.get(AIRPORTS, "JFK")
    assert len(list(db.access.reads())) == 1
    for wrong in (-0.1, 1.1, float("nan"), True, "all"):
        for one in (ann, db):
            with pytest.raises(RowError, match="expected a share of reads from 0 to 1"):
                one.access.audit("airports", wrong)  # type: ignore[arg-type]
    for one in (ann, db):
        with pytest.raises(SchemaError, match="there is no table 'gates'"):
            one.access.audit("gates")
    assert db.access.at(change.seq).share(db.schema.table("airports").proto.id) == 1.0


def test_the_past_of_an_audited_table_is_recorded_by_any_name(
    ann: RemoteDatabase, db: EmbeddedDatabase
) -> None:
    before = db.head
    schema = log_pb2.Schema()
    schema.CopyFrom(db.schema.proto)
    schema.version += 1
    schema.tables[0].name = "old"
    finished = log_pb2.Migration.FINISHED
    db.apply_migration(log_pb2.Migration(step=finished, version=schema.version, name="rename", schema=schema))
    migrate(db, schema.version + 1, AIRPORTS)
    ann.refresh_schema()
    ann.get(AIRPORTS, "JFK")  # of the new table, which is not audited
    assert list(db.access.reads()) == []
    about: dict[str, Any] = {"database": "x", "table": "airports"}
    key = db.schema.table("old").encode_key("JFK")
    how: dict[str, Any] = {"metadata": ann.channel.metadata, "timeout": 20}
    scan = store_pb2.ScanRequest(**about, at_seq=before)
    calls: list[tuple[str, Any]] = [
        ("Store/Scan", scan),
        ("History/History", history_pb2.HistoryRequest(**about, key=key)),
        ("History/Log", history_pb2.LogRequest(**about)),
    ]
    for name, request in calls:
        call: Any = ann.channel.grpc.unary_stream(path_of(name))
        list(call(request.SerializeToString(), **how))
    assert [(one.call, one.table) for one in db.access.reads()] == [(name, "old") for name, _ in calls]


def test_reads_by_the_callers_of_a_role_are_recorded(db: EmbeddedDatabase) -> None:
    db.access.define(Role("support", (Rule(("read",)),), 1.0))
    db.access.grant("ann", "support")
    db.put(FLIGHTS, flight(1))
    with Server({"x": db}, tokens={"ann": "a", "bob": "b"}, roles={"bob": ("reader",)}) as server:
        for token in "ab":
            with RemoteDatabase(f"{server.url('x')}?token={token}") as remote:
                remote.get(FLIGHTS, ("UA", 1))
    assert [(one.identity, one.table, one.keys) for one in db.access.reads()] == [
        ("ann", "flights", ("UA/1",))
    ]


def test_every_call_that_reads_is_recorded(ann: RemoteDatabase, db: EmbeddedDatabase) -> None:
    """A new call that needs `read`, `history`, `feed` or `backup`, and does not write, is recorded."""
    key, recorded = db.schema.table("airports").encode_key("JFK"), set()
    for name, method in METHODS.items():
        needs = method.GetOptions().Extensions[pb.needs]
        if {pb.WRITE, pb.LOAD} & set(needs[0].right) or path_of(name) in NO_ROWS:
            continue
        if not any(READING & set(need.right) for need in needs):
            continue
        request = request_of(name)
        for field, value in {"key": key, "keys": [key], "seq": 3, "size": db.head, "bounded": True}.items():
            if field in request.DESCRIPTOR.fields_by_name:
                wanted = getattr(request, field)
                wanted.extend(value) if isinstance(value, list) else setattr(request, field, value)
        before, how = len(list(db.access.reads())), {"metadata": ann.channel.metadata, "timeout": 20}
        raw = request.SerializeToString()
        with contextlib.suppress(grpc.RpcError):  # there is no tree of hashes
            if method.server_streaming:
                list(ann.channel.grpc.unary_stream(path_of(name))(raw, **how))  # type: ignore[arg-type]
            else:
                ann.channel.grpc.unary_unary(path_of(name))(raw, **how)  # type: ignore[arg-type]
        found = list(db.access.reads())[before:]
        assert [(one.call, one.table) for one in found] == [(name, "airports")]
        recorded.add(name)
    assert recorded >= {"Store/Get", "Store/Scan", "History/Log", "Feed/Subscribe", "Proofs/Prove"}


def test_a_read_that_cannot_be_recorded_is_not_answered(ann: RemoteDatabase, db: EmbeddedDatabase) -> None:
    ann.get(AIRPORTS, "JFK")
    directory = db.path / READS
    (log,) = directory.iterdir()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = log.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, limit[1]))  # as on a full disk: a part fits
    try:
        calls: list[Callable[[], Any]] = [
            lambda: ann.get(AIRPORTS, "JFK"),
            lambda: list(ann.scan(AIRPORTS)),
            lambda: next(iter(ann.feed(tables=[AIRPORTS]))),
        ]
        for call in calls:
            with pytest.raises(everlog.Error, match="must be recorded in the read audit, and cannot be"):
                call()
        ann.get(FLIGHTS, ("UA", 1))  # not audited
        assert log.stat().st_size == size
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    ann.get(AIRPORTS, "LAX")
    assert [one.keys for one in db.access.reads()] == [("JFK",), ("LAX",)]


def test_a_failed_fsync_is_reported_by_the_next_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ReadLog(tmp_path, bytes(16))
    log.append([b"one"])

    def fails(_: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    log.sync()
    with pytest.raises(DiskError, match="input/output error"):
        log.append([b"two"])
    monkeypatch.undo()
    log.append([b"three"])
    log.close()
    assert records(tmp_path) == [b"one", b"three"]


def records(path: Path) -> list[bytes]:
    found = []
    for one in sorted((path / READS).iterdir()):
        with one.open("rb") as file:
            file.read(HEADER_SIZE)
            found += list(read_audit.records_in(file))
    return found


def test_files_are_bounded_and_a_part_of_a_record_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_audit, "FILE_BYTES", 1000)
    monkeypatch.setattr(read_audit, "FILES_BYTES", 5000)
    log = ReadLog(tmp_path, bytes(16))
    for number in range(200):
        log.append([b"%03d" % number + bytes(97)])
    log.close()
    files = sorted((tmp_path / READS).iterdir())
    assert sum(file.stat().st_size for file in files) <= 5000 + 200
    kept = [int(one[:3]) for one in records(tmp_path)]
    assert kept == list(range(kept[0], 200))
    assert len(kept) > 30
    whole = files[-1].stat().st_size
    for damage in (b"\x05", b"\x64\x00\x00\x00\x01\x02\x03\x04half"):
        with files[-1].open("ab") as file:
            file.write(damage)
        assert [int(one[:3]) for one in records(tmp_path)] == kept
    again = ReadLog(tmp_path, bytes(16))
    again.append([b"new"])
    other = ReadLog(tmp_path, bytes(16))  # another process: a file of its own
    other.append([b"other"])
    again.append([b"newer"])
    again.close()
    other.close()
    assert {b"new", b"newer", b"other"} <= set(records(tmp_path))
    assert files[-1].stat().st_size > whole or len(list((tmp_path / READS).iterdir())) > len(files)


CHILD = """
import sys
from pathlib import Path
from everlog.store.upkeep.read_audit import ReadLog
log = ReadLog(Path(sys.argv[1]), bytes(16))
number = 0
while True:
    log.append([b"%06d" % number, bytes(7 + number % 300)])
    print(number, flush=True)
    number += 1
"""


def test_a_killed_process_loses_no_record_of_an_answer(tmp_path: Path) -> None:
    known: list[bytes] = []
    for _ in range(3):
        command = [sys.executable, "-c", CHILD, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            last = [int(child.stdout.readline()) for _ in range(200)][-1]
            child.kill()
        found = [one for one in records(tmp_path) if len(one) == 6]
        assert found[: len(known)] == known
        assert found[len(known) :][: last + 1] == [b"%06d" % number for number in range(last + 1)]
        known = found
    assert oct((tmp_path / READS).stat().st_mode)[-3:] == "700"


def test_nothing_about_a_forgotten_person_can_be_read(tmp_path: Path) -> None:
    people: Table[Any, str] = Table("people", Airport, key=NAME, person=NAME)
    by_id: Table[Any, str] = Table("patients", Airport, key=FAA, person=NAME)
    with open_case("file", tmp_path, people, by_id, master_key=bytes(range(32))) as case:
        db = case.embedded
        for name in ("Ada Lovelace", "Bob Dylan"):
            db.put(people, Airport(faa="x", name=name))
        db.access.audit("people")
        with (
            Server({"x": db}, **OWNER) as server,
            RemoteDatabase(f"{server.url('x')}?token=sesame") as ann,
        ):
            for name in ("Ada Lovelace", "Bob Dylan", "Carl Unknown"):
                ann.get(people, name)
            ann.get_many(people, ["Ada Lovelace", "Bob Dylan"])
            list(ann.scan(people, start="Ada Lovelace", end="Ada Lovelacf"))
            list(ann.history(people, "Ada Lovelace"))
        kept = "(not recorded: it may be personal data)"
        expected = [
            ("Ada Lovelace",),
            ("Bob Dylan",),
            (kept,),
            ("Ada Lovelace", "Bob Dylan"),
            (),
            ("Ada Lovelace",),
        ]
        assert [one.keys for one in db.access.reads()] == expected
        assert {one.range for one in db.access.reads()} == {""}
        raw = b"".join(file.read_bytes() for file in (db.path / READS).iterdir())
        assert not any(part in raw for part in (b"Ada", b"Lovelace", b"Bob", b"Carl"))
        db.people.forget(people, "Ada Lovelace", reason="asked")
        gone = "(of a forgotten person)"
        expected = [(gone,), ("Bob Dylan",), (kept,), (gone, "Bob Dylan"), (), (gone,)]
        assert [one.keys for one in db.access.reads()] == expected


def test_only_an_auditor_reads_the_audit(db: EmbeddedDatabase) -> None:
    roles = {"ann": ("reader",), "bob": ("auditor",)}
    with Server({"x": db}, tokens={"ann": "a", "bob": "b"}, roles=roles) as server:
        with RemoteDatabase(f"{server.url('x')}?token=a") as ann:
            with pytest.raises(everlog.AccessError, match="lacks the right audit"):
                list(ann.access.reads())
            with pytest.raises(everlog.AccessError, match="lacks the right grant"):
                ann.access.audit("airports")
        with RemoteDatabase(f"{server.url('x')}?token=b") as bob:
            assert list(bob.access.reads()) == []
