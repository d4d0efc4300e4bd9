"""Screenshots: the pages of the console on the flights example: `make screenshots`.

Writes docs/console/PAGE.png in the light theme, PAGE-dark.png and PAGE-phone.png.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count, islice, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import everlog
from everlog.audit.note import Signer
from everlog.audit.prover import LocalProver, checkpoint
from everlog.console.web.oidc import Oidc
from everlog.console.web.setup import Setting, Setup
from everlog.feed import cursor
from everlog.fleet.protocol import Phase
from everlog.migrations import Approval, Rules, load, load_testdata
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.issuer import Jwt
from everlog.rpc.server.server import BEAT_S
from everlog.rpc.testing import at_version
from everlog.store.database import Database
from everlog.store.errors import MigrationError
from everlog.store.tx.transaction import new_commit_id
from everlog.store.upkeep import samples
from everlog.store.upkeep.roles import Role, Rule
from flights.create import create
from flights.migrations.v20260209154500_airport_time_zones import AIRLINES, AIRPORTS, FLIGHTS
from tests.console.web.browser import PHONE, THEMES, WIDE, Tab, browser
from tests.console.web.checked import waiting
from tests.console.web.fleets import fleet_of
from tests.console.web.provider import CLIENT, SECRET, TestProvider
from tests.console.web.visitor import console_of
from tests.migrations.project import Project
from tests.rpc.issuing import AUDIENCE
from tests.store.people import PATIENTS, VISITS, open_people, patient, visit

SOURCE = "flights.migrations"
ROOT = Path(__file__).parent.parent.parent.parent
OUT = ROOT / "docs" / "console"
TOKENS = {"ann": "token-of-ann"}

WHOLE = frozenset({"fleet"})  # pages whose lower parts are shown, too
FLIGHT = (2013, 1, 1, "B6", 135, "JFK")
ROW = "/db/flights/tables/flights/row?k=2013&k=1&k=1&k=B6&k=135&k=JFK"
PAGES = {
    "overview": "/?range=15m",
    "tables": "/db/flights/tables",
    "table": "/db/flights/tables/flights?q=carrier+%3D+B6+and+origin+%3D+JFK&k=2013&k=1&k=1&k=B6&k=135&k=JFK",
    "table-past": "/db/flights/tables/airports?at=4",
    "row": ROW,
    "load": "/db/flights/load",
    "load-file": "/db/flights/load",
    "load-version": "/db/flights/load/version/20260209154500?scale=10",
    "log": "/db/flights/log?until=60",
    "commit": "/db/flights/log/{seq}",
    "proof": "/db/flights/log/{seq}/proof",
    "consumers": "/db/flights/consumers",
    "consumer": "/db/flights/consumers/one?name=search-index&range=15m",
    "people": "/db/clinic/people",
    "person": "/db/clinic/people",
    "access": "/db/flights/access",
    "roles": "/db/flights/access/roles",
    "tokens": "/db/flights/access/tokens",
    "explain": "/db/flights/access/explain?who=carl&verb=read&table=airports",
    "admin": "/db/flights/admin",
    "calls": "/db/flights/admin/calls",
    "backups": "/db/flights/admin/backups?at=45",
    "settings": "/db/flights/admin/settings",
    "api": "/api",
    "method": "/api/Store/Scan?database=flights&table=flights&limit=3",
    "edit": ROW.replace("row?", "row/edit?"),
    "conflict": "/db/flights/tables/airports/row/edit?k=LGA",
    "continue": "/db/flights/tables/airports/row/edit?k=JFK",
    "delete": "/db/flights/tables/airports/row/delete?k=SFO",
    "sign-in": "/sign-in",
}


def conflict(tab: Tab) -> None:
    """Change a row in two windows."""
    other = tab.context.new_page()
    other.goto(tab.page.url)
    name, alt = tab.page.input_value('[name="f.name"]'), int(tab.page.input_value('[name="f.alt"]'))
    theirs = "LaGuardia" if name != "LaGuardia" else "La Guardia"
    for page, text, number, why in (
        (other, theirs, alt, "Name on the maps, ticket 4711"),
        (tab.page, "New York LaGuardia", alt + 1, "Name on the signs, altitude of the survey; ticket 4702"),
    ):
        page.fill('[name="f.name"]', text)
        page.fill('[name="f.alt"]', str(number))
        page.fill("#reason", why)
        page.click("button.primary")
        page.wait_for_selector("h1")
    other.close()
    tab.wrong.clear()  # the status 409


def send_late(tab: Tab) -> None:
    """Send a form after its session has ended, and sign in again."""
    tab.page.fill('[name="f.alt"]', "14")
    tab.page.fill("#reason", "Altitude of the new survey; ticket 4720")
    other = tab.context.new_page()
    other.goto(f"{tab.url}/account")
    other.click("text=Sign out everywhere")
    other.wait_for_selector("text=Sign in")
    other.close()
    tab.page.click("button.primary")
    tab.wrong.clear()  # the status 401
    tab.page.fill("#token", TOKENS["ann"])
    tab.page.click("button.primary")
    tab.page.wait_for_selector("text=Send this form again?")


def find_person(tab: Tab) -> None:
    """Show what is held of one person."""
    tab.page.fill("#key", "1")
    tab.page.click("button.primary")
    tab.page.wait_for_selector("text=Forgetting deletes")


ACTIONS: dict[str, tuple[Callable[[Tab], None], ...]] = {
    "conflict": (conflict,),
    "continue": (send_late,),
    "person": (find_person,),
}

SETTINGS = (
    Setting("listen", "127.0.0.1:7420", "default", "Address to listen on; port 0 selects a free port."),
    Setting(
        "tls-cert", "/etc/everlog/chain.pem", "/etc/everlog/serve.toml:3", "The server's certificate chain."
    ),
    Setting("token", "(set, not shown)", "environment", "One token for all clients, without names."),
    Setting("archive-to", "", "default", "Archive target, of all databases or of one; may be repeated."),
    Setting("slow-ms", "500.0", "flag", "Log calls that take longer than MS milliseconds; 0: none."),
)


def fill(db: EmbeddedDatabase) -> int:
    """Write some commits as people and programs do; return the seq of one that another has caused."""
    id = new_commit_id()
    row = db.get(FLIGHTS, FLIGHT)
    assert row is not None
    with db.transaction(
        actor="bob",
        reason="Actual times, from the feed of 26 January",
        correlation_id="flight-B6-135",
        commit_id=id,
    ) as tx:
        row.dep_time, row.dep_delay, row.tailnum = 615, 5, "N503JB"
        tx.put(FLIGHTS, row)
    with db.transaction(
        actor="ann",
        reason="Arrival corrected from the tower's sheet; ticket 4698",
        correlation_id="flight-B6-135",
        causation_id=id.hex(),
        commit_id=new_commit_id(),
    ) as tx:
        row.arr_time, row.arr_delay, row.tailnum = 927, 6, "N635JB"
        tx.put(FLIGHTS, row)
    seq = db.head
    for number, key in enumerate(("JFK", "LGA", "EWR", "BOS", "LAX", "SFO") * 6):
        airport = db.get(AIRPORTS, key)
        assert airport is not None
        with db.transaction(actor="deploy", reason="Altitudes of the new survey") as tx:
            airport.alt = number + 10
            tx.put(AIRPORTS, airport)
    airline = db.get(AIRLINES, "9E")
    assert airline is not None
    with db.transaction(actor="ann", reason="Its full name, as on its signs; ticket 4702") as tx:
        airline.name = "Endeavor Air, Inc."
        tx.put(AIRLINES, airline)
    jfk = db.get(AIRPORTS, "JFK")
    assert jfk is not None
    with db.transaction(actor="ann", reason="Full name, as on its signs; ticket 4702") as tx:
        jfk.name = "John F. Kennedy International Airport"
        tx.put(AIRPORTS, jfk)
    return seq


def fill_access(db: EmbeddedDatabase) -> None:
    """Grant some roles, and create some tokens."""
    db.access.grant("carl", "reader", ("air*",), actor="ann", reason="joins sales; ticket 4712")
    db.access.grant("deploy", "migrator", actor="ann", reason="releases of the site")
    db.access.grant("root", "owner", actor="ann", reason="for emergencies")
    ends_ns = time.time_ns() + 20 * 86_400 * 10**9
    db.access.create_token("deploy", expires_ns=ends_ns, actor="ann", reason="releases of the site")
    db.access.create_token("root", ("owner",), actor="ann", reason="for emergencies")
    rule = Rule(("read", "write"), ("airports",), ("put",), {"tzone": ("America/New_York",)}, ("alt",))
    db.access.define(Role("desk", (rule,)), actor="ann", reason="the desk in New York")


def fill_clinic(db: Database) -> None:
    """Write rows about two persons."""
    with db.transaction(actor="ann", reason="Registered at the desk") as tx:
        tx.put(PATIENTS, patient(1, "s-1", name="Jane Doe"))
        tx.put(PATIENTS, patient(2, "s-2", name="John Smith"))
        tx.put(VISITS, visit(7, "s-1", "a broken arm"))
    with db.transaction(actor="bob", reason="Year of birth, from the letter of Jane Doe") as tx:
        tx.put(PATIENTS, patient(1, "s-1", name="Jane Doe", born=1980))


MINUTES = 15  # of sizes and lags in the plots
LATE_NS = [0]  # the clock of the samples is late


def aged(db: EmbeddedDatabase) -> None:
    """Let the last minutes pass: a program writes, and a consumer follows at times."""
    held = db.consumers.register("search-index", actor="deploy", reason="the search of the site")
    for minute in range(MINUTES, -1, -1):
        LATE_NS[0] = minute * 60 * 10**9
        db.load(FLIGHTS, list(islice(db.scan(FLIGHTS), 2000, 3500)), source="arrivals", actor="deploy")
        db.engine.flush()
        if minute % 4:
            db.consumers.bookmark(held, db.cursor())
        time.sleep(BEAT_S + 0.1)  # the server takes a sample
    LATE_NS[0] = 0


@contextlib.contextmanager
def example(directory: Path, flights: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Serve the example and three other databases; yield the console\'s URL and pages."""
    with (
        create(f"file:{directory / 'flights.db'}", flights=flights) as db,
        everlog.open(f"file:{directory / 'crew.db'}") as crew,
        everlog.open(f"file:{directory / 'stands.db'}") as stands,
        open_people(directory / "clinic.db") as clinic,
    ):
        assert isinstance(crew, EmbeddedDatabase)
        assert isinstance(stands, EmbeddedDatabase)
        seq = fill(db)
        load_testdata(db, SOURCE, actor="ann", reason="flights to test with")
        checkpoint(LocalProver(db), Signer.generate("example.com/flights"))
        served: dict[str, Database] = {"flights": db, "crew": crew, "stands": stands, "clinic": clinic}
        how: dict[str, Any] = {
            "tokens": TOKENS,
            "roles": {"ann": ("owner",)},
            "migrations": {"flights": SOURCE},
        }
        fill_access(db)
        fill_clinic(clinic)
        backup = directory / "flights.backup"
        db.archive.backup(backup)
        setup = Setup(
            {"flights": str(backup)},
            {"metrics": "http://127.0.0.1:9464"},
            SETTINGS,
            {"flights": SOURCE},
        )
        LATE_NS[0] = MINUTES * 60 * 10**9
        with console_of(served, setup=setup, **how) as web:
            aged(db)
            yield web.url, {name: path.format(seq=seq) for name, path in PAGES.items()}


