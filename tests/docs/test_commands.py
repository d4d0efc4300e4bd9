from pathlib import Path

from everlog.console.cli.main import COMMANDS

PAGE = Path(__file__).parent.parent.parent / "docs" / "commands.md"


def test_every_command_is_on_the_page_and_no_other() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `everlog ")]
    assert [row.split("`")[1].split()[1] for row in rows] == list(COMMANDS)
