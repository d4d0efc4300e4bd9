"""Edit: forms that insert, change and delete a row.

/db/{database}/tables/{table}/new                  a new row
/db/{database}/tables/{table}/row/edit?k=JFK       a form of its fields
    &from=812                                      with the values that this commit wrote
/db/{database}/tables/{table}/row/delete?k=JFK     asks for the reason

    form {version, the row it began with} ─ POST ─▶ put, if the row still has this version ─▶ its page
                                                  └▶ somebody was faster: both rows side by side, with the
                                                     one that they began with ─ choose ─▶ put, if …

A POST without scripts: a button that adds an item to a list sends the form, and gets it back with the item.

Invariants
  (1) the server compares the version when it commits, so no change of others is overwritten unseen;
  (2) an answer that is not a redirect has the form as it was sent;
  (3) the same form sent twice is one commit.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from datetime import UTC
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError, Message
from starlette.responses import Response

from everlog.console.web import cells, fields
from everlog.console.web.fields import RowForm
from everlog.console.web.format import href
from everlog.console.web.page import NotFoundError, Page, View, redirect, route, status_of
from everlog.console.web.rows import key_of
from everlog.console.web.session import refused
from everlog.console.web.tables import encoded_key, plain_key, row_href
from everlog.store.errors import (
    AccessError,
    ConflictError,
    Error,
    PreconditionError,
    RowError,
    UniqueError,
    quantity,
)
from everlog.store.schema.arguments import time_text
from everlog.store.schema.codec import size_of
from everlog.store.schema.descriptors import descriptor_of, dotted
from everlog.store.schema.reflect import table_of
from everlog.store.schema.schema import TableInfo
from everlog.store.schema.times import time_ns_of
from everlog.store.tx.transaction import new_commit_id

BYTES_MAX = 2 << 20  # of a row in a form, which carries it up to three times
SIDE_CHARS = 2000  # of a value beside another
TRIES = 3
VERSIONS_MAX = 1000  # that are searched for an earlier one
CHOICES = ("mine", "theirs")
CLIENT = "console"
DAMAGED = "this form is damaged; load the page again"
REASON, EXPIRES = ":reason", ":expires"  # places of errors beside those of fields
NO_REASON = "A reason is needed: it is in the history of the row."


class Current(NamedTuple):
    """A row as it is now; `row` None: it does not exist."""

    row: Message | None
    version: int = 0
    expires_ns: int = 0


class Sent(NamedTuple):
    """What a form carries with its fields: the row that it began with (None: none), its version and
    expiry, the reason, and an id that is new for each form."""

    base: Message | None
    version: int
    expires_ns: int
    reason: str
    id: bytes

    def commit_id(self, op: str, row: Message | None) -> bytes:
        """Return the id of the commit, a UUIDv7: the same if the same form is sent with the same content."""
        raw = b"" if row is None else row.SerializePartialToString(deterministic=True)
        content = f"{op}\0{self.version}\0{self.reason}\0".encode() + raw
        rest = bytearray(hashlib.sha256(self.id + content).digest()[:8])
        rest[0] = rest[0] & 0x3F | 0x80
        return self.id[:8] + bytes(rest)

    @property
    def inputs(self) -> dict[str, str]:
        """The hidden inputs that carry it."""
        return {
            "base": _text(self.base),
            "version": str(self.version),
            "expires_ns": str(self.expires_ns),
            "id": self.id.hex(),
        }


def _begun(found: Current) -> Sent:
    """Return what a new form carries."""
    return Sent(found.row, found.version, found.expires_ns, "", new_commit_id())


def _sent(of: Target) -> Sent:
    view = of.view
    try:
        version, expires_ns = int(view.field("version")), int(view.field("expires_ns"))
        id, base = bytes.fromhex(view.field("id")), _message(of.info, view.field("base"))
        if len(id) != 16 or not 0 <= version < 1 << 63:
            raise ValueError
    except ValueError:
        raise RowError(DAMAGED) from None
    return Sent(base if version else None, version, expires_ns, view.field("reason").strip(), id)


def _text(row: Message | None) -> str:
    """Return a row as the text of a hidden input."""
    return "" if row is None else base64.b64encode(row.SerializePartialToString(deterministic=True)).decode()


def _message(info: TableInfo, text: str) -> Message:
    """Return the row in a hidden input. Raises ValueError."""
    try:
        return info.model.FromString(base64.b64decode(text, validate=True))
    except (binascii.Error, DecodeError) as error:
        raise ValueError(str(error)) from None


# what a page is about


class Target(NamedTuple):
    """The row that a page is about: its table, and the words of its key in the address. Without words it is a
    new row."""

    view: View
    info: TableInfo
    words: Sequence[str]

    @property
    def key(self) -> Any:
        return encoded_key(self.info, self.words)

    @property
    def names(self) -> list[str]:
        """The names of the fields of the key."""
        return [dotted(path) for path in self.info.key_fields]

    def has_key(self, row: Message) -> bool:
        """Return whether a row has the key in the address."""
        encoded: bytes = self.info.encode_key(self.key_in(row))
        return encoded == self.info.encode_key(self.key)

    def key_in(self, row: Message) -> Any:
        """Return the key of a row, as reads take it."""
        found = key_of(self.info, row)
        return found[0] if len(found) == 1 else found

    def check(self, op: str) -> None:
        """Raise AccessError if the identity may not `put` or `delete` rows of the table."""
        found = self.view.db.access.explain("", op, self.info.name)
        if not found.allowed:
            raise AccessError(". ".join(found.sentences) + ".")

    def current(self, key: Any) -> Current:
        """Return a row with its version, as of one moment."""
        handle: Any = table_of(self.info)
        for left in range(TRIES, 0, -1):
            try:
                with self.view.db.snapshot() as snapshot:
                    row = snapshot.get(handle, key)
                    if row is None:
                        return Current(None)
                    return Current(row, snapshot.version(handle, key), snapshot.expires_ns(handle, key))
            except ConflictError:
                if left == 1:
                    raise
        raise AssertionError

    def existing(self) -> Current:
        """Return the row. Raises NotFoundError."""
        found = self.current(self.key)
        if found.row is None:
            name = "/".join((self.info.name, *self.words))
            raise NotFoundError(f"there is no row {name}; it may have been deleted")
        return found

    def hidden(self) -> list[str]:
        """Return the fields of the row that the roles of the identity hide."""
        explain, names = self.view.db.access.explain, set[str]()
        for verb in ("read", "put"):
            names.update(explain("", verb, self.info.name, key=self.key).hidden)
        return sorted(names)

    def newest(self, key: Any) -> Any:
        """Return the newest version of a row; None: the identity may not read it."""
        try:
            return next(self.view.db.history(table_of(self.info), key, limit=1), None)
        except Error:
            return None

    def deleted(self, key: Any) -> Message | None:
        """Return the last version of a deleted row; None: the identity may not read it, or the row exists."""
        try:
            versions = list(self.view.db.history(table_of(self.info), key, limit=2))
        except Error:
            return None
        return versions[1].row if len(versions) == 2 and versions[0].op == "delete" else None

    def earlier(self, now: Message, seq: int) -> tuple[Message, list[str]]:
        """Return the row as a commit wrote it, and the fields that keep their current values, because it
        does not have them, or of another type. Raises NotFoundError."""
        versions = self.view.db.history(table_of(self.info), self.key, limit=VERSIONS_MAX)
        was = next((one.row for one in versions if one.seq == seq), None)
        if was is None:
            raise NotFoundError(
                f"no readable version of {'/'.join((self.info.name, *self.words))} is of commit {seq:,};"
                " choose one in the history of the row"
            )
        own, names = descriptor_of(self.info.model), set[str]()
        for field in was.DESCRIPTOR.fields:
            if field.name in own.fields_by_name and _alike(field, own.fields_by_name[field.name]):
                names.add(field.name)
        found, kept = self.info.model(), self.info.model.FromString(now.SerializePartialToString())
        found.MergeFromString(was.SerializePartialToString())
        others = [field.name for field in own.fields if field.name not in names]
        for field in own.fields:
            (found if field.name in others else kept).ClearField(field.name)
        found.MergeFrom(kept)
        return found, others

    def page(self, words: Sequence[str]) -> str:
        """Return the address of the page of a row; without words that of the table."""
        if not words:
            return href("db", self.view.database, "tables", self.info.name)
        return row_href(self.view, self.info.name, words)

    def done(self, words: Sequence[str], seq: int) -> Response:
        """Return the answer to a form that was saved."""
        return redirect(row_href(self.view, self.info.name, words, saved=seq))


def _alike(field: Any, other: Any) -> bool:
    """Return whether two fields have the same number and type."""
    nested = (field.message_type or field.enum_type, other.message_type or other.enum_type)
    named = all(one is None for one in nested) or (
        all(one is not None for one in nested) and nested[0].full_name == nested[1].full_name
    )
    return bool(
        named
        and (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated)
    )


def _target(view: View, *, new: bool = False) -> Target:
    name = view.path("table")
    schema = view.db.refresh_schema()
    if name not in schema.tables:
        raise NotFoundError(f"there is no table {name!r}")
    return Target(view, schema.tables[name], () if new else view.queries("k"))


# the form of a row


def new(view: View) -> Page:
    """Show the form of a new row. With a key, it has this key, and the fields of the row that was deleted."""
    of = _target(view, new=True)
    of.check("put")
    row = of.info.model()
    if words := view.queries("k"):
        key = encoded_key(of.info, words)
        _set_key(of.info, row, key)
        row = of.deleted(key) or row
    return _form(of, RowForm(descriptor_of(of.info.model), fields.flat(row)), _begun(Current(None)))


def _set_key(info: TableInfo, row: Message, key: Any) -> None:
    for path, value in zip(info.key_fields, key if isinstance(key, tuple) else (key,), strict=True):
        inner: Any = row
        for step in path[:-1]:
            inner = getattr(inner, step.name)
        if isinstance(value, Message):
            getattr(inner, path[-1].name).MergeFrom(value)
        else:
            setattr(inner, path[-1].name, value)


def edit(view: View) -> Page:
    """Show the form of a row."""
    of = _target(view)
    of.check("put")
    found = of.existing()
    assert found.row is not None
    if (size := size_of(found.row)) > BYTES_MAX:
        raise RowError(
            f"expected a row of at most {BYTES_MAX >> 20} MiB for a form, found {size:,} bytes; change it"
            " with a program"
        )
    seq, row, kept = view.whole("from"), found.row, list[str]()
    if seq:
        row, kept = of.earlier(row, seq)
    form = RowForm(descriptor_of(of.info.model), fields.flat(row), base=found.row)
    return _form(of, form, _begun(found), earlier=seq, kept=kept)


def _form(
    of: Target,
    form: RowForm,
    sent: Sent,
    *,
    error: str = "",
    status: int = 200,
    earlier: int = 0,
    kept: Sequence[str] = (),
) -> Page:
    """Return the page of a form. `earlier`: the commit whose values it has, except for those of `kept`."""
    hidden = of.hidden() if of.words else []
    form.fix([*of.names, *hidden] if of.words else [])
    values = {
        "table": of.info.name,
        "key": list(of.words),
        "version": sent.version,
        "errors": form.errors,
        "error": error,
    }
    shown = {
        "nodes": form.nodes,
        "as_json": "j." in form.given,
        "sent": sent,
        "earlier": earlier,
        "kept": kept,
        "no_reason": form.errors.get(REASON, ""),
        "fixed": list(zip(of.names, of.words, strict=False)),
        "hidden": hidden,
        "expires": _expires_box(of, form, sent),
        "action": of.view.href(),
        "back": of.page(of.words),
    }
    return Page("edit.html", values, status, shown)


def _expires_box(of: Target, form: RowForm, sent: Sent) -> dict[str, Any] | None:
    """Return the input of the expiry; None: rows of this table do not expire."""
    text = of.view.field("expires") if "expires" in of.view.form else _time(sent.expires_ns)
    ttl_s = of.info.ttl_ns // 10**9
    if not (ttl_s or sent.expires_ns or text):
        return None
    return fields.box(
        "expires",
        "time?",
        value=text,
        hint=f"{ttl_s:,} s after the commit" if ttl_s and not sent.version else "never",
        help="When the row expires, such as 2026-01-05T09:30Z or 30d.",
        error=form.errors.get(EXPIRES, ""),
    )


def _time(time_ns: int) -> str:
    return time_text(time_ns) if time_ns else ""


def _expires(of: Target, sent: Sent) -> int | None:
    """Return when the row of a form expires, as `put` takes it. Raises RowError."""
    text = of.view.field("expires").strip()
    if text == _time(sent.expires_ns):
        return sent.expires_ns if sent.expires_ns or (of.info.ttl_ns and sent.version) else None
    return time_ns_of(text, zone=UTC, future=True) if text else 0


def insert(view: View) -> Page | Response:
    """Write the new row of a form, or do what one of its buttons says."""
    return _save(_target(view, new=True))


def save(view: View) -> Page | Response:
    """Write the row of a form, or do what one of its buttons says."""
    return _save(_target(view))


def _save(of: Target) -> Page | Response:
    view, sent = of.view, _sent(of)
    if view.field("mine"):
        return _save_chosen(of, sent)
    given = {
        name: value.replace("\r\n", "\n")
        for name, value in view.form.items()
        if name.startswith(fields.PREFIXES) and isinstance(value, str)
    }
    form = RowForm(descriptor_of(of.info.model), given, base=sent.base)
    if button := view.field("press"):
        form.press(button)
        return _form(of, form, sent)
    form.fix(of.names if of.words else [])
    row, expires_ns = form.row(), None
    if not sent.reason:
        form.errors[REASON] = NO_REASON
    try:
        expires_ns = _expires(of, sent)
    except RowError as failure:
        form.errors[EXPIRES] = str(failure)
    if form.errors:
        why = f"{quantity(len(form.errors), 'field needs', 'fields need')} attention"
    elif of.words and not of.has_key(row):
        why = "the key of a row cannot be changed: insert a new row, and delete this one"
    elif (size := size_of(row)) > BYTES_MAX:
        why = f"expected a row of at most {BYTES_MAX >> 20} MiB, found {size:,} bytes"
    elif sent.base is not None and _same(row, sent.base) and (expires_ns or 0) == sent.expires_ns:
        why = "no field was changed"
    else:
        return _put(of, form, sent, row, expires_ns)
    return _form(of, form, sent, error=f"Nothing was saved: {why}.", status=400)


def _same(row: Message, other: Message) -> bool:
    return row.SerializePartialToString(deterministic=True) == other.SerializeToString(deterministic=True)


def _put(of: Target, form: RowForm, sent: Sent, row: Message, expires_ns: int | None) -> Page | Response:
    """Write a row if it still has the version of its form; else show both."""
    try:
        done = of.view.db.put(
            table_of(of.info),
            row,
            expect_version=sent.version,
            expires=expires_ns,
            reason=sent.reason,
            client=CLIENT,
            commit_id=sent.commit_id("put", row),
        )
    except UniqueError as error:
        index = of.info.indexes.get(error.facts.get("index", ""))
        for path in index.fields if index is not None else ():
            form.errors[dotted(path)] = "another row has this value already, and it must be unique"
        return _form(of, form, sent, error=f"Nothing was saved: {error}.", status=409)
    except PreconditionError:
        return _conflict(of, sent, row)
    except Error as error:
        if refused(error):
            raise
        return _form(of, form, sent, error=f"Nothing was saved: {error}.", status=status_of(error))
    return of.done(plain_key(key_of(of.info, row)), done.seq)


# somebody was faster


class Side(NamedTuple):
    """A field that differs: as the form began with it, as it is now, as the form has it, and what is chosen:
    `mine`, `theirs`, or empty."""

    name: str
    base: cells.Cell | None
    theirs: cells.Cell
    mine: cells.Cell
    chosen: str


def _conflict(of: Target, sent: Sent, mine: Message, *, problem: str = "") -> Page:
    """Show a row as it is now beside the one of a form, and ask what to keep. `problem`: with the answers of
    the form."""
    key, words, view = of.key_in(mine), plain_key(key_of(of.info, mine)), of.view
    now = of.current(key)
    sides = _sides(sent.base, now.row, mine, view if problem else None)
    expires = view.field("expires").strip()
    values = {
        "table": of.info.name,
        "key": words,
        "error": "somebody was faster",
        "version": now.version,
        "fields": [one.name for one in sides],
        "reason": sent.reason,
    }
    shown = {
        "sides": sides,
        "sent": Sent(now.row, now.version, now.expires_ns, sent.reason, new_commit_id()),
        "mine": _text(mine),
        "origin": _text(sent.base),
        "expires": expires if expires != _time(sent.expires_ns) else _time(now.expires_ns),
        "by": of.newest(key),
        "is_new": sent.base is None,
        "deleted": now.row is None,
        "action": view.href(),
        "back": of.page(words),
        "problem": problem,
    }
    return Page("conflict.html", values, 409, shown)


def _sides(base: Message | None, theirs: Message | None, mine: Message, view: View | None) -> list[Side]:
    """Return the fields to choose. `view`: a form that has some of the choices."""
    found = []
    model: Any = mine.DESCRIPTOR
    for field in model.fields:
        before, now, own = (_part(row, field) for row in (base, theirs, mine))
        if own == (before if theirs is None else now):
            continue
        usual = "mine" if before == now or theirs is None else "theirs" if before == own else ""
        chosen = view.field(f"c.{field.name}") if view is not None else ""
        cell = [_cell(row, field) for row in (base, theirs, mine)]
        was = cell[0] if base is not None else None
        found.append(Side(field.name, was, cell[1], cell[2], chosen if chosen in CHOICES else usual))
    return found


def _cell(row: Message | None, field: cells.FieldDescriptor) -> cells.Cell:
    return cells.UNSET if row is None else cells.cell(row, (field,), chars=SIDE_CHARS)


def _part(row: Message | None, field: cells.FieldDescriptor) -> bytes:
    """Return one field of a row, encoded."""
    if row is None:
        return b""
    found = type(row)()
    _take(found, row, field)
    return found.SerializePartialToString(deterministic=True)


def _take(target: Any, source: Any, field: cells.FieldDescriptor) -> None:
    """Set a field of a message as another message has it."""
    target.ClearField(field.name)
    if field.is_repeated:
        getattr(target, field.name).MergeFrom(getattr(source, field.name))
    elif field.has_presence and not source.HasField(field.name):
        return
    elif field.message_type is not None:
        getattr(target, field.name).CopyFrom(getattr(source, field.name))
    else:
        setattr(target, field.name, getattr(source, field.name))


def _save_chosen(of: Target, sent: Sent) -> Page | Response:
    """Write a row of which each field was chosen from two rows."""
    view, info, theirs = of.view, of.info, sent.base
    try:
        mine = _message(info, view.field("mine"))
        origin = _message(info, view.field("origin")) if view.field("origin") else None
    except ValueError:
        raise RowError(DAMAGED) from None
    goes_on, merged = view.field("press") == "form:", info.model()
    merged.CopyFrom(mine if theirs is None else theirs)
    problem = ""
    for field in descriptor_of(info.model).fields if theirs is not None else ():
        chosen = view.field(f"c.{field.name}")
        if chosen == "mine":
            _take(merged, mine, field)
        elif chosen != "theirs" and _part(theirs, field) != _part(mine, field):
            problem = "Choose a value for each field first."
    for field in descriptor_of(info.model).fields:
        if view.field(f"c.{field.name}") == "theirs" and _part(merged, field) != _part(theirs, field):
            group = field.containing_oneof
            problem = f"At most one field of {group.name if group else field.name} can be set; choose again."
    if problem and not goes_on:
        return _conflict(of, sent._replace(base=origin), mine, problem=problem)
    form = RowForm(descriptor_of(info.model), fields.flat(merged), base=theirs)
    if goes_on:
        return _form(of, form, sent)
    if theirs is not None and _same(merged, theirs):
        return redirect(of.page(plain_key(key_of(info, merged))))
    if not sent.reason:
        form.errors[REASON] = NO_REASON
        return _form(of, form, sent, error="Nothing was saved: a reason is missing.", status=400)
    try:
        expires_ns = _expires(of, sent)
    except RowError as error:  # the time has passed meanwhile
        form.errors[EXPIRES] = str(error)
        return _form(of, form, sent, error="Nothing was saved: the row would have expired.", status=400)
    return _put(of, form, sent, merged, expires_ns)


# deleting


def ask_to_delete(view: View) -> Page:
    """Show a row that is to be deleted, and ask for the reason."""
    of = _target(view)
    of.check("delete")
    found = of.existing()
    return _delete_page(of, found, _begun(found))


def _delete_page(
    of: Target,
    found: Current,
    sent: Sent,
    *,
    error: str = "",
    status: int = 200,
    changes: Sequence[cells.Changed] = (),
) -> Page:
    assert found.row is not None
    values = {"table": of.info.name, "key": list(of.words), "version": found.version, "error": error}
    shown = {
        "lines": cells.unfold(found.row),
        "sent": sent,
        "changes": changes,
        "by": of.newest(of.key) if changes else None,
        "no_reason": "" if sent.reason or of.view.request.method == "GET" else NO_REASON,
        "action": of.view.href(),
        "back": of.page(of.words),
    }
    return Page("delete.html", values, status, shown)


def delete(view: View) -> Page | Response:
    """Delete a row if it still has the version of the form."""
    of = _target(view)
    sent = _sent(of)
    why, status = "a reason is missing", 400
    if sent.reason:
        try:
            done = view.db.delete(
                table_of(of.info),
                of.key,
                expect_version=sent.version,
                reason=sent.reason,
                client=CLIENT,
                commit_id=sent.commit_id("delete", sent.base),
            )
            return of.done(of.words, done.seq)
        except PreconditionError:
            why, status = "the row was changed after this page was loaded", 409
        except Error as failure:
            if refused(failure):
                raise
            why, status = str(failure), status_of(failure)
    now = of.current(of.key)
    if now.row is None:  # somebody else has deleted it
        return redirect(of.page(of.words))
    changes = cells.changes(sent.base, now.row) if now.version != sent.version else []
    again = _begun(now)._replace(reason=sent.reason)
    return _delete_page(of, now, again, error=f"Nothing was deleted: {why}.", status=status, changes=changes)


_ROW = "/db/{database}/tables/{table}"
ROUTES = [
    *route(f"{_ROW}/new", new, "GET"),
    *route(f"{_ROW}/new", insert, "POST"),
    *route(f"{_ROW}/row/edit", edit, "GET"),
    *route(f"{_ROW}/row/edit", save, "POST"),
    *route(f"{_ROW}/row/delete", ask_to_delete, "GET"),
    *route(f"{_ROW}/row/delete", delete, "POST"),
]
