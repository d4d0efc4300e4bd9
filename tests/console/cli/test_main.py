import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from everlog.console.cli.config import SHELLS
from everlog.console.cli.main import COMMANDS, cli, command
from tests.console.conftest import Run

HOUSE = """
    new build up migrate status import export serve follow get scan log rebuild check create drop wait
    rollback down dump load baseline squash
"""


def test_the_commands_are_those_of_the_house() -> None:
    assert set(HOUSE.split()) <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(everlog: Run, name: str) -> None:
    ended = everlog(name, "--help")
    assert ended.code == 0
    assert "Examples:\n" in ended.out
    assert f"everlog {name} " in re.sub(r"everlog (-[ud] \S+ )+", "everlog ", ended.out) + " "
    for option in ("--url", "--env-file", "--migrations-dir", "--json"):
        assert option in ended.out


@pytest.mark.parametrize(
    "words", [("nonsense",), ("get",), ("scan", "books", "--limit", "-1"), ("--nonsense",)]
)
def test_a_command_line_that_is_none_exits_with_2(everlog: Run, words: tuple[str, ...]) -> None:
    ended = everlog(*words)
    assert (ended.code, ended.out) == (2, "")
    assert "Usage: everlog" in ended.err


def test_the_version_is_told(everlog: Run) -> None:
    assert re.fullmatch(r"everlog \d+\.\d+\.\d+\S*\n", everlog("--version").out)


def test_what_is_interrupted_exits_with_130(everlog: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command("check"), "callback", interrupted)
    ended = everlog("check")
    assert (ended.code, ended.err.strip()) == (130, "interrupted")


INTERRUPTED = """
import os, signal, sys
wanted = sys.argv[-1]
class Finder:
    def find_spec(self, name, *_):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from everlog.console.__main__ import main
sys.argv[1:] = ["status"]
main()
"""


@pytest.mark.parametrize("module", ["click", "msgspec", "everlog.console.cli.status", "rocksdict"])
def test_what_is_interrupted_while_it_loads_exits_with_130(here: Path, module: str) -> None:
    asked = [sys.executable, "-c", INTERRUPTED, module]
    done = subprocess.run(asked, check=False, capture_output=True, text=True, cwd=here, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "interrupted")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_is_taught_to_complete(everlog: Run, shell: str) -> None:
    assert "_EVERLOG_COMPLETE" in everlog("completion", shell).out


def test_names_of_tables_are_completed_from_the_database(everlog: Run, books: Path) -> None:
    context = click.Context(cli)
    (argument, *_) = command("scan").params
    assert isinstance(argument, click.Argument)
    assert [item.value for item in argument.type.shell_complete(context, argument, "bo")] == ["books"]
    os.environ["DATABASE_URL"] = "file:nowhere.db"
    assert argument.type.shell_complete(click.Context(cli), argument, "bo") == []


def test_what_is_terminated_cleans_up_and_exits_with_143(books: Path, here: Path) -> None:
    scratch = here / "scratch"
    scratch.mkdir()
    words = [sys.executable, "-m", "everlog.console", "log", "--follow"]
    environment = os.environ | {"TMPDIR": str(scratch)}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        while "index_books" not in process.stdout.readline():
            pass
        assert list(scratch.iterdir())
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 143
    assert said.strip() == "terminated; resume with --after and the last seq printed"
    assert not list(scratch.iterdir())


def test_an_export_that_the_disk_refuses_says_where(everlog: Run, books: Path, here: Path) -> None:
    (here / "out.csv").symlink_to("/dev/full")
    ended = everlog("export", "books", "out.csv")
    assert (ended.code, ended.err) == (1, "error: out.csv: No space left on device\n")
    assert not (here / "out.csv.part").exists()


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (("get", "nowhere", "1"), 1, "SchemaError"),
        (("get", "books"), 2, "UsageError"),
        (("scan", "books", "--limit", "many"), 2, "UsageError"),
        (("nonsense",), 2, "UsageError"),
        (("drop",), 1, "Error"),
        (("-u", "file:nowhere.db", "status"), 1, "OpenError"),
        (("import", "books", "nowhere.csv"), 2, "UsageError"),
    ],
)
def test_with_json_an_error_is_an_object_on_standard_error(
    everlog: Run, books: Path, words: tuple[str, ...], code: int, kind: str
) -> None:
    for said in (("--json", *words), (*words, "--json")):
        ended = everlog(*said)
        assert (ended.code, ended.out) == (code, "")
        told = json.loads(ended.err)
        assert (told["kind"], told["exit_code"]) == (kind, code)
        assert told["error"]


def test_what_is_interrupted_says_so_with_json(everlog: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command("check"), "callback", interrupted)
    ended = everlog("check", "--json")
    assert (ended.code, json.loads(ended.err)["error"]) == (130, "interrupted")


def test_a_removed_working_directory_costs_only_what_needs_it(tmp_path: Path, books: Path) -> None:
    script = (
        "import os, sys; os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"
    )
    gone = tmp_path / "gone"
    gone.mkdir()
    words = ("-u", f"file:{books}", "get", "books", "978-0", "1")
    asked = [sys.executable, "-c", script, str(gone), sys.executable, "-Im", "everlog.console", *words]
    done = subprocess.run(asked, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Dune" in done.stdout
