"""Migrations of tables that name a person: lint, a table that is sealed later, its schema as text."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from everlog import migrations
from everlog.console.cli.main import run
from everlog.console.cli.options import Settings
from everlog.migrations import Approval
from everlog.migrations.lint.lint import lint
from everlog.migrations.schema_text import from_text, to_text
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.database import Database
from everlog.store.errors import MigrationError
from tests.migrations.project import Project
from tests.store.models import declare
from tests.store.people import MASTER, PATIENTS, VISITS, patient

SEALED = 'Table("airports", Airport, key=FAA, person=NAME)'
DATA = {"testdata.py": ""}
UP = """
from {app}.migrations.v20260101000000_create_airports.model_pb2 import Airport as Before

def up(old: Before) -> Airport:
    return Airport(faa=old.faa, name=old.name)

def down(new: Airport) -> Before:
    return Before(faa=new.faa, name=new.name)
"""


def test_a_key_that_tells_of_somebody_is_warned_of(project: Project) -> None:
    project.add("first", table=SEALED, files=DATA)
    found = lint(project.build().path)
    assert [one.id for one in found] == ["person/key-not-surrogate"]
    assert "faa is in the primary key of airports, which is not sealed" in found[0].text


def test_a_table_that_is_sealed_later_is_rewritten_and_its_past_is_said_to_be_open(
    project: Project, tmp_path: Path
) -> None:
    project.add()
    project.build()
    with EmbeddedDatabase(tmp_path / "db", master_key=MASTER) as db:
        migrations.apply(db, project.path)
        table = migrations.load(project.path)[0].tables[0]
        for n in range(300):
            db.put(table, table.model(faa=f"A{n}", name=f"Wilhelmina-{n % 50}"))
        folder = project.add(
            "seal",
            table=SEALED,
            code=UP.format(app=project.app),
            drop=", transforms=[Transform(AIRPORTS, Before, up, down)]",
            files=DATA,
        )
        project.build()
        assert "person/open-before" in [one.id for one in lint(project.path)]
        assert folder.exists()
        migrations.apply(db, project.path)
        now = migrations.load(project.path)[1].tables[0]
        assert db.count(now) == 300
        assert db.get(now, "A7") == now.model(faa="A7", name="Wilhelmina-7")
        assert list(db.admin.check()) == []
        assert db.admin.rebuild() == db.admin.hashes()
        assert db.people.forget(now, "A7").rows == 6
        assert db.count(now) == 294
        assert list(db.admin.check()) == []
        gone, rewritten, *before = db.history(now, "A7")
        assert (gone.op, gone.erased) == ("delete", False)
        assert (rewritten.op, rewritten.row, rewritten.erased) == ("put", None, True)
        assert rewritten.migration == db.schema.version
        assert [one.erased for one in before] == [False]  # it was not sealed at that time
        kept = next(iter(db.history(now, "A8")))
        assert (kept.row, kept.erased) == (now.model(faa="A8", name="Wilhelmina-8"), False)


def test_versions_from_before_a_rewrite_of_sealed_rows_read_as_erased(
    project: Project, tmp_path: Path
) -> None:
    project.add(table=SEALED, files=DATA)
    project.build()
    with EmbeddedDatabase(tmp_path / "db", master_key=MASTER) as db:
        migrations.apply(db, project.path)
        old = migrations.load(project.path)[0].tables[0]
        db.put(old, old.model(faa="A7", name="Wilhelmina-7"), actor="web")
        first = db.put(old, old.model(faa="A8", name="Wilhelmina-8"), actor="web").seq
        project.add(
            "rewrite",
            table=SEALED,
            code=UP.format(app=project.app),
            drop=", transforms=[Transform(AIRPORTS, Before, up, down)]",
            files=DATA,
        )
        project.build()
        migrations.apply(db, project.path)
        now = migrations.load(project.path)[1].tables[0]
        assert db.people.forget(now, "A7").rows == 1
        for _ in ("live", "rebuilt"):
            gone, rewritten, put = db.history(now, "A7")
            assert [one.erased for one in (gone, rewritten, put)] == [False, True, True]
            assert (put.row, put.actor, rewritten.migration) == (None, "web", db.schema.version)
            assert [one.erased for one in db.history(now, "A8")] == [False, False]
            assert db.at(seq=first).get(old, "A7") is None
            assert db.at(seq=first).get(old, "A8") == old.model(faa="A8", name="Wilhelmina-8")
            assert [one.key for one in db.past.diff(old, first - 1, first)] == [("A8",)]
            assert db.admin.rebuild() == db.admin.hashes()
            db.past.forget()


def test_the_text_of_a_schema_keeps_who_the_person_is(tmp_path: Path) -> None:
    with Database(tmp_path / "db", master_key=MASTER) as db:
        declare(db, PATIENTS, VISITS)
        text = to_text(db.schema)
        loaded = from_text(text).schema
        assert "  person subject\n" in text
        assert "  hashed-unique by_email email\n" in text
        for known, found in zip(
            sorted(db.schema.proto.tables, key=lambda one: one.name), loaded.tables, strict=True
        ):
            assert found.person == known.person
            assert [one.hashed for one in sorted(found.indexes, key=lambda one: one.name)] == [
                one.hashed for one in sorted(known.indexes, key=lambda one: one.name)
            ]


REMOVED = 'Table("airports", Airport, key=FAA)'
TRANSFORM = ", transforms=[Transform(AIRPORTS, Before, up, down)]"


def test_a_migration_that_seals_is_not_held_and_not_rolled_back(project: Project, tmp_path: Path) -> None:
    project.add()
    project.build()
    with EmbeddedDatabase(tmp_path / "db", master_key=MASTER) as db:
        migrations.apply(db, project.path)
        table = migrations.load(project.path)[0].tables[0]
        for n in range(3):
            db.put(table, table.model(faa=f"A{n}", name=f"Wilhelmina-{n}"))
        project.add("seal", table=SEALED, code=UP.format(app=project.app), drop=TRANSFORM, files=DATA)
        project.build()
        head = db.head
        with pytest.raises(MigrationError, match=r"seals the rows of table airports, .* without --hold"):
            migrations.apply(db, project.path, hold=True)
        assert db.head == head
        steps = [step.text for step in migrations.plan(db, project.path)[0].steps]
        assert "seal the rows of airports: earlier versions of them stay readable in the log" in steps
        proposal = Approval(db, project.path, hold=True).propose(actor="ann")
        assert proposal is not None
        assert any(
            one.problem and "CANNOT be served" in one.text for one in proposal.plan.migrations[0].steps
        )
        head = db.head
        migrations.apply(db, project.path)
        head = db.head
        for count in (1, 2):
            with pytest.raises(MigrationError, match="those of 3 people, in clear to table airports"):
                migrations.rollback(db, count, source=project.path)
            with pytest.raises(MigrationError, match="in clear to table airports"):
                migrations.plan_rollback(db, count, source=project.path)
        assert db.head == head


@pytest.mark.parametrize("renamed", [False, True])
def test_taking_the_person_away_is_an_error_unless_there_is_a_reason(
    project: Project, tmp_path: Path, renamed: bool
) -> None:
    project.add(table=SEALED, files=DATA)
    project.build()
    with EmbeddedDatabase(tmp_path / "db", master_key=MASTER) as db:
        migrations.apply(db, project.path)
        table = migrations.load(project.path)[0].tables[0]
        for n in range(4):
            db.put(table, table.model(faa=f"A{n}", name=f"Wilhelmina-{n % 3}"))
        now = REMOVED.replace("airports", "fields") if renamed else REMOVED
        drop = f'{TRANSFORM}, rename={{"airports": "fields"}}' if renamed else TRANSFORM
        folder = project.add("open", table=now, code=UP.format(app=project.app), drop=drop, files=DATA)
        project.build()
        (found,) = [one for one in lint(project.path, db) if one.id == "person/removed"]
        assert found.severity == "error"
        steps = [step.text for step in migrations.plan(db, project.path)[0].steps]
        assert steps[0].startswith("OPEN the rows of 3 people: ")
        file, text = folder / "__init__.py", (folder / "__init__.py").read_text()
        for comment, errors in (("", 1), (" the ids are made up", 0)):
            said = text.replace(
                f"AIRPORTS = {now}", f"AIRPORTS = {now}  # everlog: ignore[person/removed]{comment}"
            )
            file.write_text(said)
            assert sum(one.id == "person/removed" for one in lint(project.path, db)) == errors


def test_rows_made_anew_of_sealed_ones_in_an_open_table_are_an_error(
    project: Project, tmp_path: Path
) -> None:
    project.add(table=SEALED, files=DATA)
    code = "def anew(db):\n    return []\n"
    open_table = REMOVED.replace("airports", "fields")
    project.add(
        "open", table=open_table, code=code, drop=', drop=["airports"], up=Remake([AIRPORTS], rows=anew)'
    )
    project.build()
    assert "person/removed" in [one.id for one in lint(project.path)]
    with EmbeddedDatabase(tmp_path / "db", master_key=MASTER) as db:
        migrations.apply(db, project.path, to=migrations.load(project.path)[0].version)
        table = migrations.load(project.path)[0].tables[0]
        db.put(table, table.model(faa="A", name="Wilhelmina"))
        assert "OPEN the rows of 1 person" in migrations.plan(db, project.path)[0].steps[0].text


BY_CODE = """
from . import *
from ._more import NAMES

