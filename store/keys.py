"""Keys: encode rows, index entries and the store's own notes as keys of the column family `data`.

    row    := space:u32be 0x0000 key                 value: header row
    entry  := space:u32be index:u16be values key     value: empty
    note   := 0x00000000 kind:u16be …                the store's own, below every table

    key    := value+                                 the primary key's fields (schema/codec.py)
    values := optional+                              the index's fields, each with its 0x00 or 0x01
    header := 0x00 seq:u64be                         seq of the commit that wrote the row
            | flags:u8 seq:u64be [version:u64be] [expires_ns:u64be] [key_id:16 bytes]
              flags: 1 version, 2 expires_ns, 4 key_id; each part is present if its flag is set

    note kinds: 1 applied  seq:u64be checksum:u32be
                2 schema   seq:u64be of the record that put the schema in force
                3 commit   commit_id -> seq:u64be
                4 load     id -> everlog.v1.Load of its last chunk
                5 rows     space:u32be -> number of rows:u64be
                6 migration seq:u64be of a Migration record other than BACKFILL -> empty
                7 built    space:u32be index:u16be of an index that is being built -> 0x00, the number of
                           rows with an entry:u64be and the last key of them; 0x01: all rows
                8 backfill seq:u64be of the newest BACKFILL record
                9 end      expires_ns:u64be space:u32be key of a row that expires -> empty; their number
                           is noted as the rows of space 0
               10 sealed   0x00 space:u32be: index entries are missing, for lack of keys -> empty; some: 0x01
                           0x01 key_id: the key was shredded -> seq:u64be of the Notice
                           0x02 key_id space:u32be key of a row sealed with it -> empty
               11 consumer name of a registered consumer -> seq:u64be and time_ns:u64be of the Notice,
                           and its detail, an everlog.v1.Registration
               12 clock    seq:u64be of a Notice that says that times in the log are ahead -> empty
               13 production -> seq:u64be of the Notice that marks the database as production
               14 access   -> seq:u64be of the newest Notice about roles, grants and tokens
                           seq:u64be of each -> an everlog.v1.Commit with its time_ns, actor, reason, proof
                           and notice
               15 prepared seq:u64be of the PREPARED record of the migration that waits for a decision

Invariants
  (1) everything in a space lies between its number and the next: one range deletes a table;
  (2) every row has exactly one entry in each index of its table, written in the same batch;
  (3) `applied` is written in every batch, so every snapshot holds the seq that it is a snapshot of;
  (4) exactly the rows with `expires_ns` have a note 9, written in the same batch.

Numbers are on disk: never reuse one. Format reference: docs/format.md.
"""

from __future__ import annotations

import struct

SPACE = struct.Struct(">I")
PREFIX = struct.Struct(">IH")
SEQ = struct.Struct(">Q")
APPLIED = struct.Struct(">QI")
HEADER = struct.Struct(">BQ")
HEADER_SIZE = HEADER.size
HAS_VERSION, HAS_EXPIRY, HAS_KEY_ID = 1, 2, 4

ROWS = 0  # the "index" that is the rows themselves

NOTE_APPLIED = PREFIX.pack(0, 1)
NOTE_SCHEMA = PREFIX.pack(0, 2)
NOTE_COMMIT = PREFIX.pack(0, 3)
NOTE_LOAD = PREFIX.pack(0, 4)
NOTE_ROWS = PREFIX.pack(0, 5)
NOTE_MIGRATION = PREFIX.pack(0, 6)
NOTE_BUILT = PREFIX.pack(0, 7)
NOTE_BACKFILL = PREFIX.pack(0, 8)
NOTE_END = PREFIX.pack(0, 9)
ENDS = 0  # the "space" under which expiring rows are counted
NOTE_SEALED = PREFIX.pack(0, 10)
BARE_IN_PART = b"\x01"
NOTE_BARE, NOTE_SHREDDED, NOTE_OF_KEY = (NOTE_SEALED + bytes((what,)) for what in (0, 1, 2))
NOTE_CONSUMER = PREFIX.pack(0, 11)
NOTE_CLOCK = PREFIX.pack(0, 12)
NOTE_PRODUCTION = PREFIX.pack(0, 13)
NOTE_ACCESS = PREFIX.pack(0, 14)
NOTE_PREPARED = PREFIX.pack(0, 15)
KEY_ID_SIZE = 16
ALL_BUILT = b"\x01"

