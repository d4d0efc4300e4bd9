"""Serve: serves the example's database and its console until it is stopped: `make serve`.

It opens the console in a browser if the machine has a desktop. It first creates the database if it does not
exist. `everlog serve` serves any other database.
"""

import argparse
import os
import sys
import webbrowser
from pathlib import Path

from everlog.console.cli.console import CONSOLE, showing, web_of
from everlog.console.output import show_progress
from everlog.rpc.server.server import Server
from flights.create import create

DIRECTORY = Path("build/flights.db")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make serve", description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:7420", metavar="HOST:PORT")
    parser.add_argument("--console", default=CONSOLE, metavar="HOST:PORT", help="address of the console")
    parser.add_argument("--no-browser", action="store_true", help="do not open the console in a browser")
    parser.add_argument("--path", type=Path, default=DIRECTORY, help="directory of the database")
    parser.add_argument("--flights", type=int, metavar="N", help="number of flights to load  [default: all]")
    chosen = parser.parse_args()
    web = web_of(chosen.console, "", None)
    assert web is not None
    with show_progress() as progress:
        db = create(f"file:{chosen.path}", flights=chosen.flights, progress=progress)
    with (
        db,
        Server({"flights": db}, chosen.listen, migrations={"flights": "flights.migrations"}) as server,
        showing(web, server),
    ):
        url = server.url("flights")
        print(f"console {web.url}")
        print(f"serving {url}, until Ctrl-C. In another terminal:\n")
        print(f"  export DATABASE_URL={url}")
        print("  .venv/bin/everlog status")
        print("  .venv/bin/everlog get airports JFK")
        print("  .venv/bin/everlog scan flights --index by_route JFK LAX --limit 3")
        print("  .venv/bin/everlog follow --to sqlite:build/flights.sqlite", flush=True)
        if not chosen.no_browser and _has_desktop():
            webbrowser.open(web.url)
        server.wait()
    print("stopped")


def _has_desktop() -> bool:
    """Return whether a person can see a browser that this program opens."""
    return sys.stdout.isatty() and (
        sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    )


if __name__ == "__main__":
    main()