LIST = "/db/flights/migrations"
PENDING = 20260202110000  # the newest version that is applied


@contextlib.contextmanager
def pending() -> Iterator[tuple[str, dict[str, str]]]:
    """Serve the example with its last migration waiting for approval; yield the console's URL and pages."""
    with at_version(PENDING, SOURCE, testdata=True) as db:
        assert isinstance(db, EmbeddedDatabase)
        approval = Approval(db, SOURCE, "flights", Rules(frozenset({"ann", "bob"})))
        how: dict[str, Any] = {
            "tokens": TOKENS,
            "roles": {"ann": ("owner",)},
            "migrations": {"flights": SOURCE},
            "approvals": {"flights": approval},
            "actor": "deploy",
            "reason": "Names of time zones, for the departure boards; ticket 4711",
        }
        with console_of({"flights": db}, **how) as web:
            approval.propose()  # once the server has done so
            yield (
                web.url,
                {
                    "migrations": LIST,
                    "migration": f"{LIST}/{PENDING}",
                    "rollback": f"{LIST}/20260126083000/rollback",
                    "proposal": f"/migrations/{approval.proposals()[-1].digest.hex()}",
                },
            )


@contextlib.contextmanager
def pending_without_approval() -> Iterator[tuple[str, dict[str, str]]]:
    """Serve the example with two pending migrations, which need no approval; yield the console's URL and
    pages."""
    with at_version(20260126083000, SOURCE, testdata=True) as db:
        assert isinstance(db, EmbeddedDatabase)
        how: dict[str, Any] = {
            "tokens": TOKENS,
            "roles": {"ann": ("owner",)},
            "migrations": {"flights": SOURCE},
        }
        with console_of({"flights": db}, **how) as web:
            yield web.url, {"apply": f"{LIST}/20260209154500"}


