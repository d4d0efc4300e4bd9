"""The pages of backups, restoring and settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from everlog.audit.restore import restore
from everlog.console.web.setup import Setting, Setup
from everlog.rpc.embedded import EmbeddedDatabase
from flights.migrations.v20260209154500_airport_time_zones import AIRPORTS, Airport
from tests.console.web.conftest import ROLES, TOKENS
from tests.console.web.test_admin import ended
from tests.console.web.test_consumers import signed_in
from tests.console.web.visitor import Visitor, console_of

PAGE = "/db/flights/admin"
SETTINGS = (Setting("listen", "127.0.0.1:1", "flag", "Address"), Setting("token", "(set)", "default", "One"))


@pytest.fixture
def backed(flights: EmbeddedDatabase, tmp_path: Path) -> Iterator[Visitor]:
    """Yield a visitor of a console that knows where the backup is."""
    setup = Setup({"flights": str(tmp_path / "backup")}, {"metrics": "http://127.0.0.1:1/metrics"}, SETTINGS)
    with console_of({"flights": flights}, setup=setup, tokens=TOKENS, roles=ROLES) as web:
        yield Visitor(web.url)


def test_a_backup_is_made_continued_and_verified(
    backed: Visitor, flights: EmbeddedDatabase, tmp_path: Path
) -> None:
    ann = signed_in(backed, "ann")
    assert "Not in it yet" in ann.get(f"{PAGE}/backups").words
    job = ended(ann, ann.post(f"{PAGE}/backup").headers["location"])
    assert job["result"].startswith(f"{flights.head} commits copied")
    assert ann.json("/")["databases_shown"][0]["backup_ns"] > 0
    found = ann.json(f"{PAGE}/backups")["backup"]
    assert (found["seq"], found["missing"], found["error"]) == (flights.head, 0, "")
    assert ended(ann, ann.post(f"{PAGE}/backup").headers["location"])["result"].startswith("Nothing new")
    for deep in ("", "1"):
        job = ended(ann, ann.post(f"{PAGE}/verify", deep=deep).headers["location"])
        assert job["result"] == "Every record of the backup is unchanged."
    done = restore(tmp_path / "backup", tmp_path / "restored.db", at=3)
    assert done.seq == 3, "as the page says"
    for file in (tmp_path / "backup").glob("*.zst"):
        file.write_bytes(file.read_bytes()[:-3] + b"xyz")
    job = ended(ann, ann.post(f"{PAGE}/verify").headers["location"])
    assert (job["state"], job["result"]) == ("Problems", "")
    assert job["found"] >= 1
    (thing,) = ann.json("/")["attention"]
    assert thing["title"] == "Verification of the backup of flights found problems"
    assert thing["words"].endswith(job["problems"][0])
    assert ann.get(thing["href"]).status == 200
    assert signed_in(backed, "bob").json("/")["attention"] == []


def test_the_commands_to_restore_name_the_chosen_commit(backed: Visitor, flights: EmbeddedDatabase) -> None:
    ann = signed_in(backed, "ann")
    page = ann.get(f"{PAGE}/backups?at=3")
    assert "--at 3" in page.words
    assert "As of commit 3" in page.words
    with flights.transaction(reason="later") as tx:
        tx.put(AIRPORTS, Airport(faa="ZZZ"))
    assert f"--at {flights.head}" in ann.get(f"{PAGE}/backups").words
    assert ann.get(f"{PAGE}/backups?at=99999").status == 404
    assert ann.get(f"{PAGE}/backups?time=2999-01-01").status == 404


def test_who_may_not_back_up_sees_no_form_and_is_refused(backed: Visitor) -> None:
    bob = signed_in(backed, "bob")
    page = bob.get(f"{PAGE}/backups")
    assert 'method="post"' not in page.text
    for path in ("backup", "verify"):
        assert bob.post(f"{PAGE}/{path}").status == 403


def test_a_console_without_backups_says_how_to_make_one(
    open_console: Visitor, flights: EmbeddedDatabase, tmp_path: Path
) -> None:
    page = open_console.get(f"{PAGE}/backups").words
    assert "This console knows no backup of flights" in page
    assert "backup flights.backup" in page
    assert open_console.post(f"{PAGE}/backup").status == 400
    (tmp_path / "other").write_text("not a backup")
    with console_of({"flights": flights}, setup=Setup({"flights": str(tmp_path)})) as web:
        assert "The backup cannot be read." in Visitor(web.url).get(f"{PAGE}/backups").words


def test_settings_are_shown_to_administrators_of_the_whole_server(
    backed: Visitor, open_console: Visitor
) -> None:
    ann, bob = signed_in(backed, "ann"), signed_in(backed, "bob")
    found = ann.json(f"{PAGE}/settings")
    assert [one["name"] for one in found["settings"]] == ["listen", "token"]
    assert "http://127.0.0.1:1/metrics" in ann.get(f"{PAGE}/settings").words
    assert bob.json(f"{PAGE}/settings") == {"settings": [], "urls": {}}
    assert "Settings are shown to those with the right admin" in bob.get(f"{PAGE}/settings").words
    assert "everlog config --config serve.toml" in open_console.get(f"{PAGE}/settings").words
