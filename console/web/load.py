"""Load: rows of a file, and test data, into the tables of a database.

    /db/{database}/load                        files that were sent, data of each version, and jobs
    POST /db/{database}/load/file              a CSV, JSON Lines or Parquet file, kept while it is used
    /db/{database}/load/file?id=ID&table=…     its columns, its first rows as they would be, and what is wrong
        &c=FIELD&c=…                           the field of each column, in their order; empty: it is skipped
        &null=NA                               the text of an unset field, in CSV
    POST /db/{database}/load/import            loads it, as `everlog import` does
    /db/{database}/load/version/{version}      the first rows of its bootstrap data, and of its test data
        ?scale=10&seed=1                       as they would be made
    POST /db/{database}/load/testdata          loads test data of a version, as `everlog testdata` does

Invariants
  (1) the id of a load is derived from the content and the options, as that of `everlog import`: a load that
      was stopped resumes where it was, and a finished one is not repeated;
  (2) a file is bounded in bytes, is written to the disk as it arrives, and is removed after some hours;
  (3) only the identity that sent a file reads it;
  (4) a preview is bounded in time and in rows, and writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import msgspec
from google.protobuf.message import Message
from starlette.datastructures import UploadFile
from starlette.responses import Response

from everlog.console.source import FORMAT_OF, columns_of, format_of, look_at, source_rows
from everlog.console.web import admin, cells, migrations, sources
from everlog.console.web.files import File
from everlog.console.web.format import href
from everlog.console.web.jobs import Job, StoppedError
from everlog.console.web.migrations import optional
from everlog.console.web.page import NotFoundError, Page, View, answered, redirect, route
from everlog.console.web.permits import Permits
from everlog.console.web.rows import key_of
from everlog.migrations import load_testdata
from everlog.migrations.bootstrap import bootstrap_files
from everlog.migrations.folder import find, folders
from everlog.migrations.status import State
from everlog.migrations.testdata import has_testdata, testdata_at
from everlog.store.errors import AccessError, Error, LoadError, RowError, SchemaError, quantity
from everlog.store.schema.descriptors import descriptor_of, dotted, resolve
from everlog.store.schema.reflect import table_of
from everlog.store.schema.schema import TableInfo
from everlog.store.schema.table import Table
from everlog.store.tx import write

SHOWN, CHECKED_MAX, CHECK_S, WRONG_MAX = 20, 20_000, 0.1, 50
COLUMNS_MAX = 40
SCALE_MAX, VERSION_MAX = 10_000, (1 << 63) - 1
TABLES_MAX, ROWS_MAX = 12, 10  # in the preview of test data
JOBS = ("import", "testdata")


class Checked(NamedTuple):
    """What was read of a file: its first rows, the number of rows that were checked, and whether these are
    all."""

    first: list[Message]
    rows: int
    whole: bool
    wrong: list[str]


def load(view: View) -> Page:
    status = view.db.admin.status()
    jobs = [one for one in view.console.jobs.of(view.database) if one.kind in JOBS]
    values = {
        "production": status.production,
        "schema_version": status.schema_version,
        "tables": sorted(view.db.refresh_schema().tables),
        "files": [_told(one) for one in view.console.files.of(view.session, view.database)],
        "versions": _known_versions(view),
        "jobs": [one.told() for one in jobs if one.visible_to(view.session, view.rights)],
        "upload_bytes": view.console.setup.upload_bytes,
    }
    shown = {
        "has_source": bool(_source(view)),
        "may": "load" in view.rights,
        "refused": "",
    }
    return Page("load.html", values, 200, shown)


def _told(one: File) -> dict[str, Any]:
    return {"id": one.id, "name": one.name, "format": one.form, "size": one.size}


def send(view: View) -> Page | Response:
    """Keep the file of a form."""

    def work() -> Response:
        view.need("load")
        sent = view.form.get("file")
        if not isinstance(sent, UploadFile) or not sent.filename:
            raise RowError("expected a file, found none; choose one")
        name = "".join(one for one in Path(sent.filename).name if one.isprintable())[:200]
        try:
            format_of(name)
        except LoadError:
            raise RowError(f"{name}: expected a name that ends in {', '.join(FORMAT_OF)}") from None
        found = view.console.files.keep(view.session, view.database, name, sent.file)
        return redirect(href("db", view.database, "load", "file", id=found.id, table=view.field("table")))

    return answered(view, work, load)


def file(view: View) -> Page:
    """Show a file as it would be loaded."""
    query = {name: view.query(name) for name in ("id", "table", "null")}
    given = view.queries("c") if view.query("was") in {"", query["table"]} else []  # of another table
    return _shown(view, query["id"], query["table"], query["null"], given)


def _shown(view: View, id: str, table: str, null: str, given: Sequence[str]) -> Page:
    found, info = _file(view, id), _table(view, table)
    names, columns, problem = list[str](), dict[str, str](), ""
    checked = Checked([], 0, True, [])
    try:
        with found.open() as content:
            names = columns_of(content, found.form, found.name)
        columns = _columns(names, given, info)
        with found.open() as content:
            checked = _checked(view, content, found, info, null, columns)
    except LoadError as error:
        problem = str(error)
    paths, hidden = cells.columns(info.key_fields, descriptor_of(info.model).fields, COLUMNS_MAX)
    versions = _versions(view, info, checked.first)
    values = {
        "file": _told(found),
        "table": info.name,
        "null": null,
        "columns": [{"name": name, "field": columns.get(name, "")} for name in names],
        "rows_checked": checked.rows,
        "whole": checked.whole,
        "wrong": checked.wrong,
        "problem": problem,
    }
    shown = {
        "fields": [field.name for field in descriptor_of(info.model).fields],
        "tables": sorted(view.db.schema.tables),
        "hidden": hidden,
        **_grid(paths, checked.first, versions),
        "may": "load" in view.rights,
        "refused": "",
    }
    return Page("load_file.html", values, 200, shown)


def _file(view: View, id: str) -> File:
    for one in view.console.files.of(view.session, view.database):
        if one.id == id:
            return one
    raise NotFoundError(
        "this file is kept no longer: hours have passed, or somebody else sent it; send it again"
    )


def _table(view: View, name: str) -> TableInfo:
    schema = view.db.refresh_schema()
    if name not in schema.tables:
        raise NotFoundError(f"there is no table {name!r} in {view.database}")
    return schema.tables[name]


def _columns(names: Sequence[str], given: Sequence[str], info: TableInfo) -> dict[str, str]:
    """Return the field of each column: as given, or the one whose name is alike; empty: skipped."""
    if given and len(given) != len(names):
        raise RowError(f"expected {quantity(len(names), 'field')}, one for each column, found {len(given)}")
    if given:
        return dict(zip(names, given, strict=True))
    fields = {_alike(field.name): field.name for field in descriptor_of(info.model).fields}
    known = {dotted(path) for path in info.key_fields}
    return {name: name if name in known or "." in name else fields.get(_alike(name), "") for name in names}


def _alike(name: str) -> str:
    return "".join(one for one in name.lower() if one.isalnum())


def _checked(  # noqa: PLR0917  all are named at the call
    view: View, content: IO[bytes], found: File, info: TableInfo, null: str, columns: dict[str, str]
) -> Checked:
    """Read a file for a limited time. Raises LoadError if no row can be read."""
    wrong, first, number, skipped, whole = list[str](), list[Message](), 0, 0, True
    binding, until = view.db._bind(table_of(info)), time.monotonic() + CHECK_S

    def note(error: Error) -> None:
        nonlocal skipped
        skipped += 1
        wrong.append(str(error))

    for row in source_rows(content, found.form, info.model, null=null, columns=columns, wrong=note):
        number += 1
        try:
            write.put(binding, row)
        except RowError as error:
            wrong.append(f"{found.name}, row {number + skipped:,}: {error}")
        else:
            if len(first) < SHOWN:
                first.append(row)
        if len(wrong) >= WRONG_MAX or number >= CHECKED_MAX or time.monotonic() > until:
            whole = False
            break
    return Checked(first, number + skipped, whole, wrong[:WRONG_MAX])


def _versions(view: View, info: TableInfo, rows: list[Message]) -> list[bool | None]:
    """Return for each row whether it would replace one; None: it cannot be known."""
    keys = [key_of(info, row) for row in rows]
    try:
        found = view.db.get_many(table_of(info), [key[0] if len(key) == 1 else key for key in keys])
    except (AccessError, RowError):
        return [None] * len(rows)
    return [one is not None for one in found]


def import_(view: View) -> Page | Response:
    """Start to load a file."""
    id, table, null = view.field("id"), view.field("table"), view.field("null")
    given = [one for one in view.form.getlist("c") if isinstance(one, str)]

    def work() -> Response:
        found, info, reason, db = _file(view, id), _table(view, table), view.reason(), view.db
        with found.open() as content:
            names = columns_of(content, found.form, found.name)
        columns = _columns(names, given, info)
        words = [f"{name}={field}" for name, field in columns.items() if name != field]

        def run(job: Job) -> str:
            with found.open() as content:
                known = look_at(content, info.name, found.form, null, *words)
            try:
                with found.open() as content:
                    done = db.load(
                        table_of(info),
                        source_rows(content, found.form, info.model, null=null, columns=columns),
                        id=known.id,
                        source=found.name,
                        total=known.rows(found.form),
                        progress=job.report,
                        reason=reason,
                        client="console",
                    )
            except (LoadError, RowError, StoppedError) as error:
                raise StoppedError(
                    f"{error}; rows that are loaded stay; load the file again to resume"
                ) from None
            before = f", {done.skipped:,} of them before" if done.skipped else ""
            rows, commits = quantity(done.rows, "row"), quantity(done.commits, "commit")
            return f"{rows} of {info.name} loaded{before}, in {commits}."

        return admin.start(view, "load", "import", f"Import of {found.name} into {info.name}", run)

    return answered(view, work, lambda view: _shown(view, id, table, null, given))


def _source(view: View) -> str:
    """Return the migrations of the database; empty: this console does not have them."""
    return view.console.setup.migrations.get(view.database, "")


def _known_versions(view: View) -> list[dict[str, Any]]:
    """Return the versions of the database and of its folders as JSON values, the newest first: what data they
    have, and what of it was loaded."""
    source, infos = _source(view), migrations.known(view.db)[0]
    try:
        known = {one.version: one for one in folders(find(source))} if source else {}
    except SchemaError:
        known = {}
    done = optional(view.db.admin.testdata) or []
    found = []
    for info in reversed(infos):
        folder, state = known.get(info.version), migrations.shown(info)
        found.append(
            {
                "version": info.version,
                "name": info.name,
                "kind": state.kind,
                "state": state.word,
                "seq": info.seq if info.state is not State.PENDING else 0,
                "bootstrap": bootstrap_files(folder) if folder is not None else None,
                "testdata": has_testdata(folder) if folder is not None else None,
                "loaded": [msgspec.to_builtins(one) for one in done if one.version == info.version],
            }
        )
    return found


def version(view: View) -> Page:
    """Show the data of one version: its first rows, as they would be."""
    return _version_shown(view, view.path("version"), view.query("scale", "1"), view.query("seed", "0"))


def _version_shown(view: View, number: str, scale: str, seed: str) -> Page:
    one = next((one for one in _known_versions(view) if str(one["version"]) == number), None)
    if one is None:
        raise NotFoundError(f"there is no migration {number[:40]!r} of {view.database}")
    permits = Permits(view, view.db)
    details = optional(lambda: view.db.migrations.show(one["version"])) if permits.sees_folders else None
    made, problem = Made({}, {}, True), ""
    if "load" in view.rights and one["testdata"]:
        try:
            made = _made(view, one["version"], _whole(scale, "scale", 1), _whole(seed, "seed", 0))
        except (Error, OSError) as error:
            problem = str(error)
    previews = [_preview(view, table, made) for table in list(made.first)[:TABLES_MAX]]
    status = view.db.admin.status()
    values = {
        **one,
        "scale": scale,
        "seed": seed,
        "production": status.production,
        "rows_made": dict(made.counts),
        "whole": made.whole,
        "problem": problem,
    }
    shown = {
        "previews": previews,
        "fits": not any(each["problem"] for each in previews),
        "tables_hidden": max(0, len(made.first) - TABLES_MAX),
        "folder": sources.folder(details, None) if details is not None else None,
        "why_no_folder": migrations.no_folder(permits) if details is None else details.problem,
        "may": "load" in view.rights,
        "has_source": bool(_source(view)),
        "refused": "",
    }
    return Page("load_version.html", values, 200, shown)


class Made(NamedTuple):
    """Test data that was made for a preview: the first rows of each table, the number of rows of each, and
    whether these are all."""

    first: dict[Table[Any, Any], list[Message]]
    counts: dict[str, int]
    whole: bool


def _made(view: View, version: int, scale: int, seed: int) -> Made:
    """Make test data for a limited time. Raises SchemaError, MigrationError."""
    first, counts = dict[Table[Any, Any], list[Message]](), dict[str, int]()
    until = 0.0  # from the first row on: its code may import much
    for number, (table, row) in enumerate(testdata_at(_source(view), 0, scale, seed, version=version)):
        until = until or time.monotonic() + CHECK_S
        if number >= CHECKED_MAX or time.monotonic() > until:
            return Made(first, counts, False)
        counts[table.name] = counts.get(table.name, 0) + 1
        if len(rows := first.setdefault(table, [])) < ROWS_MAX:
            rows.append(row)
    return Made(first, counts, True)


def _preview(view: View, table: Table[Any, Any], made: Made) -> dict[str, Any]:
    """Return the first rows of a table for a template. `problem`: why they cannot be loaded."""
    rows, problem, replaced = made.first[table], "", list[bool | None]()
    try:
        view.db._bind(table)
        replaced = _versions(view, view.db.schema.table(table.name), rows)
    except SchemaError as error:
        problem, replaced = str(error), [None] * len(rows)
    keys = [resolve(descriptor_of(table.model), field.path) for field in table.key]
    paths, hidden = cells.columns(keys, descriptor_of(table.model).fields, COLUMNS_MAX)
    return {
        "name": table.name,
        "rows": made.counts[table.name],
        "problem": problem,
        "hidden": hidden,
        **_grid(paths, rows, replaced),
    }


def _grid(
    paths: Sequence[cells.Path], rows: Sequence[Message], replaced: list[bool | None]
) -> dict[str, Any]:
    """Return rows as `_grid.html` shows them. `replaced`: whether each replaces a row; None: unknown."""
    return {
        "titles": [{"name": dotted(path), "num": cells.is_number(path[-1])} for path in paths],
        "grid": [
            {"cells": [cells.cell(row, path) for path in paths], "replaces": one}
            for row, one in zip(rows, replaced, strict=True)
        ],
    }


def testdata(view: View) -> Page | Response:
    """Start to load test data of a version; without one, of the version in force."""
    number = view.field("version")

    def work() -> Response:
        db, reason, source = view.db, view.reason(), _source(view)
        scale, seed = _whole(view.field("scale"), "scale", 1), _whole(view.field("seed"), "seed", 0)
        version = _whole(number, "version", 1, VERSION_MAX) if number else None
        if not source:
            raise RowError(
                "this console has no migrations of the database; run `everlog testdata` where they are"
            )
        view.check_typed(view.database)
        if db.admin.status().production:
            raise RowError(f"{view.database} is in production, and refuses test data; see the page Admin")

        def run(job: Job) -> str:
            rows = load_testdata(
                cast(Any, db),  # a remote database has the needed call as well
                source,
                version=version,
                scale=scale,
                seed=seed,
                reason=reason,
                progress=job.report,
            )
            return (
                ", ".join(f"{quantity(count, 'row')} of {name}" for name, count in rows.items()) + " loaded."
            )

        title = f"Test data{f' of {version}' if version else ''}, scale {scale:,}"
        return admin.start(view, "load", "testdata", title, run)

    def again(view: View) -> Page:
        return _version_shown(view, number, view.field("scale"), view.field("seed")) if number else load(view)

    return answered(view, work, again)


def _whole(text: str, name: str, low: int, high: int = 0) -> int:
    high = high or {"scale": SCALE_MAX, "seed": 1 << 31}[name]
    word = text.replace(",", "").strip()
    if not (word.isascii() and word.isdecimal() and len(word) < 20 and low <= int(word) <= high):
        raise RowError(f"expected {name} as an integer from {low:,} to {high:,}, found {word[:40]!r}")
    return int(word)


ROUTES = [
    *route("/db/{database}/load", load, "GET"),
    *route("/db/{database}/load/file", file, "GET"),
    *route("/db/{database}/load/file", send, "POST", upload=True),
    *route("/db/{database}/load/import", import_, "POST"),
    *route("/db/{database}/load/version/{version}", version, "GET"),
    *route("/db/{database}/load/testdata", testdata, "POST"),
]
