"""All data about one person, and the data that stays readable after they are forgotten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from everlog.audit.archive import archive
from everlog.migrations import people
from everlog.proto import log_pb2
from everlog.rpc.client.database import RemoteDatabase
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from everlog.store.database import Database
from everlog.store.errors import DiskError, RowError, SealedError
from everlog.store.upkeep.personal_data import WORD_MAX, WORDS_MAX, Words, elements
from tests.store.models import ITEMS, Item, declare
from tests.store.people import MASTER, PATIENTS, VISITS, open_people, patient, visit

SECTIONS = ("rows", "versions", "commits", "mentions")


def test_an_export_has_rows_versions_commits_texts_and_the_key(path: Path) -> None:
    with open_people(path) as db:
        first = db.put(PATIENTS, patient(1, "s-1", name="Annabel", born=1970), actor="web", reason="new").seq
        db.put(PATIENTS, patient(2, "s-2", name="Robert"), actor="web")
        second = db.put(PATIENTS, patient(1, "s-1", name="Annabella"), actor="ann").seq
        db.put(VISITS, visit(7, "s-1", "a cough"), actor="web")
        gone = db.delete(VISITS, 7, reason="Annabel asked").seq
        for found in (db.people.export(PATIENTS, 1), db.people.export("visits", person="s-1")):
            assert json.loads(json.dumps(found)) == found
            assert [(one["table"], one["key"], one["row"]["name"]) for one in found["rows"]] == [
                ("patients", [1], "Annabella")
            ]
            assert [(one["table"], one["seq"], one["is"]) for one in found["versions"]] == [
                ("patients", first, "sealed"),
                ("patients", second, "sealed"),
                ("visits", second + 1, "sealed"),
                ("visits", gone, "deleted"),
            ]
            assert found["versions"][0]["row"] == {
                "id": "1",
                "subject": "s-1",
                "name": "Annabel",
                "born": 1970,
            }
            assert found["commits"][0].items() >= {"actor": "web", "reason": "new", "seq": first}.items()
            assert found["mentions"] == [{"seq": gone, "in": "reason"}]
            assert found["key"]["state"] == "present"
            assert "Robert" not in json.dumps(found)
        done = db.people.forget(PATIENTS, 1, actor="dpo")
        after = db.people.export(PATIENTS, 1)
        assert (after["rows"], after["key"]["state"]) == ([], "forgotten")
        assert [one["is"] for one in after["versions"]] == [
            "erased",
            "erased",
            "erased",
            "deleted",
            "deleted",
        ]
        assert after["key"]["id"] == done.key_id.hex()
        with pytest.raises(RowError, match="has data about that person"):
            db.people.export(PATIENTS, 99)
        with pytest.raises(RowError, match="has data about that person"):
            db.people.export(PATIENTS, person="s-99")
        with pytest.raises(RowError, match="has no person field"):
            db.people.export(ITEMS, 1)
    with open_people(path, master_key=None) as db, pytest.raises(SealedError, match="no master key"):
        db.people.export(PATIENTS, 2)


def test_an_export_has_current_rows_whose_records_are_in_an_archive_that_is_not_here(
    path: Path, tmp_path: Path
) -> None:
    with open_people(path) as db:
        db.put(PATIENTS, patient(1, "s-1", name="Annabel"))
        db.put(VISITS, visit(7, "s-1", "a cough"))
        db.put(ITEMS, Item(id=1))
        archive(db, tmp_path / "archive")
    (tmp_path / "archive").rename(tmp_path / "elsewhere")
    with open_people(path) as db:
        for found in (db.people.export(PATIENTS, 1), db.people.export(VISITS, person="s-1")):
            assert [(one["table"], one["key"]) for one in found["rows"]] == [
                ("patients", [1]),
                ("visits", [7]),
            ]
            assert (found["log_from"], found["versions"], found["key"]["state"]) == (4, [], "present")
        with pytest.raises(RowError, match="nor the log from record 4 on has data about that person"):
            db.people.export(PATIENTS, person="s-2")


def put_for_ever(db: Database) -> None:
    while True:
        db.put(VISITS, visit(2, "s-1", "cough" * 100_000), durability="os")


def test_data_about_people_is_read_while_the_disk_is_full(small_disk: Path) -> None:
    with open_people(small_disk / "db") as db:
        spaces = {table.space for table in db.schema.proto.tables}
        db.put(VISITS, visit(1, "s-1", "cough"))
        with (small_disk / "ballast").open("ab") as file, pytest.raises(OSError, match="No space"):
            file.write(bytes(64 << 20))
        with pytest.raises(DiskError, match="the disk is full"):
            put_for_ever(db)
        assert db.tables.pending.edits
        found = db.people.export(VISITS, person="s-1")["rows"]
        assert [1] in [one["key"] for one in found]
        assert list(db.people.readable()) == []
        assert people.count(db.tables, spaces) == 1
        (small_disk / "ballast").unlink()


def test_an_export_is_streamed_as_the_same_object_with_a_line_for_each_element(tmp_path: Path) -> None:
    texts = ["Annabel\nof \u2028 ], and", ' "rows":[', "],", ""]
    with EmbeddedDatabase(tmp_path / "db", master_key=MASTER) as db:
        declare(db, PATIENTS, VISITS)
        for number, text in enumerate(texts):
            db.put(VISITS, visit(number, "s-1", text), reason=f"said: {text}")
        with Server({"clinic": db}) as server, RemoteDatabase(server.url("clinic")) as remote:
            for one in (db, remote):
                pieces = list(one.people.stream("visits", person="s-1"))
                found = json.loads(b"".join(pieces))
                assert found == one.people.export("visits", person="s-1")
                assert [row["row"].get("text", row["row"].get("note", "")) for row in found["rows"]] == texts
                expected = [(name, item) for name in SECTIONS for item in found[name]]
                for size in (1, 7, 1 << 20):
                    whole = b"".join(pieces)
                    cut = [whole[at : at + size] for at in range(0, len(whole), size)]
                    assert list(elements(cut)) == expected
                assert list(elements([json.dumps(found, separators=(",", ":")).encode()])) == expected
                with pytest.raises(RowError, match="has data about that person"):
                    one.people.stream("visits", person="s-99")


def test_words_are_the_longest_and_bounded() -> None:
    words = Words()
    for number in range(3000):
        words.add(patient(number, f"s-{number:05}", name="x" * number))
    found = words.longest()
    assert len(found) == WORDS_MAX
    assert {len(one) for one in found} == {WORD_MAX, *(range(WORD_MAX - WORDS_MAX + 1, WORD_MAX))}


def test_forget_says_what_stays_readable_here_and_at_a_server(tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "db", master_key=MASTER) as db:
        declare(db, PATIENTS, VISITS)
        seqs = [db.put(PATIENTS, patient(n, f"s-{n}", name=f"Annabel{n}")).seq for n in (1, 2)]
        done = db.people.forget(PATIENTS, 1)
        assert [(one.kind, one.seqs) for one in done.remaining] == [("keys", ()), ("commits", (seqs[0],))]
        assert done.remaining[0].text == "primary keys: patients/1"
        with Server({"clinic": db}) as server, RemoteDatabase(server.url("clinic")) as remote:
            assert remote.people.export(PATIENTS, 2) == db.people.export(PATIENTS, 2)
            assert remote.people.readable() == db.people.readable() == []
            far = remote.people.forget(PATIENTS, 2)
            assert [(one.kind, one.seqs) for one in far.remaining] == [("keys", ()), ("commits", (seqs[1],))]


OLD_ERRORS = (
    '`up` of table patients fails for row patients/1 {id: 1 name: "Ann"}: ValueError: Ann (at v1/x.py:3)',
    "row patients/2 has 'ann@x' in the unique index by_email, as row patients/1 has already",
    'v1/bootstrap.py:1: row {id: 1 name: "Ann"}: a row of patients lacks its key field id; set it',
)


def test_records_of_older_versions_with_a_row_in_them_are_found(path: Path) -> None:
    with open_people(path) as db:
        assert db.people.readable() == []
        step = log_pb2.Migration.FAILED
        said = [
            db.apply_migration(log_pb2.Migration(step=step, version=7, name="x", error=error)).seq
            for error in (
                *OLD_ERRORS,
                "`up` of table patients fails for row patients/1: ValueError (at v1/x:3)",
            )
        ]
        plan = log_pb2.SourceFile(path="plan.json", content=f'{{"text":"{OLD_ERRORS[1]}"}}'.encode())
        rows = log_pb2.SourceFile(path="bootstrap_patients.csv", content=b"id,subject\n1,s-1\n")
        for source in (plan, rows):
            record = log_pb2.Migration(step=log_pb2.Migration.REJECTED, version=7, name="x", sources=[source])
            said.append(db.apply_migration(record).seq)
        about = log_pb2.Load(step=log_pb2.Load.FINISHED, id="of-a-file", table="patients", source="ann.csv")
        db.core.commit(db.transaction(), lambda commit: commit.load.CopyFrom(about))
        found = db.people.readable()
        assert [one.seqs for one in found if one.seqs] == [(seq,) for seq in (*said[:3], *said[4:])]
        assert found[-1].text.startswith("a load of patients: its id, of-a-file, which may be the digest")
        db.load(PATIENTS, [patient(1, "s-1")], id="of-a-file-2")
        assert db.people.readable() == found
        assert db.load(PATIENTS, [patient(1, "s-1")], id="of-a-file").commits == 0