def rows():
    for name in NAMES:
        yield AIRPORTS, Airport(faa=name[-1], name=name)
"""


def test_the_log_has_no_content_of_files_with_rows_of_sealed_tables(project: Project, tmp_path: Path) -> None:
    files = {
        "bootstrap.py": BY_CODE,
        "_more.py": "NAMES = ['Wilhelmina-1', 'Wilhelmina-2']\n",
        "bootstrap_airports.csv": "faa,name\nX,Wilhelmina-X\n",
        **DATA,
    }
    folder = project.add("first", table=SEALED, files=files)
    (folder / "checks.py").write_text("SAID = 'Wilhelmina-1'\n\n\ndef checks(db):\n    return []\n")
    project.build()
    found = [one for one in lint(project.path) if one.id == "person/bootstrap"]
    assert [Path(one.file).name for one in found] == [
        "_more.py",
        "bootstrap.py",
        "bootstrap_airports.csv",
        "checks.py",
    ]
    with EmbeddedDatabase(tmp_path / "db", master_key=MASTER) as db:
        proposal = Approval(db, project.path).propose(actor="ann")
        assert proposal is not None
        assert set(proposal.sources[folder.name]) == {"__init__.py", "model.proto"}
        migrations.apply(db, project.path)
        assert db.count(migrations.load(project.path)[0].tables[0]) == 3
        plain = hashlib.sha256((folder / "bootstrap_airports.csv").read_bytes())
        for _, framed in db.log.scan(0):
            assert b"Wilhelmina" not in framed
            assert plain.digest() not in framed
            assert plain.hexdigest().encode() not in framed
        assert [str(one.state) for one in migrations.status(db, project.path)] == ["applied"]
        assert migrations.differences(db, project.path) == {}
        (folder / "bootstrap_airports.csv").write_text("faa,name\nX,Wilhelmina-Y\n")
        (said,) = migrations.differences(db, project.path).values()
        assert "bootstrap_airports.csv" in said
        assert "_more.py" not in said
        assert "Wilhelmina" not in said


STRAY = {
    "known.csv": "Wilhelmina-1,w@example.org\n",
    "sub/deep.json": '["Wilhelmina-2"]',
    "notes": "ask Wilhelmina-3",
    "blob.bin": "\0Wilhelmina-4",
    "large.csv": "Wilhelmina-5,0123456789\n" * 120_000,
}
FIELDS = 'Table("fields", Airport, key=FAA)'
DROP = ', drop=["airports"]'


@pytest.mark.parametrize("where", ["with a sealed table", "after a folder that seals a table"])
def test_the_log_has_no_data_files_of_folders_near_sealed_tables(
    project: Project, tmp_path: Path, where: str
) -> None:
    if where == "with a sealed table":
        folder = project.add("first", table=SEALED)
    else:
        project.add("first", table=SEALED)
        folder = project.add(
            "second", table=FIELDS, drop=DROP, files={"bootstrap_fields.csv": "faa,name\nX,a field\n"}
        )
    (folder / "sub").mkdir()
    for name, content in STRAY.items():
        (folder / name).write_text(content)
    project.build()
    found = [one for one in lint(project.path) if one.id.startswith("person/") and "key" not in one.id]
    assert {one.id for one in found} == {"person/bootstrap"}  # and not unsalted
    assert {str(Path(one.file).relative_to(folder)) for one in found} == set(STRAY)
    with EmbeddedDatabase(tmp_path / "db", master_key=MASTER) as db:
        proposal = Approval(db, project.path).propose(actor="ann")
        assert proposal is not None
        assert not STRAY.keys() & set(proposal.sources[folder.name])
        migrations.apply(db, project.path)
        for _, framed in db.log.scan(0):
            assert b"Wilhelmina" not in framed
            for name in STRAY:
                plain = hashlib.sha256((folder / name).read_bytes())
                assert plain.digest() not in framed
                assert plain.hexdigest().encode() not in framed
        assert [one for one in db.people.readable() if one.kind == "texts"] == []
        (folder / "known.csv").write_text("Wilhelmina-6")
        (said,) = migrations.differences(db, project.path).values()
        assert "known.csv" in said
        assert "Wilhelmina" not in said
        migrations.accept(db, project.path, actor="ann", reason="another one")
        assert not any(b"Wilhelmina" in framed for _, framed in db.log.scan(0))


def test_the_log_keeps_data_files_where_nobody_is_sealed(project: Project, tmp_path: Path) -> None:
    folder = project.add("first", files={"known.csv": "JFK"})
    project.add("second", table=SEALED.replace("airports", "people"), drop=DROP)
    project.build()
    assert "Salt" not in (folder / "model_pb2.py").read_text()
    with EmbeddedDatabase(tmp_path / "db", master_key=MASTER) as db:
        migrations.apply(db, project.path)
        assert any(b"JFK" in framed for _, framed in db.log.scan(0))
        assert [one.text for one in db.people.readable() if "known.csv" in one.text]


CODE = """
from . import *

