from pathlib import Path

import pytest

from tests.docs.session import Session, blocks

PAGE = Path(__file__).parent.parent.parent / "docs" / "fleet.md"


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_page_about_fleets_does_what_it_says(tmp_path: Path) -> None:
    with Session(tmp_path) as session:
        session.follow(PAGE)
    assert len([block for block in blocks(PAGE) if block.language == "console"]) == 10
