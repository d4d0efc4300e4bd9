"""Members file: the members of a fleet that are on servers, or in directories of this machine.

    [members.shop-1]
    url = "everlog://db1.example.com:7420/shop?token-file=/run/secrets/fleet"
    labels = { region = "eu", tenant = 1 }

    [members.shop-2]
    url = "file:/var/lib/shop-2"
    migrations = "shop.migrations"

It is TOML. `url` and `migrations` are what `everlog.open` takes; a server has its own folders. `labels` are
for selectors (fleet/selector.py). A file with a token or a password in a URL must not be readable by others.

Invariants
  (1) A file with a mistake gives no member, and an error that names all mistakes.
  (2) Surveying all members writes nothing, and one that cannot be reached does not stop the others.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from everlog.fleet.plan import Refusal
from everlog.fleet.selector import Selector, check_labels, check_name
from everlog.fleet.survey import Survey, SurveyedDatabase, listed, survey
from everlog.store import urls
from everlog.store.environment import read_file
from everlog.store.errors import Error, MigrationError, OpenError, RowError, quantity

KEYS = ("url", "labels", "migrations")
ALL = Selector()
WORKERS = 16  # members surveyed at a time

_SECRET = re.compile(r"[?&]token=|://[^/\s]*:[^/\s]*@")


class MemberSource(NamedTuple):
    """A member in the file: its name, the URL of its database, its labels, and the package or directory of
    its migrations (None: those of its server, or the default)."""

    name: str
    url: str
    labels: Mapping[str, str] = {}
    migrations: str | None = None


Opened = Callable[[MemberSource], AbstractContextManager[SurveyedDatabase]]


def read_members(path: str | Path) -> list[MemberSource]:
    """Return the members in a file, in its order.

    Raises OpenError, with all mistakes: a file that is not TOML, an unknown key, a name, URL or label that is
    invalid, a URL that occurs twice, or a secret in a file that others can read.
    """
    path = Path(path)
    raw = read_file(path, "the members of the fleet")
    try:
        text = raw.decode()
        found: Mapping[str, object] = tomllib.loads(text)
    except UnicodeDecodeError:
        raise OpenError(f"{path}: expected TOML as UTF-8 text, found other bytes") from None
    except tomllib.TOMLDecodeError as error:
        raise OpenError(f"{path}: expected TOML: {error}") from None
    if _SECRET.search(text):
        read_file(path, "the secret in a URL of this file", secret=True)
    members, problems = (
        list[MemberSource](),
        [f"expected [members.NAME], found {key}" for key in found if key != "members"],
    )
    tables = found.get("members", {})
    if not isinstance(tables, dict) or not tables:
        problems.append("expected a member, as [members.shop-1] with a url, found none")
        tables = {}
    places = dict[str, str]()
    for name, table in tables.items():
        try:
            member = _member(name, table)
        except Error as error:
            problems.append(str(error))
            continue
        place = urls.without_secrets(member.url).rstrip("/")
        if (other := places.setdefault(place, name)) != name:
            problems.append(f"members.{name}.url: {place} is also that of {other}; remove one of the two")
        members.append(member)
    if problems:
        raise OpenError(f"{path}: {listed(problems)}", problems=problems)
    return members


def _member(name: str, table: Any) -> MemberSource:
    """Return a member of the file. Raises OpenError and RowError."""
    where = f"members.{name}"
    check_name(name)
    if not isinstance(table, dict):
        raise OpenError(f"{where}: expected a table with a url, found {table!r}")
    unknown = [key for key in table if key not in KEYS]
    if unknown:
        raise OpenError(f"{where}: expected the keys {', '.join(KEYS)}, found {unknown[0]}")
    url, labels, migrations = table.get("url"), table.get("labels", {}), table.get("migrations")
    if not isinstance(url, str) or not url.strip():
        found = "none" if url is None else repr(url)
        raise OpenError(f"{where}.url: expected the URL of a database, found {found}")
    if migrations is not None and not isinstance(migrations, str):
        raise OpenError(f"{where}.migrations: expected a package or a directory, found {migrations!r}")
    if not isinstance(labels, dict):
        raise OpenError(f'{where}.labels: expected a table, as {{ region = "eu" }}, found {labels!r}')
    try:
        return MemberSource(name, url, check_labels(labels, name), migrations)
    except RowError as error:
        raise OpenError(f"{where}.labels: {error}") from None


class Surveyed(NamedTuple):
    """The surveys of members, and of which there is none, in the order of the members."""

    surveys: list[Survey]
    problems: list[Refusal]

    def check(self) -> list[Survey]:
        """Return the surveys. Raises MigrationError if one is missing, with all reasons."""
        if self.problems:
            total = len(self.surveys) + len(self.problems)
            raise MigrationError(
                f"{quantity(len(self.problems), 'member')} of {total:,} could not be surveyed, and nothing"
                f" was done: {listed(self.problems)}",
                problems=self.problems,
            )
        return self.surveys


def survey_all(
    members: Iterable[MemberSource],
    opened: Opened,
    *,
    selector: Selector = ALL,
    hold: bool = False,
) -> Surveyed:
    """Survey the selected members, several at a time. Read-only.

    `opened` opens the database of a member, such as with `everlog.open`, and applies no migration. A member
    that cannot be opened or read is a problem: it is unreachable, the token or the role is wrong, or its
    format is newer. `selector` sees the version of those that were surveyed.
    """

    def one(member: MemberSource) -> Survey | Refusal:
        try:
            with opened(member) as db:
                return survey(db, name=member.name, labels=member.labels, hold=hold)
        except Error as error:
            return Refusal("", member.name, str(error))

    by_version = any(condition.label == "version" for condition in selector.conditions)
    chosen = [one for one in members if by_version or selector.matches(one.name, one.labels)]
    with ThreadPoolExecutor(WORKERS, "survey") as pool:
        found = list(pool.map(one, chosen))
    surveys = [
        one
        for one in found
        if isinstance(one, Survey) and selector.matches(one.name, one.labels, one.version)
    ]
    return Surveyed(surveys, [one for one in found if isinstance(one, Refusal)])
