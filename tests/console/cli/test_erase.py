"""The commands about people: one is forgotten, the master key is rotated, the log is shown."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from tests.console.conftest import Run
from tests.console.served import serving
from tests.store.people import MASTER, OTHER_MASTER, PATIENTS, VISITS, open_people, patient, visit


@pytest.fixture
def clinic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "clinic.db"
    with open_people(path) as db:
        db.put(PATIENTS, patient(1, "s-1", name="Ann"))
        db.put(PATIENTS, patient(2, "s-2", name="Bob"))
        db.put(VISITS, visit(7, "s-1", "cough"))
    monkeypatch.setenv("EVERLOG_MASTER_KEY", base64.b64encode(MASTER).decode())
    return path


@pytest.mark.parametrize("who", [("1",), ("--person", "s-1")])
def test_a_dry_run_says_what_would_be_forgotten_and_changes_nothing(
    everlog: Run, clinic: Path, who: tuple[str, ...]
) -> None:
    url, words = f"file:{clinic}", ("forget", "patients", *who, "--reason", "asked", "--dry-run")
    before = everlog("-u", url, "log", "--json").out
    said = everlog("-u", url, *words)
    assert said.out == "Would forget: 1 row of patients, 1 row of visits, and 2 versions of them in the log\n"
    (found,) = everlog("-u", url, *words, "--json").json
    assert found == {"rows": {"patients": 1, "visits": 1}, "versions": 2, "dry_run": True}
    assert everlog("-u", url, "log", "--json").out == before
    assert everlog("-u", url, "forget", "patients", *who, "--reason", "asked").code == 0


def test_a_person_is_forgotten_by_a_row_and_by_name(
    everlog: Run, clinic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file:{clinic}"
    (found,) = everlog("-u", url, "forget", "patients", "1", "--reason", "asked", "--json").json
    assert (found["rows"], found["seq"]) == (2, 6)
    assert [(one["kind"], one["seqs"]) for one in found["remaining"]] == [("keys", []), ("commits", [3, 5])]
    (held,) = everlog("-u", url, "people", "export", "patients", "1", "--json").json
    assert (held["rows"], held["key"]["state"]) == ([], "forgotten")
    assert everlog("-u", url, "people", "export", "patients").code == 2
    readable = everlog("-u", url, "people", "readable")
    assert (readable.code, readable.out) == (0, "OK: no personal data is readable without keys\n")
    assert everlog("-u", url, "scan", "visits").out == ""
    monkeypatch.setenv("EVERLOG_ACTOR", "dpo")
    gone = everlog("-u", url, "forget", "patients", "--person", "s-2", "--reason", "asked")
    assert gone.out.startswith("Forgotten: 1 row, key ")
    *_, last = everlog("-u", url, "log", "--kind", "notice", "--json").json
    assert last["actor"] == "dpo"
    again = everlog("-u", url, "forget", "patients", "--person", "s-2", "--reason", "asked")
    assert again.code == 1
    assert "forgotten already" in again.err
    assert everlog("-u", url, "forget", "patients", "--reason", "asked").code == 2


def test_a_person_is_forgotten_at_a_server_in_the_name_of_the_token(
    everlog: Run, clinic: Path, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("dpo sesame owner\n")
    with serving(f"clinic=file:{clinic}", "--tokens", str(tmp_path / "tokens")) as served:
        url = f"{served.url}?token=sesame"
        ended = everlog("-u", url, "people", "export", "patients", "--person", "s-1", "--json")
        kept = ("warning: a token in --url", " server.started ")
        assert [line for line in ended.err.splitlines() if not any(one in line for one in kept)] == []
        (held,) = ended.json
        assert [one["table"] for one in held["rows"]] == ["patients", "visits"]
        assert everlog("-u", url, "people", "readable", "--json").out == ""
        (found,) = everlog("-u", url, "forget", "patients", "1", "--reason", "asked", "--json").json
        assert found["rows"] == 2
        again = everlog("-u", url, "forget", "patients", "1", "--reason", "asked")
        assert again.code == 1
        assert f"commit {found['seq']} deleted it, and forgot its person" in again.err
        (notice,) = everlog("-u", url, "log", "--kind", "notice", "--json").json
        assert (notice["actor"], notice["reason"], notice["notice"]["subject"]) == (
            "dpo",
            "asked",
            "patients",
        )


def test_the_log_shows_rows_open_and_says_which_are_erased(
    everlog: Run, clinic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file:{clinic}"
    everlog("-u", url, "forget", "patients", "1", "--reason", "asked")

    def changes() -> list[dict[str, Any]]:
        return [one for commit in everlog("-u", url, "log", "--json").json for one in commit["changes"]]

    assert [one.get("erased") for one in changes()] == [True, None, True, None, None]
    assert changes()[1]["row"]["name"] == "Bob"
    monkeypatch.delenv("EVERLOG_MASTER_KEY")
    assert [one.get("erased") for one in changes()] == [True, None, True, None, None]
    assert [one.get("sealed") for one in changes()] == [None, True, None, None, None]
    shown = everlog("-u", url, "log").out
    assert shown.count("(erased)") == 2
    assert "put    patients/2  (sealed)" in shown
    assert everlog("-u", url, "history", "patients", "2").out.rstrip().endswith("put     (sealed)")
    gone = everlog("-u", url, "history", "patients", "1").out.splitlines()
    assert "delete  asked" in gone[0]
    assert gone[1].endswith("put     (erased)")
    assert "no master key was given" in everlog("-u", url, "get", "patients", "2").err


@pytest.mark.long
def test_what_is_made_without_keys_is_said_to_be_sealed(everlog: Run, clinic: Path, tmp_path: Path) -> None:
    said = "Sealed: the rows of patients, visits; to read them, put a copy of KEYS, which is stored"
    url, copy = f"file:{clinic}", tmp_path / "copy.db"
    everlog("-u", url, "backup", str(tmp_path / "kept"))
    assert everlog("verify-backup", str(tmp_path / "kept"), "--deep").out == "OK: no problems found\n"
    assert said in everlog("restore", str(tmp_path / "kept"), str(copy)).err
    assert "KEYS is missing; restore the file" in everlog("-u", f"file:{copy}", "get", "patients", "1").err
    assert "(sealed)" in everlog("-u", f"file:{copy}", "history", "patients", "1").out
    (copy / "KEYS").write_bytes((clinic / "KEYS").read_bytes())
    assert (
        "open it once for writing, as `everlog expire` does"
        in everlog("-u", f"file:{copy}", "get", "patients", "1").err
    )
    assert everlog("-u", f"file:{copy}", "expire").code == 0
    assert everlog("-u", f"file:{copy}", "get", "patients", "1", "--json").json[0]["name"] == "Ann"
    with serving(f"clinic={url}") as served:
        made = everlog("rebuild", "--into", str(tmp_path / "made.db"), "--from", served.url)
        assert (made.code, said in made.err) == (0, True)
    assert "Sealed" not in everlog("-u", url, "rebuild").err


def test_the_master_key_is_changed(everlog: Run, clinic: Path, tmp_path: Path) -> None:
    (tmp_path / "new.key").write_bytes(OTHER_MASTER)
    url = f"file:{clinic}"
    assert everlog("-u", url, "rotate-key", "--to", str(tmp_path / "new.key"), "--json").json == [{"keys": 3}]
    assert "these keys are under another master key" in everlog("-u", url, "scan", "patients").err
    with open_people(clinic, master_key=OTHER_MASTER) as db:
        assert db.count(PATIENTS) == 2


def test_the_master_key_is_changed_under_the_one_that_the_environment_or_the_server_names(
    everlog: Run, clinic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, new = f"file:{clinic}", tmp_path / "new.key"
    new.write_bytes(OTHER_MASTER)
    monkeypatch.delenv("EVERLOG_NEXT_MASTER_KEY_FILE", raising=False)
    assert "no next master key is configured" in everlog("-u", url, "rotate-key").err
    with serving(f"clinic={url}", "--next-master-key", str(new)) as served:
        refused = everlog("-u", served.url, "rotate-key", "--to", str(new))
        assert (refused.code, "a master key is never sent" in refused.err) == (1, True)
        assert everlog("-u", served.url, "rotate-key", "--json").json == [{"keys": 3}]
        assert everlog("-u", served.url, "scan", "patients", "--count").out == "2\n"
    monkeypatch.setenv("EVERLOG_NEXT_MASTER_KEY_FILE", str(new))
    assert everlog("-u", url, "scan", "patients", "--count").out == "2\n"
    assert everlog("-u", url, "rotate-key").out == "Done: all keys are under that master key already\n"


def test_who_may_not_have_keys_follows_the_other_tables(everlog: Run, clinic: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("web thyme follower,reader\n")
    with serving(f"clinic=file:{clinic}", "--tokens", str(tmp_path / "tokens")) as served:
        words = ("-u", f"{served.url}?token=thyme", "follow", "--to", f"sqlite:{tmp_path / 'm.db'}", "--once")
        refused = everlog(*words)
        assert (refused.code, "start the server with --keys-for web" in refused.err) == (1, True)
        assert everlog(*words, "--table", "items", "--verify").code == 0
