"""Tables whose rows are sealed, for the tests of sealing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from everlog.store.database import Database
from everlog.store.schema.codec import INT32, INT64, STRING, UINT64
from everlog.store.schema.table import Field, Index, Table
from tests.store.models import ITEMS, declare, models

MASTER = bytes(range(32))
OTHER_MASTER = bytes(range(32, 64))

_PEOPLE = models(
    "clinic",
    Patient="id 1 uint64, subject 2 string, email 3 string?, name 4 string, born 5 int32",
    Visit="id 1 int64, subject 2 string, note 3 string",
)
Patient, Visit = _PEOPLE["Patient"], _PEOPLE["Visit"]

ID = Field(Patient, "id", 1, UINT64)
SUBJECT = Field(Patient, "subject", 2, STRING)
EMAIL = Field(Patient, "email", 3, STRING)
NAME = Field(Patient, "name", 4, STRING)
BORN = Field(Patient, "born", 5, INT32)

PATIENTS: Table[Any, int] = Table(
    "patients",
    Patient,
    key=ID,
    indexes=(
        Index("by_email", EMAIL, unique=True, hashed=True),
        Index("by_name_and_born", NAME, BORN, hashed=True),
        Index("by_id", ID),
    ),
    person=SUBJECT,
)
VISITS: Table[Any, int] = Table(
    "visits", Visit, key=Field(Visit, "id", 1, INT64), person=Field(Visit, "subject", 2, STRING)
)


def open_people(path: Path, **options: Any) -> Database:
    """Open a database with sealed tables and one that is not sealed, which is created if it is missing."""
    db = Database(path, **{"master_key": MASTER, **options})
    if not db.schema.version:
        declare(db, PATIENTS, VISITS, ITEMS)
    return db


def patient(id: int, subject: str, **fields: Any) -> Any:
    return Patient(id=id, subject=subject, **fields)


def visit(id: int, subject: str, note: str) -> Any:
    return Visit(id=id, subject=subject, note=note)


def bytes_of(path: Path) -> bytes:
    """Return all bytes of all files below a directory."""
    return b"".join(file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file())
