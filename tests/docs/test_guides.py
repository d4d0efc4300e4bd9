"""The statements and examples of the pages on the Python API, modelling, packaging and following, and of the
tour.
"""

import ast
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest

import everlog
import everlog.consumers
import everlog.migrations
from tests.docs.session import Session, blocks

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGES = [
    DOCS / f"{name}.md"
    for name in ("python", "modelling", "operating", "packaging", "following", "security", "time", "tour")
]
RUN_ELSEWHERE = ("backup", "deployment", "erasure", "expiry", "history", "migrations", "privacy", "proofs")
LONG = [DOCS / f"{name}.md" for name in RUN_ELSEWHERE]


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    copytree(DOCS.parent / "examples" / "flights", tmp_path / "flights")
    with Session(tmp_path) as session:
        session.follow(page)
    found = list(blocks(page))
    assert len([block for block in found if block.language == "console"]) >= 2
    assert not [block for block in found if block.language == "python" and not block.file]


@pytest.mark.parametrize("page", [*PAGES, *LONG], ids=lambda page: page.stem)
def test_code_of_the_page_is_python_and_uses_public_names(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    assert node.value.id != "everlog" or hasattr(everlog, node.attr), node.attr
                if isinstance(node, ast.ImportFrom) and node.module == "everlog.migrations":
                    assert {alias.name for alias in node.names} <= set(everlog.migrations.__all__)


def test_the_container_s_command_starts_a_server(tmp_path: Path) -> None:
    (file,) = (block.text for block in blocks(DOCS / "packaging.md") if block.language == "dockerfile")
    (command,) = re.findall(r"^CMD (\[.*\])$", file, re.MULTILINE)
    program, *words = ast.literal_eval(command)
    assert program == "everlog"
    tokens = tmp_path / "tokens"
    tokens.write_text("ann Qm5xd2VydHk\n")
    tokens.chmod(0o400)
    everlog.open(tmp_path / "shop.db").close()
    line = shlex.join(words).replace("/data", str(tmp_path)).replace("/run/secrets/tokens", str(tokens))
    line = re.sub(r"--tls-\w+ \S+ ?", "", line)  # keys and certificates need a library
    line = line.replace("0.0.0.0:7420", "127.0.0.1:0").replace("--migrate auto ", "")
    start = [sys.executable, "-m", "everlog.console", *shlex.split(line)]
    with subprocess.Popen(start, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        assert serving.stdout.readline().startswith("Serving: ")
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(30) == 0