@contextlib.contextmanager
def at_provider() -> Iterator[tuple[str, dict[str, str]]]:
    """Serve the example with sign-in at a provider; yield the console's URL and pages."""
    with TestProvider() as provider, at_version(source=SOURCE) as db:
        assert isinstance(db, EmbeddedDatabase)
        provider.url = provider.url.replace("127.0.0.1", "localhost")
        how: dict[str, Any] = {
            "tokens": TOKENS,
            "oidc": Oidc(provider.url, CLIENT, SECRET),
            "jwt": Jwt(provider.url, AUDIENCE, leeway_s=0.0),
        }
        with console_of({"flights": db}, **how) as web:
            yield web.url, {"sign-in-provider": "/sign-in"}


@contextlib.contextmanager
def running(directory: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Serve a migration that converts rows; yield the console's URL and pages."""
    with waiting(Project(directory), rows=12_000, rate=400) as server:

        def approve() -> None:
            with contextlib.suppress(MigrationError):  # it is cancelled at the end
                server.approval.approve_and_run(
                    server.proposal().short, actor="ann", reason="Looked at the dry run with bob"
                )

        ended = threading.Event()

        def write() -> None:
            table = load(server.path)[0].tables[0]
            for number in count():
                server.db.put(table, table.model(faa=f"B{number:05}", name="Airfield"))
                if ended.wait(0.01):
                    return

        writer, thread = threading.Thread(target=write), threading.Thread(target=approve)
        writer.start()
        time.sleep(5 * BEAT_S)  # the time before it begins
        thread.start()
        try:
            for commit in server.db.feed():
                if commit.migration.rows:
                    break
            yield server.url, {"migration-running": server.page}
        finally:
            ended.set()
            server.approval.cancel(actor="ann", reason="enough was seen")
            writer.join()
            thread.join()


@contextlib.contextmanager
def upgraded(directory: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Serve a fleet of 200 databases during a run; yield the console's URL and pages."""
    with fleet_of(directory) as fleet:
        codes = map("".join, product("abcdefgh", "aeiou", "klnrt"))
        members = fleet.join([f"ops-{code}" for code in codes], region="eu")
        run = fleet.start(members)
        for one in members[5:]:
            fleet.prepared(one, run)
        built: dict[str, Any] = {
            "phase": Phase.PREPARING,
            "decision_id": run,
            "fence": fleet.hub.status().epoch,
        }
        for number, rows, total, waits_for in (
            (2, 41_208, 88_310, "the writers of airports"),
            (3, 66_020, 91_774, ""),
            (4, 70_551, 72_400, ""),
        ):
            fleet.say(members[number], **built, rows=rows, total=total, rate=1480.0, waits_for=waits_for)
        for one in members[:2]:
            fleet.leave(one)
        pages = {
            "fleet": "/fleet",
            "fleet-run": f"/db/ledger/fleet/runs/{cursor.name(run)}",
            "fleet-member": f"/db/ledger/fleet/members/{cursor.name(members[2].database)}",
        }
        yield fleet.url, pages


def watch(tab: Tab) -> None:
    """Wait for a plot of the progress, and for the latencies."""
    tab.page.wait_for_selector(".plot .stroke")
    tab.page.wait_for_selector("text=before it began: p50")
    tab.page.wait_for_timeout(3000)


def look_at_a_file(tab: Tab) -> None:
    """Send a file whose columns have names of their own, and whose rows do not all fit."""
    lines = [b"Code,Name,lat,lon,Altitude,since", b"JFK,New York JFK,40.64,-73.78,13,1948"]
    lines += [b"XQA,Quincy Airfield,41.1,-74.2,120,1999", b"XQB,Borrowdale,north,-74.6,80,2003"]
    tab.page.set_input_files(
        "#file", files={"name": "airports.csv", "mimeType": "text/csv", "buffer": b"\n".join(lines)}
    )
    tab.page.select_option("#table", "airports")
    tab.page.click("text=Look at it")
    tab.page.wait_for_url("**/load/file?*")
    tab.page.select_option("#c1", "faa")
    tab.page.select_option("#c5", "alt")
    tab.page.click("text=Preview")
    tab.page.wait_for_selector("text=XQA")


ACTIONS["load-file"] = (look_at_a_file,)
ACTIONS["migration-running"] = (watch,)
Server = contextlib.AbstractContextManager[tuple[str, dict[str, str]]]


def shoot(tab: Tab, out: Path, pages: dict[str, str], suffix: str) -> None:
    """Sign in, and write the pictures of pages in one theme and size."""

    def picture(name: str) -> None:
        file = out / f"{name}{suffix.removesuffix('-light')}.png"
        tab.page.screenshot(path=file, full_page=name in WHOLE)
        print(file, f"overflow {tab.overflow()}" if tab.overflow() else "", flush=True)  # noqa: T201

    tab.go("/sign-in")
    for name in (name for name, path in pages.items() if path == "/sign-in"):
        picture(name)
    if set(pages.values()) == {"/sign-in"}:
        return
    tab.page.fill("#token", TOKENS["ann"])
    tab.page.click("button.primary")
    tab.page.wait_for_url(f"{tab.url}/")
    for name, path in pages.items():
        if path != "/sign-in":
            tab.go(path)
            for act in ACTIONS.get(name, ()):
                act(tab)
            picture(name)
    for problem in tab.wrong:
        print("problem:", problem)  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(prog="make screenshots", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="directory of the pictures")
    parser.add_argument("--flights", type=int, default=20_000, help="number of flights to load")
    parser.add_argument("pages", nargs="*", help="pages  [default: all]")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    own: Any = SimpleNamespace(
        time_ns=lambda: time.time_ns() - LATE_NS[0], monotonic=lambda: time.monotonic() - LATE_NS[0] / 1e9
    )
    patches = mock.patch.multiple(samples, time=own, EVERY_S=0.0)
    with tempfile.TemporaryDirectory() as directory, browser() as found, patches:
        servers: list[Callable[[], Server]] = [
            lambda: example(Path(directory), chosen.flights),
            pending,
            pending_without_approval,
            at_provider,
            lambda: running(Path(directory)),
            lambda: upgraded(Path(directory) / "fleet"),
        ]
        for server in servers:
            with server() as (url, pages):
                wanted = {name: path for name, path in pages.items() if name in (chosen.pages or pages)}
                looks = [*((theme, WIDE, f"-{theme}") for theme in THEMES), ("light", PHONE, "-phone")]
                for theme, size, suffix in looks if wanted else ():
                    with Tab(found, url, theme=theme, size=size) as tab:
                        shoot(tab, chosen.out, wanted, suffix)


if __name__ == "__main__":
    main()
