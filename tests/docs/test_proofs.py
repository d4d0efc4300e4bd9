from pathlib import Path

import pytest

from tests.docs.session import Session

PAGE = Path(__file__).parent.parent.parent / "docs" / "proofs.md"


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_page_of_proofs_does_what_it_says(tmp_path: Path) -> None:
    folder = tmp_path / "payments"
    folder.mkdir()
    with Session(folder) as session:
        session.follow(PAGE)