OWNERS = ("ann@example.org",)  # 1
KNOWN = {"state": "new"}

def checks(db):
    \"\"\"Check the name.\"\"\"
    for row in db.scan(AIRPORTS):
        if row.name == "Wilhelmina":  # 2
            yield "a name is wrong"
        if "wilhelm" in row.name.lower() or row.faa != row.name:  # 3
            yield f"{row.faa} is wrong"
        if row.name.startswith("Wil"):  # 4
            yield "a name is wrong"
        match row.name:
            case "Ann" | "Bob":  # 5
                yield "a name is wrong"
        if row == Airport(name="Ann") or row.name in {"Cecile"}:  # 6
            yield "a name is wrong"
        # ask bob@example.org  7
        if row.name == "unknown":  # everlog: ignore[person/literal] nobody
            yield "a name is missing"
"""


def test_lint_warns_about_data_of_people_in_code(project: Project) -> None:
    project.add("first", table=SEALED, files={"checks.py": CODE, "tests/test_it.py": "A = 'c@example.org'\n"})
    project.add("open", table=FIELDS, drop=DROP, files={"checks.py": CODE})
    project.build()
    found = [one for one in lint(project.path) if one.id == "person/literal"]
    lines = CODE.splitlines()
    for name in ("first", "open"):  # in one database, so both may have that data
        mine = [one.line for one in found if f"_{name}/" in one.file]
        assert [lines[line - 1][-1] for line in mine] == list("1234567")


def test_lint_does_not_look_for_people_where_nobody_is_sealed(project: Project) -> None:
    code = CODE.replace("  # everlog: ignore[person/literal] nobody", "")
    project.add("first", files={"checks.py": code})
    project.build()
    assert [one for one in lint(project.path) if one.id.startswith("person/")] == []


def test_a_load_of_a_sealed_table_tells_neither_its_file_nor_its_id(tmp_path: Path) -> None:
    with (
        Database(tmp_path / "db", master_key=MASTER) as db,
        Database(tmp_path / "other", master_key=MASTER) as other,
    ):
        declare(db, PATIENTS, VISITS)
        declare(other, PATIENTS, VISITS)
        rows = [patient(n, f"s-{n}", name="Ann") for n in range(3)]
        db.load(PATIENTS, rows, id="digest-of-a-file", source="of/wilhelmina.csv")
        done = db.load(PATIENTS, rows, id="digest-of-a-file", source="of/wilhelmina.csv")
        assert (done.id, done.rows, done.skipped, done.commits) == ("digest-of-a-file", 3, 3, 0)
        other.load(PATIENTS, rows, id="digest-of-a-file")
        loads = [one.log.commit(one.head).load for one in (db, other)]
        assert loads[0].source == ""
        assert loads[0].id.startswith("sealed-")
        assert loads[0].id != loads[1].id
        assert not any(b"digest-of" in framed or b"wilhelmina" in framed for _, framed in db.log.scan(0))


def test_what_was_written_before_a_table_was_sealed_is_exported_and_said_to_stay(
    project: Project, tmp_path: Path
) -> None:
    project.add(files={"bootstrap_airports.csv": "faa,name\nA1,Wilhelmina-1\nX1,Wilhelmina-1\n"})
    project.build()
    with EmbeddedDatabase(tmp_path / "db", master_key=MASTER) as db:
        migrations.apply(db, project.path)
        table = migrations.load(project.path)[0].tables[0]
        brought = db.head
        for n in (1, 2):
            db.put(table, table.model(faa=f"A{n}", name=f"Wilhelmina-{n}"), actor="web")
        db.delete(table, "X1")
        project.add("seal", table=SEALED, code=UP.format(app=project.app), drop=TRANSFORM, files=DATA)
        project.build()
        migrations.apply(db, project.path)
        now = migrations.load(project.path)[1].tables[0]
        found = db.people.export(now, "A1")
        assert [(one["key"], one["seq"], one["is"]) for one in found["versions"]][:4] == [
            (["A1"], brought, "open"),
            (["X1"], brought, "open"),
            (["A1"], brought + 1, "open"),
            (["X1"], brought + 3, "deleted"),
        ]
        assert {"seq": brought, "in": "bootstrap_airports.csv"} in found["mentions"]
        assert "Wilhelmina-2" not in str(found["versions"])
        said = {one.kind: one for one in db.people.readable()}
        assert said["versions"].seqs == (brought, brought, brought + 1, brought + 2)
        assert said["texts"].seqs == (brought,)
        left = {one.kind: one for one in db.people.forget(now, "A1").remaining}
        assert left["versions"].seqs == (brought, brought, brought + 1)
        assert left["versions"].text.startswith("3 versions of rows from before their table was")
        assert left["texts"].seqs == (brought,)
        assert "airports/A1" in left["keys"].text
        assert [one["is"] for one in db.people.export(now, "A1")["versions"]][:2] == ["open", "open"]


def test_up_of_a_sealing_migration_says_what_stays_readable(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVERLOG_MASTER_KEY", base64.b64encode(MASTER).decode())
    url = ("-u", f"file:{tmp_path / 'db'}", "-d", str(project.path))
    project.add(files={"bootstrap_airports.csv": "faa,name\nA1,Wilhelmina-1\n"})
    project.build()
    assert run([*url, "up"], Settings()) == 0
    assert "readable" not in capsys.readouterr().out
    project.add("seal", table=SEALED, code=UP.format(app=project.app), drop=TRANSFORM, files=DATA)
    project.build()
    assert run([*url, "up"], Settings()) == 0
    said = capsys.readouterr().out
    assert "Still readable: 1 version of rows of airports from before it was sealed: commit 2" in said
    assert "Wilhelmina" not in said
