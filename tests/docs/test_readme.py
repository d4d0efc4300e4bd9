import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.session import blocks

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "README.md"


def python() -> str:
    (code,) = (block.text for block in blocks(PAGE) if block.language == "python")
    return code


def run(*words: str, directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=directory, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_contents_link_to_every_page() -> None:
    linked = set(re.findall(r"\]\(docs/([a-z0-9-]+\.md)\)", PAGE.read_text(encoding="utf-8")))
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert pages - linked == {"index.md", "changelog.md", "contributing.md"}  # the last two are in the root


def test_the_session_prints_what_the_readme_says(tmp_path: Path) -> None:
    (expected,) = (block.text for block in blocks(PAGE) if block.language == "text")
    script = f"import sys; sys.path.append({str(ROOT / 'examples')!r})\n{python()}"
    assert run("-c", script, directory=tmp_path) == expected


@pytest.mark.long
@pytest.mark.timeout(200)
def test_the_type_checker_knows_the_readme_s_calls(tmp_path: Path) -> None:
    (tmp_path / "session.py").write_text(f"{python()}\nreveal_type(airport.name)\nreveal_type(airline)\n")
    settings = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache"))
    out = run(
        "-m", "mypy", *settings, "--follow-imports=silent", str(tmp_path / "session.py"), directory=ROOT
    )
    assert re.search(r'Revealed type is "(builtins\.)?str"', out)
    assert "model_pb2.Airline" in out
