"""Testdata: rows to test with, made from a seed at any scale by the newest migration."""

from __future__ import annotations

from typing import Any, cast

import click

from everlog.console import text
from everlog.console.opening import open_database
from everlog.console.progress import shown
from everlog.console.settings import Settings, common, pass_settings, writes


@click.command()
@click.option("--scale", type=click.IntRange(1), default=1, show_default=True, help="How much of it.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, other rows.")
@writes
@common
@pass_settings
def testdata(settings: Settings, *, scale: int, seed: int, actor: str, reason: str) -> None:
    """Loads test data: that of the migration that the database is at.

    The same seed and scale again change nothing.

    \b
    Examples:
      everlog testdata --scale 10
    """
    from everlog.migrations import load_testdata

    settings.resume = "what is loaded stays; the same command goes on where it stopped"
    with open_database(settings) as db, shown() as progress:
        counts = load_testdata(
            cast(Any, db),  # one on a server has the call that it needs, too
            settings.migrations,
            scale=scale,
            seed=seed,
            actor=actor,
            reason=reason or "test data",
            progress=progress,
        )
    for name, rows in counts.items():
        text.echo({"table": name, "rows": rows}) if settings.json else click.echo(
            f"Loaded: {rows:,} rows of {name}"
        )
