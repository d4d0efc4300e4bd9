"""Privacy: no byte that everlog writes has anything of a person, but sealed, whatever goes wrong.

A person has a mark in every field that is sealed or hashed. Everything that can write is used, and fails, and
no file has the mark: as it is, decompressed, or as RocksDB reads it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rocksdict import AccessType, Options, Rdict

from everlog import migrations
from everlog.feed.embedded import EmbeddedDatabase
from everlog.migrations import Approval
from everlog.migrations.lint import lint
from everlog.migrations.messages import OfApproval
from everlog.store.errors import Error
from tests.migrations.project import Project
from tests.store.people import MASTER

MARK = "Wilhelmina7f3a9"
FIELDS = "string id = 1; string name = 2; string email = 3; string subject = 4;"
HEAD = """
EMAIL = field("email", 3, STRING)
SUBJECT = field("subject", 4, STRING)
"""
BY_EMAIL = 'Index("by_email", EMAIL, hashed=True)'
TABLE = f'Table("airports", Airport, key=FAA, person=SUBJECT, indexes=({BY_EMAIL},))'
UP = HEAD + "from {first}.model_pb2 import Airport as Before\n\n"
ROW = "Airport(id=old.id, name=old.name, email=old.email, subject=old.subject)"
TRANSFORM = ", transforms=[Transform(AIRPORTS, Before, up)]"
REMAKE = ", up=Remake([AIRPORTS], rows=anew)"


def clinic(project: Project, name: str, **how: Any) -> Path:
    """A folder whose table has a surrogate as its key."""
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


# Second migrations, each of which fails over the rows of the first.
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
        "table": TABLE.replace("EMAIL, hashed", "EMAIL, unique=True, hashed"),
    },
    "a unique index": {"table": TABLE.replace("EMAIL, hashed", "EMAIL, unique=True, hashed")},
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
    """Every byte that there is below a directory: files as they are, and what is packed in them."""
    for file in sorted(path.rglob("*")):
        if file.is_file():
            yield str(file), file.read_bytes()
        if file.name == "CURRENT":
            for family in Rdict.list_cf(str(file.parent), Options(raw_mode=True)):
                view = Rdict(
                    str(file.parent),
                    Options(raw_mode=True),
                    {family: Options(raw_mode=True)} if family != "default" else None,
                    AccessType.read_only(),
                )
                column = view if family == "default" else view.get_column_family(family)
                yield f"{file.parent} ({family})", b"".join(key + value for key, value in column.items())
                view.close()


def marked(path: Path, mark: str = MARK) -> list[str]:
    """Where there is a mark."""
    words = (mark.encode(), mark.encode("utf-16-le"), mark.lower().encode(), mark.upper().encode())
    return [where for where, raw in contents(path) if any(word in raw for word in words)]


def decided(approval: Approval) -> None:
    """Proposes what is pending, approves it, and applies it."""
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


def test_a_migration_that_fails_keeps_and_sends_nothing_of_a_row(
    project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture
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
        for number, how in enumerate(FAILING.values()):
            code = str(how.get("code", HEAD)).format(first=f"{project.app}.migrations.{first.name}")
            folder = clinic(project, f"failing{number}", **{**how, "code": code})
            project.build()
            found = lint(project.path, db)
            assert "load/refused" not in [finding.id for finding in found]
            said += [finding.text for finding in found]
            approval = Approval(db, project.path)
            with pytest.raises(Error) as caught:
                decided(approval)
            said += [str(caught.value), *(one.body for one in OfApproval(approval).messages(0))]
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
