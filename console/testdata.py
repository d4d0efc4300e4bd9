"""Testdata: rows to test with, made from a seed at any scale by the newest migration."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import click

from everlog.console import text
from everlog.console.opening import open_database
from everlog.console.opening import shown as shown_url
from everlog.console.progress import shown
from everlog.console.settings import Settings, common, dry_run, pass_settings, writes
from everlog.proto import log_pb2
from everlog.store.errors import Error

if TYPE_CHECKING:
    from everlog.console.opening import AnyDatabase

LOOKED_AT = 1000  # commits; a log that has more of nothing but test data is asked for as well


@click.command()
@click.option("--scale", type=click.IntRange(1), default=1, show_default=True, help="How much of it.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, other rows.")
@click.option("--yes", is_flag=True, help="Do not ask, though there are rows that were written for good.")
@dry_run
@writes
@common
@pass_settings
def testdata(
    settings: Settings, *, scale: int, seed: int, yes: bool, dry_run: bool, actor: str, reason: str
) -> None:
    """Loads the test data of the database's newest migration.

    The same seed and scale again change nothing. Asks first, or needs --yes, if the database has commits
    other than migrations and test data. A database in production refuses it (`everlog production yes`).

    \b
    Examples:
      everlog testdata --scale 10
    """
    from everlog.migrations import load_testdata
    from everlog.migrations.testdata import testdata_at

    settings.resume = "loaded rows stay; the same command continues"
    with open_database(settings, read_only=dry_run) as db, shown() as progress:
        if dry_run:
            made = (
                table.name for table, _ in testdata_at(settings.migrations, db.schema.version, scale, seed)
            )
            _print(settings, Counter(made), "Would load")
            return
        if not yes:
            _ask(db)
        counts = load_testdata(
            cast(Any, db),  # one on a server has the call that it needs, too
            settings.migrations,
            scale=scale,
            seed=seed,
            actor=actor,
            reason=reason or "test data",
            progress=progress,
        )
    _print(settings, counts, "Loaded")


def _print(settings: Settings, counts: dict[str, int], word: str) -> None:
    for name, rows in counts.items():
        if settings.json:
            text.echo({"table": name, "rows": rows})
        else:
            click.echo(f"{word}: {rows:,} rows of {name}")


def _ask(db: AnyDatabase) -> None:
    """Raise Error unless the database is for tests, or the user confirms."""
    if _is_to_test_with(db):
        return
    what = f"{shown_url(db.url)} has commits that are neither migrations nor test data"
    if not sys.stdin.isatty():
        raise Error(f"{what}: test data may replace its rows; say --yes if that is meant")
    click.confirm(f"{what}. Load test data, which may replace its rows?", abort=True, err=True)


def _is_to_test_with(db: AnyDatabase) -> bool:
    looked = 0
    try:
        for commit in islice(db.feed(after=0, bounded=True), LOOKED_AT):
            is_test = commit.HasField("load") and commit.load.kind == log_pb2.Load.TEST
            if commit.changes and not is_test and not commit.HasField("migration"):
                return False
            looked += 1
    except Error:  # an archived or unreadable log: a database in use
        return False
    return looked < LOOKED_AT
