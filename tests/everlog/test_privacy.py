"""Privacy: no byte that everlog writes contains readable data of a person, whatever fails.

A person's row has a mark in every field that is sealed or hashed. Every call that writes is used, and made to
fail. Then no file contains the mark: as stored, decompressed, or as read by RocksDB.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from rocksdict import AccessType, Options, Rdict

from everlog import migrations
from everlog.audit import archive, backup, prover, restore
from everlog.audit.export import export
from everlog.audit.prover import LocalProver
from everlog.console.cli.main import run
from everlog.console.cli.options import Settings
from everlog.consumers import Follower, SqliteSink
from everlog.migrations import Approval
from everlog.migrations.approval.notify import ApprovalEvents, Notifier
from everlog.migrations.lint.lint import lint
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.errors import Error
from tests.audit.test_prover import signer_of
from tests.migrations.project import Project
from tests.migrations.receiver import Receiver
from tests.store.people import MASTER, OTHER_MASTER, PATIENTS, open_people

MARK = "Wilhelmina7f3a9"
ROOT = Path(__file__).parents[2]
ZSTD = b"\x28\xb5\x2f\xfd"  # the first bytes of a frame
FIELDS = "string id = 1; string name = 2; string email = 3; string subject = 4;"
HEAD = """
EMAIL = field("email", 3, STRING)
SUBJECT = field("subject", 4, STRING)
"""
BY_EMAIL = 'Index("by_email", EMAIL, hashed=True)'
UNIQUE = 'Index("unique_email", EMAIL, unique=True, hashed=True)'
TABLE = f'Table("airports", Airport, key=FAA, person=SUBJECT, indexes=({BY_EMAIL},))'
TWO = TABLE.replace(BY_EMAIL, f"{BY_EMAIL}, {UNIQUE}")
UP = HEAD + "from {first}.model_pb2 import Airport as Before\n\n"
ROW = "Airport(id=old.id, name=old.name, email=old.email, subject=old.subject)"
TRANSFORM = ", transforms=[Transform(AIRPORTS, Before, up)]"
REMAKE = ", up=Remake([AIRPORTS], rows=anew)"


def clinic(project: Project, name: str, **how: Any) -> Path:
    """Return a folder whose table has a surrogate key."""
    folder = project.add(name, fields=FIELDS, **{"table": TABLE, "code": HEAD, **how})
    file = folder / "__init__.py"
    file.write_text(file.read_text().replace('"faa"', '"id"'))
    return folder


def raising(body: str) -> dict[str, Any]:
    return {"code": f"{UP}def up(old):\n    {body}\n", "drop": TRANSFORM}


def checking(body: str) -> dict[str, Any]:
    code = f"from . import AIRPORTS\n\ndef checks(db):\n    for row in db.scan(AIRPORTS):\n        {body}\n"
    return {"files": {"checks.py": code}}


def remaking(body: str) -> dict[str, Any]:
    code = f"{UP}BEFORE = None\n\ndef anew(db):\n    from {{first}} import AIRPORTS as OLD\n"
    return {"code": f"{code}    for old in db.scan(OLD):\n        {body}\n", "drop": REMAKE}


# Second migrations, each of which fails on the rows of the first.
FAILING: dict[str, dict[str, Any]] = {
    "up raises the row": raising("raise ValueError(old)"),
    "up raises a value": raising("raise KeyError(old.name)"),
    "up raises a text with a value": raising('raise ValueError(f"what a name: {{old.name}}")'),
    "up raises from another": raising("return {{}}[old.name]"),
    "up returns the row": raising("return old"),
    "up returns a text": raising("return old.name"),
    "up sets a wrong value": raising("return Airport(id=old.id, name=len, email=old.email)"),
    "up changes the key": raising("return Airport(id=old.name, name=old.name, subject=old.subject)"),
    "up leaves nobody": raising("return Airport(id=old.id, name=old.name)"),
    "up makes values one": {
        **raising(f"return {ROW}"),
        "table": TWO,
    },
    "a unique index": {"table": TWO},
    "a check says a name": checking("yield row.name"),
    "a check says a sentence": checking(
        'yield f"{{row.name}} has no {{row.email}}"'.replace("{{", "{").replace("}}", "}")
    ),
    "a check raises": checking("raise ValueError(row.name)"),
    "a check yields a row": checking("yield row"),
    "a function raises the row": remaking("raise ValueError(old)"),
    "a function yields rows twice": remaking(f"yield AIRPORTS, {ROW}; yield AIRPORTS, {ROW}"),
    "a function yields other rows": remaking("yield AIRPORTS, Airport(name=old.name)"),
}


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield all bytes below a directory: the files, and the content of zstd frames and RocksDB."""
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        raw = file.read_bytes()
        yield str(file), raw
        for at in (found.start() for found in re.finditer(re.escape(ZSTD), raw)):
            with contextlib.suppress(zstandard.ZstdError):
                yield (
                    f"{file}, frame at {at}",
                    zstandard.ZstdDecompressor().decompressobj().decompress(raw[at:]),
                )
        if file.name == "CURRENT":
            for family in Rdict.list_cf(str(file.parent), Options(raw_mode=True)):
                options = {family: Options(raw_mode=True)} if family != "default" else None
                view = Rdict(str(file.parent), Options(raw_mode=True), options, AccessType.read_only())
                column = view if family == "default" else view.get_column_family(family)
                yield f"{file.parent} ({family})", b"".join(key + value for key, value in column.items())
                view.close()


