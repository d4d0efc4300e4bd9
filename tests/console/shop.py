"""A user's project for the commands: books and their prices, in two migrations."""

from __future__ import annotations

import base64
from pathlib import Path
from textwrap import dedent

FIRST, SECOND = 20260101090000, 20260201090000

MODEL = """\
syntax = "proto3";
package shop.v{version};
import "google/protobuf/timestamp.proto";

enum Binding {{
  PAPER = 0;
  CLOTH = 1;
}}
message Size {{
  int32 width = 1;
  int32 height = 2;
}}
message Book {{
  string isbn = 1;
  int32 volume = 2;
  string title = 3;
  double price = 4;
  Binding binding = 5;
  bytes cover = 6;
  optional string subtitle = 7;
  repeated string authors = 8;
  Size size = 9;
  google.protobuf.Timestamp printed = 10;
  uint64 sold = 11;
}}
"""

CONSTANTS = """\
from everlog.migrations import INT32, STRING, Fields, Index, Migration, Table
from .model_pb2 import Book

field = Fields(Book)
ISBN = field("isbn", 1, STRING)
VOLUME = field("volume", 2, INT32)
TITLE = field("title", 3, STRING)
BOOKS = Table("books", Book, key=(ISBN, VOLUME){indexes})
MIGRATION = Migration(tables=[BOOKS])
"""

BOOTSTRAP = """\
isbn,volume,title,price
978-0,1,Dune,9.5
"""

TESTDATA = """\
from . import BOOKS, Book


def rows(random, scale):
    for number in range(10 * scale):
        yield BOOKS, Book(isbn=f"t{number:04}", volume=1, title=f"Title {random.randrange(100)}")
"""

INDEX = ', indexes=(Index("by_title", TITLE),)'

BOOKS = [
    {
        "isbn": f"978-{number}",
        "volume": 1 + number % 3,
        "title": 'A "quoted", longer\ntitle' if number == 7 else f"Title {number:03}",
        "price": number / 3,
        "binding": "CLOTH" if number % 2 else "PAPER",
        "cover": base64.b64encode(bytes([number, 255, 0])).decode(),
        "authors": ["Ann", "Bob"][: number % 3],
        "sold": str(2**63 + number),
        **({"subtitle": f"sub {number}"} if number % 4 == 0 else {}),
        **({"size": {"width": number, "height": 0}} if number % 5 == 0 else {}),
        **({"printed": f"2026-01-{number % 28 + 1:02}T10:00:00.5Z"} if number % 2 == 0 else {}),
    }
    for number in range(1, 41)
]


def write(directory: Path) -> Path:
    """Write the project, not built yet; return the directory of its migrations."""
    migrations = directory / "migrations"
    for version, name, indexes in ((FIRST, "create_books", ""), (SECOND, "index_books", INDEX)):
        folder = migrations / f"v{version}_{name}"
        folder.mkdir(parents=True)
        (folder / "model.proto").write_text(MODEL.format(version=version))
        (folder / "__init__.py").write_text(dedent(CONSTANTS.format(indexes=indexes)))
    (migrations / f"v{FIRST}_create_books" / "bootstrap_books.csv").write_text(BOOTSTRAP)
    (migrations / f"v{SECOND}_index_books" / "testdata.py").write_text(TESTDATA)
    for package in (migrations, directory):
        (package / "__init__.py").touch()
    return migrations
