"""keygen, checkpoint, prove, verify, tiles, audit: on a local database, and on one of a server."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.audit.test_note import Cosigner
from tests.console.conftest import Run
from tests.console.served import serving


@pytest.fixture
def key(everlog: Run, books: Path) -> str:
    """Return the public key; the private one is in k.key."""
    ended = everlog("keygen", "k.key")
    assert ended.code == 0
    return ended.out.strip()


def test_a_key_is_made_in_a_file_of_its_owner_and_never_printed(everlog: Run, key: str, here: Path) -> None:
    file = here / "k.key"
    assert file.stat().st_mode & 0o777 == 0o600
    secret = file.read_text()
    assert secret.startswith("PRIVATE+KEY+everlog/")
    assert key.startswith("everlog/")
    *_, seed = secret.strip().split("+", 4)  # PRIVATE, KEY, name, hash, and Base64, which may have a +
    assert len(seed) == 44
    assert seed not in key
    again = everlog("keygen", "k.key")
    assert again.code == 1
    assert "never overwritten" in again.err
    assert file.read_text() == secret
    assert everlog("keygen", "n.key", "--name", "example.com/log").out.startswith("example.com/log+")


def test_from_a_checkpoint_to_a_proof_that_is_verified_without_the_database(
    everlog: Run, books: Path, key: str, here: Path
) -> None:
    made = everlog("checkpoint", "--key", "k.key", "--out", "c1")
    assert made.out == "Written: c1\n"
    assert everlog("checkpoint", "--key", "k.key").out == (here / "c1").read_text(), "nothing new"
    assert everlog("prove", "--seq", 2, "--out", "2.tlog-proof").code == 0
    assert everlog("down").code == 0
    assert everlog("prove", "--from", 3, "--key", "k.key", "--out", "growth").code == 0
    (here / "k.pub").write_text(key)
    shutil.move(books, here / "gone")

    assert everlog("verify", "2.tlog-proof", "--key", key).out.startswith(
        "Verified: record 2 is in the log everlog/"
    )
    assert "had 3 records" in everlog("verify", "c1", "--key", "k.pub").out
    grown = everlog("verify", "growth", "--old", "c1", "--key", key)
    assert "begins with its first 3" in grown.out
    assert "--old FILE" in everlog("verify", "growth", "--key", key).err
    found = everlog("verify", "2.tlog-proof", "--key", key, "--json").json[0]
    assert found["seq"] == 2
    assert bytes.fromhex(found["record"])[:2] == b"\x08\x02"

    text = (here / "2.tlog-proof").read_text()
    (here / "changed").write_text(text.replace("extra C", "extra D", 1))
    ended = everlog("verify", "changed", "--key", key)
    assert ended.code == 1
    assert "is not in that tree" in ended.err
    other = everlog("keygen", "o.key", "--name", "example.com/other").out.strip()
    ended = everlog("verify", "2.tlog-proof", "--key", other)
    assert ended.code == 1
    assert "expected a note signed by example.com/other" in ended.err
    shutil.move(here / "gone", books)


def test_a_log_begins_with_no_records_whatever_was_kept(
    everlog: Run, books: Path, key: str, here: Path
) -> None:
    assert everlog("prove", "--from", 0, "--key", "k.key", "--out", "whole").code == 0
    assert everlog("checkpoint", "--key", "k.key", "--out", "c1").code == 0
    whole = everlog("verify", "whole", "--key", key)
    assert whole.out.endswith("of 3 records begins with its first 0\n"), whole.err
    assert "of size 0, found" in everlog("verify", "whole", "--old", "c1", "--key", key).err
    text = (here / "whole").read_text()
    (here / "changed").write_text(text.replace("old 0\n", f"old 0\n{'A' * 43}=\n"))
    assert everlog("verify", "changed", "--key", key).code == 1


def test_without_a_key_it_is_told_how_to_get_one(everlog: Run, books: Path) -> None:
    assert "`everlog keygen FILE` makes one" in everlog("checkpoint").err
    assert "no checkpoint in the log covers record 1" in everlog("prove", "--seq", 1).err
    assert "keygen" in everlog("tiles", "t").err
    assert everlog("prove").code == 2


def test_an_audit_names_the_record_and_the_fork(everlog: Run, books: Path, key: str, here: Path) -> None:
    assert everlog("tiles", "tiles", "--key", "k.key").out == "Exported: 3 records, 3 of them new, to tiles\n"
    assert everlog("checkpoint", "--key", "k.key", "--out", "c1").code == 0
    fine = everlog("audit", "--checkpoint", "c1", "--key", key, "--tiles", "tiles", "--tables")
    assert fine.out.startswith("OK: no problems found: 4 records, root ")
    shutil.copytree(books, here / "copy.db")
    assert everlog("down").code == 0
    assert everlog("-u", "file:copy.db", "down", "--reason", "another").code == 0
    ended = everlog("audit", "--against", "file:copy.db")
    assert ended.code == 1
    assert "record 5 is a fork" in ended.out
    assert everlog("-u", "file:copy.db", "prove", "--seq", 5, "--key", "k.key", "--out", "p5").code == 0
    ended = everlog("audit", "--against", "p5", "--json")
    assert ended.code == 1
    assert ended.json[-1]["problems"] == 1
    assert "fork" in ended.json[0]["problem"]
    ended = everlog("audit", "--against", "p5", "--key", key)
    assert (ended.code, ended.out.count("\n")) == (1, 2), "that of the checkpoint as well"
    proof = (here / "p5").read_text()
    (here / "p5").write_text(proof.replace("index 4", "index 3"))
    assert "the proof for index 3" in everlog("audit", "--against", "p5", "--key", key).err
    ended = everlog("audit", "--key", key)
    assert (ended.code, ended.out) == (2, "")
    assert "with --signed-by and --origin" in ended.err
    assert everlog("-u", "everlog://db.example.com/x", "audit").code == 1


def test_a_server_shows_the_same_and_signs_if_it_has_a_key(
    everlog: Run, books: Path, key: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as served:
        monkeypatch.setenv("DATABASE_URL", served.url)
        assert "keygen" in everlog("checkpoint").err
        assert everlog("checkpoint", "--key", "k.key", "--out", "c1").code == 0
        assert everlog("prove", "--seq", 2, "--out", "p2").code == 0
        assert everlog("tiles", "tiles").code == 0
    assert everlog("verify", "p2", "--key", key).code == 0
    with serving("--audit-key", "k.key", DATABASE_URL=f"file:{books}") as served:
        monkeypatch.setenv("DATABASE_URL", served.url)
        assert everlog("checkpoint").out == (here / "c1").read_text()
        assert everlog("-u", f"file:{books}", "audit", "--against", served.url).code == 0
        assert everlog("prove", "--from", 3, "--out", "growth").code == 0
    assert everlog("verify", "growth", "--old", "c1", "--key", key).code == 0
    monkeypatch.setenv("DATABASE_URL", f"file:{books}")
    assert everlog("audit", "--tiles", "tiles", "--key", key).code == 0


@pytest.mark.long
def test_a_key_signs_nothing_less_than_it_signed_before(
    everlog: Run, books: Path, key: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(books, here / "before")
    assert everlog("down").code == 0
    assert everlog("checkpoint", "--key", "k.key", "--out", "c1").code == 0
    shutil.move(books, here / "later")
    shutil.copytree(here / "before", books)  # the whole directory was reset to an earlier state
    for command in (("checkpoint",), ("prove", "--from", 2), ("tiles", "tiles")):
        ended = everlog(*command, "--key", "k.key")
        assert ended.code == 1
        assert "ends at record 3, but its key has signed 4 records: record 4 is the first" in ended.err
    assert everlog("log", "--json").out.count("\n") == 3, "nothing was written"
    with serving("--audit-key", "k.key", DATABASE_URL=f"file:{books}") as served:
        assert "its key has signed 4" in everlog("-u", served.url, "checkpoint").err
        ended = everlog("-u", served.url, "checkpoint", "--key", "k.key")
        assert "its key has signed 4" in ended.err
    assert everlog("down", "--reason", "another").code == 0
    assert everlog("down", "--yes").code == 0
    ended = everlog("checkpoint", "--key", "k.key")
    assert (ended.code, "one tree does not begin with the other" in ended.err) == (1, True)
    shutil.rmtree(books)
    shutil.move(here / "later", books)
    assert everlog("checkpoint", "--key", "k.key").code == 0
    (here / "k.key.signed").write_text("{}\n")
    assert everlog("checkpoint", "--key", "k.key").code == 0
    assert "everlog/" in (here / "k.key.signed").read_text()


def test_a_key_whose_memory_cannot_be_kept_signs_nothing(everlog: Run, key: str, here: Path) -> None:
    (here / "k.key.signed").mkdir()
    ended = everlog("checkpoint", "--key", "k.key")
    assert (ended.code, "cannot record what the key signs" in ended.err) == (1, True)
    (here / "k.key.signed").rmdir()
    (here / "k.key.signed").write_text('{"everlog/x": 1}')
    ended = everlog("checkpoint", "--key", "k.key")
    assert (ended.code, "expected the checkpoints that the key has signed" in ended.err) == (1, True)


def test_a_proof_is_verified_with_a_quorum_of_witnesses(
    everlog: Run, books: Path, key: str, here: Path
) -> None:
    one, two = (Cosigner(f"witness.example/w{n}", n) for n in (1, 2))
    signed = everlog("checkpoint", "--key", "k.key").out
    (here / "c1").write_text(signed + one.line(signed, 1_679_315_147), encoding="utf-8")
    assert everlog("prove", "--seq", 2, "--checkpoint", "c1", "--out", "p2").code == 0
    (here / "witnesses").write_text(f"# those that we trust\n{one.vkey}\n\n{two.vkey}\n")
    for file in ("c1", "p2"):
        found = everlog("verify", file, "--key", key, "--witness", "witnesses", "--quorum", 1)
        assert found.out.endswith("; cosigned by witness.example/w1 at 2023-03-20 12:25:47.000Z\n"), found.err
        found = everlog("verify", file, "--key", key, "--witness", one.vkey, "--json")
        assert found.json[0]["cosigned"] == {"witness.example/w1": 1_679_315_147}
        ended = everlog("verify", file, "--key", key, "--witness", one.vkey, "--witness", two.vkey)
        assert (ended.code, ended.out) == (1, "")
        assert "expected cosignatures of 2 of 2 witnesses, found 1" in ended.err
    assert everlog("verify", "c1", "--key", key, "--quorum", 1).code == 2
    assert (
        "a quorum of 1 to 1"
        in everlog("verify", "c1", "--key", key, "--witness", one.vkey, "--quorum", 2).err
    )
    assert everlog("verify", "c1", "--witness", one.vkey).code == 1, "the log must have signed it as well"


def test_a_damaged_key_is_refused_without_being_shown(everlog: Run, key: str, here: Path) -> None:
    secret = (here / "k.key").read_text()
    (here / "k.key").write_text(secret[:-6])
    ended = everlog("checkpoint", "--key", "k.key")
    assert ended.code == 1
    assert "k.key: expected a signer key" in ended.err
    assert secret[60:-6] not in ended.err
