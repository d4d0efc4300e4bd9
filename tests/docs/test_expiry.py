from pathlib import Path

import pytest

from tests.docs.session import Session

PAGE = Path(__file__).parent.parent.parent / "docs" / "expiry.md"


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_page_of_lives_does_what_it_says(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    with Session(folder) as session:
        session.follow(PAGE)
