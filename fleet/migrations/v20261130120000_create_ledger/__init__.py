"""The ledger: its epoch, the runs, and the seats of their members."""

from everlog.fleet.migrations.v20261130120000_create_ledger.model_pb2 import Epoch, Run, Seat
from everlog.migrations import BYTES, STRING, Fields, Migration, Table

__all__ = ["EPOCHS", "MIGRATION", "RUNS", "SEATS", "Epoch", "Run", "Seat"]

FLEET = Fields(Epoch)("fleet", 1, STRING)

EPOCHS = Table("epochs", Epoch, key=FLEET)

RUN = Fields(Run)("decision_id", 1, BYTES)

RUNS = Table("runs", Run, key=RUN)

_seat = Fields(Seat)
SEAT_RUN = _seat("decision_id", 1, BYTES)
DATABASE = _seat("database", 2, BYTES)

SEATS = Table("seats", Seat, key=(SEAT_RUN, DATABASE))

MIGRATION = Migration(tables=[EPOCHS, RUNS, SEATS])
