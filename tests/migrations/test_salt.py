"""The salt of a folder: a reader of the log cannot confirm a guess about the rows that it withholds."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path

import pytest

from everlog import migrations
from everlog.audit import archive, backup, restore
from everlog.migrations import Approval
from everlog.migrations.approval.approval import check_same
from everlog.migrations.build import write_sums
from everlog.migrations.digest import digest
from everlog.migrations.folder import find, folders
from everlog.migrations.lint.lint import lint
from everlog.migrations.squash import check_applied
from everlog.proto import log_pb2
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.store.database import Database
from everlog.store.errors import MigrationError, SchemaError
from tests.migrations.project import Project
from tests.store.people import MASTER

SEALED = 'Table("airports", Airport, key=FAA, person=NAME)'
CSV = "faa,name\nX,Wilhelmina-X\n"
FILES = {"bootstrap_airports.csv": CSV, "testdata.py": ""}


def salt_line(folder: Path) -> str:
    return next(
        line for line in (folder / "model_pb2.py").read_text().splitlines() if line.startswith("# Salt: ")
    )


def unsalt(folder: Path) -> None:
    """Change a folder to what earlier versions built."""
    code = folder / "model_pb2.py"
    code.write_text(code.read_text().replace(f"{salt_line(folder)}\n", ""))


@pytest.fixture
def sealed(project: Project) -> Path:
    folder = project.add(table=SEALED, files=FILES)
    project.build()
    return folder


def computed(records: list[log_pb2.Commit], guess: bytes, uuid: bytes) -> Iterator[bytes]:
    """Return every hash that a reader of records can compute from a guess and from their other data."""
    ran = [one.migration for one in records if one.HasField("migration")]
    sources = next(list(one.sources) for one in ran if one.sources and one.step != log_pb2.Migration.PROPOSED)
    assert [one.path for one in sources if one.digest] == ["bootstrap_airports.csv"]
    files = [(one.path.encode(), one.content or guess) for one in sources]
    whole = b"".join(
        len(path).to_bytes(4) + path + len(content).to_bytes(8) + content for path, content in files
    )
    texts = [guess, b"bootstrap_airports.csv\0" + guess, whole]
    texts += [b"everlog digest %d\n" % version + whole for version in (1, 2, 3)]
    public = {b"", bytes(16), bytes(32), uuid}
    for one in ran:
        title = f"v{one.version}_{one.name}".encode()
        public |= {title, title[1:], one.name.encode(), str(one.version).encode(), one.version.to_bytes(8)}
        public |= {one.digest, one.plan_digest, *(file.digest for file in one.sources)}
    for text in texts:
        for word in public:
            yield hmac.new(word, text, hashlib.sha256).digest()
            yield hashlib.sha256(word + text).digest()
            yield hashlib.sha256(text + word).digest()
            inner = hashlib.sha256(text).digest()
            yield hashlib.sha256(word + inner).digest()
            yield hashlib.sha256(word + b"\n" + inner).digest()


def confirmed(db: Database, guess: str = CSV) -> bool:
    """Return whether the log of a database confirms a guess."""
    everything = b"\n".join(framed for _, framed in db.log.scan(0))
    records = [db.log.commit(seq) for seq in range(1, db.head + 1)]
    for found in computed(records, guess.encode(), db.uuid):
        for size in (16, 32):
            if found[:size] in everything or found[:size].hex().encode() in everything:
                return True
    return False


@pytest.mark.parametrize("salted", [True, False])
def test_no_hash_in_the_log_confirms_a_guess_about_withheld_rows(
    project: Project, sealed: Path, tmp_path: Path, salted: bool
) -> None:
    salt = salt_line(sealed).removeprefix("# Salt: ")
    if not salted:  # as earlier versions recorded it, so the guess above is correct
        unsalt(sealed)
    with EmbeddedDatabase(tmp_path / "db", master_key=MASTER) as db:
        approval = Approval(db, project.path)
        proposal = approval.propose(actor="ann")
        assert proposal is not None
        approval.approve(proposal.short, actor="bob", reason="read")
        approval.run()
        (sealed / "bootstrap_airports.csv").write_text(CSV + "Y,Wilhelmina-Y\n")
        migrations.accept(db, project.path, actor="ann", reason="one more")
        assert confirmed(db) is not salted
        assert confirmed(db, CSV + "Y,Wilhelmina-Y\n") is not salted
        backup(db, tmp_path / "kept")
        archive(db, tmp_path / "archive", keep_records=1)
        dumped = migrations.dump_schema(db)
    restore(tmp_path / "kept", tmp_path / "again")
    with Database(tmp_path / "again", master_key=MASTER) as again:
        assert confirmed(again) is not salted
        said = [framed for _, framed in again.log.scan(0)]
    said += [
        file.read_bytes()
        for place in ("db", "kept", "archive", "again")
        for file in (tmp_path / place).rglob("*")
        if file.is_file()
    ]
    said.append(dumped.encode())
    for text in (salt.encode(), bytes.fromhex(salt)):
        assert not any(text in one for one in said)


def test_build_salts_only_what_may_bring_rows_of_people_and_only_once(project: Project) -> None:
    opened = project.add("open", files={"bootstrap_airports.csv": CSV})
    bare = project.add("bare", table=SEALED)
    mine = project.add("mine", table=SEALED, files=FILES)
    other = project.add("other", table=SEALED, files=FILES)
    project.build()
    lines = [salt_line(one) for one in (mine, other)]
    assert lines[0] != lines[1]
    for one in (opened, bare):
        assert "# Salt: " not in (one / "model_pb2.py").read_text()
    model = mine / "model.proto"
    model.write_text(model.read_text() + "// more\n")
    project.build()
    migrations.build(project.path, force=True)
    assert [salt_line(one) for one in (mine, other)] == lines
    assert migrations.build(project.path) == []


@pytest.mark.parametrize("unsalted_first", [True, False])
def test_a_folder_is_known_by_the_digest_with_and_without_its_salt(
    project: Project, sealed: Path, tmp_path: Path, unsalted_first: bool
) -> None:
    root = find(project.path)
    salted = salt_line(sealed)
    unsalt(sealed)
    write_sums(root, folders(root))
    assert [one.id for one in lint(project.path) if "unsalted" in one.id] == ["person/unsalted"]
    if not unsalted_first:
        assert [path.name for path in migrations.build(project.path)] == ["model_pb2.py", "everlog.sum"]
        assert salt_line(sealed) != salted
    with EmbeddedDatabase(tmp_path / "db", master_key=MASTER) as db:
        migrations.apply(db, project.path)
        ran = db.migration_records()[-1].migration.digest
        assert (ran == digest(folders(root)[0].sources, folders(root)[0].path)) is unsalted_first
        sum_before = (project.path / "everlog.sum").read_text()
        if unsalted_first:
            migrations.build(project.path)
            assert (project.path / "everlog.sum").read_text() != sum_before
        assert not [one for one in lint(project.path) if "unsalted" in one.id]
        assert [str(one.state) for one in migrations.status(db, project.path)] == ["applied"]
        check_applied(migrations.status(db, project.path), project.path, where="it")
        assert migrations.restore_folders(db, project.path) == []
        (sealed / "model_pb2.py").unlink()  # without the salt, the files are compared
        migrations.build(project.path)
        assert folders(root)[0].digest != ran
        assert [str(one.state) for one in migrations.status(db, project.path)] == ["applied"]
        assert migrations.restore_folders(db, project.path, [20260101000000]) == []
        (sealed / "bootstrap_airports.csv").write_text(CSV.replace("-X", "-Z"))
        assert [str(one.state) for one in migrations.status(db, project.path)] == ["edited"]


def test_a_folder_that_is_restored_keeps_its_salt_and_the_files_that_did_not_change(
    project: Project, sealed: Path, tmp_path: Path
) -> None:
    before = salt_line(sealed)
    with EmbeddedDatabase(tmp_path / "db", master_key=MASTER) as db:
        migrations.apply(db, project.path)
        model = sealed / "__init__.py"
        model.write_text(model.read_text() + "MORE = 1\n")
        (done,) = migrations.restore_folders(db, project.path, [20260101000000], force=True)
        assert done.missing == []
        assert (sealed / "bootstrap_airports.csv").read_text() == CSV
        migrations.build(project.path)
        assert salt_line(sealed) == before
        ran = db.migration_records()[-1].migration.digest
        assert folders(find(project.path))[0].digest == ran
        (sealed / "bootstrap_airports.csv").write_text("faa,name\nX,Somebody else\n")
        (done,) = migrations.restore_folders(db, project.path, [20260101000000], force=True)
        assert [(one.path, one.is_other) for one in done.missing] == [("bootstrap_airports.csv", True)]


def test_what_was_approved_without_a_salt_is_the_same_with_one(
    project: Project, sealed: Path, tmp_path: Path
) -> None:
    unsalt(sealed)
    with EmbeddedDatabase(tmp_path / "db", master_key=MASTER) as db:
        proposal = Approval(db, project.path).propose(actor="ann")
        assert proposal is not None
        migrations.build(project.path)
        assert proposal.plan.migrations[0].digest != folders(find(project.path))[0].digest.hex()
        check_same(proposal.plan, project.load())
        (sealed / "bootstrap_airports.csv").write_text(CSV.replace("-X", "-Z"))
        with pytest.raises(MigrationError, match="was edited after it was approved"):
            check_same(proposal.plan, project.load())


@pytest.mark.parametrize("salt", ["", "00", "zz" * 16, "00" * 17])
def test_a_damaged_salt_is_refused_with_its_file(project: Project, sealed: Path, salt: str) -> None:
    code = sealed / "model_pb2.py"
    code.write_text(code.read_text().replace(salt_line(sealed), f"# Salt: {salt}"))
    with pytest.raises(SchemaError, match=r"expected `# Salt: ` and 32 hexadecimal digits"):
        project.load()[0].folder.digest  # noqa: B018
