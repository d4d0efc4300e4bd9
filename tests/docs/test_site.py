"""The site of the docs: it builds without warnings, is complete, and loads nothing from other hosts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import everlog
from _generate import commands, grpc_api, python_api, settings
from everlog.console.cli.main import COMMANDS, command
from everlog.console.cli.serve_config import settable
from tests.docs.session import blocks

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"([^\"]+)\"|<link\b[^>]*\bhref=\"([^\"]+)\"")
STYLED = re.compile(r"@import\b[^;]*|url\([^)]*\)")


def names_of(page: Path) -> list[str]:
    """Return the pages that the tables of contents of a page name."""
    lines = [line for tree in TOCTREE.findall(page.read_text(encoding="utf-8")) for line in tree.splitlines()]
    return [line.strip() for line in lines if line.strip() and not line.startswith(":")]


def test_every_page_has_a_place_in_the_table_of_contents() -> None:
    named = names_of(DOCS / "index.md")
    assert len(named) == len(set(named))
    found = {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES}
    decisions = {page for page in found if page.startswith("decisions/0")}
    assert found - decisions == {"index", *named}
    assert names_of(DOCS / "decisions" / "index.md") == ["0*"]


def test_no_page_but_one_tells_how_to_install_everlog() -> None:
    telling = [
        page.relative_to(ROOT).as_posix()
        for page in [*ROOT.glob("*.md"), *ROOT.glob("examples/*/*.md"), *PAGES]
        if re.search(r"pip install\S* +(-\S+ +)*'?everlog\b", page.read_text(encoding="utf-8"))
    ]
    assert telling == ["docs/install.md"]


def test_the_extras_of_the_page_are_those_of_the_project() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (DOCS / "install.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(project["optional-dependencies"])
    assert f"everlog-{project['version']}-py3-none-any.whl" in page


def test_blocks_of_shell_name_targets_that_there_are() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for block in blocks(page):
            if block.language == "sh":
                for target in re.findall(r"^make ([\w-]+)", block.text, re.MULTILINE):
                    assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}:{block.line}"


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "--quiet", "-d", str(tmp_path / "trees")]
    done = subprocess.run([*command, DOCS, site], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for page in site.rglob("*.html"):
        for script, link in LOADED.findall(page.read_text(encoding="utf-8")):
            assert not re.match(r"(\w+:)?//", script or link), f"{page.name} loads {script or link}"
    for sheet in site.rglob("*.css"):
        for found in STYLED.findall(sheet.read_text(encoding="utf-8")):
            assert "//" not in found.replace("http://www.w3.org", ""), f"{sheet.name}: {found}"
    html = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for name in (*everlog.__all__, "Transaction.put", "RemoteDatabase.put"):
        assert f'id="everlog.{name}"' in html


def test_the_generated_references_have_every_name() -> None:
    python = python_api.markdown()
    for name in everlog.__all__:
        assert re.search(rf"^:+\{{py:\w+\}} {name}\b", python, re.MULTILINE), name
    console = commands.markdown()
    assert [name for name in COMMANDS if f"## everlog {name}\n" not in console] == []
    assert "`--to-version VERSION`" in console
    assert "### everlog consumers register" in console
    table = settings.markdown()
    assert "| `--tls-cert` | `tls-cert` | `EVERLOG_SERVE_TLS_CERT` | The server's certificate" in table
    assert table.count("\n| `--") == len(list(settable(command("serve")))) - 1  # and NAME=URL
    grpc = grpc_api.markdown()
    assert "### service Store" in grpc
    assert (
        "| `Commit` | [`CommitRequest`](#commitrequest) | [`CommitResponse`](#commitresponse) | Val" in grpc
    )
    assert "| 1 | `seq` | `uint64` | Position in the log: 1, 2, 3 … without gaps. |" in grpc


def listed(markdown: str, name: str) -> set[str]:
    """Return the members that the reference lists for a class."""
    section = re.search(rf"^### everlog\.{name}\n(.*?)(?=^##)", markdown, re.MULTILINE | re.DOTALL)
    assert section
    return set(re.findall(r"^:+\{py:(?:method|property|attribute)\} (\w+)", section[1], re.MULTILINE))


def test_the_reference_lists_the_calls_that_both_databases_have() -> None:
    markdown = python_api.markdown()
    embedded, remote = listed(markdown, "EmbeddedDatabase"), listed(markdown, "RemoteDatabase")
    assert embedded == remote
    assert {"get", "put", "transaction", "load", "feed", "migrations", "close"} <= embedded
    assert not {"apply_migration", "forked", "reclaim", "scratch", "channel", "refresh_schema"} & embedded


def test_the_glossary_is_short_and_sorted() -> None:
    rows = re.findall(r"^\| \*\*(.+?)\*\* \| (.+) \|$", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    terms = [term for term, _ in rows]
    assert 20 < len(terms) <= 40
    assert terms == sorted(terms)
    assert all(sentence.endswith(".") and ". " not in sentence for _, sentence in rows)


def test_each_decision_has_a_number_a_date_and_three_parts_and_is_listed() -> None:
    pages = sorted((DOCS / "decisions").glob("0*.md"))
    for number, page in enumerate(pages, start=1):
        text = page.read_text(encoding="utf-8")
        assert page.name.startswith(f"{number:04}-")
        assert re.match(rf"# {number}\. .+\n\nDate: \d{{4}}-\d\d-\d\d\n", text), page.name
        assert re.findall("^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    listed = re.findall(r"\((0\d{3}-.+\.md)\)", (DOCS / "decisions" / "index.md").read_text())
    assert sorted(listed) == [page.name for page in pages]
