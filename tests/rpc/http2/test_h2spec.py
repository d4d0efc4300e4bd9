"""h2spec: the conformance tests of HTTP/2 and HPACK, in a form that gRPC's servers can answer.

h2spec sends GET. Its module is copied, and one function of it is replaced, so that each request is a call of
gRPC: POST, `te: trailers`, `content-type: application/grpc`. The rest is h2spec's own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.rpc.http2.plain_server import PlainServer

SOURCES = Path(__file__).parent.parent / "h2spec"
MODULE = "github.com/summerwind/h2spec"
CASES = 146
GO = shutil.which("go") or "/usr/local/go/bin/go"
ENVIRONMENT = os.environ | {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod"}

AUTHORITY = 'HeaderField(":authority", authority)'
GRPC = 'HeaderField("te", "trailers"), HeaderField("content-type", "application/grpc")'
REPLACED = (
    ('HeaderField(":method", "GET")', 'HeaderField(":method", "POST")'),
    (AUTHORITY, f"{AUTHORITY}, {GRPC}"),
)


@pytest.fixture
def h2spec(tmp_path: Path) -> Path:
    """Build the program, or skip where Go or its modules are missing."""
    if not Path(GO).exists():
        pytest.skip("h2spec needs Go: there is none on the PATH")
    folder = tmp_path / "build"
    shutil.copytree(SOURCES, folder)
    done = go(folder, "mod", "download", MODULE)
    if done.returncode:
        pytest.skip(f"h2spec needs its Go modules: {done.stderr.strip()}")
    original = go(folder, "list", "-m", "-f", "{{.Dir}}", MODULE).stdout.strip()
    copy = folder / "h2spec"
    shutil.copytree(original, copy, copy_function=shutil.copyfile)
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755)
    (copy / "go.mod").write_text(f"module {MODULE}\n")
    headers = copy / "spec" / "util.go"
    text = headers.read_text()
    for before, after in REPLACED:
        assert text.count(before) == 1
        text = text.replace(before, after)
    headers.write_text(text)
    go(folder, "mod", "edit", "-replace", f"{MODULE}=./h2spec")
    done = go(folder, "build", "-o", "run", ".")
    assert not done.returncode, done.stderr
    return folder / "run"


def go(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [GO, *words], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.timeout(600)  # Go compiles its standard library first, once for each user
def test_all_cases_of_h2spec_pass(h2spec: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    with PlainServer() as server:
        done = subprocess.run(
            [h2spec, str(server.port), str(report)], capture_output=True, text=True, check=False, timeout=300
        )
    assert not done.returncode, done.stderr
    text = report.read_text()
    assert text.count("<testcase ") == CASES
    assert not re.findall(r'classname="(.*?)"[^>]*>\s*<(?:failure|error|skipped)>\s*(.*?)\s*<', text)
