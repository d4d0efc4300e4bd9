"""The first table: orders."""

from everlog.migrations import INT64, STRING, Fields, Migration, Table

from .model_pb2 import Order

__all__ = ["MIGRATION", "ORDERS", "Order"]

_order = Fields(Order)
NUMBER = _order("number", 1, INT64)
CUSTOMER = _order("customer", 2, STRING)

ORDERS = Table("orders", Order, key=NUMBER)

MIGRATION = Migration(tables=[ORDERS])
