"""Generates the code of the contract: `make proto`, or `python -m everlog.proto.generate`.

    proto/*.proto ─ protoc ─▶ *_pb2.py *_pb2.pyi            messages, and their types
                              *_pb2_grpc.py *_pb2_grpc.pyi  where the file has a service
                              contract.binpb                all files with their comments

The folder is mapped to `everlog/proto`, so that generated code imports `everlog.proto` and a
descriptor's name is `everlog/proto/log.proto`, wherever the sources lie. What it writes is
checked in; a test holds that it is fresh. Needs the extra `build`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

HERE = Path(__file__).parent
PACKAGE = "everlog/proto"
CONTRACT = "contract.binpb"


def generate(target: Path) -> list[Path]:
    """Writes the generated code of every .proto of this folder into `target`.

    Returns the files written. Raises RuntimeError with protoc's own words if it refuses.
    """
    sources = sorted(HERE.glob("*.proto"))
    services = [s for s in sources if "\nservice " in s.read_text(encoding="utf-8")]
    with tempfile.TemporaryDirectory() as out:
        _protoc(sources, f"--python_out={out}", f"--mypy_out=quiet:{out}")
        _protoc(services, f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}")
        described = Path(out) / CONTRACT
        _protoc(sources, "--include_source_info", f"--descriptor_set_out={described}")
        (Path(out) / PACKAGE / CONTRACT).write_bytes(_commented(described.read_bytes()))
        written = []
        for made in sorted((Path(out) / PACKAGE).iterdir()):
            written.append(target / made.name)
            written[-1].write_bytes(made.read_bytes())
    return written


def _commented(raw: bytes) -> bytes:
    """Return a FileDescriptorSet with only the places that have comments. They keep their spans: programs in
    Go refuse a place without one."""
    found = FileDescriptorSet.FromString(raw)
    for file in found.file:
        kept = [
            one for one in file.source_code_info.location if one.leading_comments or one.trailing_comments
        ]
        for one in kept:
            one.ClearField("leading_detached_comments")
        del file.source_code_info.location[:]
        file.source_code_info.location.extend(kept)
    return found.SerializeToString(deterministic=True)


def _protoc(sources: list[Path], *outputs: str) -> None:
    scripts = Path(sys.executable).parent  # of this environment, activated or not
    plugins = [f"--plugin={name}={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    names = [f"{PACKAGE}/{source.name}" for source in sources]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PACKAGE}={HERE}", *plugins, *outputs, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"protoc refused the contract:\n{done.stderr.strip()}")


if __name__ == "__main__":
    for path in generate(HERE):
        print(path.name)
