"""People: migrations that seal the rows of a table, or open sealed ones.

person before   person after
none            SUBJECT        sealed: older versions stay readable in the log. Cannot be held or rolled
                               back: both would continue writing rows in clear
SUBJECT         none           opened: every row is written in clear, to the log, permanently
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from everlog.proto import log_pb2
from everlog.store import keys
from everlog.store.tables.tables import Tables


def sealed(before: log_pb2.Schema, after: log_pb2.Schema) -> list[str]:
    """Return the new names of the tables that a migration seals."""
    was = {table.id: table for table in before.tables}
    return [
        table.name
        for table in after.tables
        if table.HasField("person") and table.id in was and not was[table.id].HasField("person")
    ]


def opened(
    before: log_pb2.Schema, after: log_pb2.Schema, remade: Collection[str] = ()
) -> Iterator[tuple[str, list[log_pb2.TableSchema]]]:
    """Yield the tables into which a migration writes formerly sealed rows in clear.

    Each is the table's new name, with the sealed tables that its rows were in. `remade`: tables whose rows
    code rebuilds; that code sees everything.
    """
    was = {table.id: table for table in before.tables}
    left = {table.id for table in after.tables if table.HasField("person")}
    gone = [table for table in before.tables if table.HasField("person") and table.id not in left]
    for table in after.tables:
        mine = was.get(table.id)
        if table.HasField("person"):
            continue
        if mine is not None and mine.HasField("person"):
            yield table.name, [mine]
        elif table.name in remade and gone:
            yield table.name, gone


def count(tables: Tables, spaces: Collection[int]) -> int:
    """Count the people who have rows in these generations of tables. Reads one note per row. Read-only."""
    start, last, found = keys.NOTE_OF_KEY, b"", 0
    for note, _ in tables.notes(start):
        key_id = note[len(start) :][: keys.KEY_ID_SIZE]
        if key_id != last and keys.SPACE.unpack_from(note, len(start) + keys.KEY_ID_SIZE)[0] in spaces:
            last, found = key_id, found + 1
    return found
