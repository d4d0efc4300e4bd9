"""The file of members, and the surveys of all of them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

import everlog
from everlog import MigrationError, OpenError
from everlog.fleet.members_file import MemberSource, read_members, survey_all
from everlog.fleet.plan import draft, refusals
from everlog.fleet.selector import Selector
from everlog.rpc.embedded import EmbeddedDatabase
from everlog.rpc.server.server import Server
from tests.migrations.conftest import project
from tests.migrations.project import Project
from tests.migrations.test_online import Airports

__all__ = ["project"]


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    file = path / "members.toml"
    file.write_text(text, encoding="utf-8")
    file.chmod(mode)
    return file


def test_a_file_has_names_urls_and_labels(tmp_path: Path) -> None:
    text = """
    [members.shop-1]
    url = "everlog://db1:7420/shop?token=secret"
    labels = { tenant = 1, region = "eu" }
    [members."shop.2"]
    url = "file:/var/lib/shop-2"
    migrations = "shop.migrations"
    """
    assert read_members(written(tmp_path, text)) == [
        MemberSource("shop-1", "everlog://db1:7420/shop?token=secret", {"region": "eu", "tenant": "1"}),
        MemberSource("shop.2", "file:/var/lib/shop-2", {}, "shop.migrations"),
    ]
    with pytest.raises(OpenError, match="the secret in a URL of this file"):
        read_members(written(tmp_path, text, 0o644))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "expected a member, as .members.shop-1. with a url, found none"),
        ("x", "expected TOML: "),
        ("x = 1", "expected .members.NAME., found x; expected a member"),
        ("members = 3", "expected a member"),
        ("[members]\nshop = 'x'", "members.shop: expected a table with a url, found 'x'"),
        ("[members.shop]", "members.shop.url: expected the URL of a database, found none"),
        ("[members.shop]\nurl = 3", "members.shop.url: expected the URL of a database, found 3"),
        ("[members.shop]\nurl = 'a'\ntoken = 'b'", "expected the keys url, labels, migrations, found token"),
        ("[members.shop]\nurl = 'a'\nmigrations = 1", "members.shop.migrations: expected a package or a dir"),
        ("[members.shop]\nurl = 'a'\nlabels = 'b'", "members.shop.labels: expected a table"),
        ("[members.shop]\nurl = 'a'\nlabels = {name = 'b'}", "found name, which every member has"),
        ("[members.'a b']\nurl = 'a'", "expected the name of a member"),
        (
            "[members.a]\nurl = 'everlog://h/x?token=s'\n[members.b]\nurl = 'everlog://h/x/'",
            "members.b.url: everlog://h/x is also that of a; remove one of the two",
        ),
        ("[members.a]\nurl = 3\n[members.b]\nurl = 4", "members.a.url: .*; members.b.url: "),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, error: str) -> None:
    with pytest.raises(OpenError, match=error):
        read_members(written(tmp_path, text))


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "members.toml").write_bytes(b"\xff")
    with pytest.raises(OpenError, match="expected TOML as UTF-8 text, found other bytes"):
        read_members(tmp_path / "members.toml")


def test_members_on_servers_are_surveyed_and_the_others_are_named(project: Project, tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "db") as db, ExitStack() as stack:
        airports = Airports(project, db, 3)
        tokens = {"fleet": "good", "eve": "reads"}
        server = Server(
            {"shop": db},
            migrations={"shop": str(airports.path)},
            tokens=tokens,
            roles={"fleet": ("owner",), "eve": ("reader",)},
        )
        url = stack.enter_context(server).url("shop")
        head = db.head
        members = [
            MemberSource("shop-1", f"{url}?token=good", {"region": "eu"}),
            MemberSource("same", f"{url}?token=good", {"region": "eu"}),
            MemberSource("reader", f"{url}?token=reads"),
            MemberSource("stranger", f"{url}?token=wrong"),
            MemberSource("unknown", f"{url}x?token=good"),
            MemberSource("nowhere", f"file:{tmp_path / 'none'}"),
        ]

        def opened(member: MemberSource) -> everlog.RemoteDatabase | EmbeddedDatabase:
            return everlog.open(member.url, migrations=member.migrations, migrate=False, create=False)

        found = survey_all(members, opened)
        assert [one.name for one in found.surveys] == ["shop-1", "same", "reader"]
        assert [one.name for one in found.problems] == ["stranger", "unknown", "nowhere"]
        with pytest.raises(
            MigrationError, match="3 members of 6 could not be surveyed, and nothing was done: "
        ):
            found.check()
        assert [str(one).partition(" (")[0] for one in refusals(found.surveys, 20260101000001)] == [
            f"same: it is the same database as shop-1, {found.surveys[0].database}; remove one of the two",
            f"reader: it is the same database as shop-1, {found.surveys[0].database}; remove one of the two",
        ]
        (refused,) = refusals(found.surveys[2:], 20260101000001)
        assert refused.reason.startswith("eve lacks the right migrate (roles: reader)")
        eu = survey_all(members[:1], opened, selector=Selector.parse("region=eu,version=20260101000000"))
        assert [one.name for one in draft(eu.check()).members] == ["shop-1"]
        assert survey_all(members, opened, selector=Selector.parse("region=us")) == ([], [])
        assert db.head == head