def marked(path: Path, mark: str = MARK) -> list[str]:
    """Return the places of a mark."""
    words = (mark.encode(), mark.encode("utf-16-le"), mark.lower().encode(), mark.upper().encode())
    return [where for where, raw in contents(path) if any(word in raw for word in words)]


def decided(approval: Approval) -> None:
    """Propose the pending migrations, approve the proposal, and apply it."""
    proposal = approval.propose(actor="ann")
    assert proposal is not None
    approval.approve(proposal.short, actor="bob", reason="try it", despite_errors=True)
    approval.run()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    (tmp_path / "code").mkdir()
    return Project(tmp_path / "code")


SOME = ("up raises a text with a value", "a unique index", "a check says a name", "a function raises the row")


@pytest.mark.parametrize("names", [SOME, pytest.param(tuple(FAILING), marks=pytest.mark.long)], ids=len)
def test_a_migration_that_fails_keeps_and_sends_nothing_of_a_row(
    project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture, names: tuple[str, ...]
) -> None:
    caplog.set_level(logging.DEBUG)
    data, said = tmp_path / "data", list[str]()
    data.mkdir()
    first = clinic(project, "first")
    with EmbeddedDatabase(data / "db", master_key=MASTER) as db:
        migrations.apply(db, project.build().path)
        table = project.load()[0].tables[0]
        for number in (1, 2):
            row = table.model(
                id=f"{number}", name=f"{MARK} {number}", email=f"{MARK}@x", subject=f"{MARK}{number}"
            )
            db.put(table, row)
        for number, how in enumerate(FAILING[name] for name in names):
            code = str(how.get("code", HEAD)).format(first=f"{project.app}.migrations.{first.name}")
            folder = clinic(project, f"failing{number}", **{**how, "code": code})
            project.build()
            found = lint(project.path, db)
            assert not [one for one in found if one.severity == "error" and one.id[:4] in {"load", "chan"}]
            said += [finding.text for finding in found]
            approval = Approval(db, project.path)
            with pytest.raises(Error) as caught:
                decided(approval)
            said += [str(caught.value), *(one.body for one in ApprovalEvents(approval).messages(0))]
            with pytest.raises(Error) as caught:
                migrations.apply(db, project.path)
            said.append(str(caught.value))
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
            project.folders.pop()
            project.build()
        assert [text for text in said if MARK in text] == []
        assert [text for text in caplog.messages if MARK in text] == []
        for mark in (MARK,):
            assert not any(mark.encode() in framed for _, framed in db.log.scan(0))
    assert marked(data) == []


KILLED = """
import sys
from everlog.store.database import Database
from tests.store.people import MASTER, PATIENTS, patient
from tests.store.people import open_people

db, mark = open_people(sys.argv[1]), sys.argv[2]
rows = (patient(n, mark, name=f"{mark} {n}", email=f"{mark}{n}") for n in range(1_000_000))
db.put(PATIENTS, patient(1_000_001, mark, name=mark))
print("ready", flush=True)
db.load(PATIENTS, rows, id=mark, source=mark)
"""


def killed(path: Path) -> None:
    """Make a database whose process is killed while it loads rows of a person, who is then forgotten."""
    command = [sys.executable, "-c", KILLED, str(path), MARK]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    assert marked(path) == []
    with open_people(path) as db:
        assert db.people.forget(PATIENTS, 1_000_001).rows >= 1


def refused(do: Callable[..., object], *args: Any, **more: Any) -> str:
    """Return the message of a failing call."""
    with pytest.raises(Error) as caught:
        do(*args, **more)
    return str(caught.value)


