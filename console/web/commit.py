"""Commit: one commit of the log, its causes and consequences, and the proof that the log has it.

/db/{database}/log/{seq}                       its rows before and after
/db/{database}/log/{seq}/proof                 the checkpoint that covers it
/db/{database}/log/{seq}/proof/45.tlog-proof   the file that `everlog prove` writes

Commits with the same correlation id are shown around it. Of these, the one whose commit id is the causation
id of another has caused it.

Invariants
  (1) the size of a page does not depend on the size of a commit: it says what it leaves out, and where that
      is;
  (2) a proof is verified before it is sent (audit/prover.py).
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from starlette.responses import Response

from everlog.audit import note as notes
from everlog.audit import proof as proofs
from everlog.audit import prover
from everlog.console.web import cells
from everlog.console.web.format import href
from everlog.console.web.log import WINDOW_MAX, Query, newest, summary, told
from everlog.console.web.page import NotFoundError, Page, View, route
from everlog.console.web.tables import may, plain_key, row_href
from everlog.rpc.client.database import RemoteDatabase
from everlog.store.errors import AccessError, Error, quantity
from everlog.store.history.query import Entry, RowChange

ROWS, READ_S, READ_BYTES_MAX = 50, 0.15, 16 << 20
AROUND, AROUND_S = 10, 0.05  # commits of the same correlation, before and after
PROOF_TYPE = "text/plain; charset=utf-8"


def commit(view: View) -> Page:
    """Show a commit: each row that it changed, before and after."""
    db = view.db
    seq, entry, head = _asked(view)
    diffs = Diffs(view, db).of(entry)
    values = {**told(entry, view, rows=view.wants_json), "around": _around(view, db, entry, head)}
    shown = {
        "head": head,
        "diffs": diffs,
        "left_out": _left_out(entry, diffs),
        "previous_href": href("db", view.database, "log", seq - 1) if seq > 1 else "",
        "next_href": href("db", view.database, "log", seq + 1) if seq < head else "",
        "correlation_href": href("db", view.database, "log", correlation=entry.correlation_id),
        "cause_href": _cause_href(view, entry),
        "proof_href": f"{href('db', view.database, 'log', seq)}/proof" if may(view, "", "prove") else "",
    }
    return Page("commit.html", values, 200, shown)


def _asked(view: View) -> tuple[int, Entry, int]:
    """Return the seq in the path, its commit, and the newest seq. Raises NotFoundError."""
    word = view.path("seq")
    if not (word.isascii() and word.isdecimal() and len(word) < 20):
        raise NotFoundError(f"expected the number of a commit, found {word[:40]!r}")
    seq, db = int(word), view.db
    entry = next(db.past.log(after=seq - 1, until=seq, limit=1), None) if seq else None
    head = db.head
    if entry is None:
        where = (
            f"the log ends with commit {head:,}" if seq > head else "it was archived, or is not in this log"
        )
        raise NotFoundError(f"there is no commit {seq:,} here: {where}")
    return seq, entry, head


def _left_out(entry: Entry, diffs: list[dict[str, Any]]) -> str:
    """Return what the page does not show of the rows, and how to get it; empty: it shows all."""
    count = len(entry.changes)
    if count <= len(diffs):
        return ""
    command = f"everlog log --after {entry.seq - 1} --until {entry.seq} --json"
    return f"The first {len(diffs)} of {quantity(count, 'row')} are shown. `{command}` prints all of them."


class Diffs:
    """The rows of a commit beside what they were before, as far as a page has room and time for them."""

    def __init__(self, view: View, db: RemoteDatabase) -> None:
        self._view, self._db = view, db
        self._before = dict[int, Entry | None]()
        self._budget = cells.Budget()
        self._until, self._read = time.monotonic() + READ_S, 0

    def of(self, entry: Entry) -> list[dict[str, Any]]:
        return [self._diff(change) for change in entry.changes[:ROWS]]

    def _diff(self, change: RowChange) -> dict[str, Any]:
        key, row, changes = plain_key(change.key), None, list[cells.Changed]()
        if change.erased:
            note = "erased: its person was forgotten"
        elif change.sealed:
            note = "sealed: its key is not available here"
        elif not change.table:
            note = "the model of this row is not known here, so that its fields cannot be shown"
        else:
            row, note = self._prior(change) if change.prior else (None, "")
            changes = cells.changes(row, change.row, budget=self._budget)
        return {
            "op": change.op,
            "name": "/".join((change.table, *key)),
            "href": row_href(self._view, change.table, key) if change.table else "",
            "prior": change.prior,
            "prior_href": href("db", self._view.database, "log", change.prior),
            "note": note,
            "changes": changes,
            "created": not change.prior,
        }

    def _prior(self, change: RowChange) -> tuple[Any, str]:
        """Return the version of a row before a change; None, and why it is not shown."""
        if change.prior not in self._before:
            if time.monotonic() > self._until or self._read > READ_BYTES_MAX:
                return None, "compared with nothing: the version before was not read; the row's page has it"
            self._before[change.prior] = self._entry(change.prior)
        older = self._before[change.prior]
        match = [one for one in older.changes if one.key == change.key] if older is not None else []
        match = [one for one in match if one.table == change.table] or match
        if match and match[-1].row is not None:
            return match[-1].row, ""
        return None, "compared with nothing: the version before cannot be read here"

    def _entry(self, seq: int) -> Entry | None:
        try:
            found = next(self._db.past.log(after=seq - 1, until=seq, limit=1), None)
        except Error:
            return None
        self._read += found.size if found is not None else 0
        return found


# causes and consequences


def _around(view: View, db: RemoteDatabase, entry: Entry, head: int) -> list[dict[str, Any]]:
    """Return the commits with the same correlation id around a commit, oldest first; what caused it, and what
    it has caused."""
    if not entry.correlation_id:
        return []
    wanted = Query("", "", "", "", entry.correlation_id, "", "")
    try:
        before = newest(db, wanted, entry.seq - 1, AROUND, search_s=AROUND_S).entries[::-1]
        after = _following(db, wanted, entry.seq, head)
    except AccessError:
        return []
    names = _names(entry)
    found = []
    for one in (*before, entry, *after):
        relation = (
            "this commit"
            if one.seq == entry.seq
            else "caused this commit"
            if entry.causation_id in _names(one)
            else "caused by this commit"
            if one.causation_id in names
            else ""
        )
        found.append(
            {
                "seq": one.seq,
                "time_ns": one.time_ns,
                "actor": one.actor,
                "reason": one.reason,
                "what": summary(one),
                "relation": relation,
                "href": href("db", view.database, "log", one.seq),
            }
        )
    return found if len(found) > 1 else []


def _cause_href(view: View, entry: Entry) -> str:
    """Return the page of the commit whose seq is the causation id; empty if it is another id."""
    digits = entry.causation_id
    is_seq = len(digits) < 20 and digits.isascii() and digits.isdecimal() and 1 <= int(digits) < entry.seq
    return href("db", view.database, "log", int(digits)) if is_seq else ""


def _following(db: RemoteDatabase, wanted: Query, after: int, head: int) -> list[Entry]:
    """Return the oldest commits after a seq that match, as far as they are found in a limited time."""
    found, window, stop = list[Entry](), 64, time.monotonic() + AROUND_S
    while after < head and len(found) < AROUND and time.monotonic() < stop:
        until = min(after + window, head)
        found += db.past.log(after=after, until=until, limit=AROUND - len(found), **wanted.filters)
        after, window = until, min(window * 2, WINDOW_MAX)
    return found


def _names(entry: Entry) -> set[str]:
    """Return the causation ids that mean a commit: its id, as hexadecimal digits or as UUID, and its seq."""
    found = {str(entry.seq)}
    if len(entry.commit_id) == 16:
        found |= {entry.commit_id.hex(), str(uuid.UUID(bytes=entry.commit_id))}
    return found


# proofs


def proof(view: View) -> Page:
    """Show the checkpoint that covers a commit, and how to verify that the log has it."""
    seq, entry, _ = _asked(view)
    values: dict[str, Any] = {"seq": seq, "time_ns": entry.time_ns, "problem": ""}
    try:
        found = prover.prove(view.db.proofs, seq)
    except AccessError:
        raise
    except Error as error:
        return Page("proof.html", {**values, "problem": str(error), "covering": None, "proof": ""})
    covering = _covering(view, found.note)
    file = f"{seq}.tlog-proof"
    shown = {"file": file, "file_href": f"{href('db', view.database, 'log', seq)}/proof/{file}"}
    text = found.text()
    values |= {"covering": covering, "proof": text, "size": len(text.encode())}
    return Page("proof.html", values, 200, shown)


def _covering(view: View, text: str) -> dict[str, Any]:
    """Return a checkpoint: its first line, how many records it covers, its root, and the commit that stored
    it (0: it is not known)."""
    signed = proofs.read(notes.split(text)[0])
    kept = [one for one in view.db.proofs.kept(signed.size) if one.note == text]
    return {
        "origin": signed.origin,
        "size": signed.size,
        "root": signed.root.hex(),
        "seq": kept[0].seq if kept else 0,
    }


def proof_file(view: View) -> Response:
    """Send the proof of a commit as a file."""
    seq, _, _ = _asked(view)
    if view.path("file") != f"{seq}.tlog-proof":
        raise NotFoundError(f"expected the file {seq}.tlog-proof")
    text = prover.prove(view.db.proofs, seq).text()
    headers = {"Content-Disposition": f'attachment; filename="{seq}.tlog-proof"'}
    return Response(text, media_type=PROOF_TYPE, headers=headers)


ROUTES = [
    *route("/db/{database}/log/{seq}", commit),
    *route("/db/{database}/log/{seq}/proof", proof),
    *route("/db/{database}/log/{seq}/proof/{file}", proof_file, twin=False),
]
