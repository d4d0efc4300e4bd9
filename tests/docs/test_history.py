from pathlib import Path
from shutil import copytree

import pytest

from tests.docs.session import Session

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.long
@pytest.mark.timeout(200)
def test_the_page_of_history_does_what_it_says(tmp_path: Path) -> None:
    copytree(ROOT / "examples" / "flights", tmp_path / "flights")
    with Session(tmp_path) as session:
        session.follow(ROOT / "docs" / "history.md")
