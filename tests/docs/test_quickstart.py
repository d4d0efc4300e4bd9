from pathlib import Path

import pytest

from tests.docs.session import Session, blocks

PAGE = Path(__file__).parent.parent.parent / "docs" / "quickstart.md"


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_quickstart_does_what_it_says(tmp_path: Path) -> None:
    folder = tmp_path / "bookshop"
    folder.mkdir()
    with Session(folder) as session:
        session.follow(PAGE)


def test_every_file_of_the_quickstart_is_one_that_is_used() -> None:
    found = list(blocks(PAGE))
    assert {block.language for block in found if block.file} <= {"proto", "python", "csv", "ini"}
    assert len([block for block in found if block.language == "console"]) >= 8