END = struct.Struct(">6sQI")
CONSUMER = struct.Struct(">QQ")

KEY_BYTES_MAX = 4096
INDEX_BYTES_MAX = 4 << 20  # of the values of one row in one index, encoded
ROW_BYTES_MAX = 4 << 20


def prefix(space: int, index: int = ROWS) -> bytes:
    """Return the common prefix of a space's rows, or of the entries of an index."""
    return PREFIX.pack(space, index)


def space_range(space: int) -> tuple[bytes, bytes]:
    """Return the key range (end exclusive) of everything in a space."""
    return SPACE.pack(space), SPACE.pack(space + 1)


def rows_note(space: int) -> bytes:
    """Return the key of the note with a space's number of rows."""
    return NOTE_ROWS + SPACE.pack(space)


def end_note(expires_ns: int, full: bytes) -> bytes:
    """Return the key of the note on the expiry of the row with this full key."""
    return NOTE_END + SEQ.pack(expires_ns) + full[: SPACE.size] + full[PREFIX.size :]


def read_end(note: bytes) -> tuple[int, int, bytes]:
    """Return the expiry in nanoseconds, the space and the row's key of such a note."""
    _, expires_ns, space = END.unpack_from(note)
    return expires_ns, space, note[END.size :]


def pack_value(seq: int, row: bytes, *, version: int = 0, expires_ns: int = 0, key_id: bytes = b"") -> bytes:
    """Return the value of a row: its header, and the row."""
    if not (version or expires_ns or key_id):
        return HEADER.pack(0, seq) + row
    flags = HAS_VERSION * bool(version) | HAS_EXPIRY * bool(expires_ns) | HAS_KEY_ID * bool(key_id)
    header = HEADER.pack(flags, seq)
    if version:
        header += SEQ.pack(version)
    if expires_ns:
        header += SEQ.pack(expires_ns)
    return header + key_id + row


def row_of(value: bytes) -> bytes:
    """Return the row in a value, without the header."""
    flags = value[0]
    if not flags:
        return value[HEADER_SIZE:]
    size = HEADER_SIZE + 8 * bool(flags & HAS_VERSION) + 8 * bool(flags & HAS_EXPIRY)
    return value[size + 16 * bool(flags & HAS_KEY_ID) :]


def key_id_of(value: bytes) -> bytes:
    """Return the id of the key that the row in a value is sealed with; empty: it is not sealed."""
    flags = value[0]
    if not flags & HAS_KEY_ID:
        return b""
    at = HEADER_SIZE + 8 * bool(flags & HAS_VERSION) + 8 * bool(flags & HAS_EXPIRY)
    return value[at : at + KEY_ID_SIZE]


def opened_value(value: bytes, row: bytes) -> bytes:
    """Return the value of a sealed row with the plaintext `row` in place of the sealed one."""
    at = HEADER_SIZE + 8 * bool(value[0] & HAS_VERSION) + 8 * bool(value[0] & HAS_EXPIRY)
    return bytes((value[0] & ~HAS_KEY_ID,)) + value[1:at] + row


def seq_of(value: bytes) -> int:
    """Return the seq of the commit that wrote the value: the `prior` of the change that replaces it."""
    seq: int = HEADER.unpack_from(value)[1]
    return seq


def version_of(value: bytes) -> int:
    """Return the row's version: the seq of the commit that last changed the row as its users see it."""
    flags, seq = HEADER.unpack_from(value)
    version: int = SEQ.unpack_from(value, HEADER_SIZE)[0] if flags & HAS_VERSION else seq
    return version


def expires_of(value: bytes) -> int:
    """Return when the row expires, in nanoseconds since the Unix epoch; 0: never."""
    flags = value[0]
    if not flags & HAS_EXPIRY:
        return 0
    expires_ns: int = SEQ.unpack_from(value, HEADER_SIZE + 8 * (flags & HAS_VERSION))[0]
    return expires_ns
