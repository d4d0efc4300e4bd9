"""A server in its own process, to be killed: python -m tests.rpc.serving PATH [PORT]"""

from __future__ import annotations

import sys
from pathlib import Path

from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from tests.conformance.database_case import AIRPORTS, FLIGHTS, VERSION, migrate


def main(path: str, port: str = "0") -> None:
    with EmbeddedDatabase(Path(path)) as db:
        if not db.schema.version:
            migrate(db, VERSION, AIRPORTS, FLIGHTS)
        with Server({"x": db}, f"127.0.0.1:{port}") as server:
            print(server.port, flush=True)  # noqa: T201  read by the parent
            server.wait()
    print("closed", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