def test_no_byte_that_is_written_has_a_mark_of_a_person(
    project: Project,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, temporary = tmp_path / "data", tmp_path / "data" / "tmp"
    temporary.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "everlog")
    brought = f"id,name,email,subject\n9,{MARK} 9,{MARK}9@x,{MARK}\n"
    first = clinic(
        project,
        "first",
        files={"bootstrap_airports.csv": brought, "stray.csv": brought + "\n", "notes.txt": MARK},
        table=TWO,
    )
    (tmp_path / "bad.csv").write_text(f"id,name,email,wrong\n1,{MARK},{MARK},{MARK}\n")
    (tmp_path / "headless.csv").write_text(f"{MARK},{MARK} 2,{MARK}\n")
    said = list[str]()

    def cli(*words: str) -> None:
        """Run a command; its output is stored in a file, as by a shell, a scheduler or CI."""
        run([*words], Settings())
        out = capsys.readouterr()
        with (data / "cli.log").open("a") as file:
            file.write(f"{out.out}{out.err}")

    with EmbeddedDatabase(data / "db", master_key=MASTER) as db, Receiver() as receiver:
        approval = Approval(db, project.build().path, name="clinic")
        with Notifier([receiver.url], [approval]) as notifier:
            approval.changed = notifier.wake
            decided(approval)
            table = project.load()[0].tables[0]

            def made(n: int, **more: str) -> Any:
                fields = {"name": f"{MARK} {n}", "email": f"{MARK}{n}@x", "subject": MARK, **more}
                return table.model(id=str(n), **fields)

            db.put(table, table.model(id="0", name="Bob", email="bob@x", subject="bob"))
            db.load(table, [made(1), made(2)], id=MARK, source=f"{MARK}.csv")
            server = Server(
                {"clinic": db},
                tokens={"mirror": "a", "web": "b"},
                roles={"mirror": ("owner",), "web": ("owner",)},
                keys_for=["mirror"],
                migrations={"clinic": str(project.path)},
            )
            with (
                server,
                RemoteDatabase(f"{server.url('clinic')}?token=a") as remote,
                SqliteSink(data / "mirror.sqlite") as sink,
            ):
                url = f"{server.url('clinic')}?token=b"
                for one in (db, remote):
                    one.put(table, made(3))
                    with one.transaction() as tx:
                        tx.put(table, made(4))
                    said.append(refused(one.put, table, made(5, email=f"{MARK}1@x")))
                    said.append(refused(one.put, table, made(5, subject="")))
                    said.append(refused(one.update, table, made(5)))
                    said.append(
                        refused(one.load, table, [made(6, email=f"{MARK}2@x")], id=f"{MARK} bad", source=MARK)
                    )
                    said.append(refused(one.scan, table.by_email, starts_with=MARK))
                Follower(remote, sink).run(bounded=True)
                for file in ("bad.csv", "headless.csv"):
                    cli("-u", url, "import", "airports", str(tmp_path / file))
                    cli("-u", url, "import", "airports", str(tmp_path / file), "--json")
                for name in ("up raises the row", "a check says a sentence", "up makes values one"):
                    how = FAILING[name]
                    code = str(how.get("code", HEAD)).format(first=f"{project.app}.migrations.{first.name}")
                    if name == "up makes values one":
                        code = code.replace("email=old.email", f"email='{MARK[::-1]}'")
                    folder = clinic(project, name.replace(" ", "_"), **{**how, "table": TWO, "code": code})
                    project.build()
                    cli("-u", url, "plan")
                    cli("-u", url, "plan", "--json")
                    cli("-u", url, "-d", str(project.path), "lint")
                    cli("-u", url, "migrate", "--reason", "try it")
                    said.append(refused(decided, approval))
                    for left in folder.iterdir():
                        left.unlink()
                    folder.rmdir()
                    project.folders.pop()
                    project.build()
                cli("-u", url, "migrations", "proposals", "--json")
                cli("-u", url, "status", "--verbose")
                backup(db, data / "before")
                signer = signer_of(db)
                export(LocalProver(db), prover.checkpoint(LocalProver(db), signer)[0], data / "tiles")
                db.admin.rebuild()
                db.people.rotate_key(OTHER_MASTER)
                done = remote.people.forget(table, "1", reason="asked")
                said += [one.text for one in done.remaining]
                Follower(remote, sink).run(bounded=True)
            backup(db, data / "after")
            archive(db, data / "archive")
            receiver.wait_for(2)
        (data / "hooks.json").write_text(json.dumps(receiver.received))
        (data / "server.log").write_text(caplog.text)
        (data / "said.txt").write_text("\n".join(said))
        assert list(db.admin.check()) == []
        db.admin.rebuild_into(data / "into")
    restore(data / "after", data / "restored")
    (data / "restored" / "KEYS").write_bytes((data / "db" / "KEYS").read_bytes())
    with EmbeddedDatabase(data / "restored", master_key=OTHER_MASTER) as db:
        assert [row.name for row in db.scan(table)] == ["Bob"]
    printed = (data / "cli.log").read_text()
    for words in (
        "fails for row airports/0: ",
        "row airports/1 has the same email",
        "checks.py: a check",
    ):
        assert words in printed
    killed(data / "killed")
    assert len(list(contents(data))) > 60
    assert marked(data) == []
    plain = [hashlib.sha256(word.encode()) for word in (MARK, brought, brought + "\n")]
    for where, raw in contents(data):
        assert not any(one.digest() in raw or one.hexdigest().encode() in raw for one in plain), where
