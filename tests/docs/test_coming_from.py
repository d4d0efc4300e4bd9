import re
import shlex
from pathlib import Path

import click

from everlog.console.cli.main import cli

PAGE = Path(__file__).parent.parent.parent / "docs" / "coming-from.md"
SAID = re.compile(r"`everlog ([^`]+)`")
OTHERS = {
    "dbmate": "new up create drop migrate rollback down status dump load wait",
    "Alembic": "init revision upgrade downgrade current history show heads branches merge check stamp edit"
    " ensure_version list_templates",
    "Atlas": "apply checkpoint diff down edit hash import lint new push rebase rm set status test validate"
    " inspect clean fmt plan",
}


def test_every_command_and_option_that_the_page_names_is_there() -> None:
    said = SAID.findall(PAGE.read_text(encoding="utf-8"))
    assert said
    for words in map(shlex.split, said):
        command: click.Command = cli
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            name = words.pop(0)
            if name == "COMMAND":
                break
            found = command.get_command(click.Context(command), name)
            assert found is not None, f"everlog {name}"
            command = found
        options = {option for parameter in command.params for option in parameter.opts}
        for word in words:
            if word.startswith("--") and command is not cli:
                assert word in options, f"{command.name} {word}"


def test_every_command_of_the_others_has_a_row() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for tool, commands in OTHERS.items():
        section = text.split(f"\n## {tool}\n")[1].split("\n## ")[0]
        first = " ".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
        missing = [word for word in commands.split() if not re.search(rf"`[^`]*\b{word}\b", first)]
        assert not missing, tool
