"""Recovery: bring the key store and the indexes up to the log, which records whose keys were forgotten.

    Notice in the log, key in the store  ─▶ overwrite it     killed in between, or an older copy restored;
                                            a reader drops it in memory
    rows projected without keys          ─▶ build their index entries once there are keys, and again with the
                                            next key store if some were missing
    row, no key, no Notice               ─▶ the key is missing: the copy is older than the log

Invariants
  (1) a key is shredded only after everything that needs its rows, their index entries, is on disk.
"""

from __future__ import annotations

import contextlib

from everlog.store import keys
from everlog.store.errors import DiskError
from everlog.store.rocks.engine import Engine
from everlog.store.rocks.view import LiveView
from everlog.store.schema import codec
from everlog.store.tables.projector import build_index
from everlog.store.tables.tables import Tables


def shredded(tables: Tables) -> list[bytes]:
    """Return the ids of all keys ever shredded, by the tables. Read-only."""
    start = keys.NOTE_SHREDDED
    view, _ = tables.snapshot()  # works on a full disk
    try:
        return [note[len(start) :] for note, _ in view.items(start, codec.after(start))]
    finally:
        view.close()


def shredded_on_disk(engine: Engine) -> list[bytes]:
    """Return the ids of all keys ever shredded, by the tables' files. Read-only.

    For a reader, whose log may be ahead of the files: what needs the rows of other keys may not be done
    yet.
    """
    start = keys.NOTE_SHREDDED
    return [note[len(start) :] for note, _ in LiveView(engine).items(start, codec.after(start))]


def shred(engine: Engine, tables: Tables) -> None:
    """Overwrite every key that the log says is forgotten, after the tables are on disk. Raises DiskError."""
    assert tables.vault is not None
    gone = [key_id for key_id in shredded(tables) if tables.vault.is_on_disk(key_id)]
    if gone:
        tables.flush()  # RocksDB may have refused these edits before, on a full disk
        engine.flush()
        tables.vault.forget(gone)


def shreds_pending(tables: Tables) -> bool:
    """Return whether there are forgotten keys that the disk refused to overwrite."""
    assert tables.vault is not None
    return bool(tables.vault.pending_deletions)


def retry_shreds(engine: Engine, tables: Tables) -> None:
    """Overwrite those keys, unless a rebuild needs the current keys. Only while no other commit runs.

    Raises DiskError.
    """
    if shreds_pending(tables) and engine.rebuilding.acquire(blocking=False):
        try:
            shred(engine, tables)
        finally:
            engine.rebuilding.release()


def drop_shredded(tables: Tables) -> None:
    """Drop every forgotten key from memory; for a reader."""
    assert tables.vault is not None
    tables.vault.retire(shredded(tables))


def lacks_entries(engine: Engine, tables: Tables) -> bool:
    """Return whether index entries are missing or stale for lack of keys, while the tables' files do not
    record it. Read-only.

    Keys are dropped once the files record it: a later look at them is then right.
    """
    assert tables.vault is not None
    start = keys.NOTE_BARE
    if tables.vault.locked:
        return False
    stored = LiveView(engine)
    return any(stored.get(note) is None for note, _ in tables.target.view.items(start, codec.after(start)))


def has_sealed(tables: Tables) -> bool:
    """Return whether there are sealed rows. Read-only."""
    start = keys.NOTE_OF_KEY
    return bool(tables.target.view.first_items(start, codec.after(start), 1))


def lacking(tables: Tables, space: int | None = None) -> str:
    """Return a sealed row, of a table or of any, whose key is missing without having been forgotten; empty:
    none. Read-only.

    Examines all sealed rows, about a million per second.
    """
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
    """Complete on opening what was interrupted, and what could not be done for lack of keys. Writes unless
    `read_only`."""
    vault = tables.vault
    assert vault is not None
    vault.is_shredded = lambda key_id: tables.get(keys.NOTE_SHREDDED + key_id) is not None
    vault.shredded = lambda: shredded(tables)
    vault.lacking = lambda: lacking(tables)
    if not vault.is_open and has_sealed(tables):
        vault.missing()
    if read_only:
        drop_shredded(tables)
    else:
        shred(engine, tables)
    if build_missing_entries(tables, read_only=read_only):
        with contextlib.suppress(DiskError):  # a full disk may be opened: readers wait for the next flush
            engine.flush()


def build_missing_entries(tables: Tables, *, read_only: bool = False) -> bool:
    """Build index entries that are missing for lack of keys, if the keys are available now. Writes unless
    `read_only`.

    While some keys are missing, the space stays marked. Returns whether a mark was removed or changed:
    readers refuse the rows of sealed tables until this is on disk.
    """
    vault, changed = tables.vault, False
    assert vault is not None
    start = keys.NOTE_BARE
    for note, how in list(tables.target.view.items(start, codec.after(start))):
        if vault.locked:
            break
        space = keys.SPACE.unpack_from(note, len(start))[0]
        info = tables.schema.spaces.get(space)
        indexes = info.indexes.values() if info else ()
        missing = lacking(tables, space)
        if read_only and (not indexes or (missing and how == keys.BARE_IN_PART)):
            continue  # no more can be built
        if read_only:
            vault.locked = (
                "its indexes must be built with the keys: open it once for writing, as `everlog expire` does"
            )
            break
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
        changed = True
    return changed
