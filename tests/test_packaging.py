"""The root folders are one import package: in a checkout, in the wheel, and for type checkers.

store/ ── pyproject.toml ──▶ everlog.store      running, and in the wheel
       ── .path/everlog/ ──▶ everlog.store      type checkers, which know no mapping
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from everlog.store import VERSION

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS: dict[str, str] = PYPROJECT["tool"]["setuptools"]["package-dir"]


def test_the_version_is_said_once_more_in_the_code() -> None:
    assert PYPROJECT["project"]["version"] == VERSION


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def source_files() -> Iterator[str]:
    """Return every file that must be shipped, by its name in the wheel."""
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.parent.name != "__pycache__":
                yield f"{package.replace('.', '/')}/{path.relative_to(ROOT / folder).as_posix()}"


def modules(*packages: str) -> list[str]:
    return [
        f"everlog.{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}"
        for package in packages
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.stem not in {"__init__", "__main__"} and not path.stem.endswith("_grpc")
    ]


def loaded_by(statement: str) -> set[str]:
    """Return names of the modules that a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport json, sys; print(json.dumps(list(sys.modules)))"
    return set(json.loads(run(sys.executable, "-c", code)))


def test_every_room_is_a_package_with_types_and_a_link() -> None:
    rooms = {p.parent.name for p in ROOT.glob("*/py.typed")}
    assert set(FOLDERS.values()) == rooms
    packages = {
        ".".join([package, *path.parent.relative_to(ROOT / folder).parts])
        for package, folder in FOLDERS.items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert sorted(PYPROJECT["tool"]["setuptools"]["packages"]) == sorted(packages)
    namespace = ROOT / ".path" / "everlog"
    links = {link.name: link.readlink().as_posix() for link in namespace.iterdir()}
    face = {f"../../everlog/{p.name}" for p in (ROOT / "everlog").iterdir() if p.suffix in {".py", ".typed"}}
    face.add("../../everlog/py.typed")
    assert set(links.values()) == face | {f"../../{room}" for room in rooms - {"everlog"}}


def test_every_public_name_is_found_at_its_home() -> None:
    import everlog

    assert everlog.__all__ == sorted(everlog.__all__)
    for name in everlog.__all__:
        assert getattr(everlog, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = everlog.nonsense


def test_importing_the_face_loads_no_room() -> None:
    loaded = loaded_by("import everlog")
    assert not [name for name in loaded if name.startswith(("everlog.", "google.protobuf", "rocksdict"))]


def test_the_rooms_below_the_network_load_no_grpc() -> None:
    loaded = loaded_by(f"import {', '.join(['everlog.store', *modules('proto', 'store', 'feed', 'fleet')])}")
    assert "everlog.proto.log_pb2" in loaded
    assert not [name for name in loaded if name.split(".")[0] == "grpc"]


def test_every_module_loads_without_the_extras() -> None:
    extras = (
        "apprise",
        "cryptography",
        "fsspec",
        "grpc_tools",
        "jinja2",
        "joserfc",
        "mimesis",
        "mypy_protobuf",
        "pyarrow",
        "pygments",
        "pytest",
        "python_multipart",
        "starlette",
        "uvicorn",
    )
    pages = "everlog.console.web"  # loaded by a console, which checks first that its libraries are there
    rooms = sorted(package.removeprefix("everlog.") for package in FOLDERS if "." in package)
    names = [
        name
        for name in modules(*rooms)
        if "testing" not in name and (not name.startswith(pages) or name == f"{pages}.server")
    ]
    blocked = f"import sys, importlib; sys.modules.update(dict.fromkeys({extras}))"
    assert "everlog.rpc.client.database" in names
    assert set(names) <= loaded_by(f"{blocked}; [importlib.import_module(name) for name in {names}]")


def test_wheel_and_sdist_hold_every_file_of_every_package(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in FOLDERS.values():
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)

    build = f"import os; os.chdir({str(source)!r})\nfrom setuptools import build_meta\n"
    run(sys.executable, "-c", build + f"build_meta.build_sdist({str(tmp_path)!r})")
    (sdist,) = tmp_path.glob("everlog-*.tar.gz")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index")
    run(*pip, "--wheel-dir", str(tmp_path), str(sdist))  # from the sdist, which must therefore be complete
    (wheel,) = tmp_path.glob("everlog-*.whl")

    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.partition("/")[0].endswith(".dist-info")}
        archive.extractall(tmp_path / "installed")
    assert held == set(source_files())

    show = "import everlog.store.errors, everlog.proto.log_pb2 as p; print(everlog.__file__, p.__file__)"
    places = run(sys.executable, "-P", "-c", show, PYTHONPATH=str(tmp_path / "installed")).split()
    assert all(Path(place).is_relative_to(tmp_path / "installed") for place in places)


@pytest.mark.long
def test_the_type_checker_finds_a_mistake_in_a_room(tmp_path: Path) -> None:
    for folder in (".path", *FOLDERS.values()):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "store" / "errors.py").open("a", encoding="utf-8") as file:
        file.write("\n\nMISTAKE: int = 'text'\n")

    command = [sys.executable, "-m", "mypy", "-p", "everlog.store.errors"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "store/errors.py" in done.stdout
    assert 'expression has type "str", variable has type "int"' in done.stdout
