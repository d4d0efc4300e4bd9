import base64
from pathlib import Path

import pytest

from tests.docs.session import Session, blocks
from tests.store.people import MASTER, PATIENTS, open_people, patient

PAGE = Path(__file__).parent.parent.parent / "docs" / "privacy.md"


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_page_about_privacy_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_people(tmp_path / "clinic.db") as db:
        ann = patient(1, "s-1", email="ann@example.org", name="Ann", born=1970)
        db.put(PATIENTS, ann, actor="reception", reason="first visit")
        db.put(PATIENTS, patient(2, "s-2", email="bob@example.org", name="Bob", born=1980))
    (tmp_path / "master.key").write_bytes(base64.b64encode(MASTER))
    monkeypatch.setenv("EVERLOG_MASTER_KEY_FILE", "master.key")
    with Session(tmp_path) as session:
        session.follow(PAGE)
    assert len([block for block in blocks(PAGE) if block.language == "console"]) == 3
