"""Serve: serves the example's database until it is stopped: `make serve`.

It first creates the database if it does not exist. `everlog serve` serves any other database.
"""

import argparse
from pathlib import Path

from everlog.console.output import show_progress
from everlog.rpc.server.server import Server
from flights.create import create

DIRECTORY = Path("build/flights.db")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make serve", description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:7420", metavar="HOST:PORT")
    parser.add_argument("--path", type=Path, default=DIRECTORY, help="directory of the database")
    parser.add_argument("--flights", type=int, metavar="N", help="number of flights to load  [default: all]")
    chosen = parser.parse_args()
    with show_progress() as progress:
        db = create(f"file:{chosen.path}", flights=chosen.flights, progress=progress)
    with db, Server({"flights": db}, chosen.listen, migrations={"flights": "flights.migrations"}) as server:
        url = server.url("flights")
        print(f"serving {url}, until Ctrl-C. In another terminal:\n")
        print(f"  export DATABASE_URL={url}")
        print("  .venv/bin/everlog status")
        print("  .venv/bin/everlog get airports JFK")
        print("  .venv/bin/everlog scan flights --index by_route JFK LAX --limit 3")
        print("  .venv/bin/everlog follow --to sqlite:build/flights.sqlite", flush=True)
        server.wait()
    print("stopped")


if __name__ == "__main__":
    main()
