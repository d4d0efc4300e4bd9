"""The subject `sqlite`: the same task with SQLite, as its documentation recommends.

Write-ahead log; a row, one secondary index, and a row of a change log with the row as JSON, written by a
trigger in the same transaction.
"""

import sqlite3
from pathlib import Path

COLUMNS = "id, name, kind, price, amount, payload"
INSERT = f"INSERT INTO items ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"

_TABLES = """
CREATE TABLE items (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL,
    price REAL NOT NULL, amount INTEGER NOT NULL, payload TEXT NOT NULL
);
CREATE INDEX items_by_name ON items (name);
CREATE TABLE changes (seq INTEGER PRIMARY KEY, op TEXT NOT NULL, id INTEGER NOT NULL, row TEXT);
CREATE TRIGGER items_insert AFTER INSERT ON items BEGIN
    INSERT INTO changes (op, id, row) VALUES ('put', new.id, json_object(
        'id', new.id, 'name', new.name, 'kind', new.kind,
        'price', new.price, 'amount', new.amount, 'payload', new.payload));
END;
"""


def connect(folder: Path, *, synchronous: str, shared: bool = False) -> sqlite3.Connection:
    """Open the database in a folder; create it if it does not exist. `synchronous`: NORMAL writes to the
    operating system, FULL waits for the disk. `shared`: for threads that share the connection under a
    lock."""
    path = folder / "items.sqlite"
    new = not path.exists()
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=not shared)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {synchronous}")
    if new:
        db.executescript(_TABLES)
    return db
