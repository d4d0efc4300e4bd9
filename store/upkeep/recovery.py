"""Mending: what the key store and the tables owe to the log, which says whose keys are gone.

    Notice in the log, key in the store  ─▶ zeros over it            killed in between, or an older copy;
                                            a reader drops it in memory
    rows projected without keys          ─▶ their entries in indexes, once there are keys, and once more
                                            with the next key store where some were missing
    row, no key, no Notice               ─▶ it is missing: the copy is older than the log

Invariants
  (1) a key is shredded only after what its rows were needed for, their entries in indexes, is on disk.
"""

from __future__ import annotations

from everlog.store import keys
from everlog.store.rocks.engine import Engine
from everlog.store.rocks.view import LiveView
from everlog.store.schema import codec
from everlog.store.tables.projector import build_index
from everlog.store.tables.tables import Tables


def shredded(tables: Tables) -> list[bytes]:
    """The ids of all keys that were ever shredded, as the tables know. Read-only."""
    start = keys.NOTE_SHREDDED
    view, _ = tables.snapshot()  # which a full disk does not refuse
    try:
        return [note[len(start) :] for note, _ in view.items(start, codec.after(start))]
    finally:
        view.close()


def shredded_on_disk(engine: Engine) -> list[bytes]:
    """The same, as the files of the tables know: for who only reads, to whom the log may say more. What rows
    of the others were needed for may not be done yet. Read-only."""
    start = keys.NOTE_SHREDDED
    return [note[len(start) :] for note, _ in LiveView(engine).items(start, codec.after(start))]


def shred(engine: Engine, tables: Tables) -> None:
    """Writes zeros over every key that the log says is gone, once the tables are on disk."""
    assert tables.vault is not None
    gone = [key_id for key_id in shredded(tables) if tables.vault.is_on_disk(key_id)]
    if gone:
        engine.flush()
        tables.vault.forget(gone)


def owes(tables: Tables) -> bool:
    """Whether there are keys that were forgotten and that a disk refused to overwrite."""
    assert tables.vault is not None
    return bool(tables.vault.leaving)


def pay(engine: Engine, tables: Tables) -> None:
    """Overwrite them, unless a rebuild needs the keys that there are. Only inside a turn of the committer.
    Raises DiskError."""
    if owes(tables) and engine.rebuilding.acquire(blocking=False):
        try:
            shred(engine, tables)
        finally:
            engine.rebuilding.release()


def obey(tables: Tables) -> None:
    """Lets go of every key that the log says is gone, in memory: for who only reads."""
    assert tables.vault is not None
    tables.vault.let_go(shredded(tables))


def came_bare(engine: Engine, tables: Tables) -> bool:
    """Whether entries in indexes are missing, or too many, for want of keys, which is not so in the files of
    the tables. Keys go once it is right in those: then a newer look at them is right. Read-only."""
    assert tables.vault is not None
    start = keys.NOTE_BARE
    if tables.vault.locked:
        return False
    stored = LiveView(engine)
    return any(stored.get(note) is None for note, _ in tables.target.view.items(start, codec.after(start)))


def has_sealed(tables: Tables) -> bool:
    """Whether there are sealed rows. Read-only."""
    start = keys.NOTE_OF_KEY
    return bool(tables.target.view.head(start, codec.after(start), 1))


def lacking(tables: Tables, space: int | None = None) -> str:
    """A sealed row, of a table or of any, whose key is missing, though the log does not say that it was
    forgotten; empty: there is none. It looks at all sealed rows, a million in a second. Read-only."""
    vault, start, last = tables.vault, keys.NOTE_OF_KEY, b""
    assert vault is not None
    for note, _ in tables.target.view.items(start, codec.after(start)):
        key_id, where = note[len(start) :][: keys.KEY_ID_SIZE], note[len(start) + keys.KEY_ID_SIZE :]
        info = tables.schema.spaces.get(keys.SPACE.unpack_from(where)[0])
        if key_id == last or info is None or space not in {None, info.space}:
            continue
        if not vault.has(key_id) and not vault.is_shredded(key_id):
            return info.show_key(where[keys.SPACE.size :])
        last = key_id
    return ""


def finish(engine: Engine, tables: Tables, *, read_only: bool) -> None:
    """On opening: what was cut short is done, and what could not be done for want of keys."""
    vault = tables.vault
    assert vault is not None
    vault.is_shredded = lambda key_id: tables.get(keys.NOTE_SHREDDED + key_id) is not None
    vault.shredded = lambda: shredded(tables)
    vault.lacking = lambda: lacking(tables)
    if not vault.exists and has_sealed(tables):
        vault.missing()
    if read_only:
        obey(tables)
    else:
        shred(engine, tables)
    mend(tables, read_only=read_only)


def mend(tables: Tables, *, read_only: bool = False) -> None:
    """Makes entries in indexes that are missing for want of keys, if those are there now. As long as some
    are not, it is to be done again."""
    vault = tables.vault
    assert vault is not None
    start = keys.NOTE_BARE
    for note, how in list(tables.target.view.items(start, codec.after(start))):
        if vault.locked:
            return
        space = keys.SPACE.unpack_from(note, len(start))[0]
        info = tables.schema.spaces.get(space)
        indexes = info.indexes.values() if info else ()
        missing = lacking(tables, space)
        if read_only and (not indexes or (missing and how == keys.BARE_IN_PART)):
            continue  # no more can be made
        if read_only:
            vault.locked = (
                "its indexes have yet to be made, with the keys: open it once for writing, as `everlog"
                " expire` does"
            )
            return
        for index in indexes:
            assert info is not None
            if not index.building:
                tables.target.delete(index.prefix, keys.prefix(info.space, index.id + 1))
                build_index(tables.target, info, index)
        if missing:
            writes = tables.target.batch()
            writes[note] = keys.BARE_IN_PART
            tables.target.write(writes)
        else:
            tables.target.delete(note, codec.after(note))
